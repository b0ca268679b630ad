//! What can be asked of a job, and what can happen to it. Events are stored for ever and hash-chained: a change of an event type is a
//! change of format.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, FencingToken, JobId,
    result::{CheckpointRef, ModelRef, OutputRef},
    spec::{Resources, RetryPolicy},
};
use serde::{Deserialize, Serialize};

use super::{
    array::Membership,
    dependency::Dependencies,
    gate::Gate,
    job::{Change, Exit, Hold, Intent, Uid},
    retrain::Conclusion,
};

/// What is asked of an existing job. [`state::decide`](super::state::decide) turns it into events or refuses it.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The scheduler starts an attempt.
    Claim {
        /// The token the store drew for it.
        token: FencingToken,
        /// The GPUs that it is to have, by UUID.
        gpus: Vec<String>,
    },
    /// The attempt's process exists.
    Launched {
        /// Which process, on which host.
        process: ProcessIdentity,
    },
    /// The worker goes on from a checkpoint.
    Resumed {
        /// The step of that checkpoint.
        step: u64,
        /// Candidates refused, and why.
        skipped: Vec<String>,
    },
    /// The worker made a checkpoint durable.
    Checkpointed {
        /// The checkpoint.
        checkpoint: CheckpointRef,
    },
    /// The worker has something to say that a person should see.
    Warned {
        /// The text.
        message: String,
    },
    /// The attempt is over.
    End {
        /// How.
        exit: Exit,
        /// The final model, on success.
        model: Option<ModelRef>,
        /// The results, on success.
        output: Option<OutputRef>,
        /// A number in 0..1 that spreads retries.
        jitter: f64,
    },
    /// A person ends the job.
    Cancel {
        /// Who.
        by: Uid,
    },
    /// A person wants a running job to save its work and end; one that waits is cancelled.
    Stop {
        /// Who.
        by: Uid,
    },
    /// A person wants a running job to save its work and give its device up until it is released; one that waits is held.
    Pause {
        /// Who, and what for.
        hold: Hold,
    },
    /// The scheduler wants a running job to save its work and make way.
    Yield {
        /// The job that is to have its place.
        to: JobId,
    },
    /// A member of an array is not worth going on with: it saves its work and ends.
    StopEarly {
        /// Whose array it is.
        by: Uid,
        /// Why, in a line.
        reason: String,
    },
    /// A newer job with the same concurrency key has its place: it ends, and saves its work where it runs.
    Replace {
        /// The newer job.
        by: JobId,
    },
    /// A person keeps a job that waits from starting.
    Hold {
        /// Who, and what for.
        hold: Hold,
    },
    /// A person lets a held job wait for its turn again.
    Release {
        /// Who.
        by: Uid,
    },
    /// A person changes an unfinished job.
    Edit {
        /// Who.
        by: Uid,
        /// What.
        edit: Edit,
    },
    /// The deadline of a job that does not run has passed.
    Expire,
    /// All that a job waits for has come about.
    Unblock,
    /// A job waits for what can never come about.
    Unmet(NeverMet),
    /// A job that is started anew does not wait for these again.
    Waive {
        /// The jobs and arrays.
        on: Vec<JobId>,
    },
    /// All stages of a retraining are over, or one of them has failed.
    Conclude {
        /// How it ended.
        exit: Exit,
        /// What a run that went well has come to.
        conclusion: Option<Box<Conclusion>>,
    },
    /// A person wants a finished job tried again, from its last checkpoint.
    Retry {
        /// Who.
        by: Uid,
    },
    /// A person removes a finished job, or the daemon does as its settings say.
    Remove {
        /// Who.
        by: Uid,
        /// Whether the array that it is a member of goes with it.
        with_array: bool,
    },
}

/// A dependency that can never be met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeverMet {
    /// On which job or array.
    pub on: JobId,
    /// How that ended, in a line.
    pub message: String,
    /// What lies at the bottom of it.
    pub cause: String,
}

/// What a person changes of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// The priority, 0 to 100.
    pub priority: Option<u8>,
    /// The queue.
    pub queue: Option<String>,
    /// Labels by key; none takes the label away.
    pub labels: BTreeMap<String, Option<String>>,
    /// When it may run, for how long, and how often it is tried.
    pub terms: Terms,
}

