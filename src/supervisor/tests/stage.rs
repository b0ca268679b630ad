//! The stage: a supervisor, and puppets for workers.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use mlctl_artifacts::{
    Stores,
    checkpoint::{self, Header, Part},
    keys,
    manifest::Role,
};
use mlctl_link::frame::WorkerStream;
use mlctl_protocol::{
    AttemptNumber, ExitClass, JobId, JobSpec,
    launch::Launch,
    message::{FromWorker, Heartbeat, Hello, Report, ReportBody, Start, ToWorker},
    progress::Progress,
    result::{CheckpointRef, ModelRef, RESULT_FILE, WorkerResult},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Clock, Job, Machine, Uid, event::ProcessIdentity},
    store::{Attempt, NewJob, Store},
    supervisor::{
        Config, Handle, Limits, LogBounds, Parts, Supervisor, Tuning,
        executor::{Ended, Executor, Found, Kit, Signal, StartError, Worker},
    },
};

/// No wait of a test takes longer.
pub(super) const CEILING: Duration = Duration::from_secs(20);

pub(super) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(CEILING, work).await.expect("it happens in time")
}

/// A worker played by the test.
pub(super) struct Puppet {
    pub(super) launch: Launch,
    pub(super) identity: ProcessIdentity,
    /// Signals it was sent.
    pub(super) signals: Mutex<Vec<Signal>>,
    /// When it was started.
    pub(super) born: Instant,
    ended: watch::Sender<Option<Ended>>,
}

impl Puppet {
    pub(super) fn die(&self, ended: Ended) {
        self.ended.send_if_modified(|state| {
            let alive = state.is_none();
            if alive {
                *state = Some(ended);
            }
            alive
        });
    }

    /// Keeps a connection until death, as a process does.
    pub(super) fn hold(self: &Arc<Self>, line: Line) {
        let puppet = self.clone();
        tokio::spawn(async move {
            let _ = puppet.ended.subscribe().wait_for(Option::is_some).await;
            drop(line);
        });
    }

    pub(super) fn signals(&self) -> Vec<Signal> {
        self.signals.lock().unwrap().clone()
    }

    pub(super) fn hello(&self, started: bool) -> Hello {
        Hello {
            job: self.launch.job,
            attempt: self.launch.attempt,
            secret: self.launch.secret.clone(),
            pid: self.identity.pid,
            worker: "puppet".into(),
            started,
        }
    }

    /// Dials and says hello; the answer is not read yet.
    pub(super) async fn dial(&self, hello: Hello) -> Line {
        let mut stream = WorkerStream::new(UnixStream::connect(&self.launch.socket).await.unwrap());
        stream.send(FromWorker::Hello(hello)).await.unwrap();
        Line { stream, seq: 0 }
    }

    /// Dials and is told what to do.
    pub(super) async fn begin(&self) -> (Line, Start) {
        let mut line = self.dial(self.hello(false)).await;
        match line.hear().await {
            Some(ToWorker::Start(start)) => (line, *start),
            other => panic!("{other:?} instead of a start"),
        }
    }

    pub(super) fn result(&self, start: &Start, class: ExitClass) -> WorkerResult {
        let model = ModelRef { uri: start.storage.model_uri.clone(), digest: "a".repeat(64) };
        WorkerResult {
            v: 1,
            job: self.launch.job,
            attempt: self.launch.attempt,
            token: start.token,
            class,
            message: None,
            hint: None,
            metrics: Default::default(),
            model: (class == ExitClass::Ok).then_some(model),
            output: None,
        }
    }

    pub(super) fn write_result(&self, result: &WorkerResult) {
        std::fs::create_dir_all(&self.launch.attempt_dir).unwrap();
        std::fs::write(self.launch.attempt_dir.join(RESULT_FILE), serde_json::to_vec(result).unwrap()).unwrap();
    }
}

/// A puppet's connection.
pub(super) struct Line {
    stream: WorkerStream<UnixStream>,
    seq: u64,
}

impl Line {
    /// The next message, or `None` when the supervisor hung up.
    pub(super) async fn hear(&mut self) -> Option<ToWorker> {
        in_time(self.stream.recv()).await.ok().flatten()
    }

    pub(super) async fn say(&mut self, message: FromWorker) {
        self.stream.send(message).await.unwrap();
    }

    pub(super) async fn beat(&mut self, step: u64) {
        let progress = Progress { step: Some(step), ..Progress::default() };
        let heartbeat = Heartbeat { progress, rss_bytes: 1, peak_rss_bytes: 2, cpu_ms: 3, device: "cpu".into() };
        self.say(FromWorker::Heartbeat(heartbeat)).await;
    }

    pub(super) async fn send(&mut self, body: ReportBody) {
        self.seq += 1;
        self.say(FromWorker::Report(Report { seq: self.seq, body })).await;
    }

    /// Reports, and waits until the report is acknowledged.
    pub(super) async fn report(&mut self, body: ReportBody) {
        self.send(body).await;
        assert_eq!(self.hear().await, Some(ToWorker::Ack { seq: self.seq }));
    }

