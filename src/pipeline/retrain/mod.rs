//! Takes retrainings from stage to stage: woken by changes, and by the clock only while one could not go on. A turn looks at what is on record and does what comes next; each thing that it does is one that can be done twice, so that a daemon
//! that is killed in the middle of a turn takes it again. Run once by the daemon's lifecycle.

mod turn;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use mlctl_artifacts::{ArtifactError, Stores};
use mlctl_protocol::{ExitClass, JobId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    domain::{Clock, Exit, causes},
    registry::{IsSound, Registry, RegistryError},
    store::{Store, StoreError, news},
};

/// The least time between two looks, however much changes.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a run is left alone that could not go on, as storage did not answer.
const AGAIN: Duration = Duration::from_secs(30);

/// The longest sleep towards a moment of the wall clock, which may jump meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What the loop works with.
#[derive(Clone)]
pub struct Pipeline {
    /// The database.
    pub store: Store,
    /// Models and their versions.
    pub registry: Registry,
    /// Where evaluations lie.
    pub artifacts: Stores,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
}

/// What kept a run from going on.
#[derive(Debug, thiserror::Error)]
enum Kept {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Object storage, for now.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The registry.
    #[error(transparent)]
    Registry(RegistryError),
}

impl Kept {
    /// How a run ends that waiting does not help; nothing where it may.
    fn fatal(&self, model: &str) -> Option<Exit> {
        let (class, hint) = match self {
            Self::Store(StoreError::NoModel(_) | StoreError::NoVersion { .. } | StoreError::Alias { .. }) => {
                (ExitClass::Spec, format!("`mlctl model show {model}` lists its versions and aliases"))
            }
            Self::Registry(RegistryError::NoModel(job) | RegistryError::Damaged { job, .. }) => {
                (ExitClass::Storage, format!("`mlctl rm {job}`, and retry the run: it trains once more"))
            }
            _ => return None,
        };
        Some(Exit { class, message: Some(causes(self)), hint: Some(hint) })
    }
}

impl From<RegistryError> for Kept {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Store(error) => Self::Store(error),
            RegistryError::Artifact(error) => Self::Artifact(error),
            other => Self::Registry(other),
        }
    }
}

/// Runs retrainings until `stop`, and none while the database is not to be relied on.
pub async fn run(pipeline: Pipeline, is_sound: IsSound, stop: CancellationToken) {
    let mut changes = pipeline.store.changes();
    let mut failed = BTreeMap::new();
    while !stop.is_cancelled() {
        // Before reading: what changes from here on wakes the wait below.
        changes.mark_unchanged();
        let next = if is_sound() {
            match stop.run_until_cancelled(pipeline.round(&mut failed)).await {
                None => return,
                Some(Ok(next)) => next,
                Some(Err(error)) => {
                    // Of a full disk the store tells once.
                    if !matches!(error, StoreError::Full) {
                        warn!(error = causes(&error), "retrainings cannot go on for the moment");
                    }
                    Some(Instant::now() + AGAIN)
                }
            }
        } else {
            Some(Instant::now() + AGAIN)
        };
        stop.run_until_cancelled(news(&mut changes, PAUSE, next)).await;
    }
}

impl Pipeline {
    /// Takes the turn of each run that has not ended. Returns when to look again whatever changes. `failed`: until when runs are left alone.
    async fn round(&self, failed: &mut BTreeMap<JobId, Instant>) -> Result<Option<Instant>, StoreError> {
        let (runs, now) = (self.store.retrainings().await?, self.clock.now());
        failed.retain(|run, _| runs.iter().any(|(open, _)| open == run));
        let mut next: Option<Instant> = None;
        for (run, begin) in runs {
            let wait = match begin.filter(|begin| *begin > now) {
                Some(begin) => Some(self.until(begin)),
                None => self.attend(run, failed).await,
            };
            next = next.into_iter().chain(wait).min();
        }
        Ok(next)
    }

    /// Takes a run's turn, if it is not left alone. Returns until when it is.
    async fn attend(&self, run: JobId, failed: &mut BTreeMap<JobId, Instant>) -> Option<Instant> {
        if let Some(until) = failed.get(&run).filter(|until| **until > Instant::now()) {
            return Some(*until);
        }
        match self.turn(run).await {
            Ok(()) => {
                if failed.remove(&run).is_some() {
                    info!(job_id = %run, "retraining {run} goes on");
                }
                None
            }
            // It was removed, or has ended meanwhile.
            Err(Kept::Store(StoreError::NotFound(_) | StoreError::Refused(_))) => None,
            // Others may go on.
            Err(error) => {
                let (until, is_full) = (Instant::now() + AGAIN, matches!(error, Kept::Store(StoreError::Full)));
                let error = causes(&error);
                match failed.insert(run, until) {
                    None if !is_full => warn!(job_id = %run, error, "retraining {run} cannot go on for the moment"),
                    _ => debug!(job_id = %run, error, "retraining {run} cannot go on yet"),
                }
                Some(until)
            }
        }
    }

    fn until(&self, moment: Timestamp) -> Instant {
        // A millisecond more, since what is not yet due when looked at would be waited for again at once.
        let wait = self.clock.until(moment).saturating_add(Duration::from_millis(1));
        Instant::now() + wait.min(LONGEST_SLEEP)
    }
}
