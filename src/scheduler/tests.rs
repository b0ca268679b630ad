//! The loop over a real database and a real supervisor, with workers that end as soon as they are started.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use mlctl_artifacts::Stores;
use mlctl_protocol::{JobId, JobSpec, launch::Launch};
use tokio::{net::UnixListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Dispatch, Observer, Scheduler, run};
use crate::{
    domain::{Change, Clock, Machine, Uid, event::ProcessIdentity, queue::QueueEdit, share::FairShare},
    store::{NewJob, Store},
    supervisor::{
        Config, Limits, LogBounds, Parts, Supervisor, Tuning,
        executor::{Ended, Executor, Found, Kit, Signal, StartError, Worker},
    },
};

/// Use counts for nothing here.
const SHARE: FairShare = FairShare { points: 0, half_life_hours: 1, gpu_cores: 1 };

const CEILING: Duration = Duration::from_secs(30);

struct TestClock;

impl Clock for TestClock {
    #[expect(clippy::disallowed_methods, reason = "a test's clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Workers that end at once, or when the test says so.
struct Mayflies {
    started: Mutex<Vec<(JobId, u32)>>,
    may_end: watch::Sender<bool>,
    pids: AtomicU64,
    alive: Arc<Alive>,
}

/// How many live.
#[derive(Default)]
struct Alive {
    now: AtomicU64,
    most: AtomicU64,
}

struct Mayfly {
    identity: ProcessIdentity,
    alive: Arc<Alive>,
    may_end: watch::Receiver<bool>,
}

#[async_trait]
impl Worker for Mayfly {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    fn age(&self) -> Duration {
        Duration::ZERO
    }

    async fn exited(&self) {
        let _ = self.may_end.clone().wait_for(|may| *may).await;
    }

    fn signal(&self, _: Signal) {}

    async fn reap(&mut self) -> Ended {
        self.alive.now.fetch_sub(1, Ordering::Relaxed);
        Ended::Code(1)
    }
}

#[async_trait]
impl Executor for Mayflies {
    async fn start(&self, _: &Kit, launch: &Launch) -> Result<Box<dyn Worker>, StartError> {
        self.started.lock().unwrap().push((launch.job, launch.attempt.0));
        let start_ticks = self.pids.fetch_add(1, Ordering::Relaxed);
        let identity = ProcessIdentity { pid: 1, start_ticks, boot_id: "now".into(), host: "here".into(), ahead: None };
        let alive = self.alive.clone();
        alive.most.fetch_max(alive.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        Ok(Box::new(Mayfly { identity, alive, may_end: self.may_end.subscribe() }))
    }

    async fn find(&self, _: &ProcessIdentity, _: &Path) -> Found {
        Found::Dead
    }

    fn is_ours(&self, _: u32) -> bool {
        false
    }

    fn is_of(&self, _: u32, _: &ProcessIdentity, _: &Path) -> bool {
        false
    }
}

struct Room {
    store: Store,
    mayflies: Arc<Mayflies>,
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Room {
    async fn new(cpus: u32, may_end: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("mld.db"), Arc::new(TestClock), |bytes| bytes.fill(3)).await.unwrap();
        let mayflies = Arc::new(Mayflies {
            started: Mutex::default(),
            may_end: watch::Sender::new(may_end),
            pids: AtomicU64::new(1),
            alive: Arc::default(),
        });
        let tuning = Tuning {
            has_commands: true,
            machine: Arc::new(Machine { cpus, ..Machine::default() }),
            grace: Duration::from_secs(1),
            limits: Limits { lease: Duration::from_secs(600), hang: None },
            retention: crate::domain::retention::checkpoints::Defaults::default(),
        };
        let config = Config {
            attempts_dir: dir.path().join("attempts"),
            workers_socket: dir.path().join("workers.sock"),
            storage_url: format!("file://{}", dir.path().join("objects").display()),
            spool_max_bytes: 1 << 30,
            outage_seconds: 60,
            s3: None,
            tuning: watch::Sender::new(tuning).subscribe(),
            heartbeat_seconds: 1,
            logs: LogBounds { max_bytes: 1024, files: 2 },
            ahead: 0,
            entropy: |bytes| bytes.fill(9),
        };
        let executor: Arc<dyn Executor> = mayflies.clone();
        let parts = Parts {
            store: store.clone(),
            artifacts: Stores::new(),
            clock: Arc::new(TestClock),
            executor,
            inventory: None,
        };
        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(config, parts, stop.clone()).unwrap();
        let scheduler = Scheduler {
            store: store.clone(),
            supervisor: supervisor.handle(),
            observer: Observer::new(store.clone(), supervisor.handle(), watch::Sender::new(SHARE).subscribe()),
            dispatch: Dispatch::new(store.clone(), Arc::new(TestClock)),
            clock: Arc::new(TestClock),
            min_run: watch::Sender::new(Duration::ZERO).subscribe(),
        };
        let listener = UnixListener::bind(dir.path().join("workers.sock")).unwrap();
        let running = vec![tokio::spawn(supervisor.run(listener)), tokio::spawn(run(scheduler, stop.clone()))];
        Self { store, mayflies, stop, running, _dir: dir }
    }

