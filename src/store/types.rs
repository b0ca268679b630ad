//! What goes into the store and comes out of it. Plain data: made and read by every room that calls the store; no SQL, no behaviour.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp, civil::DateTime};
use mlctl_protocol::{
    FencingToken, JobId, JobSpec,
    progress::{Metrics, Progress},
    result::{CheckpointRef, WorkerResult},
    spec::Resources,
};
use serde::{Deserialize, Serialize};

use crate::domain::{
    Event, Exit, Fence, Filter, Hold, Job, Uid,
    array::{Design, Params},
    dependency::Need,
    event::ProcessIdentity,
    filter::Seen,
    queue::Queue,
    schedule::Policy,
};

/// A job to keep.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The checked spec.
    pub spec: JobSpec,
    /// Who submits it.
    pub user: Uid,
    /// The idempotency key: unique per user.
    pub key: String,
    /// BLAKE3 of the spec as it was asked for, where `spec` is no longer that. The key stands for what was asked for.
    pub asked: Option<blake3::Hash>,
    /// Who holds it from the beginning, and what for.
    pub hold: Option<Hold>,
}

/// The answer to a submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The job.
    pub id: JobId,
    /// Whether the key had been used before for the same spec, and `id` is that job.
    pub existed: bool,
}

/// An attempt to begin.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// The GPUs that it has, by UUID.
    pub gpus: Vec<String>,
    /// BLAKE3 of its secret.
    pub secret_hash: [u8; 32],
    /// The end of its first lease, exclusive.
    pub lease_until: Timestamp,
    /// Its process, where that runs already.
    pub process: Option<ProcessIdentity>,
}

/// A claimed attempt: everything the supervisor needs to start it.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The job after the claim.
    pub job: Job,
    /// Its attempt and token.
    pub fence: Fence,
    /// Its spec.
    pub spec: JobSpec,
    /// Durable checkpoints of earlier attempts, newest first.
    pub resume: Vec<CheckpointRef>,
}

/// What the scheduler sees of the queue.
#[derive(Debug, Clone)]
pub struct InLine {
    /// What the running jobs occupy, and until when.
    pub running: Vec<Running>,
    /// The jobs that may start, in the order in which they should.
    pub ready: Vec<Ready>,
    /// The earliest start time to come of those that must not start yet.
    pub next_ready_at: Option<Timestamp>,
}

/// A job the planner may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The job.
    pub id: JobId,
    /// Its kind of work.
    pub kind: String,
    /// Its queue.
    pub queue: String,
    /// Whose it is.
    pub user: Uid,
    /// 0 to 100.
    pub priority: u8,
    /// Its place, the lowest first, and of the same the one with the lower id: the moment since which it waits, in microseconds since 1970, less an hour for each point of its priority.
    pub rank: i64,
    /// What it is to have.
    pub needs: Resources,
    /// How many seconds it may run.
    pub limit_seconds: Option<u32>,
}

impl Ready {
    /// The same once it has started at `now` with these GPUs.
    #[must_use]
    pub fn running(self, gpus: Vec<String>, now: Timestamp) -> Running {
        let Self { id, queue, user, needs: has, limit_seconds, .. } = self;
        let ends_by = limit_seconds.and_then(|limit| now.checked_add(SignedDuration::from_secs(limit.into())).ok());
        Running { id, queue, user, has, gpus, started_at: now, ends_by }
    }
}

/// A job that runs, as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The job.
    pub id: JobId,
    /// Its queue.
    pub queue: String,
    /// Whose it is.
    pub user: Uid,
    /// What it has.
    pub has: Resources,
    /// Which GPUs, by UUID.
    pub gpus: Vec<String>,
    /// When its attempt was claimed.
    pub started_at: Timestamp,
    /// When it has ended at the latest, by its time limit.
    pub ends_by: Option<Timestamp>,
}

/// A queue, and who made it what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRow {
    /// The queue.
    pub queue: Queue,
    /// Who changed it last.
    pub changed_by: Uid,
    /// When.
    pub changed_at: Timestamp,
}

/// An attempt and what is known of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its identity.
    pub fence: Fence,
    /// When it was claimed.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Its process, once launched.
    pub process: Option<ProcessIdentity>,
    /// BLAKE3 of its secret.
    pub secret_hash: [u8; 32],
    /// `cpu`, or the accelerator in use, as the worker said.
    pub device: Option<String>,
    /// How far it has come.
    pub progress: Progress,
    /// When a heartbeat last came.
    pub heartbeat_at: Option<Timestamp>,
    /// The lease's end, exclusive.
    pub lease_until: Timestamp,
    /// Peak resident memory.
    pub peak_rss_bytes: Option<u64>,
    /// The last report taken.
    pub last_seq: u64,
    /// The result the worker reported, not yet acted on.
    pub result: Option<WorkerResult>,
    /// What it has used up.
    pub used: Option<Used>,
}

