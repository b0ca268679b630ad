//! A job as its events made it. What changes many times a second (progress, lease, metrics) is not here but with the attempt.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId,
    result::{CheckpointRef, ModelRef, OutputRef},
    spec::{Resources, RetrainSpec, RetryPolicy},
};
use serde::{Deserialize, Serialize};

use super::{
    array::Membership,
    dependency::{Unmet, Waits},
    gate::Gate,
    retrain::Conclusion,
};

/// A Unix user id, read from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u32);

impl Uid {
    /// The daemon itself, where it does what persons do otherwise. No user has this id: to the kernel it means none.
    pub const SYSTEM: Self = Self(u32::MAX);
}

/// What a point of priority is worth, in microseconds of waiting: an hour. The order of the queue goes by it, and the column `rank_us` repeats it.
pub const MICROSECONDS_A_POINT: i64 = 3_600_000_000;

/// Names one attempt of one job. A write about a running job carries it; one that no longer matches the row comes from a
/// worker that lost its lease and changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptNumber,
    /// The attempt's token.
    pub token: FencingToken,
}

/// A job: the fold of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its name; not unique over time, unique names are those one unfinished job bears.
    pub name: String,
    /// `train`, `infer`, `evaluate`, `retrain` or `command`.
    pub kind: String,
    /// Who submitted it.
    pub user: Uid,
    /// The queue it stands in.
    pub queue: String,
    /// 0 to 100, higher first.
    pub priority: u8,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
    /// What it occupies while it runs.
    pub resources: Resources,
    /// How often it is tried.
    pub retry: RetryPolicy,
    /// Whether the scheduler may take it from its device for a job that is more urgent.
    pub preemptible: bool,
    /// BLAKE3 of the stored spec in hexadecimal.
    pub spec_digest: String,
    /// Which member of which array it is.
    pub array: Option<Membership>,
    /// The gate that it waits behind until it is let through.
    pub gate: Option<Gate>,
    /// That it waits for other jobs; none when it waits for none, or no longer.
    pub waits: Option<Waits>,
    /// Why it was stopped early, as a member that others do better than.
    pub stopped_early: Option<String>,
    /// The job with the same concurrency key for which it was cancelled, or is being cancelled.
    pub replaced_by: Option<JobId>,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
    /// The moment of the wall clock by which it must have ended.
    pub deadline: Option<Timestamp>,
    /// What an edit made of the time limit of its spec.
    pub time_limit_seconds: Option<Change<u32>>,
    /// Where it stands.
    pub state: JobState,
    /// How often it was started; 0 before the first start.
    pub attempt: u32,
    /// Retries used up; preemption, daemon shutdown and faults of the infrastructure use none.
    pub retries_used: u32,
    /// Retries used up by faults of the infrastructure.
    pub infrastructure_retries_used: u32,
    /// Deaths in a row that may harm the machine, without a checkpoint between them: see [`retry`](super::retry).
    pub fruitless: u32,
    /// The GPUs that the last attempt has or had, by UUID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// When the last attempt was claimed.
    pub started_at: Option<Timestamp>,
    /// When it became terminal.
    pub finished_at: Option<Timestamp>,
    /// How the last attempt ended.
    pub exit: Option<Exit>,
    /// The newest durable checkpoint: what the next attempt starts from.
    pub checkpoint: Option<CheckpointRef>,
    /// The final model of a training job.
    pub model: Option<ModelRef>,
    /// The results of an inference job.
    pub output: Option<OutputRef>,
    /// What a retraining has come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conclusion: Option<Box<Conclusion>>,
}

impl Job {
    /// Seconds that an attempt may run, where its spec says `planned`.
    #[must_use]
    pub const fn time_limit_seconds(&self, planned: Option<u32>) -> Option<u32> {
        match self.time_limit_seconds {
            None => planned,
            Some(Change::Set(seconds)) => Some(seconds),
            Some(Change::Clear) => None,
        }
    }

