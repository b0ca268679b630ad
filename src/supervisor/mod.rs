//! Attempts as processes: started, listened to, bounded, ended, and taken over after a restart of the daemon. The daemon's lifecycle makes a [`Supervisor`];
//! everybody else holds its [`Handle`]. It never decides which job is next, and nothing above the executor seam knows a pid.

mod adopt;
mod ahead;
mod attempt;
mod claiming;
pub mod core;
pub mod devices;
mod end;
pub mod executor;
mod handle;
mod kill;
mod link;
mod live;
mod logs;
pub mod process;
mod readiness;
mod remains;
mod removal;
mod replaced;
mod retention;
mod secret;
#[cfg(test)]
mod tests;
mod uploads;
mod vram;
mod watchdog;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use mlctl_artifacts::{Stores, keys};
use mlctl_protocol::{
    AttemptNumber, JobId, JobSpec,
    message::{SpoolPlace, Start, Storage},
    progress::Progress,
    result::CheckpointRef,
    s3::S3Access,
};
use tokio::{net::UnixListener, sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

pub use adopt::Adoption;
pub use handle::{CheckpointError, Handle};
pub use logs::{Bounds as LogBounds, Stream};
pub use removal::{Removal, Removed};
pub use retention::Judged;
pub use secret::Secret;
pub use watchdog::Limits;

use self::{
    claiming::Claiming,
    core::{Origin, Times},
    devices::Inventory,
    executor::{Executor, Kit, Program},
    live::Live,
    logs::LogKeeper,
};
use crate::{
    domain::{Clock, Fence, Job, Machine, causes, retention::checkpoints::Defaults},
    store::{Instance, Store, StoreError},
};

/// How long tasks may take to let go of what they hold when the daemon stops.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What the supervisor needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder under which each attempt has its own.
    pub attempts_dir: PathBuf,
    /// The socket that workers dial.
    pub workers_socket: PathBuf,
    /// The prefix of all objects, without a slash at its end.
    pub storage_url: String,
    /// Bytes of an attempt's checkpoints, or of its predictions, that wait on this machine while the store does not answer.
    pub spool_max_bytes: u64,
    /// Seconds that a job which has trained or predicted all waits for the store.
    pub outage_seconds: u32,
    /// The way into the S3 store, which every attempt is handed.
    pub s3: Option<S3Access>,
    /// What may change while the daemon runs.
    pub tuning: watch::Receiver<Tuning>,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: u32,
    /// How much of what workers print is kept.
    pub logs: LogBounds,
    /// How many workers of a kind wait for a job; 0 for none.
    pub ahead: u32,
    /// Fills bytes at random.
    pub entropy: fn(&mut [u8]),
}

/// What of it may change while the daemon runs. Attempts under way keep the times that they began with.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Whether command jobs may be started.
    pub has_commands: bool,
    /// What there is to give to jobs, with the GPUs as they were when the daemon started.
    pub machine: Arc<Machine>,
    /// From the first word to a worker to SIGKILL.
    pub grace: Duration,
    /// How long a worker may be silent or idle.
    pub limits: Limits,
    /// Which checkpoints of jobs are kept that do not say it themselves.
    pub retention: Defaults,
}

/// What the supervisor works with.
#[derive(Clone)]
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Object storage.
    pub artifacts: Stores,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where workers run.
    pub executor: Arc<dyn Executor>,
    /// Who knows the GPUs, where there are some.
    pub inventory: Option<Arc<dyn Inventory>>,
}

