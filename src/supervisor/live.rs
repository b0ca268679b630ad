//! What the supervisor holds of an attempt while it lives, shared by its task, its connection and the handle: the [`Attempt`] that decides, and what its decisions
//! need at once. Everything in here is in memory only: what must survive the daemon is in the store.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use mlctl_protocol::{
    message::{Heartbeat, Start, ToWorker},
    result::CheckpointRef,
    spec::CheckpointPolicy,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    core::{Attempt, Effect, Event, Origin, Reason, Times, Word},
    secret::SecretHash,
};
use crate::domain::{Fence, Intent, Job, JobState, event::ProcessIdentity};

/// Messages waiting for a worker to read them. It is sent a handful in its life; one that does not read them is no longer listened to either.
const MAX_WAITING: usize = 64;

/// What is known of an attempt when its life in this daemon begins.
pub(super) struct Birth {
    pub(super) origin: Origin,
    /// Which member of an array it is.
    pub(super) array_index: Option<u32>,
    /// Its GPUs by UUID.
    pub(super) gpus: Vec<String>,
    pub(super) keep: CheckpointPolicy,
    pub(super) preemptible: bool,
    /// Seconds that an attempt may run, as the spec says.
    pub(super) planned_limit_seconds: Option<u32>,
    pub(super) times: Times,
    pub(super) secret: SecretHash,
}

/// An attempt under way.
pub(super) struct Live {
    pub(super) fence: Fence,
    pub(super) origin: Arc<Origin>,
    /// Which member of an array it is.
    pub(super) array_index: Option<u32>,
    /// Its GPUs by UUID.
    pub(super) gpus: Vec<String>,
    /// Which checkpoints of the job are kept.
    pub(super) keep: CheckpointPolicy,
    /// Whether it may be asked to make way for another.
    pub(super) preemptible: bool,
    planned_limit_seconds: Option<u32>,
    pub(super) secret: SecretHash,
    /// What the worker is told to do, once its process is on record: a process that nobody recorded must never work.
    start: OnceLock<Start>,
    /// The newest checkpoint that became durable in this daemon's time.
    durable: watch::Sender<Option<CheckpointRef>>,
    /// Has the attempt's task look again.
    wake: watch::Sender<()>,
    lines: AtomicU64,
    /// The newest heartbeat.
    heard: Mutex<Option<Heartbeat>>,
    /// Who its process is, once there is one.
    process: OnceLock<ProcessIdentity>,
    /// The most memory of GPUs that it was seen to have, in bytes.
    peak_vram_bytes: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    core: Attempt,
    line: Option<Line>,
}

/// The connection in use.
struct Line {
    number: u64,
    orders: mpsc::Sender<ToWorker>,
    close: CancellationToken,
}

/// A connection's end of the line.
pub(super) struct Connected {
    pub(super) number: u64,
    pub(super) orders: mpsc::Receiver<ToWorker>,
    pub(super) close: CancellationToken,
}