/// On which terms a job runs: what an edit asks for, and what it has changed. What is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<Change<Timestamp>>,
    /// Not after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Change<Timestamp>>,
    /// Seconds that each attempt may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_seconds: Option<Change<u32>>,
    /// Retries of its own allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

impl Edit {
    /// The labels after the change.
    #[must_use]
    pub fn labels_of(&self, before: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut labels = before.clone();
        for (key, value) in &self.labels {
            match value {
                Some(value) => labels.insert(key.clone(), value.clone()),
                None => labels.remove(key),
            };
        }
        labels
    }
}

impl Command {
    /// Whether only the attempt that holds the job may ask it: such a command needs a matching [`Fence`](super::job::Fence).
    #[must_use]
    pub const fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::Launched { .. }
                | Self::Resumed { .. }
                | Self::Checkpointed { .. }
                | Self::Warned { .. }
                | Self::End { .. }
        )
    }
}

/// A process, so that a reused pid is never taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id, also of its process group.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The host's name.
    pub host: String,
    /// What is otherwise where it was started before there was a job for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<StartedAhead>,
}

/// A process that waited for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedAhead {
    /// The folder in which it waited: its mark, until a program of its own bears the attempt's.
    pub dir: String,
    /// When it was given its job, in clock ticks since boot.
    pub begun_ticks: u64,
}

