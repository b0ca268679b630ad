//! What the room's surface asks of the writer, and the way back. An answer is staged while its group is in the transaction and sent once it is committed.

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, FencingToken, JobId, JobSpec,
    message::ReportBody,
    spec::{After, Need, Work},
};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::{
    StoreError,
    aliases::{AliasMove, NewMove},
    datasets::{DatasetVersion, NewDataset},
    error::Fault,
    members::PreparedArray,
    models::{ModelVersion, NewVersion},
    rows::{RowError, integer},
    types::{Beat, Claimed, NewAttempt, NewJob, NewSchedule, QueueRow, Schedule, ScheduleChange, Submitted},
};
use crate::domain::{
    Command, Dependencies, Dependency, Event, Fence, Gate, Hold, Job, Uid,
    machine::Standing,
    queue::QueueEdit,
    rules,
    schedule::{Course, Tick, Turn},
};

/// A job ready to be kept: everything that can be made of it without the database is made by who submits, not by the writer.
pub(super) struct Prepared {
    pub(super) user: Uid,
    pub(super) key: String,
    pub(super) spec: String,
    pub(super) asked: String,
    pub(super) event: Event,
    pub(super) body: String,
    /// How long an attempt may run, in seconds, as the spec has it.
    pub(super) limit_seconds: Option<u32>,
    pub(super) hold: Option<Hold>,
}

impl Prepared {
    /// # Errors
    /// When the spec cannot be written as JSON.
    pub(super) fn new(new: NewJob) -> Result<Self, Fault> {
        let NewJob { spec, user, key, asked, hold } = new;
        let json = serde_json::to_string(&spec)?;
        let digest = blake3::hash(json.as_bytes());
        let limit_seconds = spec.time.limit_seconds;
        let asked = asked.unwrap_or(digest).to_hex().to_string();
        let after = awaited(&spec)?;
        let event = Event::Submitted {
            name: spec.name,
            kind: spec.work.kind().to_owned(),
            user,
            queue: spec.queue,
            priority: spec.priority,
            labels: spec.labels,
            resources: spec.resources,
            retry: spec.retry,
            spec_digest: digest.to_hex().to_string(),
            not_before: rules::begin(&spec.time),
            preemptible: spec.preemptible,
            deadline: rules::deadline(&spec.time),
            array: None,
            gate: spec.concurrency.as_ref().map(Gate::chosen),
            after,
        };
        let body = serde_json::to_string(&event)?;
        Ok(Self { user, key, spec: json, asked, event, body, limit_seconds, hold })
    }
}

/// What a spec says the job waits for. Names in it were resolved before. A retraining waits for its stages besides, which are not there yet.
fn awaited(spec: &JobSpec) -> Result<Option<Dependencies>, Fault> {
    let id = |after: &After| after.job.parse().map_err(|_| Fault::Unresolved { reference: after.job.clone() });
    let on = spec.after.iter().map(|after| Ok(Dependency { on: id(after)?, need: after.need }));
    let on = on.collect::<Result<Vec<_>, Fault>>()?;
    let waits = !on.is_empty() || matches!(spec.work, Work::Retrain(_));
    Ok(waits.then_some(Dependencies { on, if_failed: spec.after_failed }))
}

/// A schedule ready to be kept.
pub(super) struct PreparedSchedule {
    pub(super) name: String,
    pub(super) cron: String,
    pub(super) zone: String,
    pub(super) spec: String,
    pub(super) user: Uid,
    pub(super) created: Timestamp,
    pub(super) next: Option<Timestamp>,
    /// JSON of its policy; `None` for the default.
    pub(super) policy: Option<String>,
}

impl PreparedSchedule {
    /// # Errors
    /// When the spec or the policy cannot be written as JSON.
    pub(super) fn new(new: NewSchedule) -> Result<Self, Fault> {
        let NewSchedule { name, cron, zone, spec, user, created_at, next, policy } = new;
        let policy = if policy.is_default() { None } else { Some(serde_json::to_string(&policy)?) };
        Ok(Self { name, cron, zone, spec: serde_json::to_string(&spec)?, user, created: created_at, next, policy })
    }
}

