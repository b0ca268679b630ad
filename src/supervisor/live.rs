//! What the supervisor knows of an attempt while it lives, shared by its task (which ends it), its connection (which feeds it) and the handle (which asks it for
//! something). Everything in here is in memory only: what must survive the daemon is in the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use mlctl_protocol::{
    message::{Start, Storage, ToWorker},
    progress::Progress,
    result::{CheckpointRef, WorkerResult},
    spec::Resources,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{kill::Reason, secret::SecretHash};
use crate::{
    domain::{Fence, Job},
    store::Beat,
};

/// Messages waiting for a worker to read them. It is sent a handful in its life; one that does not read them is no longer listened to either.
const MAX_WAITING: usize = 64;

/// What is known of an attempt when its life in this daemon begins.
pub(super) struct Birth {
    pub(super) fence: Fence,
    pub(super) kind: String,
    /// Which member of an array it is.
    pub(super) array_index: Option<u32>,
    pub(super) resources: Resources,
    /// Its GPUs by UUID.
    pub(super) gpus: Vec<String>,
    pub(super) storage: Storage,
    pub(super) keep: u32,
    pub(super) preemptible: bool,
    /// Seconds that an attempt may run, as the spec says.
    pub(super) planned_limit_seconds: Option<u32>,
    pub(super) times: Times,
    pub(super) secret: SecretHash,
    /// Reports that are durable already.
    pub(super) acked: u64,
    /// The result that is durable already.
    pub(super) result: Option<WorkerResult>,
    pub(super) progress: Progress,
}

/// An attempt under way.
pub(super) struct Live {
    pub(super) fence: Fence,
    pub(super) kind: String,
    /// Which member of an array it is.
    pub(super) array_index: Option<u32>,
    pub(super) resources: Resources,
    /// Its GPUs by UUID.
    pub(super) gpus: Vec<String>,
    pub(super) storage: Storage,
    /// Checkpoints of the job that are kept.
    pub(super) keep: u32,
    /// Whether it may be asked to make way for another.
    pub(super) preemptible: bool,
    planned_limit_seconds: Option<u32>,
    /// When the attempt must have ended, which an edit may change.
    times: watch::Sender<Times>,
    pub(super) secret: SecretHash,
    /// What the worker is told to do, once its process is on record: a process that nobody recorded must never work.
    start: watch::Sender<Option<Arc<Start>>>,
    line: watch::Sender<Option<Line>>,
    ending: watch::Sender<Option<Reason>>,
    /// The newest checkpoint that became durable in this daemon's time.
    durable: watch::Sender<Option<CheckpointRef>>,
    vitals: Mutex<Vitals>,
}

/// When an attempt must have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// Seconds that it may run.
    pub(super) limit_seconds: Option<u32>,
    /// The moment of the wall clock by which its job must have ended.
    pub(super) deadline: Option<Timestamp>,
}

impl Times {
    /// Those of a job whose spec says so many seconds.
    pub(super) const fn of(job: &Job, planned: Option<u32>) -> Self {
        Self { limit_seconds: job.time_limit_seconds(planned), deadline: job.deadline }
    }
}

/// The connection in use.
#[derive(Clone)]
struct Line {
    number: u64,
    orders: mpsc::Sender<ToWorker>,
    close: CancellationToken,
}

/// A connection's end of the line.
pub(super) struct Connected {
    number: u64,
    pub(super) orders: mpsc::Receiver<ToWorker>,
    pub(super) close: CancellationToken,
}

/// What a worker said at last, which is kept in the transaction that ends the attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Leftover {
    /// The number of the report that is the result; none where that is durable, or was never reported.
    pub(super) result: Option<u64>,
    /// How far it came at last.
    pub(super) beat: Option<Beat>,
}

/// Signs of life.
#[derive(Debug, Clone)]
pub(super) struct Vitals {
    /// Reports up to this number are durable, the result aside.
    pub(super) acked: u64,
    /// The result, once it was reported.
    pub(super) result: Option<WorkerResult>,
    /// What is put on record together with the end.
    pub(super) left: Leftover,
    /// When the worker was last heard of; at first, when it was started or adopted.
    pub(super) heard_at: Instant,
    /// When it last made progress; at first, as above.
    pub(super) moved_at: Instant,
    pub(super) progress: Progress,
    /// Whether it made progress at all.
    pub(super) progressed: bool,
    /// Warnings taken from it.
    pub(super) warnings: u32,
    /// Whether its resources are free again, though its end is not yet on record.
    pub(super) vacated: bool,
    /// Connections counted.
    lines: u64,
}

