//! What the API's tests share: a server, a client, jobs at any stage of their life.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use mlctl::{
    api::{
        self, Api, Commands, Patience, Policy,
        types::{ErrorBody, ErrorCode, JobView},
    },
    domain::{Clock, Command, Exit, Fence, Machine, Uid, share::FairShare},
    pipeline::notify::{self, Notifier},
    registry::{Registry, gc::Collector},
    scheduler::{Dispatch, Observer},
    store::Store,
    supervisor::{
        self, Handle, LogBounds, Supervisor,
        devices::{self, Inventory as _, Simulated},
        executor::Programs,
        process::LocalProcesses,
    },
    vault,
};
use mlctl_artifacts::Stores;
use mlctl_protocol::{AttemptNumber, ExitClass, JobId};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// No wait of a test takes longer.
pub const CEILING: Duration = Duration::from_secs(20);

pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(CEILING, work).await.expect("it happens in time")
}

/// How much use counts.
const SHARE: FairShare = FairShare { points: 10, half_life_hours: 168, gpu_cores: 16 };

/// A clock that stands still until it is moved.
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

/// Random enough to tell databases apart, and the same in every run.
fn entropy(bytes: &mut [u8]) {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
    bytes.iter_mut().zip(drawn.to_be_bytes().iter().cycle()).for_each(|(byte, drawn)| *byte = *drawn);
}

/// A vault that makes no backup by itself.
fn vault_of(dir: &std::path::Path, storage_url: &str, clock: Arc<Hand>) -> vault::Vault {
    let config = vault::Config {
        database: dir.join("mld.db"),
        storage_url: storage_url.to_owned(),
        backups_url: format!("{storage_url}/backups"),
        plan: watch::Sender::new(vault::Plan { every_hours: 0, keep: 1, settle: Duration::ZERO }).subscribe(),
        entropy,
    };
    vault::Vault::new(config, Stores::new(), clock)
}

/// Attempts that nobody starts ahead.
/// Who tells nobody of anything.
fn nobody(store: &Store, clock: Arc<Hand>) -> Notifier {
    let hooks = watch::Sender::new(Arc::new(Vec::new())).subscribe();
    let login = Arc::new(|_: Uid| None);
    Notifier::new(notify::Parts { store: store.clone(), clock, hooks, login, environment: Vec::new(), entropy })
}

fn supervision(dir: &std::path::Path, storage_url: &str, machine: Machine) -> supervisor::Config {
    let tuning = supervisor::Tuning {
        has_commands: true,
        machine: Arc::new(machine),
        grace: Duration::from_secs(1),
        limits: supervisor::Limits { lease: Duration::from_secs(600), hang: None },
        retention: mlctl::domain::retention::checkpoints::Defaults::default(),
    };
    supervisor::Config {
        attempts_dir: dir.join("attempts"),
        workers_socket: dir.join("workers.sock"),
        storage_url: storage_url.to_owned(),
        spool_max_bytes: 1 << 30,
        outage_seconds: 60,
        s3: None,
        tuning: watch::Sender::new(tuning).subscribe(),
        heartbeat_seconds: 1,
        logs: LogBounds { max_bytes: 1 << 20, files: 4 },
        ahead: 0,
        entropy,
    }
}

/// A server, and a client of it.
pub struct Rig {
    pub store: Store,
    pub supervisor: Handle,
    pub dispatch: Dispatch,
    pub stop: CancellationToken,
    pub stop_daemon: CancellationToken,
    pub serving: JoinHandle<()>,
    clock: Arc<Hand>,
    pub dir: tempfile::TempDir,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    /// With settings of its own.
    pub async fn with(change: impl FnOnce(&mut api::Config, &mut Policy)) -> Self {
        Self::on("", change).await
    }

