//! How everybody else asks the supervisor for something. What becomes of an attempt is in the store.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use mlctl_protocol::{AttemptNumber, JobId, result::CheckpointRef};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Secret, Shared, Stream,
    ahead::Engaged,
    attempt::Task,
    core::{Reason, Times},
    devices,
    executor::Spare,
    live::{self, Live},
    removal::{self, Removal, Removed},
    retention::{self, Judged},
};
use crate::{
    domain::{Command, Edit, Hold, Job, Machine, Uid, machine::Free},
    store::{Claimed, NewAttempt, Ready, StoreError},
};

/// How long a checkpoint on demand may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(60);

/// Asks the supervisor for something. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The job has no attempt under way.
    #[error("job {0} is not running")]
    NotRunning(JobId),
    /// Its worker cannot be reached at the moment.
    #[error("the worker of job {0} is not connected")]
    NotConnected(JobId),
    /// The attempt ended before a checkpoint was durable.
    #[error("job {0} ended before a checkpoint was durable")]
    Ended(JobId),
    /// None became durable in time.
    #[error("no checkpoint of job {job} was durable after {seconds} seconds")]
    Timeout {
        /// The job.
        job: JobId,
        /// The time given.
        seconds: u64,
    },
}

impl Handle {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Claims a job, which is to have these GPUs, and starts the attempt. Returns as soon as the job is claimed; what happens to the attempt is in the store.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the job is no longer queued, [`StoreError::Failed`].
    pub async fn claim(&self, job: &Ready, gpus: &[String]) -> Result<(), StoreError> {
        let secret = self.draw_secret();
        let kit = self.shared.kit(&job.kind, job.needs.cpus, gpus);
        let engaged = self.shared.ahead.take(&kit);
        let (spare, process) = engaged.map(|Engaged { spare, identity }| (spare, identity)).unzip();
        let (secret_hash, lease_until) = (*secret.hash().as_bytes(), self.lease_until());
        let attempt = NewAttempt { gpus: gpus.to_vec(), secret_hash, lease_until, process };
        self.shared.claiming.begin(job.id);
        match self.shared.store.claim_with(job.id, attempt).await {
            Ok(claimed) => {
                self.begin(claimed, secret, spare);
                Ok(())
            }
            Err(error) => {
                self.shared.claiming.end(job.id);
                match spare {
                    // Nothing was written: it has no job.
                    Some(spare) if matches!(error, StoreError::Refused(_) | StoreError::NotFound(_)) => {
                        self.shared.ahead.give_back(kit, spare).await;
                    }
                    Some(spare) => spare.end().await,
                    None => {}
                }
                Err(error)
            }
        }
    }

    /// Starts a claimed attempt. Returns at once; what happens to the attempt is in the store.
    pub fn start(&self, claimed: Claimed, secret: Secret) {
        self.begin(claimed, secret, None);
    }

    fn begin(&self, claimed: Claimed, secret: Secret, spare: Option<Box<dyn Spare>>) {
        let origin = self.shared.origin(claimed.fence, &claimed.job);
        let birth = live::Birth {
            origin,
            array_index: claimed.job.array.as_ref().map(|member| member.index),
            gpus: claimed.job.gpus.clone(),
            keep: claimed.spec.checkpoint.clone(),
            preemptible: claimed.job.preemptible,
            planned_limit_seconds: claimed.spec.time.limit_seconds,
            times: Times::of(&claimed.job, claimed.spec.time.limit_seconds),
            secret: secret.hash(),
        };
        let live = Arc::new(Live::new(birth, Instant::now()));
        self.shared.insert(live.clone());
        let is_asked = self.shared.claiming.end(live.fence.job);
        let task = Task::new(self.shared.clone(), live);
        self.shared.tasks.spawn(task.launch(claimed, (secret, spare), is_asked));
    }

    /// Cancels a job. One that waits is cancelled at once; a running one is asked to stop, and killed after the grace time.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] when it is over already.
    pub async fn cancel(&self, job: JobId, by: Uid) -> Result<Job, StoreError> {
        self.end(job, Command::Cancel { by }).await
    }

    /// Stops a job. One that waits is cancelled at once; a running one is asked to save its work and end, and is left the time that takes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] when it is over already.
    pub async fn stop(&self, job: JobId, by: Uid) -> Result<Job, StoreError> {
        self.end(job, Command::Stop { by }).await
    }