impl Live {
    pub(super) fn new(birth: Birth, now: Instant) -> Self {
        let Birth {
            fence,
            kind,
            array_index,
            resources,
            gpus,
            storage,
            keep,
            preemptible,
            planned_limit_seconds,
            times,
            secret,
            acked,
            result,
            progress,
        } = birth;
        let progressed = mark(&progress) != mark(&Progress::default());
        let vitals = Vitals {
            acked,
            result,
            left: Leftover::default(),
            heard_at: now,
            moved_at: now,
            progress,
            progressed,
            warnings: 0,
            vacated: false,
            lines: 0,
        };
        Self {
            fence,
            kind,
            array_index,
            resources,
            gpus,
            storage,
            keep,
            preemptible,
            planned_limit_seconds,
            times: watch::Sender::new(times),
            secret,
            start: watch::Sender::new(None),
            line: watch::Sender::new(None),
            ending: watch::Sender::new(None),
            durable: watch::Sender::new(None),
            vitals: Mutex::new(vitals),
        }
    }

    pub(super) fn vitals(&self) -> MutexGuard<'_, Vitals> {
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process is on record: it may be told what to do.
    pub(super) fn release(&self, start: Start) {
        let now = Instant::now();
        {
            let mut vitals = self.vitals();
            vitals.heard_at = now;
            vitals.moved_at = now;
        }
        self.start.send_replace(Some(Arc::new(start)));
    }

    /// What the worker is to do, as soon as it may be told.
    pub(super) async fn start(&self) -> Arc<Start> {
        let mut start = self.start.subscribe();
        loop {
            if let Some(start) = start.borrow_and_update().clone() {
                return start;
            }
            // An error cannot come: the sender is in `self`.
            let _ = start.changed().await;
        }
    }

    /// When it must have ended, and changes of that.
    pub(super) fn times(&self) -> watch::Receiver<Times> {
        self.times.subscribe()
    }

    /// Its job was changed.
    pub(super) fn retime(&self, job: &Job) {
        let times = Times::of(job, self.planned_limit_seconds);
        self.times.send_if_modified(|current| std::mem::replace(current, times) != times);
    }

    /// Asks for the attempt's end. The gravest reason stays.
    pub(super) fn end(&self, reason: Reason) {
        self.ending.send_if_modified(|current| {
            let graver = current.as_ref().is_none_or(|current| current.weight() < reason.weight());
            if graver {
                *current = Some(reason);
            }
            graver
        });
    }

    /// Why the attempt is being ended, and changes of it.
    pub(super) fn ending(&self) -> watch::Receiver<Option<Reason>> {
        self.ending.subscribe()
    }

    /// Checkpoints that become durable from now on.
    pub(super) fn durable(&self) -> watch::Receiver<Option<CheckpointRef>> {
        let mut durable = self.durable.subscribe();
        durable.mark_unchanged();
        durable
    }

    /// A checkpoint is durable and on record.
    pub(super) fn saved(&self, checkpoint: CheckpointRef) {
        self.vitals().moved_at = Instant::now();
        self.durable.send_replace(Some(checkpoint));
    }

    /// The worker reported its result, by its report of this number, which is put on record with the end.
    pub(super) fn finished(&self, seq: u64, result: WorkerResult) {
        {
            let mut vitals = self.vitals();
            vitals.acked = seq;
            vitals.result = Some(result);
            vitals.left.result = Some(seq);
        }
        self.end(Reason::Finished);
    }

    /// Whether a checkpoint became durable in this daemon's time.
    pub(super) fn has_saved(&self) -> bool {
        self.durable.borrow().is_some()
    }

    /// A new connection takes the place of an older one, which is closed.
    pub(super) fn connect(&self) -> Connected {
        let number = {
            let mut vitals = self.vitals();
            vitals.lines += 1;
            vitals.heard_at = Instant::now();
            vitals.lines
        };
        let (orders, waiting) = mpsc::channel(MAX_WAITING);
        let close = CancellationToken::new();
        let line = Line { number, orders, close: close.clone() };
        if let Some(older) = self.line.send_replace(Some(line)) {
            older.close.cancel();
        }
        Connected { number, orders: waiting, close }
    }

    /// A connection has ended.
    pub(super) fn disconnect(&self, connected: &Connected) {
        self.line.send_if_modified(|line| {
            let mine = line.as_ref().is_some_and(|line| line.number == connected.number);
            if mine {
                *line = None;
            }
            mine
        });
    }