/// What becomes of a schedule, ready to be done.
pub(super) enum PreparedChange {
    Add(PreparedSchedule),
    /// The number and the last settled moment as they were read, and what it becomes.
    Become {
        id: i64,
        settled_before: Timestamp,
        settled: Timestamp,
        new: PreparedSchedule,
    },
    Remove {
        id: i64,
        name: String,
    },
}

impl PreparedChange {
    /// # Errors
    /// When a spec or a policy cannot be written as JSON.
    pub(super) fn new(change: ScheduleChange) -> Result<Self, Fault> {
        Ok(match change {
            ScheduleChange::Add(new) => Self::Add(PreparedSchedule::new(new)?),
            ScheduleChange::Become { of, new, settled } => {
                Self::Become { id: of.id, settled_before: of.settled, settled, new: PreparedSchedule::new(new)? }
            }
            ScheduleChange::Remove(of) => Self::Remove { id: of.id, name: of.name },
        })
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Add(new) | Self::Become { new, .. } => &new.name,
            Self::Remove { name, .. } => name,
        }
    }
}

/// Whether a schedule submits anything from now on.
#[derive(Debug, Clone)]
pub(super) enum Enabling {
    /// It does not.
    Paused,
    /// It does not, since its jobs fail, unless it was resumed at another moment than this.
    Failed { why: String, resumed: Option<Timestamp> },
    /// It does: ticks up to `settled` are left out, and the nearest after it is `next`.
    Resumed { settled: Timestamp, next: Option<Timestamp> },
}

/// A schedule's turn, ready to be taken.
pub(super) struct PreparedTurn {
    pub(super) schedule: i64,
    pub(super) name: String,
    pub(super) occasion: Occasion,
    /// The tick that fires, and its job.
    pub(super) fire: Option<(Tick, Prepared)>,
    /// If it fires: the jobs that are to end, and in which way.
    pub(super) ends: Option<(Vec<JobId>, Command)>,
    /// Ticks whose job is not submitted, and why: the one that would fire, and one that came too late.
    pub(super) missed: Vec<(Tick, String)>,
}

/// Why a turn is taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Occasion {
    /// It is time, and the schedule comes from where it was read to be, to `settled`, with `next` ahead.
    Time { settled_before: Timestamp, settled: Timestamp, next: Option<Timestamp> },
    /// A person has a tick made up for that has passed. The schedule stays as it is, paused or not.
    Asked { by: Uid },
}

impl Occasion {
    /// Who asked for it.
    pub(super) const fn asked_by(self) -> Option<Uid> {
        match self {
            Self::Time { .. } => None,
            Self::Asked { by } => Some(by),
        }
    }
}

impl PreparedTurn {
    /// A tick that has passed, which a person has made up for by a job that waits until these have ended.
    ///
    /// # Errors
    /// When the spec cannot be written as JSON.
    pub(super) fn of_backfill(schedule: &Schedule, tick: Tick, after: &[JobId], by: Uid) -> Result<Self, Fault> {
        let fire = Some((tick, tick_job(schedule, &tick, after)?));
        let (name, occasion) = (schedule.name.clone(), Occasion::Asked { by });
        Ok(Self { schedule: schedule.id, name, occasion, fire, ends: None, missed: Vec::new() })
    }

    /// # Errors
    /// When the spec cannot be written as JSON.
    pub(super) fn new(schedule: &Schedule, turn: Turn, course: Course) -> Result<Self, Fault> {
        let Turn { fire, left_out, settled, next } = turn;
        let mut all: Vec<_> = left_out.map(|(tick, late)| (tick, schedule.policy.reason(late))).into_iter().collect();
        let occasion = Occasion::Time { settled_before: schedule.settled, settled, next };
        let by = schedule.user;
        let (after, ends) = match course {
            Course::Submit => (Vec::new(), None),
            Course::After(jobs) => (jobs, None),
            Course::Instead { of, after, at_once: true } => (after, Some((of, Command::Cancel { by }))),
            Course::Instead { of, after, at_once: false } => (after, Some((of, Command::Stop { by }))),
            Course::Leave(why) => {
                all.extend(fire.map(|tick| (tick, why)));
                let (schedule, name) = (schedule.id, schedule.name.clone());
                return Ok(Self { schedule, name, occasion, fire: None, ends: None, missed: all });
            }
        };
        let fire = fire.map(|tick| Ok::<_, Fault>((tick, tick_job(schedule, &tick, &after)?))).transpose()?;
        Ok(Self { schedule: schedule.id, name: schedule.name.clone(), occasion, fire, ends, missed: all })
    }

