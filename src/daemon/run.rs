//! From nothing to serving and back. The order is the point: the lock before the database, the database before the sockets, adoption before dispatch; and at the end
//! the other way round. Workers are neither waited for nor told: they go on, and the next daemon adopts them.

use std::{
    ffi::OsString,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mlctl_artifacts::Stores;
use mlctl_protocol::s3::S3Access;
use rustix::fs::Mode;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    entropy,
    hardware::{self, Hardware},
    lock::{LockError, StateLock},
    logging::Level,
    offline,
    reload::{self, Knobs, Reloader, Source},
    service_manager,
    signals::Stop,
    socket::{self, Audience, SocketError},
};
use crate::{
    api::{self, Api, Policy},
    config::Settings,
    domain::{Clock, notify::Hook},
    pipeline::{
        notify::{self, Notifier},
        retrain::{self, Pipeline},
    },
    registry::{self, Registry, gc::Collector},
    scheduler::{
        self, Dispatch, Observer, Scheduler,
        cron::{self, Cron},
        deadlines::{self, Deadlines},
        drain, failures,
        retention::{self, Keeper},
        scan,
    },
    store::{Store, StoreError},
    supervisor::{
        self, LogBounds, Supervisor,
        devices::InventoryError,
        executor::{Executor, Programs},
        process::{Cgroups, LocalProcesses},
    },
    vault::{self, VaultError},
};

/// How long the parts may take to end, each.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What a daemon has around it.
pub struct Surroundings {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The environment it was started with, of which workers see a part.
    pub environment: Vec<(OsString, OsString)>,
    /// The way into the S3 store, where there is one.
    pub s3: Option<S3Access>,
    /// When to stop, and when to read the settings again.
    pub stop: Stop,
    /// Where the settings are read from again.
    pub source: Source,
    /// How much is logged.
    pub level: Level,
}