    /// Goes on counting reports where another connection had come to.
    pub(super) fn count_from(&mut self, seq: u64) {
        self.seq = seq;
    }
}

/// An executor whose workers are puppets.
#[derive(Default)]
pub(super) struct Puppets {
    started: Mutex<Vec<Arc<Puppet>>>,
    waiting: Mutex<VecDeque<Arc<Puppet>>>,
    news: Notify,
}

struct Strings {
    puppet: Arc<Puppet>,
    is_child: bool,
}

#[async_trait]
impl Worker for Strings {
    fn identity(&self) -> &ProcessIdentity {
        &self.puppet.identity
    }

    fn age(&self) -> Duration {
        self.puppet.born.elapsed()
    }

    async fn exited(&self) {
        let _ = self.puppet.ended.subscribe().wait_for(Option::is_some).await;
    }

    fn signal(&self, signal: Signal) {
        self.puppet.signals.lock().unwrap().push(signal);
        if signal == Signal::Kill {
            self.puppet.die(Ended::Signal { number: 9, out_of_memory: false });
        }
    }

    async fn reap(&mut self) -> Ended {
        let ended = *self.puppet.ended.borrow();
        ended.filter(|_| self.is_child).unwrap_or(Ended::Unknown)
    }
}

#[async_trait]
impl Executor for Puppets {
    async fn start(&self, _kit: &Kit, launch: &Launch) -> Result<Box<dyn Worker>, StartError> {
        let puppet = {
            let mut started = self.started.lock().unwrap();
            let pid = 1000 + u32::try_from(started.len()).unwrap();
            let identity =
                ProcessIdentity { pid, start_ticks: 1, boot_id: "now".into(), host: "here".into(), ahead: None };
            let ended = watch::Sender::new(None);
            let puppet = Arc::new(Puppet {
                launch: launch.clone(),
                identity,
                signals: Mutex::default(),
                born: Instant::now(),
                ended,
            });
            started.push(puppet.clone());
            puppet
        };
        self.waiting.lock().unwrap().push_back(puppet.clone());
        self.news.notify_one();
        Ok(Box::new(Strings { puppet, is_child: true }))
    }

    async fn find(&self, identity: &ProcessIdentity, _dir: &Path) -> Found {
        let started = self.started.lock().unwrap();
        match started.iter().find(|puppet| puppet.identity == *identity && puppet.ended.borrow().is_none()) {
            Some(puppet) => Found::Alive(Box::new(Strings { puppet: puppet.clone(), is_child: false })),
            None => Found::Dead,
        }
    }

    fn is_ours(&self, _pid: u32) -> bool {
        false
    }

    fn is_of(&self, pid: u32, worker: &ProcessIdentity, _dir: &Path) -> bool {
        pid == worker.pid
    }
}

struct TestClock;

impl Clock for TestClock {
    #[expect(clippy::disallowed_methods, reason = "a test's clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Everything around a supervisor. It outlives several of them.
pub(super) struct Stage {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) puppets: Arc<Puppets>,
    pub(super) limits: Limits,
    pub(super) grace: Duration,
    /// Seconds that the attempts of jobs may run.
    pub(super) time_limit: Option<u32>,
    /// Whether jobs may be asked to make way.
    pub(super) preemptible: bool,
}