    /// The ticks in question.
    pub(super) fn ticks(&self) -> impl Iterator<Item = &Tick> {
        self.fire.iter().map(|(tick, _)| tick).chain(self.missed.iter().map(|(tick, _)| tick))
    }
}

/// The job of a schedule's tick, which waits until these have ended. Its key stands for the job alone: which others there are at the moment is no part of what is asked for.
fn tick_job(schedule: &Schedule, tick: &Tick, after: &[JobId]) -> Result<Prepared, Fault> {
    let mut spec = tick.job(&schedule.name, &schedule.spec);
    let asked = if after.is_empty() { None } else { Some(blake3::hash(serde_json::to_string(&spec)?.as_bytes())) };
    spec.after = after.iter().map(|job| After { need: Need::Any, job: job.to_string() }).collect();
    Prepared::new(NewJob { spec, user: schedule.user, key: tick.key(schedule.id), asked, hold: None })
}

/// A claim as the writer answers it: what is still JSON is parsed by who claims.
pub(super) struct Claim {
    pub(super) job: Job,
    pub(super) token: FencingToken,
    pub(super) spec: String,
    /// Newest first.
    pub(super) checkpoints: Vec<String>,
}

impl Claim {
    /// Parses what the writer only passed on.
    pub(super) fn read(self) -> Result<Claimed, Fault> {
        let Self { job, token, spec, checkpoints } = self;
        let fence = Fence { job: job.id, attempt: AttemptNumber(job.attempt), token };
        let spec = parse(&spec, "job_specs", job.id, "spec")?;
        let parsed = checkpoints.iter().map(|checkpoint| parse(checkpoint, "checkpoints", job.id, "checkpoint"));
        let resume = parsed.collect::<Result<_, _>>()?;
        Ok(Claimed { job, fence, spec, resume })
    }
}

fn parse<T: DeserializeOwned>(
    json: &str,
    table: &'static str,
    job: JobId,
    column: &'static str,
) -> Result<T, RowError> {
    serde_json::from_str(json).map_err(|error| RowError::new(table, integer(job.0), column, error))
}

/// A submit as the writer answers it, with the new job where it stays as it is made.
pub(super) type Kept = (Submitted, Option<Box<Job>>);

/// The way back for one answer.
pub(super) struct Reply<T> {
    to: oneshot::Sender<Result<T, StoreError>>,
    staged: Option<Result<T, StoreError>>,
}

impl<T> Reply<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (to, from) = oneshot::channel();
        (Self { to, staged: None }, from)
    }

    pub(super) fn stage(&mut self, answer: Result<T, StoreError>) {
        self.staged = Some(answer);
    }

    /// Who asked may have gone away: the write stands all the same.
    fn send(self) {
        if let Some(answer) = self.staged {
            let _ = self.to.send(answer);
        }
    }

    fn fail(self, error: StoreError) {
        let _ = self.to.send(Err(error));
    }
}