impl Live {
    pub(super) fn new(birth: Birth, now: Instant) -> Self {
        let Birth { origin, array_index, gpus, keep, preemptible, planned_limit_seconds, times, secret } = birth;
        let origin = Arc::new(origin);
        Self {
            fence: origin.fence,
            array_index,
            gpus,
            keep,
            preemptible,
            planned_limit_seconds,
            secret,
            start: OnceLock::new(),
            durable: watch::Sender::new(None),
            wake: watch::Sender::new(()),
            lines: AtomicU64::new(0),
            heard: Mutex::default(),
            process: OnceLock::new(),
            peak_vram_bytes: AtomicU64::new(0),
            inner: Mutex::new(Inner { core: Attempt::new(origin.clone(), times, now.into_std()), line: None }),
            origin,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A heartbeat came.
    pub(super) fn hear(&self, heartbeat: &Heartbeat) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(heartbeat.clone());
    }

    /// The newest heartbeat in this daemon's time.
    pub(super) fn heard(&self) -> Option<Heartbeat> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its process is there.
    pub(super) fn runs_as(&self, process: &ProcessIdentity) {
        // There is one.
        let _ = self.process.set(process.clone());
    }

    /// Its process, once there is one.
    pub(super) fn process(&self) -> Option<&ProcessIdentity> {
        self.process.get()
    }

    /// It has so much memory of GPUs at this moment, or had it under an earlier daemon.
    pub(super) fn saw_vram(&self, bytes: u64) {
        self.peak_vram_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// The most memory of GPUs that it was seen to have, in bytes; nothing where none was seen.
    pub(super) fn peak_vram_bytes(&self) -> Option<u64> {
        Some(self.peak_vram_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// Asks the machine something.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&Attempt) -> T) -> T {
        ask(&self.lock().core)
    }

    /// Whether its resources are free again, though its end may not be on record yet.
    pub(super) fn is_vacated(&self) -> bool {
        self.with(Attempt::is_vacated)
    }

    /// Has the machine take an event, and does what can be done at once. What is left is returned, in order.
    pub(super) fn step(&self, event: Event) -> Vec<Effect> {
        self.perform(&mut self.lock(), None, event)
    }

    /// The same for an event that came by a connection, which itself performs what is about it.
    pub(super) fn step_by(&self, line: u64, event: Event) -> Vec<Effect> {
        self.perform(&mut self.lock(), Some(line), event)
    }

    /// Under the lock, so that a worker hears things in the order in which they were decided.
    fn perform(&self, inner: &mut Inner, own: Option<u64>, event: Event) -> Vec<Effect> {
        let mut effects = inner.core.step(event, Instant::now().into_std());
        let mut unheard = None;
        effects.retain(|effect| match effect {
            Effect::Say { line, .. } | Effect::HangUp { line, .. } if own == Some(*line) => true,
            Effect::Say { line, word } => {
                if !inner.say(*line, self.message(*word)) {
                    unheard = Some(*line);
                }
                false
            }
            Effect::HangUp { line, .. } => {
                inner.hang_up(*line);
                false
            }
            Effect::Wake => {
                self.wake.send_replace(());
                false
            }
            Effect::Saved(checkpoint) => {
                self.saved(checkpoint.clone());
                false
            }
            _ => true,
        });
        if let Some(line) = unheard {
            effects.extend(self.perform(inner, own, Event::Unheard { line }));
        }
        effects
    }

    /// A word as the worker reads it.
    pub(super) fn message(&self, word: Word) -> ToWorker {
        match word {
            Word::Start => match self.start.get() {
                Some(start) => ToWorker::Start(Box::new(start.clone())),
                None => ToWorker::Refused { reason: "the attempt has not begun".into() },
            },
            Word::Welcome { acked } => ToWorker::Welcome { acked },
            Word::Refused(reason) => ToWorker::Refused { reason: reason.into() },
            Word::Ack { seq } => ToWorker::Ack { seq },
            Word::Stop { class } => ToWorker::Stop { class },
            Word::Checkpoint => ToWorker::Checkpoint,
        }
    }

    /// What the worker is to be told, before it may be.
    pub(super) fn prepare(&self, start: Start) {
        // It is prepared once.
        let _ = self.start.set(start);
    }

    /// Its job was changed.
    pub(super) fn retime(&self, job: &Job) {
        self.step(Event::Retimed(Times::of(job, self.planned_limit_seconds)));
    }

    /// Hands over what was asked of the job.
    pub(super) fn obey(&self, job: &Job) {
        let JobState::Running { intent: Some(intent), .. } = &job.state else { return };
        self.end(match intent {
            Intent::Cancel => Reason::Cancelled,
            Intent::Stop => Reason::Stopped,
            Intent::Pause(_) => Reason::Paused,
            Intent::Yield { to } => Reason::Preempted { to: *to },
        });
    }

    /// Asks for the attempt's end. The gravest reason stays.
    pub(super) fn end(&self, reason: Reason) {
        self.step(Event::Asked(reason));
    }

    /// Asks the worker for a checkpoint, if there is a connection that takes it.
    pub(super) fn order_checkpoint(&self) -> bool {
        let mut inner = self.lock();
        let line = inner.core.open_line();
        line.is_some_and(|line| inner.say(line, ToWorker::Checkpoint))
    }

    /// Changes when the attempt's task is to look again.
    pub(super) fn woken(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// Checkpoints that become durable from now on.
    pub(super) fn durable(&self) -> watch::Receiver<Option<CheckpointRef>> {
        let mut durable = self.durable.subscribe();
        durable.mark_unchanged();
        durable
    }

    /// A checkpoint is durable and on record.
    pub(super) fn saved(&self, checkpoint: CheckpointRef) {
        self.durable.send_replace(Some(checkpoint));
    }

    /// Whether a checkpoint became durable in this daemon's time.
    pub(super) fn has_saved(&self) -> bool {
        self.durable.borrow().is_some()
    }

    /// A new connection takes the place of an older one, which is closed. Returns what it is to say at once, too.
    pub(super) fn connect(&self, started: bool) -> (Connected, Vec<Effect>) {
        let number = self.lines.fetch_add(1, Ordering::Relaxed) + 1;
        let (orders, waiting) = mpsc::channel(MAX_WAITING);
        let close = CancellationToken::new();
        let mut inner = self.lock();
        let older = inner.line.replace(Line { number, orders, close: close.clone() });
        let effects = self.perform(&mut inner, Some(number), Event::Dialled { line: number, started });
        if let Some(older) = older {
            older.close.cancel();
        }
        (Connected { number, orders: waiting, close }, effects)
    }

    /// A connection has ended.
    pub(super) fn disconnect(&self, connected: &Connected) {
        let mut inner = self.lock();
        inner.line.take_if(|line| line.number == connected.number);
        self.perform(&mut inner, None, Event::Closed { line: connected.number });
    }
}

impl Inner {
    fn say(&mut self, number: u64, message: ToWorker) -> bool {
        let Some(line) = self.line.as_ref().filter(|line| line.number == number) else { return false };
        let taken = line.orders.try_send(message).is_ok();
        if !taken {
            line.close.cancel();
        }
        taken
    }

    fn hang_up(&self, number: u64) {
        if let Some(line) = self.line.as_ref().filter(|line| line.number == number) {
            line.close.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mlctl_protocol::{AttemptNumber, FencingToken, JobId, message::StopClass, progress::Progress, spec::Resources};

    use super::*;
    use crate::supervisor::{Limits, secret::Secret};

    fn birth() -> Birth {
        let (job, attempt) = (JobId(1), AttemptNumber(1));
        let origin = Origin {
            fence: Fence { job, attempt, token: FencingToken(1) },
            kind: "train".into(),
            resources: Resources::default(),
            storage: mlctl_artifacts::keys::storage("file:///o", "x", job, attempt),
            grace: Duration::from_secs(20),
            limits: Limits { lease: Duration::from_secs(600), hang: None },
            acked: 0,
            result: None,
            progress: Progress::default(),
        };
        Birth {
            origin,
            array_index: None,
            gpus: Vec::new(),
            keep: CheckpointPolicy::default(),
            preemptible: false,
            planned_limit_seconds: None,
            times: Times::default(),
            secret: Secret::draw(|bytes| bytes.fill(7)).hash(),
        }
    }

    #[tokio::test]
    async fn a_new_connection_closes_the_older_one() {
        let live = Live::new(birth(), Instant::now());
        assert!(!live.order_checkpoint(), "nobody is there");
        let (older, _) = live.connect(true);
        let (mut newer, said) = live.connect(true);
        assert!(matches!(said[..], [Effect::Say { line: 2, word: Word::Welcome { acked: 0 } }]), "{said:?}");
        assert!(older.close.is_cancelled() && !newer.close.is_cancelled());
        live.disconnect(&older);
        assert!(live.order_checkpoint());
        assert_eq!(newer.orders.recv().await, Some(ToWorker::Checkpoint));
        while live.order_checkpoint() {}
        assert!(newer.close.is_cancelled(), "a worker that does not read is hung up on");
        live.disconnect(&newer);
        assert!(!live.order_checkpoint());
    }

    #[tokio::test]
    async fn what_is_decided_is_heard_in_that_order() {
        let live = Live::new(birth(), Instant::now());
        let (mut line, said) = live.connect(false);
        assert!(said.is_empty(), "it waits to be told: {said:?}");
        live.step(Event::Engaged);
        live.end(Reason::Paused);
        assert!(matches!(line.orders.recv().await, Some(ToWorker::Refused { .. })), "nothing was prepared here");
        assert_eq!(line.orders.recv().await, Some(ToWorker::Stop { class: StopClass::Preempted }));
    }
}