/// A supervisor at work.
pub(super) struct Act {
    pub(super) handle: Handle,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Act {
    /// Ends the supervisor; its workers go on.
    pub(super) async fn end(self) {
        self.stop.cancel();
        in_time(self.running).await.unwrap();
    }
}

impl Stage {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("mld.db"), Arc::new(TestClock), |bytes| bytes.fill(3)).await.unwrap();
        let limits = Limits { lease: Duration::from_secs(600), hang: None };
        let grace = Duration::from_millis(400);
        Self { dir, store, puppets: Arc::default(), limits, grace, time_limit: None, preemptible: false }
    }

    fn storage_url(&self) -> String {
        format!("file://{}", self.dir.path().join("objects").display())
    }

    fn supervisor(&self, stop: CancellationToken) -> Supervisor {
        let tuning = Tuning {
            has_commands: true,
            machine: Arc::new(Machine { cpus: 4, ..Machine::default() }),
            grace: self.grace,
            limits: self.limits,
            retention: crate::domain::retention::checkpoints::Defaults::default(),
        };
        let config = Config {
            attempts_dir: self.dir.path().join("attempts"),
            workers_socket: self.dir.path().join("workers.sock"),
            storage_url: self.storage_url(),
            spool_max_bytes: 1 << 30,
            outage_seconds: 60,
            s3: None,
            tuning: watch::Sender::new(tuning).subscribe(),
            heartbeat_seconds: 1,
            logs: LogBounds { max_bytes: 1024, files: 2 },
            ahead: 0,
            entropy: |bytes| bytes.fill(9),
        };
        let parts = Parts {
            store: self.store.clone(),
            artifacts: Stores::new(),
            clock: Arc::new(TestClock),
            executor: self.puppets.clone(),
            inventory: None,
        };
        Supervisor::new(config, parts, stop).unwrap()
    }

    /// A daemon's start: adoption, then the socket.
    pub(super) async fn act(&self) -> Act {
        let stop = CancellationToken::new();
        let supervisor = self.supervisor(stop.clone());
        supervisor.adopt().await.unwrap();
        let socket = self.dir.path().join("workers.sock");
        let _ = std::fs::remove_file(&socket);
        let handle = supervisor.handle();
        let running = tokio::spawn(supervisor.run(UnixListener::bind(&socket).unwrap()));
        Act { handle, stop, running }
    }

    /// Keeps a training job that is never retried but when it says so.
    pub(super) async fn submit(&self, retries: u32) -> JobId {
        let spec = serde_json::json!({
            "version": 1, "name": "puppet", "retry": {"limit": retries, "infrastructure_limit": 0}, "checkpoint": {"keep": 1},
            "train": {
                "model": {"type": "mlp", "layers": [2, 1]},
                "data": {"format": "randn", "rows": 4, "features": 2, "targets": 1},
                "loss": "mse", "optimizer": {"type": "sgd"}, "batch_size": 2, "max_steps": 10
            }
        });
        let mut spec: JobSpec = serde_json::from_value(spec).unwrap();
        spec.time.limit_seconds = self.time_limit;
        spec.preemptible = self.preemptible;
        let key = format!("{:p}{}", self, rand_key());
        self.store.submit(NewJob { spec, user: Uid(1), key, asked: None, hold: None }).await.unwrap().id
    }

    /// Claims a job and has it started: the puppet that was.
    pub(super) async fn start(&self, act: &Act, job: JobId) -> Arc<Puppet> {
        let secret = act.handle.draw_secret();
        let claimed =
            self.store.claim(job, Vec::new(), *secret.hash().as_bytes(), act.handle.lease_until()).await.unwrap();
        act.handle.start(claimed, secret);
        self.started().await
    }

    /// The puppet of an attempt that was just started.
    pub(super) async fn started(&self) -> Arc<Puppet> {
        in_time(async {
            loop {
                let puppet = self.puppets.waiting.lock().unwrap().pop_front();
                match puppet {
                    Some(puppet) => return puppet,
                    None => self.puppets.news.notified().await,
                }
            }
        })
        .await
    }

    /// Waits until the job's last attempt has ended.
    pub(super) async fn ended(&self, job: JobId) -> (Job, Attempt) {
        self.when(job, |_, attempt| attempt.exit.is_some()).await
    }

    pub(super) async fn when(&self, job: JobId, is_so: impl Fn(&Job, &Attempt) -> bool) -> (Job, Attempt) {
        let mut changes = self.store.changes();
        in_time(async {
            loop {
                changes.mark_unchanged();
                let detail = self.store.job(job).await.unwrap();
                if let Some(attempt) = detail.attempt
                    && is_so(&detail.job, &attempt)
                {
                    return (detail.job, attempt);
                }
                // Heartbeats are no events: they are looked for.
                let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
            }
        })
        .await
    }

    /// Writes a checkpoint as a worker would.
    pub(super) async fn checkpoint(&self, puppet: &Puppet, start: &Start, step: u64) -> CheckpointRef {
        let attempt = Stores::new().open(&start.storage.attempt_uri).unwrap();
        let header = Header {
            job: puppet.launch.job,
            attempt: puppet.launch.attempt,
            token: start.token,
            step,
            epoch: 0,
            created_at: "2026-01-01T00:00:00Z".into(),
            spec_digest: start.spec_digest.clone(),
            dataset_digest: "0".repeat(64),
            parent: None,
            metrics: Default::default(),
        };
        let bytes = Bytes::from(format!("step {step}"));
        let part = Part { name: keys::CHECKPOINT_STATE.into(), role: Role::State, bytes };
        checkpoint::write(&attempt, header, vec![part]).await.unwrap()
    }

    /// Publishes a model as a worker would.
    pub(super) async fn publish(&self, start: &Start) {
        let model = Stores::new().open(&start.storage.model_uri).unwrap();
        model.join(keys::MODEL_CONFIG).unwrap().put(Bytes::from_static(b"{}")).await.unwrap();
    }

    pub(super) async fn exists(&self, checkpoint: &CheckpointRef) -> bool {
        let folder = Stores::new().open(&checkpoint.uri).unwrap();
        folder.join(keys::MANIFEST).unwrap().size().await.unwrap().is_some()
    }

    pub(super) async fn steps_on_record(&self, job: JobId) -> Vec<(AttemptNumber, u64)> {
        let checkpoints = self.store.checkpoints(job).await.unwrap();
        checkpoints.into_iter().map(|(attempt, checkpoint)| (attempt, checkpoint.step)).collect()
    }
}

/// A key that no other submit of this process has.
fn rand_key() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
