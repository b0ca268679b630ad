//! The collection of stored objects that nothing needs: of attempts that were killed in the middle of a checkpoint, of a retention or a removal that was cut short, of models that a late attempt published.
//! A walk over the folder of all jobs, one job at a time and with little memory; which object goes is `judge`'s to say. What is on record is read again right before anything is deleted, so that
//! what a job was submitted for meanwhile stays. Called by the API and by the schedule.

mod datasets;
mod judge;
#[cfg(test)]
pub(super) mod tests;
mod walk;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use mlctl_artifacts::{ArtifactError, Stores};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::judge::Terms;
use self::walk::Collection;
use super::IsSound;
use crate::{
    domain::{Clock, causes},
    store::{Store, StoreError},
};

/// Folders of garbage that are named at most.
pub const MAX_NAMED: usize = 1000;

/// How often whoever listens is told how far it has come.
const TELL_EVERY: u64 = 500;

/// How long after the daemon's start nothing is collected by itself, and after a failure.
const SETTLE: Duration = Duration::from_secs(300);

/// Objects and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub objects: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

impl Sum {
    const fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What a collection has found and done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// All that it came by.
    pub seen: Sum,
    /// What is needed.
    pub needed: Sum,
    /// What nothing needs, and is too young to go.
    pub young: Sum,
    /// What belongs to other databases, or is not understood.
    pub foreign: Sum,
    /// What nothing needs.
    pub garbage: Sum,
    /// What of it was deleted.
    pub deleted: Sum,
    /// What could not be deleted.
    pub failed: u64,
    /// Where the garbage lies: the first [`MAX_NAMED`] folders.
    pub folders: BTreeMap<String, Sum>,
    /// Whether there are more folders than those.
    pub has_more: bool,
}

/// Why nothing more is collected.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// Another collection is under way.
    #[error("a collection is under way already")]
    Busy,
    /// The database is known to be damaged.
    #[error("the database is damaged, and what it says is needed is not to be relied on")]
    Unsound,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Object storage failed.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// What a checkpoint on record rests on cannot be read, and might be what would go.
    #[error("the manifest of a checkpoint on record cannot be understood, so that nobody knows what it rests on: {0}")]
    Unreadable(#[source] ArtifactError),
}

/// Who collects. Cheap to clone; clones collect one at a time.
#[derive(Clone)]
pub struct Collector {
    store: Store,
    artifacts: Stores,
    clock: Arc<dyn Clock>,
    storage_url: String,
    is_sound: IsSound,
    turn: Arc<Mutex<()>>,
    /// What it does not see, in a test of the tests.
    #[cfg(test)]
    blind: Option<Blind>,
}

/// A kind of root.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blind {
    Checkpoints,
    Published,
    Weights,
    Schedules,
    Versions,
    Datasets,
}

impl Collector {
    /// A collector of what lies under `storage_url`, which has no slash at its end. Nothing is deleted unless the database `is_sound`.
    #[must_use]
    pub fn new(store: Store, artifacts: Stores, clock: Arc<dyn Clock>, storage_url: String, is_sound: IsSound) -> Self {
        Self {
            store,
            artifacts,
            clock,
            storage_url,
            is_sound,
            turn: Arc::default(),
            #[cfg(test)]
            blind: None,
        }
    }

    /// Looks through the store and deletes what nothing needs; with `is_dry`, only says what that is. Tells `heard` how far it has come.
    ///
    /// # Errors
    /// [`GcError`]. What was deleted by then was garbage.
    pub async fn collect(
        &self,
        terms: Terms,
        is_dry: bool,
        heard: &watch::Sender<Collected>,
    ) -> Result<Collected, GcError> {
        let _turn = self.turn.try_lock().map_err(|_| GcError::Busy)?;
        self.check_sound()?;
        let collected = Collection::new(self, terms, is_dry, heard).run().await?;
        info!(
            is_dry,
            seen = collected.seen.objects,
            garbage = collected.garbage.objects,
            deleted = collected.deleted.objects,
            bytes = collected.deleted.bytes,
            failed = collected.failed,
            "stored objects that nothing needs were looked for"
        );
        Ok(collected)
    }

    #[cfg(test)]
    fn is_blind_for_datasets(&self) -> bool {
        self.blind == Some(Blind::Datasets)
    }

    fn check_sound(&self) -> Result<(), GcError> {
        if (self.is_sound)() { Ok(()) } else { Err(GcError::Unsound) }
    }
}

/// When it is done by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Hours between two; 0 for never.
    pub every_hours: u32,
    /// Hours that an object must be old.
    pub grace_hours: u32,
}

/// Collects by itself until `stop`, as the settings say.
pub async fn run(collector: Collector, mut plan: watch::Receiver<Plan>, stop: CancellationToken) {
    stop.run_until_cancelled(tokio::time::sleep(SETTLE)).await;
    while !stop.is_cancelled() {
        let Plan { every_hours, grace_hours } = *plan.borrow_and_update();
        let mut sleep = Duration::from_secs(3600 * u64::from(every_hours));
        if every_hours > 0 {
            let terms = Terms { grace: SignedDuration::from_hours(grace_hours.into()), with_results: false };
            let heard = watch::Sender::new(Collected::default());
            match stop.run_until_cancelled(collector.collect(terms, false, &heard)).await {
                None => return,
                Some(Ok(_) | Err(GcError::Busy)) => {}
                Some(Err(GcError::Unsound)) => sleep = SETTLE,
                Some(Err(error)) => {
                    warn!(error = causes(&error), "what nothing needs cannot be collected: it is tried again");
                    sleep = SETTLE;
                }
            }
        }
        let waited = async {
            tokio::select! {
                Ok(()) = plan.changed() => {}
                () = tokio::time::sleep(sleep), if every_hours > 0 => {}
                else => std::future::pending().await,
            }
        };
        stop.run_until_cancelled(waited).await;
    }
}