/// What an attempt has used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Used {
    /// Milliseconds of processors, all of them together.
    pub cpu_ms: u64,
    /// The most memory of GPUs at once, of all of them together, in bytes, as far as that was looked at; absent where none was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_vram_bytes: Option<u64>,
}

/// A heartbeat to keep: not an event, overwritten by the next.
#[derive(Debug, Clone)]
pub struct Beat {
    /// From which attempt.
    pub fence: Fence,
    /// The lease's new end.
    pub lease_until: Timestamp,
    /// How far it has come.
    pub progress: Progress,
    /// Peak resident memory.
    pub peak_rss_bytes: u64,
    /// What the attempt has used up.
    pub used: Used,
    /// The device in use.
    pub device: String,
    /// Whether the attempt's end comes with it: it is then kept on a full disk as well.
    pub is_last: bool,
}

/// An event as stored.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its place in the log, from 1.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// About which job.
    pub job: JobId,
    /// What happened.
    pub event: Event,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only these states; when empty, unfinished jobs and the last `finished` finished ones.
    pub states: Vec<String>,
    /// Finished jobs shown besides the unfinished ones when no state is named.
    pub finished: u32,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only this user.
    pub user: Option<Uid>,
    /// Only this queue.
    pub queue: Option<String>,
    /// Only jobs with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Of those that have ended, only what ended at this moment or later.
    pub since: Option<Timestamp>,
    /// Rows at most.
    pub limit: u32,
    /// Jobs of each state that are looked at, at most, where a filter leaves some out: the newest. `None`: all.
    pub look_at: Option<u32>,
    /// Members of arrays too.
    pub members: bool,
    /// Only jobs that this finds too.
    pub sift: Option<Sift>,
}

/// A filter with what it needs to know beside a job.
#[derive(Debug, Clone)]
pub struct Sift {
    /// Which jobs are meant.
    pub filter: Filter,
    /// Login names by user id.
    pub names: Arc<BTreeMap<u32, String>>,
    /// The present.
    pub now: Timestamp,
}

impl Sift {
    /// Whether a job is meant.
    #[must_use]
    pub fn fits(&self, job: &Job) -> bool {
        let user = self.names.get(&job.user.0).map(String::as_str);
        self.filter.fits(Seen { job, user, now: self.now })
    }
}

impl ListFilter {
    /// Whether jobs are left out that an index walk comes by.
    #[must_use]
    pub fn sifts(&self) -> bool {
        self.kind.is_some()
            || self.user.is_some()
            || self.queue.is_some()
            || !self.labels.is_empty()
            || self.sift.is_some()
    }
}

/// A list of jobs.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The jobs, newest first.
    pub jobs: Vec<JobDetail>,
    /// Whether some that fit may be missing, since there are more jobs than are looked at.
    pub is_partial: bool,
}

/// A job with what changes too often to be an event.
#[derive(Debug, Clone)]
pub struct JobDetail {
    /// The job.
    pub job: Job,
    /// Its current or last attempt.
    pub attempt: Option<Attempt>,
    /// The last value of each metric.
    pub metrics: Metrics,
    /// Whether it waits behind its gate.
    pub is_gated: bool,
}

/// A job or an array that another job was submitted to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Which.
    pub on: JobId,
    /// How it must have ended.
    pub need: Need,
    /// Whether it is an array.
    pub is_array: bool,
    /// Its state; none when it was removed.
    pub state: Option<String>,
    /// Whether it has not ended.
    pub is_open: bool,
    /// Whether the job does not wait for it again, as a person had it started anew.
    pub is_waived: bool,
}

/// A job that was submitted to wait for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    /// Which.
    pub job: JobId,
    /// How the other must have ended.
    pub need: Need,
    /// The state of the one that waits.
    pub state: String,
}

/// Identity of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Random, made with the database; part of every object key, so that a new database never meets old objects.
    pub id: String,
    /// Grows with every restore; the high part of every token.
    pub epoch: u32,
}

/// A token is the epoch and, in this many low bits, a count.
pub(super) const TOKEN_BITS: u32 = 40;

impl Instance {
    /// The epoch in which a token was drawn.
    #[must_use]
    pub fn epoch_of(token: FencingToken) -> u32 {
        u32::try_from(token.0 >> TOKEN_BITS).unwrap_or(u32::MAX)
    }

    /// What stands for an epoch of this database in the names of objects: the id alone in the first, so that what was written after a backup is never met again.
    #[must_use]
    pub fn name_in(&self, epoch: u32) -> String {
        if epoch <= 1 { self.id.clone() } else { format!("{}-{epoch}", self.id) }
    }

    /// The names of this epoch and of those before it, the newest first.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        (1..=self.epoch.max(1)).rev().map(|epoch| self.name_in(epoch))
    }
}