/// One thing asked of the writer.
pub(super) enum Ask {
    Submit {
        job: Box<Prepared>,
        reply: Reply<Kept>,
    },
    SubmitArray {
        array: Box<PreparedArray>,
        reply: Reply<Submitted>,
    },
    Claim {
        job: JobId,
        attempt: NewAttempt,
        reply: Reply<Box<Claim>>,
    },
    Command {
        job: JobId,
        fence: Option<Fence>,
        command: Box<Command>,
        reply: Reply<Box<Job>>,
    },
    /// The same for several jobs. Those that it does not fit are left out of the answer, which says whether it changed anything.
    Many {
        jobs: Vec<JobId>,
        command: Box<Command>,
        /// The array that they are members of: an edit holds for its row too.
        array: JobId,
        reply: Reply<Vec<(Job, bool)>>,
    },
    /// Also asked with no job, to cut off a piece of the log.
    Remove {
        jobs: Vec<JobId>,
        by: Uid,
        with_array: bool,
        with_objects: bool,
        reply: Reply<Vec<Result<Job, StoreError>>>,
    },
    Report {
        fence: Fence,
        seq: u64,
        body: Box<ReportBody>,
        reply: Reply<u64>,
    },
    Beat {
        beat: Box<Beat>,
        reply: Reply<()>,
    },
    Promote {
        now: Timestamp,
        reply: Reply<()>,
    },
    Expire {
        now: Timestamp,
        reply: Reply<u32>,
    },
    /// Changes nothing, and is answered when all before it is durable: of what a reader saw, it makes a promise.
    Settle {
        reply: Reply<()>,
    },
    Forget {
        job: JobId,
        uris: Vec<String>,
        /// With those that are forgotten.
        reply: Reply<Vec<String>>,
    },
    EditQueue {
        name: String,
        edit: QueueEdit,
        by: Uid,
        reply: Reply<QueueRow>,
    },
    AssignDevice {
        uuid: String,
        standing: Standing,
        reason: Option<String>,
        by: Uid,
        reply: Reply<()>,
    },
    RemoveQueue {
        name: String,
        reply: Reply<QueueRow>,
    },
    KeepHook {
        name: String,
        /// JSON; none of a hook that is there no more.
        standing: Option<String>,
        reply: Reply<()>,
    },
    Register {
        new: Box<NewVersion>,
        /// With whether it was there before.
        reply: Reply<Box<(ModelVersion, bool)>>,
    },
    Unregister {
        model: String,
        version: u32,
        by: Uid,
        reply: Reply<Box<ModelVersion>>,
    },
    MoveAlias {
        new: Box<NewMove>,
        reply: Reply<Vec<AliasMove>>,
    },
    AddDataset {
        new: Box<NewDataset>,
        /// With whether it was there before.
        reply: Reply<Box<(DatasetVersion, bool)>>,
    },
    RemoveDataset {
        dataset: String,
        version: u32,
        by: Uid,
        reply: Reply<Box<DatasetVersion>>,
    },
    AddSchedule {
        schedule: Box<PreparedSchedule>,
        reply: Reply<bool>,
    },
    RemoveSchedule {
        name: String,
        reply: Reply<()>,
    },
    ApplySchedules {
        changes: Vec<PreparedChange>,
        /// Whether they were done: all, or none since one is no longer as it was read.
        reply: Reply<bool>,
    },
    EnableSchedule {
        name: String,
        change: Enabling,
        /// With whether it changed anything.
        reply: Reply<bool>,
    },
    Turn {
        turn: Box<PreparedTurn>,
        reply: Reply<Option<Submitted>>,
    },
}

impl Ask {
    /// Whether other ticks may be the nearest afterwards, unknown to who waits for them.
    pub(super) const fn changes_schedules(&self) -> bool {
        matches!(
            self,
            Self::AddSchedule { .. }
                | Self::RemoveSchedule { .. }
                | Self::ApplySchedules { .. }
                | Self::EnableSchedule { .. }
        )
    }

    /// Whether it can wait until a full disk has room again: what must not is how running jobs end, and what people do about those.
    pub(super) fn is_new_work(&self) -> bool {
        matches!(
            self,
            Self::Submit { .. }
                | Self::SubmitArray { .. }
                | Self::Claim { .. }
                | Self::AddSchedule { .. }
                | Self::ApplySchedules { .. }
                | Self::Register { .. }
                | Self::AddDataset { .. }
                | Self::Turn { .. }
        ) || matches!(self, Self::Beat { beat, .. } if !beat.is_last)
    }

