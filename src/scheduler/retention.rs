//! The retention loop: removes finished jobs and arrays that are too old or too many, as the settings say, the same way as `mlctl rm`. It sleeps until the oldest is too old, and looks again when something has
//! changed only where the number counts or there is none; it never polls. Called once by the daemon's lifecycle.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use mlctl_protocol::JobId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Dispatch, run::PAUSE_AFTER_ERROR};
use crate::{
    domain::{Clock, Uid, causes, retention::Retention},
    store::{Finished, Store, StoreError},
    supervisor::{Handle, Removal},
};

/// Jobs removed at a time.
const PIECE: u32 = 100;

/// The least time between two looks, however much changes.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest sleep towards a moment of the wall clock, which may jump meanwhile: days are meant, and an hour is soon enough.
const LONGEST: Duration = Duration::from_secs(3600);

/// What the loop works with.
#[derive(Clone)]
pub struct Keeper {
    /// The database.
    pub store: Store,
    /// Who removes.
    pub supervisor: Handle,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// What the settings say.
    pub retention: watch::Receiver<Retention>,
}

/// Removes jobs until `stop`, and none while the database is known to be damaged; where all are kept, only waits for it.
pub async fn run(mut keeper: Keeper, dispatch: Dispatch, stop: CancellationToken) {
    let mut changes = keeper.store.changes();
    while !stop.is_cancelled() {
        // Before reading: what changes from here on wakes the wait below.
        changes.mark_unchanged();
        let retention = *keeper.retention.borrow_and_update();
        if retention.keeps_all() {
            if !matches!(stop.run_until_cancelled(keeper.retention.changed()).await, Some(Ok(()))) {
                return stop.cancelled().await;
            }
            continue;
        }
        if stop.run_until_cancelled(dispatch.sound()).await.is_none() {
            return;
        }
        let (next, heeds_changes) = match keeper.round(retention).await {
            Ok(next) => (next, retention.jobs > 0 || next.is_none()),
            Err(error) => {
                warn!(error = causes(&error), "finished jobs cannot be removed for the moment");
                stop.run_until_cancelled(tokio::time::sleep(PAUSE_AFTER_ERROR)).await;
                continue;
            }
        };
        let sleep = next.map(|next| keeper.clock.until(next).clamp(PAUSE, LONGEST));
        let waited = async {
            tokio::select! {
                // The sender lives in the store, which this loop holds.
                Ok(()) = keeper.retention.changed() => {}
                _ = changes.changed(), if heeds_changes => tokio::time::sleep(PAUSE).await,
                () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
                else => std::future::pending().await,
            }
        };
        stop.run_until_cancelled(waited).await;
    }
}

impl Keeper {
    /// Removes what is too old or too many. Returns when the oldest that is left will be too old.
    async fn round(&self, retention: Retention) -> Result<Option<Timestamp>, StoreError> {
        loop {
            let (oldest, all) = self.store.oldest_finished(PIECE).await?;
            let moments: Vec<Timestamp> = oldest.iter().map(|(_, at)| *at).collect();
            let expired = retention.expired(&moments, all, self.clock.now());
            if expired == 0 {
                return Ok(moments.first().and_then(|first| retention.ends(*first)));
            }
            let (mut jobs, mut arrays) = (Vec::new(), Vec::new());
            for (finished, _) in oldest.iter().take(expired) {
                match finished {
                    Finished::Job(id) => jobs.push(*id),
                    Finished::Array(id) => arrays.push(*id),
                }
            }
            let mut removed = self.remove(jobs, false).await?;
            for array in &arrays {
                removed += match self.store.member_ids(*array).await {
                    Ok(members) => self.remove(members, true).await?,
                    // Somebody was faster.
                    Err(StoreError::NotFound(_)) => 0,
                    Err(error) => return Err(error),
                };
            }
            info!(jobs = removed, arrays = arrays.len(), "finished jobs were removed, as the settings say");
            if removed == 0 {
                // Somebody was faster, or wants them tried again: there will be a change.
                return Ok(None);
            }
        }
    }

    /// Removes these as far as it can. Returns how many.
    async fn remove(&self, jobs: Vec<JobId>, with_array: bool) -> Result<usize, StoreError> {
        let removal = Removal { jobs, by: Uid::SYSTEM, with_array, with_objects: false };
        Ok(self.supervisor.remove(removal).await?.iter().filter(|answer| answer.is_ok()).count())
    }
}