    /// Pauses a job. One that waits is held; a running one is asked to save its work, is left the time that takes, and is held then.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] when it is over already.
    pub async fn pause(&self, job: JobId, hold: Hold) -> Result<Job, StoreError> {
        self.end(job, Command::Pause { hold }).await
    }

    /// Has a running job make way for another: it is asked to save its work, is left the time that takes, and waits for its turn again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] when it does not run or is not preemptible.
    pub async fn preempt(&self, job: JobId, to: JobId) -> Result<Job, StoreError> {
        self.end(job, Command::Yield { to }).await
    }

    /// Does something to each member of an array in one of these states. Returns how many took it, and of how many it changed something.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Failed`].
    pub async fn command_members(
        &self,
        array: JobId,
        states: &[&str],
        command: &Command,
    ) -> Result<(usize, u64), StoreError> {
        let (taken, changed) = self.shared.store.command_members(array, states, command).await?;
        for job in &taken {
            self.shared.tell(job.id, |live| live.obey(job));
        }
        Ok((taken.len(), changed))
    }

    /// Changes each member of an array in one of these states. Those that run go by their new deadline and time limit at once. Returns how many took it, and of how many it changed something.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Failed`].
    pub async fn edit_members(
        &self,
        array: JobId,
        states: &[&str],
        by: Uid,
        edit: Edit,
    ) -> Result<(usize, u64), StoreError> {
        let (taken, changed) = self.shared.store.command_members(array, states, &Command::Edit { by, edit }).await?;
        for job in &taken {
            self.shared.tell(job.id, |live| live.retime(job));
        }
        Ok((taken.len(), changed))
    }

    /// Changes a job. One that runs goes by its new deadline and time limit at once.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] where the job is in no state for it.
    pub async fn edit(&self, job: JobId, by: Uid, edit: Edit) -> Result<Job, StoreError> {
        let after = self.shared.store.command(job, None, Command::Edit { by, edit }).await?;
        self.shared.tell(job, |live| live.retime(&after));
        Ok(after)
    }

