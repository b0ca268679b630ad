//! HTTP/JSON over a Unix socket: translate, authorise, stream. Rules are in `domain`, SQL is in `store`, processes are in `supervisor`. The daemon's lifecycle makes an
//! [`Api`] and runs it; the CLI uses the bodies ([`types`]) and the addresses ([`query`]).

mod after;
mod aliases;
mod apply;
mod array_submit;
mod arrays;
mod backfill;
mod checkpoints;
mod control;
mod daemon;
mod datasets;
mod db;
mod devices;
mod doctor;
mod download;
mod error;
mod extract;
mod follow;
mod gc;
mod jobs;
mod logs;
mod models;
mod notify;
mod permit;
mod preflight;
pub mod query;
mod queues;
mod removal;
mod routes;
mod schedules;
mod server;
mod stream;
mod submit;
pub mod types;
mod users;
mod view;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use mlctl_artifacts::Stores;
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use permit::Commands;
pub use routes::table as routes;
pub use users::login_names;

use self::{stream::Streams, submit::Room, users::Users};
use crate::{
    domain::{Clock, Uid},
    pipeline::notify::Notifier,
    registry::{Registry, gc::Collector},
    scheduler::{Dispatch, Observer},
    store::Store,
    supervisor::{Handle, executor::Programs},
    vault::Vault,
};

/// What the API needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that holds all that must survive.
    pub state_dir: PathBuf,
    /// The socket clients talk to.
    pub socket: PathBuf,
    /// Whether the daemon's group may use that socket.
    pub group_access: bool,
    /// The socket workers dial.
    pub workers_socket: PathBuf,
    /// The prefix of all objects, without a slash at its end.
    pub storage_url: String,
    /// The workers' programs.
    pub programs: Programs,
    /// What may change while the daemon runs.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// How long clients are waited for.
    pub patience: Patience,
}

/// What of it may change while the daemon runs.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Folders that `file://` URIs of a spec may name. Empty: any.
    pub data_roots: Vec<PathBuf>,
    /// Who may submit command jobs.
    pub commands: Commands,
    /// Jobs that may wait.
    pub max_queued: u32,
    /// The size a spec may have.
    pub max_spec_bytes: usize,
    /// Members an array may have.
    pub max_array: u32,
    /// Seconds from the order to stop to SIGKILL, for messages.
    pub grace_seconds: u32,
}

/// Has the daemon read its settings again: what came of it, or what is wrong with them. Blocks for as long as it takes to read a small file.
pub type Reload = Arc<dyn Fn() -> Result<Reloaded, String> + Send + Sync>;

/// Settings that were read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that have changed and hold from now on.
    pub applied: Vec<String>,
    /// Keys that have changed and hold from the daemon's next start on.
    pub pending: Vec<String>,
}

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the head of a request, and between two requests.
    pub head: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// For requests under way when the daemon stops.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: Duration::from_secs(15), body: Duration::from_secs(10), drain: Duration::from_secs(5) }
    }
}

/// What the API works with.
#[derive(Clone)]
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Who knows the attempts.
    pub supervisor: Handle,
    /// Who looks at the queue.
    pub observer: Observer,
    /// Whether jobs are started.
    pub dispatch: Dispatch,
    /// Object storage.
    pub artifacts: Stores,
    /// Backups.
    pub vault: Vault,
    /// Models and their versions.
    pub registry: Registry,
    /// Who collects what nothing needs.
    pub collector: Collector,
    /// Who tells people of what happens.
    pub notifier: Notifier,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Cancelled to ask the daemon to stop.
    pub stop_daemon: CancellationToken,
    /// Has the settings read again.
    pub reload: Reload,
}

/// The API.
pub struct Api {
    context: Context,
}

/// What every request has at hand.
type Context = Arc<Shared>;

struct Shared {
    config: Config,
    store: Store,
    supervisor: Handle,
    observer: Observer,
    dispatch: Dispatch,
    artifacts: Stores,
    vault: Vault,
    registry: Registry,
    collector: Collector,
    notifier: Notifier,
    clock: Arc<dyn Clock>,
    stop_daemon: CancellationToken,
    reload: Reload,
    /// Ends the API itself.
    stop: CancellationToken,
    started_at: Timestamp,
    /// The daemon's own user.
    owner: Uid,
    users: Users,
    room: Room,
    streams: Streams,
    /// How many more objects may be downloaded.
    downloads: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Shared {
    /// What holds at this moment.
    fn policy(&self) -> Arc<Policy> {
        self.config.policy.borrow().clone()
    }
}

impl Api {
    /// Makes an API that serves nobody yet. `stop` ends it.
    #[must_use]
    pub fn new(config: Config, parts: Parts, stop: CancellationToken) -> Self {
        let Parts { store, supervisor, observer, dispatch, artifacts, vault, registry, collector, clock, .. } = parts;
        let (stop_daemon, reload, notifier) = (parts.stop_daemon, parts.reload, parts.notifier);
        let shared = Shared {
            room: Room::default(),
            started_at: clock.now(),
            config,
            store,
            supervisor,
            observer,
            dispatch,
            artifacts,
            vault,
            registry,
            collector,
            notifier,
            clock,
            stop_daemon,
            reload,
            stop,
            owner: Uid(rustix::process::geteuid().as_raw()),
            users: Users::new(),
            streams: Streams::new(),
            downloads: Arc::new(Semaphore::new(download::MAX_DOWNLOADS)),
            tasks: TaskTracker::new(),
        };
        Self { context: Arc::new(shared) }
    }

    /// Serves clients until the stop, then ends all streams and waits a moment for the requests under way.
    pub async fn run(self, listener: UnixListener) {
        server::run(self.context, listener).await;
    }
}
