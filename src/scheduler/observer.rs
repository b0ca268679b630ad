//! Who looks at the queue for the scheduler and for those who explain it: takes the snapshot, and puts everybody where fair share has them. What was used is read again once in a while only.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::snapshot::Snapshot;
use crate::{
    domain::share::{DayOfUse, FairShare, UseNow},
    store::{InLine, Store, StoreError},
    supervisor::Handle,
};

/// So long what was read of past use is good enough: what runs is counted by the second.
const FRESH: SignedDuration = SignedDuration::from_secs(30);

/// Takes snapshots. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    store: Store,
    supervisor: Handle,
    share: FairShare,
    past: Arc<Mutex<Past>>,
}

/// What was used, as read at a moment.
#[derive(Debug, Clone, Default)]
struct Past {
    read_at: Option<Timestamp>,
    days: Arc<[DayOfUse]>,
}

impl Observer {
    /// One that looks into this database and at this machine.
    #[must_use]
    pub fn new(store: Store, supervisor: Handle, share: FairShare) -> Self {
        Self { store, supervisor, share, past: Arc::default() }
    }

    /// What is there at `now`: of the queue, the first `heads` jobs of each class.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn look(&self, now: Timestamp, heads: u32) -> Result<Snapshot, StoreError> {
        Ok(self.look_ahead(now, heads).await?.0)
    }

    /// The same, and when the next job becomes ready of those that must not start yet.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn look_ahead(&self, now: Timestamp, heads: u32) -> Result<(Snapshot, Option<Timestamp>), StoreError> {
        // Before what occupies it is read: what ends meanwhile is missed here, and never taken for free twice.
        let (free, machine) = (self.supervisor.free(), self.supervisor.machine());
        let InLine { running, mut ready, next_ready_at } = self.store.look(now, heads).await?;
        let queues = self.store.queues().iter().map(|(name, row)| (name.clone(), row.queue.clone())).collect();
        let uses =
            running.iter().map(|job| UseNow { user: job.user, cpus: job.cpus, gpus: job.gpus, since: job.started_at });
        let setbacks = self.share.setbacks(&self.past(now).await?, &uses.collect::<Vec<_>>(), now);
        for job in &mut ready {
            job.rank = job.rank.saturating_add(setbacks.get(&job.user).copied().unwrap_or_default());
        }
        ready.sort_by_key(|job| (job.rank, job.id));
        Ok((Snapshot { now, machine, free, running, ready, queues, setbacks }, next_ready_at))
    }

    /// What was used, not much older than now.
    async fn past(&self, now: Timestamp) -> Result<Arc<[DayOfUse]>, StoreError> {
        let known = self.past.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_fresh = |read: Timestamp| now >= read && now.duration_since(read) < FRESH;
        if self.share.points == 0 || known.read_at.is_some_and(is_fresh) {
            return Ok(known.days);
        }
        let days: Arc<[DayOfUse]> = self.store.usage_since(self.share.oldest_day(now)).await?.into();
        *self.past.lock().unwrap_or_else(PoisonError::into_inner) = Past { read_at: Some(now), days: days.clone() };
        Ok(days)
    }
}