/// A schedule to keep.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Its name, which no other bears.
    pub name: String,
    /// The crontab line as written, which is valid.
    pub cron: String,
    /// The IANA name of its zone.
    pub zone: String,
    /// The checked spec of the job that each tick submits.
    pub spec: JobSpec,
    /// In whose name.
    pub user: Uid,
    /// When it was added: ticks come after.
    pub created_at: Timestamp,
    /// When the first tick is due.
    pub next: Option<Timestamp>,
    /// What it does besides its line, which makes sense.
    pub policy: Policy,
}

/// What becomes of a schedule when a set of them is applied.
#[derive(Debug, Clone)]
pub enum ScheduleChange {
    /// It is added.
    Add(NewSchedule),
    /// It becomes another in everything but its number, its ticks, when it was added and whether it is paused.
    Become {
        /// As it was read.
        of: Box<Schedule>,
        /// What it becomes.
        new: NewSchedule,
        /// All ticks that were due up to this moment are dealt with; another moment than before.
        settled: Timestamp,
    },
    /// It is removed with its ticks; its jobs stay.
    Remove(Box<Schedule>),
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Its number, never used again.
    pub id: i64,
    /// Its name, which may be used again when it was removed.
    pub name: String,
    /// The crontab line as written.
    pub cron: String,
    /// The IANA name of its zone.
    pub zone: String,
    /// The job that each tick submits.
    pub spec: JobSpec,
    /// In whose name.
    pub user: Uid,
    /// Whether it submits anything.
    pub enabled: bool,
    /// When the nearest tick to come is due.
    pub next: Option<Timestamp>,
    /// All ticks that were due up to this moment were submitted, or left out by the policy for missed ones.
    pub settled: Timestamp,
    /// When it was added.
    pub created_at: Timestamp,
    /// What it does besides its line.
    pub policy: Policy,
    /// Why the daemon paused it, where it did.
    pub paused: Option<String>,
    /// When it was resumed last.
    pub resumed: Option<Timestamp>,
}

/// A tick that fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickRow {
    /// Its moment.
    pub at: Timestamp,
    /// The local time that it stands for.
    pub nominal: DateTime,
    /// 2 for the second of two moments at which the clock shows that time, else 1.
    pub pass: u8,
    /// What it submitted.
    pub job: JobId,
    /// When it did.
    pub submitted_at: Timestamp,
    /// Who had it made up for when it had passed; `None` where the clock submitted it.
    pub asked_by: Option<Uid>,
}

/// A tick whose job could not be submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedTick {
    /// Its moment.
    pub at: Timestamp,
    /// As in [`TickRow`].
    pub nominal: DateTime,
    /// As in [`TickRow`].
    pub pass: u8,
    /// Why, in a line.
    pub reason: String,
    /// When that was found.
    pub missed_at: Timestamp,
}

/// An array to keep.
#[derive(Debug, Clone)]
pub struct NewArray {
    /// Its name; members are named after it.
    pub name: String,
    /// The priority and labels that all members begin with.
    pub priority: u8,
    /// See `priority`.
    pub labels: BTreeMap<String, String>,
    /// Who submits it.
    pub user: Uid,
    /// The idempotency key of the array as a whole: unique per user.
    pub key: String,
    /// BLAKE3 of what was asked for.
    pub asked: blake3::Hash,
    /// Who holds all of it from the beginning, and what for.
    pub hold: Option<Hold>,
    /// Where its parameters come from, what its members are compared by.
    pub design: Design,
    /// The checked spec of each member and what sets it apart, by index from 1; at least one.
    pub members: Vec<(JobSpec, Params)>,
}

/// An array and where its members stand.
#[derive(Debug, Clone)]
pub struct Array {
    /// Its number, from the sequence of jobs' ids.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// The kind of its members.
    pub kind: String,
    /// Who submitted it.
    pub user: Uid,
    /// The queue of its members.
    pub queue: String,
    /// The priority that they began with, or that an edit of the array gave those that wait.
    pub priority: u8,
    /// The labels that they began with, and what an edit of the array made of them.
    pub labels: BTreeMap<String, String>,
    /// How many they are.
    pub size: u32,
    /// Where their parameters come from, what they are compared by.
    pub design: Design,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
    /// Members by where they stand, without those where none does.
    pub counts: BTreeMap<String, u64>,
    /// How many of those that are held are quarantined.
    pub quarantined: u64,
}

/// What has ended and may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// A job that is no array's member.
    Job(JobId),
    /// An array with all its members.
    Array(JobId),
}

/// Which arrays to list.
#[derive(Debug, Clone, Default)]
pub struct ArrayFilter {
    /// Those that have members there (`domain::array::tally`).
    pub states: Vec<String>,
    /// Arrays of each of those at most.
    pub limit: u32,
    /// Arrays of which every member has ended, besides: the last submitted.
    pub ended: u32,
}

/// Which members of an array to list.
#[derive(Debug, Clone, Default)]
pub struct MemberFilter {
    /// Only these states; any when empty.
    pub states: Vec<String>,
    /// Members at most: those of the lowest indexes.
    pub limit: u32,
}