    /// Whether a queue may be another afterwards.
    pub(super) const fn changes_queues(&self) -> bool {
        matches!(self, Self::EditQueue { .. } | Self::RemoveQueue { .. } | Self::AssignDevice { .. })
    }

    /// Sends the staged answer.
    pub(super) fn send(self) {
        match self {
            Self::Submit { reply, .. } => reply.send(),
            Self::SubmitArray { reply, .. } => reply.send(),
            Self::Many { reply, .. } => reply.send(),
            Self::Remove { reply, .. } => reply.send(),
            Self::Claim { reply, .. } => reply.send(),
            Self::Command { reply, .. } => reply.send(),
            Self::Report { reply, .. } => reply.send(),
            Self::Expire { reply, .. } => reply.send(),
            Self::Beat { reply, .. }
            | Self::Promote { reply, .. }
            | Self::Settle { reply }
            | Self::AssignDevice { reply, .. }
            | Self::KeepHook { reply, .. }
            | Self::RemoveSchedule { reply, .. } => reply.send(),
            Self::EditQueue { reply, .. } | Self::RemoveQueue { reply, .. } => reply.send(),
            Self::Forget { reply, .. } => reply.send(),
            Self::Register { reply, .. } => reply.send(),
            Self::Unregister { reply, .. } => reply.send(),
            Self::MoveAlias { reply, .. } => reply.send(),
            Self::AddDataset { reply, .. } => reply.send(),
            Self::RemoveDataset { reply, .. } => reply.send(),
            Self::AddSchedule { reply, .. }
            | Self::ApplySchedules { reply, .. }
            | Self::EnableSchedule { reply, .. } => reply.send(),
            Self::Turn { reply, .. } => reply.send(),
        }
    }

    /// Forgets the staged answer and sends an error.
    pub(super) fn fail(self, error: StoreError) {
        match self {
            Self::Submit { reply, .. } => reply.fail(error),
            Self::SubmitArray { reply, .. } => reply.fail(error),
            Self::Many { reply, .. } => reply.fail(error),
            Self::Remove { reply, .. } => reply.fail(error),
            Self::Claim { reply, .. } => reply.fail(error),
            Self::Command { reply, .. } => reply.fail(error),
            Self::Report { reply, .. } => reply.fail(error),
            Self::Expire { reply, .. } => reply.fail(error),
            Self::Beat { reply, .. }
            | Self::Promote { reply, .. }
            | Self::Settle { reply }
            | Self::AssignDevice { reply, .. }
            | Self::KeepHook { reply, .. }
            | Self::RemoveSchedule { reply, .. } => reply.fail(error),
            Self::EditQueue { reply, .. } | Self::RemoveQueue { reply, .. } => reply.fail(error),
            Self::Forget { reply, .. } => reply.fail(error),
            Self::Register { reply, .. } => reply.fail(error),
            Self::Unregister { reply, .. } => reply.fail(error),
            Self::MoveAlias { reply, .. } => reply.fail(error),
            Self::AddDataset { reply, .. } => reply.fail(error),
            Self::RemoveDataset { reply, .. } => reply.fail(error),
            Self::AddSchedule { reply, .. }
            | Self::ApplySchedules { reply, .. }
            | Self::EnableSchedule { reply, .. } => reply.fail(error),
            Self::Turn { reply, .. } => reply.fail(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Used;

    #[test]
    fn a_last_heartbeat_is_no_new_work_even_without_the_end_that_follows() {
        for is_last in [false, true] {
            let beat = Box::new(Beat {
                fence: Fence { job: JobId(1), attempt: AttemptNumber(1), token: FencingToken(1) },
                lease_until: Timestamp::UNIX_EPOCH,
                progress: mlctl_protocol::progress::Progress::default(),
                peak_rss_bytes: 1,
                used: Used::default(),
                device: "cpu".into(),
                is_last,
            });
            let (reply, _from) = Reply::new();
            assert_eq!(Ask::Beat { beat, reply }.is_new_work(), !is_last);
        }
    }
}