/// The attempts of this daemon.
pub struct Supervisor {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: Config,
    store: Store,
    artifacts: Stores,
    clock: Arc<dyn Clock>,
    executor: Arc<dyn Executor>,
    inventory: Option<Arc<dyn Inventory>>,
    logs: LogKeeper,
    meter: vram::Meter,
    ahead: ahead::Pool,
    /// The folder of all jobs' objects, once it is on disk with all above it: no worker need see to that again.
    durable_uri: OnceLock<String>,
    attempts: Mutex<BTreeMap<JobId, Arc<Live>>>,
    claiming: Claiming,
    /// Counts attempts whose resources came back.
    freed: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Supervisor {
    /// Makes a supervisor without attempts. `stop` ends it; it never ends a worker.
    ///
    /// # Errors
    /// When the user's inotify instances are used up.
    pub fn new(config: Config, parts: Parts, stop: CancellationToken) -> io::Result<Self> {
        let Parts { store, artifacts, clock, executor, inventory } = parts;
        let logs = LogKeeper::new(config.logs)?;
        let shared = Shared {
            ahead: ahead::Pool::new(config.ahead, &config.attempts_dir, config.entropy),
            durable_uri: OnceLock::new(),
            config,
            store,
            artifacts,
            clock,
            executor,
            inventory,
            logs,
            meter: vram::Meter::default(),
            attempts: Mutex::default(),
            claiming: Claiming::default(),
            freed: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stop,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its handle.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// Takes over the attempts that an earlier daemon had under way. Before [`run`](Self::run) and before any job is started.
    ///
    /// # Errors
    /// Those of reading the database.
    pub async fn adopt(&self) -> Result<Adoption, StoreError> {
        adopt::all(&self.shared).await
    }

    /// Serves the workers' socket and keeps logs bounded until the stop, then waits for the attempts' tasks to let go.
    pub async fn run(self, listener: UnixListener) {
        let Self { shared } = self;
        shared.tasks.spawn(shared.logs.clone().run(shared.stop.clone()));
        shared.make_durable().await;
        shared.tasks.spawn(replaced::run(shared.clone(), shared.stop.clone()));
        link::serve(shared.clone(), listener, shared.stop.clone()).await;
        shared.tasks.close();
        shared.ahead.close().await;
        if timeout(STOP_LIMIT, shared.tasks.wait()).await.is_err() {
            warn!(tasks = shared.tasks.len(), "some attempts' tasks did not let go in time");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Live>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds at this moment.
    fn tuning(&self) -> Tuning {
        self.config.tuning.borrow().clone()
    }

    fn machine(&self) -> Arc<Machine> {
        self.tuning().machine.clone()
    }

    /// What a job of a kind needs of its process.
    fn kit(&self, kind: &str, threads: u32, gpus: &[String]) -> Kit {
        let gpus = (!self.machine().gpus.is_empty()).then(|| gpus.to_vec());
        Kit { program: Program::of(kind), threads, gpus }
    }

    fn kit_of(&self, live: &Live) -> Kit {
        self.kit(&live.origin.kind, live.origin.resources.cpus, &live.gpus)
    }

    /// Has another process wait for the next job of its kind.
    fn replace(self: &Arc<Self>, live: &Live) {
        if self.config.ahead == 0 {
            return;
        }
        let (shared, kit) = (self.clone(), self.kit_of(live));
        self.tasks.spawn(async move {
            for end in shared.ahead.fill(shared.executor.as_ref(), &kit).await {
                let shared = shared.clone();
                shared.tasks.clone().spawn(async move {
                    if shared.stop.run_until_cancelled(end).await.is_some() {
                        shared.ahead.bury().await;
                    }
                });
            }
        });
    }

    /// What an attempt that begins now is known to be.
    fn origin(&self, fence: Fence, job: &Job) -> Origin {
        let Tuning { grace, limits, .. } = self.tuning();
        // What a command does is not seen: it may be busy without a sign of it.
        let hang = limits.hang.filter(|_| Program::of(&job.kind) == Program::Worker);
        Origin {
            fence,
            kind: job.kind.clone(),
            resources: job.resources.clone(),
            storage: self.storage(fence),
            grace,
            limits: Limits { hang, ..limits },
            acked: 0,
            result: None,
            progress: Progress::default(),
        }
    }

    fn insert(&self, live: Arc<Live>) {
        self.lock().insert(live.fence.job, live);
    }

    /// Gives an attempt's resources back: nothing of it lives any more. The next job is claimed while the end of this one is put on record, in the same commit
    /// if it happens so.
    fn vacate(&self) {
        self.freed.send_modify(|count| *count += 1);
    }

    /// Forgets an attempt. A later attempt of the same job, which may be there already, stays.
    fn remove(&self, live: &Live) {
        {
            let mut attempts = self.lock();
            if attempts.get(&live.fence.job).is_some_and(|current| current.fence == live.fence) {
                attempts.remove(&live.fence.job);
            }
        }
        self.freed.send_modify(|count| *count += 1);
    }

    /// Tells the attempt of a job what was asked of the job.
    fn tell(&self, job: JobId, say: impl FnOnce(&Live)) {
        // First: who is not being claimed any more is there to be told.
        self.claiming.note(job);
        if let Some(live) = self.live(job) {
            say(&live);
        }
    }

    fn live(&self, job: JobId) -> Option<Arc<Live>> {
        self.lock().get(&job).cloned()
    }

    fn attempt_dir(&self, job: JobId, attempt: AttemptNumber) -> PathBuf {
        attempt::dir(&self.config.attempts_dir, job, attempt)
    }

    fn storage(&self, fence: Fence) -> Storage {
        let instance = self.store.instance().name_in(Instance::epoch_of(fence.token));
        keys::storage(&self.config.storage_url, &instance, fence.job, fence.attempt)
    }

    /// Has the folder of all jobs' objects survive a power cut, where there are folders.
    async fn make_durable(&self) {
        let uri = keys::jobs_uri(&self.config.storage_url);
        let made = async { self.artifacts.open(&uri)?.make_durable().await };
        match made.await {
            Ok(()) => drop(self.durable_uri.set(uri)),
            // Workers see to it themselves, or say what is wrong.
            Err(error) => warn!(uri, error = causes(&error), "the folder of all jobs' objects cannot be made"),
        }
    }

    fn start_message(&self, live: &Live, spec: JobSpec, spec_digest: String, resume: Vec<CheckpointRef>) -> Start {
        Start {
            token: live.fence.token,
            threads: spec.resources.cpus,
            spec,
            spec_digest,
            resume,
            storage: Storage {
                durable_uri: self.durable_uri.get().cloned(),
                spool: Some(SpoolPlace {
                    attempts_uri: format!(
                        "file://{}",
                        attempt::dir_of_job(&self.config.attempts_dir, live.fence.job).display()
                    ),
                    max_bytes: self.config.spool_max_bytes,
                    wait_seconds: self.config.outage_seconds,
                }),
                ..live.origin.storage.clone()
            },
            heartbeat_seconds: self.config.heartbeat_seconds,
            lease_seconds: u32::try_from(self.tuning().limits.lease.as_secs()).unwrap_or(u32::MAX),
            ends_at: self.ends_at(live).map(|at| at.to_string()),
            array_index: live.array_index,
        }
    }

    /// When an attempt that is being started must have ended.
    fn ends_at(&self, live: &Live) -> Option<Timestamp> {
        let Times { limit_seconds, deadline } = live.with(core::Attempt::times);
        let limit = limit_seconds.map(|seconds| {
            let now = self.clock.now();
            now.checked_add(Duration::from_secs(seconds.into())).unwrap_or(now)
        });
        limit.into_iter().chain(deadline).min()
    }

    fn lease_until(&self) -> Timestamp {
        let now = self.clock.now();
        now.checked_add(self.tuning().limits.lease).unwrap_or(now)
    }

    /// A number in 0..1.
    fn chance(&self) -> f64 {
        let mut bytes = [0; 4];
        (self.config.entropy)(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}