/// Why the daemon did not start, or ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A folder could not be made.
    #[error("make the folder {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state directory is another daemon's, or cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database cannot be used.
    #[error("use the database {}", path.display())]
    Store {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A restore that was cut short cannot be brought to its end.
    #[error("bring a restore to its end")]
    Restore(#[source] VaultError),
    /// There is nothing to listen on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Workers cannot be supervised.
    #[error("supervise workers")]
    Supervise(#[source] io::Error),
    /// It is not known which GPUs there are.
    #[error("see which GPUs there are")]
    Devices(#[source] InventoryError),
    /// Signals cannot be received.
    #[error("receive signals")]
    Signals(#[source] io::Error),
    /// A part of the daemon died.
    #[error("the daemon's {0} ended unexpectedly")]
    Part(&'static str),
}

impl DaemonError {
    /// The exit code of `mld`: 5 when another daemon has the state directory or the socket, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Lock(LockError::Held { .. }) | Self::Socket(SocketError::InUse(_)) => 5,
            _ => 1,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Folder { .. } | Self::Lock(LockError::Failed { .. }) => {
                "check the owner and the permissions of the folder, or choose another with --state-dir"
            }
            Self::Lock(LockError::Held { .. }) => {
                "talk to it with `mlctl daemon status`, stop it with `mlctl daemon stop`, or choose another --state-dir"
            }
            Self::Store { source: StoreError::Full, .. } => {
                "free space on it and start it again: what was acknowledged is safe, and workers run on"
            }
            Self::Store { .. } => {
                "nothing was changed in it; `mlctl db check` says more, `mlctl db restore` puts a backup in its place"
            }
            Self::Restore(_) => "check the disk, and the owner and the permissions of the state directory",
            Self::Socket(SocketError::InUse(_)) => "another daemon listens there: stop it, or choose another socket",
            Self::Socket(SocketError::NotASocket(_)) => "move that file away, or choose another path for the socket",
            Self::Socket(SocketError::TooLong(_)) => "choose a shorter state directory, or set the path of the socket",
            Self::Socket(SocketError::Failed { .. }) => "check the owner and the permissions of the socket's folder",
            Self::Supervise(_) => "raise fs.inotify.max_user_instances, and check that /proc is mounted",
            Self::Devices(_) => {
                "check that nvidia-smi works, or set devices.enabled = false in mld.toml and give jobs no GPUs"
            }
            Self::Signals(_) => "check the limits on open files",
            Self::Part(_) => "this is a bug: the log has what led to it; a new start is safe",
        }
    }
}

/// Runs the daemon until it is asked to stop.
///
/// # Errors
/// [`DaemonError`]: before serving, nothing was left behind; afterwards, workers go on.
pub async fn run(settings: Settings, surroundings: Surroundings) -> Result<(), DaemonError> {
    // Before anything is made: no file or socket is ever open to others, not even for a moment.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    make_folder(&settings.state_dir)?;
    let _lock = StateLock::take(&settings.state_dir)?;
    make_folder(&settings.attempts_dir)?;
    let Surroundings { clock, environment, s3, stop, source, level } = surroundings;
    let of_store = |source| DaemonError::Store { path: settings.database.clone(), source };
    let store = open(&settings, &clock).await?;
    let Hardware { machine, programs, inventory } = hardware::look(&settings).map_err(DaemonError::Devices)?;
    let executor = LocalProcesses::new(programs.clone(), settings.attempts_dir.clone(), environment.clone());
    let cgroups = Cgroups::find(settings.workers.cgroup_dir.as_deref());
    let executor = executor.map_err(DaemonError::Supervise)?.in_cgroups(cgroups);
    let artifacts = Stores::with_s3(s3.clone());
    let parts = supervisor::Parts {
        store: store.clone(),
        artifacts: artifacts.clone(),
        clock: clock.clone(),
        executor: Arc::new(executor) as Arc<dyn Executor>,
        inventory,
    };
    let knobs = Knobs::new(&settings, &machine);
    let part_stop = CancellationToken::new();
    let supervisor = Supervisor::new(supervision(&settings, knobs.tuning.subscribe(), s3), parts, part_stop.clone())
        .map_err(DaemonError::Supervise)?;
    let handle = supervisor.handle();
    let adoption = supervisor.adopt().await.map_err(of_store)?;
    let audience = if settings.group_access { Audience::Group } else { Audience::Owner };
    let (workers, _workers_bound) = socket::listen(&settings.workers_socket, Audience::Owner)?;
    let (clients, _clients_bound) = socket::listen(&settings.socket, audience)?;
    let dispatch = Dispatch::new(store.clone(), clock.clone());
    let observer = Observer::new(store.clone(), handle.clone(), knobs.share.subscribe());
    let min_run = knobs.min_run.subscribe();
    let notifier = notifier(&store, &clock, knobs.hooks.subscribe(), environment);
    let vault = offline::vault(&settings, knobs.plan.subscribe(), artifacts.clone(), clock.clone());
    let service = service(&settings, programs, knobs.policy.subscribe());
    let reloader = Reloader::new((source, level), knobs, handle.clone(), settings.clone());
    let api_parts = api::Parts {
        store: store.clone(),
        supervisor: handle.clone(),
        observer: observer.clone(),
        dispatch: dispatch.clone(),
        vault,
        registry: Registry::new(store.clone(), artifacts.clone()),
        collector: collector(&settings, &store, &artifacts, &clock, &dispatch),
        notifier,
        artifacts,
        clock: clock.clone(),
        stop_daemon: stop.soft.clone(),
        reload: reloader.handle(),
    };
    let loops = loops(&reloader.knobs, &api_parts, (&stop.reload, &part_stop));
    let api = Api::new(service, api_parts, part_stop.clone());
    let scheduler = Scheduler { store: store.clone(), supervisor: handle, observer, dispatch, clock, min_run };
    // In the order in which they end: nobody may ask for anything any more before those who would do it are gone.
    let mut running = vec![Part::spawn("api", api.run(clients))];
    running.extend(loops);
    running.push(Part::spawn("supervisor", supervisor.run(workers)));
    running.push(Part::spawn("scheduler", scheduler::run(scheduler, part_stop.clone())));
    running.push(Part::spawn("watchdog", service_manager::watchdog(part_stop.clone())));
    info!(
        socket = %settings.socket.display(), pid = std::process::id(), adopted = adoption.adopted, ended = adoption.ended,
        "mld {} is ready", env!("CARGO_PKG_VERSION")
    );
    service_manager::ready();
    let outcome = serve(running, &stop, &part_stop).await;
    close(&store, &stop).await;
    outcome
}

/// Who deletes what is stored and nothing needs.
fn collector(
    settings: &Settings,
    store: &Store,
    artifacts: &Stores,
    clock: &Arc<dyn Clock>,
    dispatch: &Dispatch,
) -> Collector {
    let storage_url = settings.storage.url.trim_end_matches('/').to_owned();
    Collector::new(store.clone(), artifacts.clone(), clock.clone(), storage_url, is_sound(dispatch))
}

/// Who tells people of what happens.
fn notifier(
    store: &Store,
    clock: &Arc<dyn Clock>,
    hooks: watch::Receiver<Arc<Vec<Hook>>>,
    environment: Vec<(OsString, OsString)>,
) -> Notifier {
    let (store, clock, login) = (store.clone(), clock.clone(), Arc::new(api::login_names()));
    Notifier::new(notify::Parts { store, clock, hooks, login, environment, entropy: entropy::fill })
}

/// Says whether the database is not known to be damaged.
fn is_sound(dispatch: &Dispatch) -> registry::IsSound {
    let dispatch = dispatch.clone();
    Arc::new(move || dispatch.standing().frozen.is_none())
}

async fn close(store: &Store, stop: &Stop) {
    if timeout(STOP_LIMIT, stop.hard.run_until_cancelled(store.close())).await.is_err() {
        warn!("the database did not close in time");
    }
    info!("mld has stopped; workers go on");
}

/// What is done by the clock, or when something has changed, besides starting jobs.
fn loops(knobs: &Knobs, parts: &api::Parts, (asked, stop): (&Arc<Notify>, &CancellationToken)) -> Vec<Part> {
    let api::Parts { store, supervisor, dispatch, vault, registry, collector, artifacts, clock, .. } = parts.clone();
    let (stop_daemon, reload) = (parts.stop_daemon.clone(), parts.reload.clone());
    let (zones, max_queued) = (jiff::tz::db().clone(), knobs.max_queued.subscribe());
    let cron = Cron { store: store.clone(), clock: clock.clone(), zones, max_queued };
    let retention = knobs.retention.subscribe();
    let keeper = Keeper { store: store.clone(), supervisor: supervisor.clone(), clock: clock.clone(), retention };
    let pipeline = Pipeline { store: store.clone(), registry: registry.clone(), artifacts, clock: clock.clone() };
    let deadlines = Deadlines { store: store.clone(), clock };
    let check_every = knobs.check_every.subscribe();
    vec![
        Part::spawn("cron", cron::run(cron, dispatch.clone(), stop.clone())),
        Part::spawn("failures", failures::run(store.clone(), stop.clone())),
        Part::spawn("retention", retention::run(keeper, dispatch.clone(), stop.clone())),
        Part::spawn("registrar", registry::register_all(registry, is_sound(&dispatch), stop.clone())),
        Part::spawn("retrain", retrain::run(pipeline, is_sound(&dispatch), stop.clone())),
        Part::spawn("gc", registry::gc::run(collector, knobs.collection.subscribe(), stop.clone())),
        Part::spawn("backup", vault::keeper::run(vault, store.clone(), stop.clone())),
        Part::spawn("deadlines", deadlines::run(deadlines, stop.clone())),
        Part::spawn("notify", notify::run(parts.notifier.clone(), stop.clone())),
        Part::spawn("drain", drain::run(dispatch.clone(), supervisor, stop_daemon, stop.clone())),
        Part::spawn("status", service_manager::tell_status(dispatch.changes(), stop.clone())),
        Part::spawn("scan", scan::run(store, dispatch, check_every, stop.clone())),
        Part::spawn("reload", reload::run(reload, asked.clone(), stop.clone())),
    ]
}

/// Opens the database, once a restore that was cut short is brought to its end.
async fn open(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Store, DaemonError> {
    if vault::finish(&settings.database).map_err(DaemonError::Restore)? {
        warn!("a restore that was cut short is brought to its end");
    }
    let reserve = settings.disk_reserve_bytes;
    let opened = Store::open_with(&settings.database, clock.clone(), entropy::fill, reserve).await;
    opened.map_err(|source| DaemonError::Store { path: settings.database.clone(), source })
}

/// A task that lives as long as the daemon.
struct Part {
    name: &'static str,
    task: JoinHandle<()>,
}

impl Part {
    fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { name, task: tokio::spawn(work) }
    }
}

/// Waits for the stop, or for a part to die, and ends all parts.
async fn serve(mut parts: Vec<Part>, stop: &Stop, part_stop: &CancellationToken) -> Result<(), DaemonError> {
    let first = futures_util::future::select_all(parts.iter_mut().map(|part| &mut part.task));
    let died = tokio::select! {
        () = stop.soft.cancelled() => None,
        (_, index, _) = first => Some(index),
    };
    let outcome = died.map_or(Ok(()), |index| Err(DaemonError::Part(parts.swap_remove(index).name)));
    if let Err(error) = &outcome {
        error!(%error, "stopping");
    }
    service_manager::stopping();
    part_stop.cancel();
    for Part { name, task } in parts {
        let ended = timeout(STOP_LIMIT, stop.hard.run_until_cancelled(task)).await;
        if !matches!(ended, Ok(Some(Ok(())))) {
            warn!(part = name, "a part of the daemon did not end by itself");
        }
    }
    outcome
}

fn make_folder(path: &Path) -> Result<(), DaemonError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| DaemonError::Folder { path: path.to_owned(), source })
}

fn supervision(
    settings: &Settings,
    tuning: watch::Receiver<supervisor::Tuning>,
    s3: Option<S3Access>,
) -> supervisor::Config {
    let workers = &settings.workers;
    supervisor::Config {
        attempts_dir: settings.attempts_dir.clone(),
        workers_socket: settings.workers_socket.clone(),
        storage_url: settings.storage.url.trim_end_matches('/').to_owned(),
        spool_max_bytes: settings.storage.spool_max_bytes,
        outage_seconds: settings.storage.outage_seconds,
        s3,
        tuning,
        heartbeat_seconds: workers.heartbeat_seconds,
        logs: LogBounds { max_bytes: workers.log_max_bytes, files: workers.log_files },
        ahead: workers.ahead,
        entropy: entropy::fill,
    }
}

fn service(settings: &Settings, programs: Programs, policy: watch::Receiver<Arc<Policy>>) -> api::Config {
    api::Config {
        state_dir: settings.state_dir.clone(),
        socket: settings.socket.clone(),
        group_access: settings.group_access,
        workers_socket: settings.workers_socket.clone(),
        storage_url: settings.storage.url.trim_end_matches('/').to_owned(),
        programs,
        policy,
        patience: api::Patience::default(),
    }
}