/// What happened to a job. Replaying a job's events gives its row.
#[expect(clippy::large_enum_variant, reason = "the largest is the first of each job, and few are in memory at once")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The job was acknowledged.
    Submitted {
        /// Its name.
        name: String,
        /// `train` or `infer`.
        kind: String,
        /// Who submitted it.
        user: Uid,
        /// Its queue.
        queue: String,
        /// 0 to 100.
        priority: u8,
        /// Free key-value pairs.
        labels: BTreeMap<String, String>,
        /// What it occupies.
        resources: Resources,
        /// How often it is tried.
        retry: RetryPolicy,
        /// BLAKE3 of the stored spec in hexadecimal.
        spec_digest: String,
        /// Its start time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<Timestamp>,
        /// Whether the scheduler may take it from its device for a job that is more urgent.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        preemptible: bool,
        /// The moment by which it must have ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// Which member of which array it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        array: Option<Membership>,
        /// The gate that it waits behind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gate: Option<Gate>,
        /// What it waits for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Dependencies>,
    },
    /// All that it waited for has come about: it waits for its turn from now on.
    Unblocked,
    /// What it waits for can never come about: it is cancelled or held, as its submit said.
    Unmet(NeverMet),
    /// It is started anew, and does not wait again for what has ended.
    Waived {
        /// The jobs and arrays.
        on: Vec<JobId>,
    },
    /// An attempt was started.
    Claimed {
        /// Its number.
        attempt: AttemptNumber,
        /// Its token.
        token: FencingToken,
        /// The GPUs that it has, by UUID.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<String>,
    },
    /// The attempt's process exists.
    Launched {
        /// The attempt.
        attempt: AttemptNumber,
        /// Which process.
        process: ProcessIdentity,
    },
    /// The attempt goes on from a checkpoint.
    Resumed {
        /// The attempt.
        attempt: AttemptNumber,
        /// The step of the checkpoint.
        step: u64,
        /// Candidates refused, and why.
        skipped: Vec<String>,
    },
    /// A checkpoint is durable.
    Checkpointed {
        /// The attempt.
        attempt: AttemptNumber,
        /// The checkpoint.
        checkpoint: CheckpointRef,
    },
    /// The worker warned.
    Warned {
        /// The attempt.
        attempt: AttemptNumber,
        /// The text.
        message: String,
    },
    /// A running job was asked for something.
    Intended {
        /// What.
        intent: Intent,
        /// By whom.
        by: Uid,
        /// Why, where that is no person's wish.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A running job was asked to save its work and to be held.
    Pausing {
        /// By whom, and what for.
        #[serde(flatten)]
        hold: Hold,
    },
    /// A running job was asked to save its work and to wait for its turn again.
    Yielding {
        /// The job that is to have its place.
        to: JobId,
    },
    /// A newer job with the same concurrency key has its place: it is cancelled, or was asked to end where it runs.
    Replaced {
        /// The newer job.
        by: JobId,
    },
    /// The attempt is over and the job succeeded.
    Succeeded {
        /// The attempt.
        attempt: AttemptNumber,
        /// The final model.
        model: Option<ModelRef>,
        /// The results.
        output: Option<OutputRef>,
    },
    /// The attempt is over and the job failed for good.
    Failed {
        /// The attempt.
        attempt: AttemptNumber,
        /// How it ended.
        exit: Exit,
    },
    /// The attempt is over and the job will be tried again.
    Requeued {
        /// The attempt.
        attempt: AttemptNumber,
        /// How it ended.
        exit: Exit,
        /// Not before this time.
        not_before: Option<Timestamp>,
        /// Retries of its own used up, this one included if it is one.
        retries_used: u32,
        /// Where it died of a fault of the infrastructure: retries used up by such, this one included.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        infrastructure_retries_used: Option<u32>,
        /// Deaths in a row that may harm the machine, this one included.
        #[serde(default, skip_serializing_if = "is_zero")]
        fruitless: u32,
    },
    /// The attempt is over and the job is held until a person has looked at it.
    Quarantined {
        /// The attempt.
        attempt: AttemptNumber,
        /// How it ended.
        exit: Exit,
        /// Why it is not tried again by itself.
        reason: String,
    },
    /// The attempt is over and the job is held, as a person asked while it ran. Uses up no retry.
    Paused {
        /// The attempt.
        attempt: AttemptNumber,
        /// How it ended.
        exit: Exit,
    },
    /// The job was cancelled, while it waited or by ending its attempt.
    Cancelled {
        /// Who asked.
        by: Option<Uid>,
        /// How the attempt ended, if there was one.
        exit: Option<Exit>,
    },
    /// A retraining is over.
    Concluded {
        /// How it ended.
        exit: Exit,
        /// What a run that went well has come to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conclusion: Option<Box<Conclusion>>,
    },
    /// A person wants a finished job tried again.
    Retried {
        /// Who.
        by: Uid,
    },
    /// A person keeps the job from starting.
    Held {
        /// Who, and what for.
        #[serde(flatten)]
        hold: Hold,
    },
    /// A person lets it wait for its turn again.
    Released {
        /// Who.
        by: Uid,
    },
    /// A person changed it.
    Edited {
        /// Who.
        by: Uid,
        /// The priority from now on, if that was changed.
        priority: Option<u8>,
        /// The queue from now on, if that was changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue: Option<String>,
        /// All labels from now on, if they were changed.
        labels: Option<BTreeMap<String, String>>,
        /// What of its terms was changed.
        #[serde(flatten)]
        terms: Terms,
    },
    /// Its deadline passed while it did not run: it has failed.
    Expired {
        /// What there is to say of it.
        exit: Exit,
    },
    /// It is removed: its last event, and the only one that keeps its body.
    Removed {
        /// Who.
        by: Uid,
    },
}

impl Event {
    /// Whether it says what has become of what a job waits for.
    #[must_use]
    pub const fn is_of_waiting(&self) -> bool {
        matches!(self, Self::Unblocked | Self::Unmet(_) | Self::Waived { .. } | Self::Concluded { .. })
    }

    /// Whether an attempt is over with it.
    #[must_use]
    pub const fn ends_an_attempt(&self) -> bool {
        matches!(
            self,
            Self::Succeeded { .. }
                | Self::Failed { .. }
                | Self::Requeued { .. }
                | Self::Quarantined { .. }
                | Self::Paused { .. }
                | Self::Cancelled { exit: Some(_), .. }
        )
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A command that does not fit the job's state: an expected outcome, not a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The job is in a state in which this makes no sense.
    #[error("job {job} is {state} and cannot be {verb}")]
    WrongState {
        /// The job.
        job: JobId,
        /// Its state.
        state: &'static str,
        /// What was asked, as a participle: "cancelled", "retried".
        verb: &'static str,
    },
    /// The writer is not the attempt that holds the job.
    #[error("attempt {attempt} no longer holds job {job}")]
    Stale {
        /// The job.
        job: JobId,
        /// The attempt that asked.
        attempt: AttemptNumber,
    },
}
