//! What the store's tests share: a clock to set, specs, a store in a folder of its own.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use mlctl::{
    domain::{Clock, Command, Exit, Fence, JobState, Uid},
    store::{ListFilter, NewJob, Store, StoreError, Submitted},
};
use mlctl_protocol::{ExitClass, JobId, JobSpec, result::CheckpointRef};

/// A clock that is moved by hand, and by a microsecond each time that it is read: what was decided together has one time.
pub struct Hand(AtomicI64);

impl Hand {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_790_000_000_000_000)))
    }

    pub fn forward(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.fetch_add(1, Ordering::Relaxed)).unwrap()
    }
}

/// Random enough to tell databases apart, and the same in every run.
pub fn entropy(bytes: &mut [u8]) {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
    bytes.iter_mut().zip(drawn.to_be_bytes().iter().cycle()).for_each(|(byte, drawn)| *byte = *drawn);
}

/// A store in a folder that goes away with it.
pub struct Rig {
    pub store: Store,
    pub clock: Arc<Hand>,
    pub dir: tempfile::TempDir,
}

impl Rig {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Hand::new();
        let store = Store::open(&dir.path().join("mld.db"), clock.clone(), entropy).await.unwrap();
        Self { store, clock, dir }
    }

    /// Around a store that is kept elsewhere.
    pub fn around(store: Store) -> Self {
        Self { store, clock: Hand::new(), dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mld.db")
    }

    /// Closes the store and opens it again.
    pub async fn reopen(&mut self) {
        self.store.close().await;
        self.store = Store::open(&self.path(), self.clock.clone(), entropy).await.unwrap();
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub async fn submit(&self, name: &str) -> JobId {
        let Submitted { id, existed } = self.store.submit(new_job(name, name)).await.unwrap();
        assert!(!existed);
        id
    }

    pub async fn claim(&self, job: JobId) -> Fence {
        let lease_until = self.now() + SignedDuration::from_secs(600);
        self.store.claim(job, Vec::new(), [7; 32], lease_until).await.unwrap().fence
    }

    pub async fn end(&self, fence: Fence, class: ExitClass) {
        self.store.command(fence.job, Some(fence), end(class)).await.unwrap();
    }

    /// Takes an attempt from claim to a crash.
    pub async fn crash(&self, job: JobId) {
        let fence = self.claim(job).await;
        self.end(fence, ExitClass::Crash).await;
    }

    pub async fn state(&self, job: JobId) -> JobState {
        self.store.job(job).await.unwrap().job.state
    }

    /// Fails with what is wrong.
    pub async fn check(&self) {
        assert_eq!(self.store.check().await.unwrap(), Vec::<String>::new());
    }
}

pub const USER: Uid = Uid(1000);

pub fn spec(name: &str) -> JobSpec {
    let spec = serde_json::json!({
        "version": 1, "name": name,
        "train": {
            "data": {"format": "randn", "rows": 64, "features": 4, "targets": 2, "seed": 1},
            "model": {"type": "mlp", "layers": [4, 8, 2]},
            "loss": "mse", "optimizer": {"type": "adam", "learning_rate": 0.001},
            "batch_size": 8, "max_epochs": 1, "seed": 1
        }
    });
    serde_json::from_value(spec).unwrap()
}

pub fn new_job(name: &str, key: &str) -> NewJob {
    NewJob { spec: spec(name), user: USER, key: key.to_owned(), asked: None, hold: None }
}

pub fn exit(class: ExitClass) -> Exit {
    let message = (class != ExitClass::Ok).then(|| format!("it was {class}\0 \"quoted\" ü"));
    Exit { class, message, hint: None }
}

pub fn end(class: ExitClass) -> Command {
    Command::End { exit: exit(class), model: None, output: None, jitter: 0.5 }
}

pub fn checkpoint(uri: &str, step: u64) -> CheckpointRef {
    CheckpointRef {
        step,
        epoch: 1,
        uri: uri.to_owned(),
        size_bytes: 10,
        manifest_digest: "0".repeat(64),
        metrics: [("train_loss".to_owned(), 0.1 + 0.2)].into(),
    }
}

/// Everything that can be read, as text: two databases with the same dump hold the same.
pub async fn dump(store: &Store, now: Timestamp) -> Result<String, StoreError> {
    use std::fmt::Write as _;
    let mut text = String::new();
    let all = JobState::names().map(str::to_owned).collect();
    let filter = ListFilter { states: all, limit: u32::MAX, ..ListFilter::default() };
    for detail in store.list(filter).await?.jobs {
        let id = detail.job.id;
        let same =
            store.find(&id.to_string()).await? == id && format!("{:?}", store.job(id).await?) == format!("{detail:?}");
        writeln!(text, "{same} {detail:?}").unwrap();
        writeln!(text, "{:?}", store.spec(id).await?).unwrap();
        writeln!(text, "{:?}", store.attempts(id).await?).unwrap();
        writeln!(text, "{:?}", store.checkpoints(id).await?).unwrap();
        writeln!(text, "{:?}", store.metrics(id, 0, u32::MAX).await?).unwrap();
        writeln!(text, "{:?}", store.events(Some(id), 0, u32::MAX).await?).unwrap();
    }
    writeln!(text, "{:?}", store.events(None, 0, u32::MAX).await?).unwrap();
    for (schedule, _) in store.schedules().await? {
        writeln!(text, "{schedule:?} {:?}", store.ticks(schedule.id, u32::MAX).await?).unwrap();
    }
    writeln!(text, "{:?} {:?}", store.hooks().await?, store.notices(0, u32::MAX).await?).unwrap();
    writeln!(text, "{:?} {:?}", store.instance(), store.counts().await?).unwrap();
    writeln!(text, "{:?}", store.running().await?).unwrap();
    writeln!(text, "{:?} {:?}", store.ready(now, u32::MAX).await?, store.next_ready_at(now).await?).unwrap();
    Ok(text)
}