    /// Sends the worker a message, if there is a connection that takes it.
    pub(super) fn order(&self, message: ToWorker) -> bool {
        let line = self.line.borrow().clone();
        line.is_some_and(|line| {
            let taken = line.orders.try_send(message).is_ok();
            if !taken {
                line.close.cancel();
            }
            taken
        })
    }

    /// Waits until no connection is left: all that the worker had said has been heard.
    pub(super) async fn silent(&self) {
        // An error cannot come: the sender is in `self`.
        let _ = self.line.subscribe().wait_for(Option::is_none).await;
    }

    /// Whether there is a connection.
    pub(super) fn is_linked(&self) -> bool {
        self.line.borrow().is_some()
    }

    /// Closes the connection, if there is one.
    pub(super) fn hang_up(&self) {
        if let Some(line) = &*self.line.borrow() {
            line.close.cancel();
        }
    }

    /// A heartbeat came.
    pub(super) fn beat(&self, progress: &Progress, now: Instant) {
        let mut vitals = self.vitals();
        vitals.heard_at = now;
        if mark(progress) != mark(&vitals.progress) {
            vitals.moved_at = now;
            vitals.progressed = true;
        }
        vitals.progress = progress.clone();
    }
}

/// What must change for an attempt to have made progress. Rates and losses may change without any.
const fn mark(progress: &Progress) -> (Option<u64>, Option<u64>, Option<u64>) {
    (progress.step, progress.epoch, progress.records)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use mlctl_protocol::{AttemptNumber, FencingToken, JobId};

    use super::*;
    use crate::supervisor::secret::Secret;

    pub(in crate::supervisor) fn birth(job: u64) -> Birth {
        Birth {
            fence: Fence { job: JobId(job), attempt: AttemptNumber(1), token: FencingToken(1) },
            kind: "train".into(),
            array_index: None,
            resources: Resources::default(),
            gpus: Vec::new(),
            storage: mlctl_artifacts::keys::storage("file:///o", "x", JobId(job), AttemptNumber(1)),
            keep: 3,
            preemptible: false,
            planned_limit_seconds: None,
            times: Times::default(),
            secret: Secret::draw(|bytes| bytes.fill(7)).hash(),
            acked: 0,
            result: None,
            progress: Progress::default(),
        }
    }

    #[test]
    fn the_gravest_reason_stays() {
        let live = Live::new(birth(1), Instant::now());
        let preempted = Reason::Preempted { to: JobId(9) };
        for (reason, stays) in [
            (preempted.clone(), preempted.clone()),
            (Reason::Paused, Reason::Paused),
            (preempted, Reason::Paused),
            (Reason::Stopped, Reason::Stopped),
            (Reason::TimeLimit { seconds: 60 }, Reason::TimeLimit { seconds: 60 }),
            (Reason::Stopped, Reason::TimeLimit { seconds: 60 }),
            (Reason::Cancelled, Reason::Cancelled),
            (Reason::TimeLimit { seconds: 60 }, Reason::Cancelled),
            (Reason::Stopped, Reason::Cancelled),
            (Reason::Finished, Reason::Cancelled),
            (Reason::Stale, Reason::Stale),
            (Reason::Cancelled, Reason::Stale),
        ] {
            live.end(reason);
            assert_eq!(*live.ending().borrow(), Some(stays));
        }
    }

    #[test]
    fn only_steps_epochs_and_records_are_progress() {
        let begin = Instant::now();
        let live = Live::new(birth(1), begin);
        let later = |seconds| begin + Duration::from_secs(seconds);
        let at = |step, loss| Progress { step: Some(step), loss: Some(loss), ..Progress::default() };
        for (seconds, progress, moved) in [(1, at(1, 0.5), 1), (2, at(1, 0.4), 1), (3, at(2, 0.4), 3)] {
            live.beat(&progress, later(seconds));
            assert_eq!(live.vitals().moved_at, later(moved));
            assert_eq!(live.vitals().heard_at, later(seconds));
        }
        assert!(live.vitals().progressed);
    }

    #[tokio::test]
    async fn a_new_connection_closes_the_older_one() {
        let live = Live::new(birth(1), Instant::now());
        assert!(!live.order(ToWorker::Checkpoint), "nobody is there");
        let older = live.connect();
        let mut newer = live.connect();
        assert!(older.close.is_cancelled() && !newer.close.is_cancelled());
        live.disconnect(&older);
        assert!(live.order(ToWorker::Checkpoint));
        assert_eq!(newer.orders.recv().await, Some(ToWorker::Checkpoint));
        while live.order(ToWorker::Checkpoint) {}
        assert!(newer.close.is_cancelled(), "a worker that does not read is hung up on");
        live.disconnect(&newer);
        live.silent().await;
    }
}