    /// Whether it is no work of a worker: the daemon submits its stages as jobs of their own, and it waits for them as others do for what comes before them.
    #[must_use]
    pub fn is_retraining(&self) -> bool {
        self.kind == RetrainSpec::KIND
    }

    /// The dependency that it is held or was cancelled for, as it can never be met.
    #[must_use]
    pub const fn unmet(&self) -> Option<&Unmet> {
        match &self.waits {
            Some(Waits { unmet, .. }) => unmet.as_ref(),
            None => None,
        }
    }
}

/// What becomes of a value that need not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change<T> {
    /// It is this.
    Set(T),
    /// It is taken away.
    Clear,
}

impl<T> Change<T> {
    /// The value afterwards.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Clear => None,
        }
    }
}

impl<T> From<Option<T>> for Change<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Clear, Self::Set)
    }
}

/// Where a job stands. A variant carries what only then exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its turn.
    Queued {
        /// Not before this time: its start time, or a retry's backoff.
        not_before: Option<Timestamp>,
    },
    /// Waits for other jobs to end.
    Blocked {
        /// Not before this time either.
        not_before: Option<Timestamp>,
    },
    /// Waits until a person releases it, and never starts before.
    Held(Hold),
    /// An attempt is under way.
    Running {
        /// The attempt's token.
        token: FencingToken,
        /// What was asked of it.
        intent: Option<Intent>,
    },
    /// Ended well. Terminal.
    Succeeded,
    /// Ended badly, and is not tried again by itself. Terminal.
    Failed,
    /// Ended by a person, since what it waited for can never come about, or as a newer job has its place. Terminal.
    Cancelled,
}

impl JobState {
    /// The names of the states in which a job has not ended.
    pub const UNFINISHED: [&str; 4] = ["queued", "blocked", "held", "running"];
    /// The names of the states in which it has.
    pub const ENDED: [&str; 3] = ["succeeded", "failed", "cancelled"];

    /// The names of all states.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::UNFINISHED.into_iter().chain(Self::ENDED)
    }

    /// The name used in rows, JSON and on the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Blocked { .. } => "blocked",
            Self::Held(_) => "held",
            Self::Running { .. } => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing but an explicit retry changes it any more.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl Hold {
    /// Whether the daemon holds the job, which has died too often and is not started again before a person has looked at it.
    #[must_use]
    pub fn is_quarantine(&self) -> bool {
        self.by == Uid::SYSTEM
    }
}

/// Why a job is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The person who holds it, or [`Uid::SYSTEM`] for a quarantine.
    pub by: Uid,
    /// What for, in that person's words.
    pub reason: Option<String>,
    /// The start time of the job, where it has not yet been started: it holds again when the job is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
}

/// What was asked of a running job that it has not yet obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// A person cancelled it.
    Cancel,
    /// A person wants it to save its work, however long that takes, and to end.
    Stop,
    /// A person wants it to save its work, however long that takes, and to be held.
    Pause(Hold),
    /// The scheduler wants it to save its work, however long that takes, and to wait for its turn again.
    Yield {
        /// The job that is to have its place.
        to: JobId,
    },
}

impl Intent {
    /// Whether a job that obeys it does not go on by itself.
    #[must_use]
    pub const fn ends(&self) -> bool {
        !matches!(self, Self::Yield { .. })
    }

    /// The name used in rows and JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Stop => "stop",
            Self::Pause(_) => "pause",
            Self::Yield { .. } => "yield",
        }
    }

    /// A graver intent replaces a lighter one, never the other way round.
    #[must_use]
    pub const fn weight(&self) -> u8 {
        match self {
            Self::Yield { .. } => 0,
            Self::Pause(_) => 1,
            Self::Stop => 2,
            Self::Cancel => 3,
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The class.
    pub class: ExitClass,
    /// What failed and why, for a person.
    pub message: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}