    async fn submit(&self, cpus: u32, priority: u8, retries: u32) -> JobId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let spec = serde_json::json!({
            "version": 1, "name": "mayfly", "priority": priority, "resources": {"cpus": cpus},
            "retry": {"limit": retries, "backoff_seconds": 1, "max_backoff_seconds": 1},
            "train": {
                "model": {"type": "mlp", "layers": [2, 1]},
                "data": {"format": "randn", "rows": 4, "features": 2, "targets": 1},
                "loss": "mse", "optimizer": {"type": "sgd"}, "batch_size": 2, "max_steps": 10
            }
        });
        let spec: JobSpec = serde_json::from_value(spec).unwrap();
        let key = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        self.store.submit(NewJob { spec, user: Uid(1), key, asked: None, hold: None }).await.unwrap().id
    }

    fn started(&self) -> Vec<(JobId, u32)> {
        self.mayflies.started.lock().unwrap().clone()
    }

    async fn until(&self, mut is_so: impl FnMut(&[(JobId, u32)]) -> bool) {
        let met = async {
            while !is_so(&self.started()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(CEILING, met).await.expect("it happens in time");
    }

    async fn all_over(&self, jobs: &[JobId]) {
        let mut changes = self.store.changes();
        let over = async {
            for job in jobs {
                loop {
                    changes.mark_unchanged();
                    if self.store.job(*job).await.unwrap().job.state.is_terminal() {
                        break;
                    }
                    changes.changed().await.unwrap();
                }
            }
        };
        tokio::time::timeout(CEILING, over).await.expect("the queue drains");
    }

    async fn end(self) {
        self.stop.cancel();
        for task in self.running {
            tokio::time::timeout(CEILING, task).await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_queue_drains_and_every_job_is_started_once() {
    let room = Room::new(2, true).await;
    let mut jobs = Vec::new();
    for _ in 0..100 {
        jobs.push(room.submit(1, 50, 0).await);
    }
    room.all_over(&jobs).await;
    let mut started = room.started();
    started.sort_unstable();
    assert_eq!(started, jobs.iter().map(|job| (*job, 1)).collect::<Vec<_>>());
    room.end().await;
}

#[tokio::test]
async fn the_machine_is_never_over_full_and_a_large_job_holds_back_those_behind_it() {
    let room = Room::new(3, false).await;
    let first = room.submit(2, 50, 0).await;
    room.until(|started| started == [(first, 1)]).await;
    let large = room.submit(3, 50, 0).await;
    let small = room.submit(1, 50, 0).await;
    let urgent = room.submit(1, 90, 0).await;
    room.until(|started| started == [(first, 1), (urgent, 1)]).await;
    room.mayflies.may_end.send_replace(true);
    room.until(|started| started.len() == 4).await;
    assert_eq!(room.started()[2..], [(large, 1), (small, 1)]);
    room.all_over(&[first, large, small, urgent]).await;
    room.end().await;
}

/// Rounds come while jobs are being claimed: with each submit, of a job that is before all others, and with each end.
#[tokio::test]
async fn what_is_being_claimed_counts_for_the_machine_and_for_its_queue() {
    for (cpus, limit, most) in [(2, None, 2), (8, Some(3), 3)] {
        let room = Room::new(cpus, true).await;
        let edit = QueueEdit { running: limit.map(Change::Set), ..QueueEdit::default() };
        room.store.edit_queue("default", edit, Uid(1)).await.unwrap();
        let mut jobs = Vec::new();
        for priority in 0..=100 {
            jobs.push(room.submit(1, priority, 0).await);
        }
        room.all_over(&jobs).await;
        assert_eq!(room.started().len(), jobs.len());
        let at_once = room.mayflies.alive.most.load(Ordering::Relaxed);
        assert!(at_once <= most, "{at_once} of {most} at once");
        room.end().await;
    }
}

#[tokio::test]
async fn a_job_larger_than_the_machine_waits_without_holding_anybody_back() {
    let room = Room::new(1, true).await;
    for _ in 0..10 {
        room.submit(64, 90, 0).await;
    }
    let job = room.submit(1, 10, 0).await;
    room.all_over(&[job]).await;
    assert_eq!(room.started(), [(job, 1)]);
    room.end().await;
}

#[tokio::test]
async fn retries_come_when_they_are_due_without_anything_else_happening() {
    let room = Room::new(1, true).await;
    let job = room.submit(1, 50, 2).await;
    room.all_over(&[job]).await;
    assert_eq!(room.started(), [(job, 1), (job, 2), (job, 3)]);
    room.end().await;
}