    /// Removes finished jobs with what they left on disks, each wholly or not at all. Who stops waiting does not stop it.
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Stopping`].
    pub async fn remove(&self, removal: Removal) -> Result<Vec<Result<Removed, StoreError>>, StoreError> {
        let work = self.shared.tasks.spawn(removal::remove(self.shared.clone(), removal));
        work.await.map_err(|_| StoreError::Stopping)?
    }

    async fn end(&self, job: JobId, command: Command) -> Result<Job, StoreError> {
        let after = self.shared.store.command(job, None, command).await?;
        self.shared.tell(job, |live| live.obey(&after));
        Ok(after)
    }

    /// A job's checkpoints, newest first, each with what becomes of it by the rules of retention.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Failed`].
    pub async fn judged(&self, job: JobId) -> Result<Vec<Judged>, StoreError> {
        let spec = self.shared.store.spec(job).await?;
        retention::judged(&self.shared, job, &spec.checkpoint).await
    }

    /// Deletes a checkpoint of a job, unless it is the newest or something besides the job needs it. Returns whether it did. Objects that a store does not delete are left to the collection.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Failed`].
    pub async fn remove_checkpoint(&self, job: JobId, uri: &str) -> Result<bool, StoreError> {
        retention::remove(&self.shared, job, uri).await
    }

    /// Has a running job take a checkpoint now, and waits until one is durable: a minute at most.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub async fn checkpoint(&self, job: JobId) -> Result<CheckpointRef, CheckpointError> {
        let live = self.shared.live(job).ok_or(CheckpointError::NotRunning(job))?;
        let mut durable = live.durable();
        let mut freed = self.shared.freed.subscribe();
        if !live.order_checkpoint() {
            return Err(CheckpointError::NotConnected(job));
        }
        let wait = async {
            loop {
                tokio::select! {
                    biased;
                    _ = durable.changed() => {
                        if let Some(checkpoint) = durable.borrow_and_update().clone() {
                            return Ok(checkpoint);
                        }
                    }
                    _ = freed.changed() => {
                        if !self.shared.live(job).is_some_and(|current| Arc::ptr_eq(&current, &live)) {
                            return Err(CheckpointError::Ended(job));
                        }
                    }
                }
            }
        };
        let seconds = CHECKPOINT_LIMIT.as_secs();
        timeout(CHECKPOINT_LIMIT, wait).await.unwrap_or(Err(CheckpointError::Timeout { job, seconds }))
    }

    /// The file that an attempt's stream is written to. What was cut off it has `.1` (the newest), `.2` … at the end of its name.
    #[must_use]
    pub fn log_path(&self, job: JobId, attempt: AttemptNumber, stream: Stream) -> PathBuf {
        stream.path(&self.shared.attempt_dir(job, attempt))
    }

    /// What there is to give to jobs, but for what others do with it.
    #[must_use]
    pub fn machine(&self) -> Arc<Machine> {
        self.shared.machine()
    }

    /// Wakes who waits for resources: the settings may give jobs more by now.
    pub fn retuned(&self) {
        self.shared.freed.send_modify(|count| *count += 1);
    }

    /// The same with what others do with its GPUs at this moment.
    pub async fn look_at_machine(&self) -> Machine {
        let machine = Machine::clone(&self.shared.machine());
        let Some(inventory) = self.shared.inventory.clone().filter(|_| !machine.gpus.is_empty()) else {
            return machine;
        };
        let executor = self.shared.executor.clone();
        let look = tokio::task::spawn_blocking(move || devices::observed(machine, inventory.as_ref(), &executor));
        // It fails where the daemon ends meanwhile.
        look.await.unwrap_or_default()
    }

    /// The jobs that have a GPU, the oldest first.
    #[must_use]
    pub fn holders(&self, uuid: &str) -> Vec<JobId> {
        let attempts = self.shared.lock();
        let holds = |live: &Live| !live.is_vacated() && live.gpus.iter().any(|gpu| gpu == uuid);
        attempts.iter().filter(|(_, live)| holds(live)).map(|(job, _)| *job).collect()
    }

    /// The jobs that occupy something, the oldest first.
    #[must_use]
    pub fn occupants(&self) -> Vec<JobId> {
        let attempts = self.shared.lock();
        attempts.iter().filter(|(_, live)| !live.is_vacated()).map(|(job, _)| *job).collect()
    }

    /// The jobs with an attempt under way, the oldest first, those included whose end is being put on record.
    #[must_use]
    pub fn attempts(&self) -> Vec<JobId> {
        self.shared.lock().keys().copied().collect()
    }

    /// Has all that run save their work and make way for the daemon's stop, with the time that takes; they wait for their turn again, and use up no retry.
    pub fn save_all(&self) {
        for live in self.shared.lock().values() {
            live.end(Reason::Drained);
        }
    }

    /// The jobs of which nothing lives any more, though their end is not yet on record.
    #[must_use]
    pub fn vacated(&self) -> BTreeSet<JobId> {
        let attempts = self.shared.lock();
        attempts.iter().filter(|(_, live)| live.is_vacated()).map(|(job, _)| *job).collect()
    }

    /// Whether an attempt is under way that may be asked to make way for another and was not yet asked to end.
    #[must_use]
    pub fn has_preemptible(&self) -> bool {
        self.shared.lock().values().any(|live| live.preemptible && live.with(|core| core.reason().is_none()))
    }

    /// What is left for further attempts. What others do with the GPUs is not off it.
    #[must_use]
    pub fn free(&self) -> Free {
        self.free_without(|_| false)
    }

    /// What would be left if some jobs had no attempt.
    #[must_use]
    pub fn free_without(&self, is_out: impl Fn(JobId) -> bool) -> Free {
        let machine = self.shared.machine();
        let attempts = self.shared.lock();
        let counted = attempts.iter().filter(|(job, live)| !live.is_vacated() && !is_out(**job));
        counted.fold(machine.whole(), |mut free, (_, live)| {
            free.take(&machine.share(&live.origin.resources, &live.gpus));
            free
        })
    }

    /// Changes whenever resources come back.
    #[must_use]
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.shared.freed.subscribe()
    }

    /// A secret for an attempt about to be claimed.
    #[must_use]
    pub fn draw_secret(&self) -> Secret {
        Secret::draw(self.shared.config.entropy)
    }

    /// The end of a lease that begins now.
    #[must_use]
    pub fn lease_until(&self) -> Timestamp {
        self.shared.lease_until()
    }
}
