//! One attempt's life in one daemon as a machine: an event in, effects out. What its process, its worker, the store, the clock and people say comes in by
//! [`Attempt::step`]; what is to be done about it goes out, in order, and whoever does it says by another event how it went. No I/O, no tokio, no clock: the attempt's
//! task, its connections and the handle perform the effects, and `tests/simulation` plays them against chance.

mod line;
mod process;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mlctl_protocol::{
    message::{Heartbeat, ReportBody, StopClass, Storage},
    progress::Progress,
    result::{CheckpointRef, ModelRef, OutputRef, WorkerResult},
    spec::Resources,
};

use self::line::{Keeping, Line};
use super::{
    end::Verdict,
    executor::{Ended, Signal},
    kill::Ending,
    watchdog::Limits,
};
use crate::domain::{Exit, Fence, Job};

pub use super::kill::Reason;

/// What is known of an attempt when its life in this daemon begins.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Which attempt of which job it is.
    pub fence: Fence,
    /// The job's kind.
    pub kind: String,
    /// What it may occupy.
    pub resources: Resources,
    /// Where it may write to.
    pub storage: Storage,
    /// From the first word to the worker to SIGKILL.
    pub grace: Duration,
    /// How long the worker may be silent or idle.
    pub limits: Limits,
    /// Reports up to this number are durable.
    pub acked: u64,
    /// The result that is durable already.
    pub result: Option<WorkerResult>,
    /// How far it had come.
    pub progress: Progress,
}

/// When an attempt must have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Seconds that it may run.
    pub limit_seconds: Option<u32>,
    /// The moment of the wall clock by which its job must have ended.
    pub deadline: Option<Timestamp>,
}

impl Times {
    /// Those of a job whose spec says so many seconds.
    #[must_use]
    pub const fn of(job: &Job, planned: Option<u32>) -> Self {
        Self { limit_seconds: job.time_limit_seconds(planned), deadline: job.deadline }
    }
}

/// What the store says to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// It is durable.
    Done(T),
    /// The attempt does not hold the job any more.
    Stale,
    /// The daemon stops.
    Stopping,
    /// It could not be written, or nobody knows; and why.
    Failed(String),
}

/// What happens to an attempt.
#[derive(Debug)]
pub enum Event {
    /// Its process was started, and is not on record yet.
    Started,
    /// No process could be started.
    NotStarted(Exit),
    /// Whether the process is on record.
    Launched(Answer<()>),
    /// A process that was on record with the claim was handed its job.
    Engaged,
    /// The process that an earlier daemon started lives; `has_result` when it has left its result already.
    Adopted {
        /// Whether its result is on record or in its file.
        has_result: bool,
    },
    /// The process that an earlier daemon started is proven dead.
    FoundDead,
    /// No process was ever put on record.
    NeverLaunched,
    /// The process was started on another host, from where no proof can be had; its lease has so long to go.
    Elsewhere {
        /// That host.
        host: String,
        /// What is left of the lease.
        left: Duration,
    },
    /// Time has passed, or [`Effect::Wake`] was heard.
    Tick {
        /// What the wall clock shows.
        wall: Timestamp,
        /// How old the process is, where [`Attempt::needs_age`] says so.
        age: Option<Duration>,
    },
    /// The main process has ended.
    Exited,
    /// Nothing of it lives any more.
    Reaped(Ended),
    /// What the result file says.
    Read(Result<Option<Box<WorkerResult>>, String>),
    /// Whether storage has what a success claims, or why it does not say.
    Published(Result<bool, String>),
    /// Checkpoints that nobody had reported are on record, as far as that can be had.
    Salvaged,
    /// Whether the end is on record.
    Recorded(Answer<()>),
    /// The daemon stops: the next one goes on.
    Stopping,
    /// Somebody wants the attempt to end.
    Asked(Reason),
    /// The job's limits were changed.
    Retimed(Times),
    /// A worker that knows the secret dials; `line` counts connections.
    Dialled {
        /// The connection.
        line: u64,
        /// Whether it was told what to do before.
        started: bool,
    },
    /// A heartbeat came.
    Beat {
        /// By this connection.
        line: u64,
        /// How far it has come.
        progress: Progress,
        /// The memory it occupies.
        rss_bytes: u64,
    },
    /// A numbered report came.
    Report {
        /// By this connection.
        line: u64,
        /// Its number.
        seq: u64,
        /// What it says.
        body: ReportBody,
        /// Of a result: whether the result file is there too.
        in_file: bool,
    },
    /// Whether the report is durable, and up to which number.
    Kept {
        /// The connection it came by.
        line: u64,
        /// Its number.
        seq: u64,
        /// What the store says.
        answer: Answer<u64>,
    },
    /// Whether the heartbeat is stored.
    BeatKept {
        /// The connection it came by.
        line: u64,
        /// What the store says.
        answer: Answer<()>,
    },
    /// A message could not be handed to a connection: its worker does not read.
    Unheard {
        /// The connection.
        line: u64,
    },
    /// A connection is over, and this last heartbeat is not stored.
    HungUp {
        /// The connection.
        line: u64,
        /// The newest heartbeat, unless it is stored.
        unkept: Option<Heartbeat>,
    },
    /// A connection is gone: all that came by it was heard.
    Closed {
        /// The connection.
        line: u64,
    },
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Put the process on record: [`Event::Launched`].
    RecordLaunch,
    /// From now on its logs are bounded and its checkpoints tidied.
    Attend,
    /// Signal the process.
    Signal(Signal),
    /// Wait for the process's end and see to it that nothing of it is left: [`Event::Reaped`].
    Reap,
    /// Give its resources to others.
    Vacate,
    /// Read the result file: [`Event::Read`].
    ReadResult,
    /// Look whether storage has what this result claims: [`Event::Published`].
    AskStorage(Box<WorkerResult>),
    /// Put checkpoints on record that nobody had reported: [`Event::Salvaged`].
    Salvage,
    /// Put the end on record: [`Event::Recorded`].
    Record(Box<End>),
    /// Forget the attempt and clear up after it.
    Forget,
    /// Have the attempt's task take a [`Event::Tick`].
    Wake,
    /// Say something to the worker; when that cannot be: [`Event::Unheard`].
    Say {
        /// By this connection.
        line: u64,
        /// What.
        word: Word,
    },
    /// Close a connection.
    HangUp {
        /// Which.
        line: u64,
        /// Why.
        why: Why,
    },
    /// Store a report: [`Event::Kept`].
    KeepReport {
        /// The connection it came by.
        line: u64,
        /// Its number.
        seq: u64,
        /// What it says, cut to size.
        body: ReportBody,
    },
    /// Store a heartbeat: [`Event::BeatKept`].
    KeepBeat {
        /// The connection it came by.
        line: u64,
        /// The heartbeat.
        heartbeat: Heartbeat,
    },
    /// Tell who waits for it that a checkpoint is durable.
    Saved(CheckpointRef),
    /// Look what is asked of the job meanwhile: [`Event::Asked`], and where it was just started [`Event::Retimed`].
    ReadJob,
}