    /// On a machine with these GPUs, which the file `gpus.toml` in its folder goes on to play.
    pub async fn on(gpus: &str, change: impl FnOnce(&mut api::Config, &mut Policy)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hand(AtomicI64::new(1_790_000_000_000_000)));
        let store = Store::open(&dir.path().join("mld.db"), clock.clone(), entropy).await.unwrap();
        let (stop, stop_daemon) = (CancellationToken::new(), CancellationToken::new());
        let storage_url = format!("file://{}/objects", dir.path().display());
        let programs = Programs { worker: "/bin/false".into(), command: "/bin/false".into(), by_gpu: BTreeMap::new() };
        let file = dir.path().join("gpus.toml");
        std::fs::write(&file, gpus).unwrap();
        let inventory = Simulated::new(file);
        let machine = Machine { cpus: 2, memory_mib: 4096, gpus: devices::known(&inventory.look().unwrap()) };
        let parts = supervisor::Parts {
            store: store.clone(),
            artifacts: Stores::new(),
            clock: clock.clone(),
            executor: Arc::new(LocalProcesses::new(programs.clone(), dir.path().join("attempts"), Vec::new()).unwrap()),
            inventory: Some(Arc::new(inventory)),
        };
        let config = supervision(dir.path(), &storage_url, machine);
        let supervisor = Supervisor::new(config, parts, stop.clone()).unwrap().handle();
        let dispatch = Dispatch::new(store.clone(), clock.clone());
        let standing = dispatch.clone();
        let is_sound = Arc::new(move || standing.standing().frozen.is_none());
        let parts = api::Parts {
            store: store.clone(),
            supervisor: supervisor.clone(),
            observer: Observer::new(store.clone(), supervisor.clone(), watch::Sender::new(SHARE).subscribe()),
            dispatch: dispatch.clone(),
            artifacts: Stores::new(),
            vault: vault_of(dir.path(), &storage_url, clock.clone()),
            registry: Registry::new(store.clone(), Stores::new()),
            collector: Collector::new(store.clone(), Stores::new(), clock.clone(), storage_url.clone(), is_sound),
            notifier: nobody(&store, clock.clone()),
            clock: clock.clone(),
            stop_daemon: stop_daemon.clone(),
            reload: Arc::new(|| Err("there is nothing to read".to_owned())),
        };
        let mut config = api::Config {
            state_dir: dir.path().to_owned(),
            socket: dir.path().join("mld.sock"),
            group_access: false,
            workers_socket: dir.path().join("workers.sock"),
            storage_url,
            programs,
            policy: watch::Sender::default().subscribe(),
            patience: Patience::default(),
        };
        let mut policy = Policy {
            data_roots: Vec::new(),
            commands: Commands { enabled: true, users: Vec::new() },
            max_queued: 1000,
            max_spec_bytes: 262_144,
            max_array: 10_000,
            grace_seconds: 20,
        };
        change(&mut config, &mut policy);
        config.policy = watch::Sender::new(Arc::new(policy)).subscribe();
        let listener = UnixListener::bind(&config.socket).unwrap();
        let serving = tokio::spawn(Api::new(config, parts, stop.clone()).run(listener));
        Self { store, supervisor, dispatch, stop, stop_daemon, serving, clock, dir }
    }

    pub fn store_now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn forward(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("mld.sock")
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    /// A request on a connection of its own, and the head of its answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let io = TokioIo::new(self.connect().await);
        let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        in_time(client.send_request(request)).await.unwrap()
    }

    pub async fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(path).header("host", "mld");
        let answer = self.send(request.body(Full::new(body.into())).unwrap()).await;
        let status = answer.status();
        (status, in_time(answer.into_body().collect()).await.unwrap().to_bytes())
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        good(self.ask(Method::GET, path, "").await)
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: impl Into<Bytes>) -> T {
        good(self.ask(Method::POST, path, body).await)
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> T {
        good(self.ask(Method::DELETE, path, "").await)
    }

    /// The error that a GET is answered with.
    pub async fn get_error(&self, path: &str) -> (u16, ErrorCode, String) {
        bad(self.ask(Method::GET, path, "").await)
    }

    pub async fn post_error(&self, path: &str, body: impl Into<Bytes>) -> (u16, ErrorCode, String) {
        bad(self.ask(Method::POST, path, body).await)
    }

    /// Submits a job of this name, under its name as key.
    pub async fn submit(&self, name: &str) -> JobId {
        let view: JobView = self.post("/v1/jobs", submission(spec(name), &format!("{name}{}", number()))).await;
        view.id
    }

    /// Starts an attempt that nobody works on.
    pub async fn claim(&self, job: JobId) -> Fence {
        let lease_until = self.clock.now() + SignedDuration::from_secs(600);
        self.store.claim(job, Vec::new(), [7; 32], lease_until).await.unwrap().fence
    }

    pub async fn end(&self, fence: Fence, class: ExitClass) {
        let exit = Exit { class, message: Some("so it ended".into()), hint: None };
        let command = Command::End { exit, model: None, output: None, jitter: 0.5 };
        self.store.command(fence.job, Some(fence), command).await.unwrap();
    }

    /// The file that an attempt prints to; its folder is made.
    pub fn log(&self, job: JobId, attempt: u32, stream: supervisor::Stream) -> PathBuf {
        let path = self.supervisor.log_path(job, AttemptNumber(attempt), stream);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// A stream of messages.
    pub async fn follow(&self, path: &str, last_id: Option<i64>) -> Messages {
        let mut request = Request::builder().uri(path).header("host", "mld");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let answer = self.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Messages { body: answer.into_body(), text: String::new() }
    }

    /// Asks the server to end, and waits until it has.
    pub async fn end_server(self) {
        self.stop.cancel();
        in_time(self.serving).await.unwrap();
    }
}

fn good<T: DeserializeOwned>((status, body): (StatusCode, Bytes)) -> T {
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// Every error is whole: code, message, and what to do.
pub fn bad((status, body): (StatusCode, Bytes)) -> (u16, ErrorCode, String) {
    let shown = String::from_utf8_lossy(&body).into_owned();
    assert!(!status.is_success(), "{status}: {shown}");
    let ErrorBody { error } = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{status}: {shown:?}"));
    assert!(error.hint.is_some_and(|hint| !hint.is_empty()) && !error.message.is_empty(), "{shown}");
    (status.as_u16(), error.code, error.message)
}

/// Server-sent events.
pub struct Messages {
    body: Incoming,
    text: String,
}

/// One of them.
#[derive(Debug)]
pub struct Message {
    pub name: String,
    pub id: Option<i64>,
    pub data: Value,
}

impl Messages {
    /// The next message, or `None` when the stream is over.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
                };
                // A comment is a sign of life.
                let Some(data) = field("data") else { continue };
                let id = field("id").map(|id| id.parse().unwrap());
                return Some(Message { name: field("event").unwrap(), id, data: serde_json::from_str(&data).unwrap() });
            }
            let frame = in_time(self.body.frame()).await?.ok()?;
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }

    /// The next message of this name.
    pub async fn next_of(&mut self, name: &str) -> Message {
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("the stream ends before {name}"));
            if message.name == name {
                return message;
            }
        }
    }
}

/// A number that no other has.
pub fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn spec(name: &str) -> Value {
    json!({
        "version": 1, "name": name,
        "train": {
            "data": {"format": "randn", "rows": 64, "features": 4, "targets": 2, "seed": 1},
            "model": {"type": "mlp", "layers": [4, 8, 2]},
            "loss": "mse", "optimizer": {"type": "adam", "learning_rate": 0.001},
            "batch_size": 8, "max_epochs": 1, "seed": 1
        }
    })
}

pub fn submission(spec: Value, key: &str) -> String {
    json!({"spec": spec, "key": key}).to_string()
}
