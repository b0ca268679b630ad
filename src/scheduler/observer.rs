//! Who looks at the queue for the scheduler and for those who explain it: takes the snapshot, and puts everybody where fair share has them. What was used is read again once in a while only.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::spec::Resources;
use tokio::sync::watch;

use super::snapshot::Snapshot;
use crate::{
    domain::{
        Machine,
        machine::Standing,
        share::{DayOfUse, FairShare, UseNow},
    },
    store::{InLine, Store, StoreError},
    supervisor::Handle,
};

/// So long what was read of past use is good enough: what runs is counted by the second.
const FRESH: SignedDuration = SignedDuration::from_secs(30);

/// So long a look at the GPUs is good enough, which takes the driver some milliseconds: many jobs that come at once cost one.
const LOOKED_AT: SignedDuration = SignedDuration::from_millis(100);

/// Takes snapshots. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    store: Store,
    supervisor: Handle,
    share: watch::Receiver<FairShare>,
    past: Arc<Mutex<Past>>,
    seen: Arc<Mutex<Option<(Timestamp, Machine)>>>,
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
    pub fn new(store: Store, supervisor: Handle, share: watch::Receiver<FairShare>) -> Self {
        Self { store, supervisor, share, past: Arc::default(), seen: Arc::default() }
    }

    /// What is there at `now`: of the queue, the first `heads` jobs of each class.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn look(&self, now: Timestamp, heads: u32) -> Result<Snapshot, StoreError> {
        Ok(self.look_ahead(now, heads, false).await?.0)
    }

    /// The same, and when the next job becomes ready of those that must not start yet. With `wants_gpu` for one more job, which may want a GPU.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn look_ahead(
        &self,
        now: Timestamp,
        heads: u32,
        wants_gpu: bool,
    ) -> Result<(Snapshot, Option<Timestamp>), StoreError> {
        // Before what occupies it is read: what ends meanwhile is missed here, and never taken for free twice.
        let vacated = self.supervisor.vacated();
        let free = self.supervisor.free();
        let InLine { running, mut ready, next_ready_at } = self.store.look(now, heads).await?;
        let queues = self.store.queues().iter().map(|(name, row)| (name.clone(), row.queue.clone())).collect();
        let machine = self.machine(now, wants_gpu || ready.iter().any(|job| job.needs.gpus > 0)).await?;
        let uses = running.iter().map(|job| {
            let Resources { cpus, gpus, .. } = job.has;
            UseNow { user: job.user, cpus, gpus, since: job.started_at }
        });
        let share = *self.share.borrow();
        let setbacks = share.setbacks(&self.past(now).await?, &uses.collect::<Vec<_>>(), now);
        for job in &mut ready {
            job.rank = job.rank.saturating_add(setbacks.get(&job.user).copied().unwrap_or_default());
        }
        ready.sort_by_key(|job| (job.rank, job.id));
        Ok((Snapshot { now, machine, free, running, vacated, ready, queues, setbacks }, next_ready_at))
    }

    /// The machine, and, where somebody wants a GPU, what others do with those and who may have them.
    async fn machine(&self, now: Timestamp, are_gpus_wanted: bool) -> Result<Machine, StoreError> {
        if !are_gpus_wanted || self.supervisor.machine().gpus.is_empty() {
            return Ok(Machine::clone(&self.supervisor.machine()));
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, machine)) = seen
            && now >= at
            && now.duration_since(at) < LOOKED_AT
        {
            return self.assigned(machine).await;
        }
        self.look_again(now).await
    }

    /// Looks at the GPUs now.
    async fn look_again(&self, now: Timestamp) -> Result<Machine, StoreError> {
        let machine = self.supervisor.look_at_machine().await;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, machine.clone()));
        self.assigned(machine).await
    }

    /// Brings what is known of the GPUs up to date, before one is given away. Returns whether something has changed.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn refresh(&self, snapshot: &mut Snapshot) -> Result<bool, StoreError> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(at, _)| *at);
        if seen == Some(snapshot.now) {
            return Ok(false);
        }
        let machine = self.look_again(snapshot.now).await?;
        Ok(std::mem::replace(&mut snapshot.machine, machine.clone()) != machine)
    }

    /// The machine with who may have its GPUs.
    async fn assigned(&self, mut machine: Machine) -> Result<Machine, StoreError> {
        let mut assigned = self.store.devices().await?;
        for gpu in &mut machine.gpus {
            gpu.standing = assigned.remove(&gpu.uuid).map_or(Standing::Open, |assigned| assigned.standing);
        }
        Ok(machine)
    }

    /// What was used, not much older than now.
    async fn past(&self, now: Timestamp) -> Result<Arc<[DayOfUse]>, StoreError> {
        let known = self.past.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_fresh = |read: Timestamp| now >= read && now.duration_since(read) < FRESH;
        let share = *self.share.borrow();
        if share.points == 0 || known.read_at.is_some_and(is_fresh) {
            return Ok(known.days);
        }
        let days: Arc<[DayOfUse]> = self.store.usage_since(share.oldest_day(now)).await?.into();
        *self.past.lock().unwrap_or_else(PoisonError::into_inner) = Past { read_at: Some(now), days: days.clone() };
        Ok(days)
    }
}