/// What is said to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// What it is to do.
    Start,
    /// It is known, and this many of its reports are.
    Welcome {
        /// Reports up to this number are durable.
        acked: u64,
    },
    /// It is not wanted any more, and why.
    Refused(&'static str),
    /// Reports up to this number are durable.
    Ack {
        /// The number.
        seq: u64,
    },
    /// Save the work and end.
    Stop {
        /// With this class.
        class: StopClass,
    },
    /// Save the work and go on.
    Checkpoint,
}

/// Why a connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The worker has dialled again.
    Replaced,
    /// The worker lied.
    Lied(String),
    /// What it said could not be stored: it is to say it again.
    NotStored(String),
    /// The worker is dead, and someone else holds its connection.
    Held,
}

/// An attempt's end, and what is put on record with it.
#[derive(Debug, Clone)]
pub struct End {
    /// How it ended.
    pub exit: Exit,
    /// The final model.
    pub model: Option<ModelRef>,
    /// The results.
    pub output: Option<OutputRef>,
    /// How far the worker came at last.
    pub beat: Option<Heartbeat>,
    /// The worker's result and the number of the report that it is.
    pub report: Option<(u64, Box<WorkerResult>)>,
}

/// Where an attempt's process stands.
#[derive(Debug)]
enum Phase {
    /// It is being started and put on record.
    Starting,
    /// It could not be put on record and is ended; then this is its end, or nobody wants to know.
    Discarding(Option<Exit>),
    /// It is at work.
    Attended,
    /// Its main process has ended.
    Reaping,
    /// Nothing of it lives; what it had still said is listened to until then.
    LastWords { ended: Ended, until: Instant },
    /// What it left behind is looked at.
    Examined { ended: Ended },
    /// It is known how it ended.
    Judged { verdict: Verdict, result: Option<Box<WorkerResult>> },
    /// The end is put on record; the pause follows a failure.
    Recording { verdict: Verdict, result: Option<Box<WorkerResult>>, pause: Duration, again_at: Option<Instant> },
    /// It is out of reach until its lease is over.
    Away { host: String, until: Instant },
    /// Nothing is left to do here.
    Over,
}

/// An attempt.
#[derive(Debug)]
pub struct Attempt {
    origin: Arc<Origin>,
    phase: Phase,
    times: Times,
    /// How old the process was at a moment.
    begun: Option<(Duration, Instant)>,
    /// Why it is being ended: the gravest reason there was.
    reason: Option<Reason>,
    /// Why it had been ended when its process did.
    judged_by: Option<Reason>,
    ending: Option<Ending>,
    alarm: Option<Instant>,
    line: Option<Line>,
    keeping: Option<Keeping>,
    /// Reports up to this number are durable, the result aside.
    acked: u64,
    /// The newest report that the store was asked to keep: it may have done so though its answer was never heard.
    asked: u64,
    result: Option<WorkerResult>,
    /// A success that storage is asked about.
    claimed: Option<Box<WorkerResult>>,
    /// The number of the report that is the result; none where that is durable, or was never reported.
    unkept_result: Option<u64>,
    /// What is put on record together with the end.
    unkept_beat: Option<Heartbeat>,
    heard_at: Instant,
    moved_at: Instant,
    progress: Progress,
    progressed: bool,
    warnings: u32,
    vacated: bool,
}

impl Attempt {
    /// An attempt of which nothing has been heard in this daemon.
    #[must_use]
    pub fn new(origin: Arc<Origin>, times: Times, now: Instant) -> Self {
        let progressed = mark(&origin.progress) != mark(&Progress::default());
        Self {
            phase: Phase::Starting,
            times,
            begun: None,
            reason: None,
            judged_by: None,
            ending: None,
            alarm: None,
            line: None,
            keeping: None,
            acked: origin.acked,
            asked: origin.acked,
            result: origin.result.clone(),
            claimed: None,
            unkept_result: None,
            unkept_beat: None,
            heard_at: now,
            moved_at: now,
            progress: origin.progress.clone(),
            progressed,
            warnings: 0,
            vacated: false,
            origin,
        }
    }

    /// Takes an event and says what is to be done, in this order.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Started => vec![Effect::RecordLaunch],
            Event::NotStarted(exit) => self.close(exit),
            Event::Launched(answer) => self.launched(answer, now),
            Event::Engaged => {
                let mut effects = self.attend(now);
                effects.push(Effect::ReadJob);
                effects
            }
            Event::Adopted { has_result } => self.adopted(has_result, now),
            Event::FoundDead => self.bury(Ended::Unknown, now),
            Event::NeverLaunched => self.never_launched(),
            Event::Elsewhere { host, left } => self.away(host, now + left),
            Event::Tick { wall, age } => self.tick(wall, age, now),
            Event::Exited => self.exited(),
            Event::Reaped(ended) => self.reaped(ended, now),
            Event::Read(read) => self.examine(read),
            Event::Published(found) => self.published(found),
            Event::Salvaged => self.conclude(),
            Event::Recorded(answer) => self.recorded(answer, now),
            Event::Stopping => {
                self.phase = Phase::Over;
                Vec::new()
            }
            Event::Asked(reason) => self.asked(reason, now),
            Event::Retimed(times) => {
                let is_news = std::mem::replace(&mut self.times, times) != times;
                if is_news { vec![Effect::Wake] } else { Vec::new() }
            }
            Event::Dialled { line, started } => self.dialled(line, started, now),
            Event::Beat { line, progress, rss_bytes } => self.beat(line, progress, rss_bytes, now),
            Event::Report { line, seq, body, in_file } => self.report(line, (seq, body), in_file, now),
            Event::Kept { line, seq, answer } => self.kept(line, seq, answer, now),
            Event::BeatKept { line, answer } => {
                if answer == Answer::Stale {
                    self.stale(line, now)
                } else {
                    Vec::new()
                }
            }
            Event::Unheard { line } => self.unheard(line),
            Event::HungUp { line, unkept } => self.hung_up(line, unkept),
            Event::Closed { line } => self.closed(line),
        }
    }

    /// When the next [`Event::Tick`] is due at the latest.
    #[must_use]
    pub const fn alarm(&self) -> Option<Instant> {
        self.alarm
    }

    /// Whether the next [`Event::Tick`] is to say how old the process is.
    #[must_use]
    pub fn needs_age(&self) -> bool {
        matches!(self.phase, Phase::Attended) && self.begun.is_none() && self.times != Times::default()
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether its process runs and is looked after: its end is waited for.
    #[must_use]
    pub const fn is_attended(&self) -> bool {
        matches!(self.phase, Phase::Attended)
    }

    /// Whether it is left to the next daemon when this one stops now; what can be told at once of an attempt that has ended is put on record first.
    #[must_use]
    pub const fn heeds_stop(&self) -> bool {
        matches!(self.phase, Phase::Attended | Phase::Recording { .. } | Phase::Away { .. })
    }

    /// Why it is being ended, if it is.
    #[must_use]
    pub const fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// The connection by which its worker listens.
    #[must_use]
    pub fn open_line(&self) -> Option<u64> {
        self.line.as_ref().filter(|line| line.is_told()).map(Line::number)
    }

    /// When it must have ended.
    #[must_use]
    pub const fn times(&self) -> Times {
        self.times
    }

    /// Whether its resources are free again, though its end may not be on record yet.
    #[must_use]
    pub const fn is_vacated(&self) -> bool {
        self.vacated
    }
}

/// What must change for an attempt to have made progress. Rates and losses may change without any.
const fn mark(progress: &Progress) -> (Option<u64>, Option<u64>, Option<u64>) {
    (progress.step, progress.epoch, progress.records)
}
