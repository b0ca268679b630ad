//! A group of commands as one unit of work: read the rows they are about, decide in memory through `domain::state`, write what changed with one statement a table.
//! Called by the writer inside its transaction. The number of statements does not depend on the number of commands.

pub(super) mod needs;
pub(super) mod replace;
pub(super) mod settle;

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId, message::ReportBody, progress::MetricPoint, result::CheckpointRef,
};
use sqlx::SqliteConnection;

use self::{needs::Needs, replace::Arrivals, settle::Settling};
use super::{
    StoreError,
    ask::{Ask, Claim, Kept, Prepared, PreparedTurn},
    deadlines, dependencies,
    error::Fault,
    flush::{Others, Writes},
    halving::Rungs,
    held::{self, HeldAttempt, Metrics},
    ledger::Ledger,
    load::{self, Loaded},
    members::{PreparedArray, joined},
    queues::HeldQueues,
    timers::{Standing, Timers},
    types::{Beat, NewAttempt, Submitted},
};
use crate::domain::{
    Command, Event, Exit, Fence, Job, JobState, Refusal, Uid, array::Membership, machine::Assigned, state,
};

/// A job runs, and the attempt that its row names is not there: the group must not go on.
const MISSING: Fault = Fault::Guard { statement: "read the attempt under way", expected: 1, changed: 0 };

/// The rows a group of commands is about, and what it makes of them.
pub(super) struct Unit {
    now: Timestamp,
    /// Jobs that do not run and whose deadline has passed.
    late: Vec<JobId>,
    ledger: Ledger,
    jobs: BTreeMap<JobId, Held>,
    keys: HashMap<(Uid, String), (JobId, String)>,
    attempts: HashMap<FencingToken, HeldAttempt>,
    /// Of the attempts before those that begin.
    earlier: HashMap<JobId, Metrics>,
    specs: HashMap<JobId, String>,
    checkpoints: HashMap<JobId, Vec<String>>,
    timers: Timers,
    queues: HeldQueues,
    rungs: Rungs,
    settling: Settling,
    arrivals: Arrivals,
    writes: Writes,
}

/// What a group has come to, once its transaction is committed.
pub(super) struct Done {
    pub(super) ledger: Ledger,
    /// Whether another deadline may be the nearest.
    pub(super) moves_deadlines: bool,
    /// Whether jobs that run are to end since others replace them.
    pub(super) replaces: bool,
}

/// A job as read and as it has become.
pub(super) struct Held {
    /// Whether it waited behind its gate when it was read.
    pub(super) gated: bool,
    pub(super) stored: Job,
    pub(super) job: Job,
}

impl Unit {
    /// Begins the transaction and reads what the commands are about.
    pub(super) async fn load(
        conn: &mut SqliteConnection,
        asks: &[Ask],
        ledger: Ledger,
        now: Timestamp,
    ) -> Result<Self, Fault> {
        let mut needs = Needs::of(asks);
        let Loaded { mut jobs, keys, attempts, specs, checkpoints } = load::begin(conn, &needs).await?;
        let late = match needs.late {
            Some(moment) => deadlines::late(conn, moment).await?,
            None => Vec::new(),
        };
        let more = late.iter().copied().filter(|job| !needs.jobs.contains(job)).collect();
        jobs.extend(load::jobs(conn, &more).await?);
        let again = jobs.iter().map(|(job, _)| job).filter(|job| job.attempt > 0 && needs.claimed.contains(&job.id));
        let again = again.map(|job| job.id).collect();
        let members: Vec<(&Job, u64)> = needs
            .checkpointed
            .iter()
            .filter_map(|(id, step)| {
                let job =
                    jobs.iter().map(|(job, _)| job).find(|job| job.id == *id).filter(|job| job.array.is_some())?;
                Some((job, *step))
            })
            .collect();
        let rungs = Rungs::load(conn, &members).await?;
        let arrays = jobs.iter().filter(|(job, _)| needs.removed.contains(&job.id));
        let arrays: Vec<JobId> = arrays.filter_map(|(job, _)| job.array.as_ref().map(|array| array.id)).collect();
        needs.removed.extend(arrays);
        let known = dependencies::known(conn, &needs.awaited).await?;
        let settling = Settling::new(known, dependencies::needed(conn, &needs.removed).await?);
        Ok(Self {
            now,
            late,
            ledger,
            rungs,
            settling,
            arrivals: Arrivals::default(),
            jobs: jobs.into_iter().map(|(job, gated)| (job.id, Held { gated, stored: job.clone(), job })).collect(),
            keys,
            attempts,
            earlier: held::last_metrics(conn, &again).await?,
            specs,
            checkpoints,
            timers: Timers::load(conn, &needs.schedules, &needs.turns).await?,
            queues: HeldQueues::load(conn, &needs.queues).await?,
            writes: Writes::default(),
        })
    }

    /// Decides one command in memory and stages its answer.
    ///
    /// # Errors
    /// Only for what would make the whole group wrong: a log that does not fit the rows.
    pub(super) fn take(&mut self, ask: &mut Ask) -> Result<(), Fault> {
        match ask {
            Ask::Submit { job, reply } => reply.stage(self.submit(job)?),
            Ask::SubmitArray { array, reply } => reply.stage(self.submit_array(array)?),
            Ask::Many { jobs, command, array, reply } => reply.stage(Ok(self.many(jobs, command, *array)?)),
            Ask::Remove { jobs, by, with_array, reply } => reply.stage(Ok(self.remove(jobs, *by, *with_array)?)),
            Ask::Claim { job, attempt, reply } => {
                reply.stage(self.claim(*job, attempt)?);
            }
            Ask::Command { job, fence, command, reply } => {
                reply.stage(self.command(*job, *fence, command)?.map(Box::new));
            }
            Ask::Report { fence, seq, body, reply } => reply.stage(self.report(*fence, *seq, body)?),
            Ask::Beat { beat, reply } => reply.stage(self.beat(beat)?),
            Ask::Promote { now, reply } => {
                self.writes.promote_until = self.writes.promote_until.max(Some(*now));
                reply.stage(Ok(()));
            }
            Ask::Settle { reply } => reply.stage(Ok(())),
            Ask::Expire { reply, .. } => reply.stage(Ok(self.expire()?)),
            Ask::Forget { job, uris, reply } => reply.stage(self.forget(*job, uris)?),
            Ask::EditQueue { name, edit, by, reply } => reply.stage(self.queues.edit(name, *edit, *by, self.now)),
            Ask::AssignDevice { uuid, standing, reason, by, reply } => {
                let (standing, reason) = (standing.clone(), reason.clone());
                let assigned = Assigned { standing, reason, changed_by: *by, changed_at: self.now };
                self.writes.devices.assign(uuid, assigned);
                reply.stage(Ok(()));
            }
            Ask::RemoveQueue { name, reply } => reply.stage(self.queues.remove(name)),
            Ask::AddSchedule { schedule, reply } => reply.stage(self.timers.add(schedule)),
            Ask::RemoveSchedule { name, reply } => reply.stage(self.timers.remove(name)?),
            Ask::Turn { turn, reply } => reply.stage(self.turn(turn)?),
        }
        Ok(())
    }

    /// Fails the jobs whose deadline has passed. Returns how many.
    fn expire(&mut self) -> Result<u32, Fault> {
        let mut expired = 0;
        for job in std::mem::take(&mut self.late) {
            // One that a command before this one has started or ended is no longer late.
            expired += u32::from(self.decide(job, None, &Command::Expire)?.is_ok());
        }
        Ok(expired)
    }

    /// Writes what changed.
    pub(super) async fn flush(mut self, conn: &mut SqliteConnection) -> Result<Done, Fault> {
        for held in self.jobs.values() {
            if held.job != held.stored {
                self.writes.job(held, self.now)?;
            }
        }
        let moves_deadlines = self.writes.moves_deadlines;
        let Self { timers, rungs, queues, settling, arrivals, .. } = self;
        let replaces = arrivals.replaces();
        let others = Others { timers, rungs, queues, settling };
        self.writes.flush(conn, &mut self.ledger, self.attempts.values(), others).await?;
        Ok(Done { ledger: self.ledger, moves_deadlines, replaces })
    }

    fn submit(&mut self, new: &Prepared) -> Result<Result<Kept, StoreError>, Fault> {
        match self.known(new.user, &new.key, &new.asked) {
            Ok(Some(id)) => return Ok(Ok((Submitted { id, existed: true }, None))),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        if let Err(missing) = self.settling.admits(&new.event) {
            return Ok(Err(missing));
        }
        let id = self.ledger.next_job();
        let job = state::apply(id, None, &new.event, self.now)?;
        self.writes.event(&mut self.ledger, self.now, id, &new.body);
        self.writes.new_job(&job, &new.spec, new.limit_seconds)?;
        self.writes.new_key(new.user, &new.key, id, &new.asked);
        self.keys.insert((new.user, new.key.clone()), (id, new.asked.clone()));
        let submitted = Submitted { id, existed: false };
        let hold = new.hold.clone().map(|hold| Command::Hold { hold });
        // Others are not yet as they will be.
        if job.gate.is_none() && job.waits.is_none() && hold.is_none() {
            return Ok(Ok((submitted, Some(Box::new(job)))));
        }
        let refused = self.enter(job, &new.event, hold.as_ref())?;
        Ok(refused.map_or(Ok((submitted, None)), Err))
    }

    /// A new job that waits for others, that a person holds, or that has a concurrency key is not yet as it will be. Returns why it cannot be held.
    fn enter(&mut self, job: Job, event: &Event, hold: Option<&Command>) -> Result<Option<StoreError>, Fault> {
        let id = job.id;
        let waits = job.waits.is_some();
        if waits {
            self.settling.submitted(id, event);
        }
        let is_keyed = job.gate.as_ref().is_some_and(|gate| gate.chosen_key().is_some());
        if waits || hold.is_some() || is_keyed {
            let held = Held { gated: job.gate.is_some(), stored: job.clone(), job };
            self.arrivals.note(false, &held, self.now);
            self.jobs.insert(id, held);
        }
        let Some(hold) = hold else { return Ok(None) };
        Ok(self.decide(id, None, hold)?.err())
    }

    /// The job that a key stands for, where it was asked for the same.
    fn known(&self, user: Uid, key: &str, asked: &str) -> Result<Option<JobId>, StoreError> {
        match self.keys.get(&(user, key.to_owned())) {
            None => Ok(None),
            Some((job, known)) if known == asked => Ok(Some(*job)),
            Some((job, _)) => Err(StoreError::KeyConflict { key: key.to_owned(), job: *job }),
        }
    }

    /// An array and all its members, whose ids follow its own. The key is kept with the first of them.
    fn submit_array(&mut self, new: &PreparedArray) -> Result<Result<Submitted, StoreError>, Fault> {
        match self.known(new.user, &new.key, &new.asked) {
            Ok(Some(first)) => return Ok(Ok(Submitted { id: JobId(first.0.saturating_sub(1)), existed: true })),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        for (member, _) in &new.members {
            if let Err(missing) = self.settling.admits(&member.event) {
                return Ok(Err(missing));
            }
        }
        let array = self.ledger.next_job();
        self.writes.arrays.add(array, new, self.now);
        let hold = new.held();
        for (index, (member, params)) in (1..).zip(&new.members) {
            let id = self.ledger.next_job();
            let membership = Membership { id: array, index, params: params.clone() };
            let event = joined(&member.event, membership, new.parallel);
            let job = state::apply(id, None, &event, self.now)?;
            self.writes.event(&mut self.ledger, self.now, id, &serde_json::to_string(&event)?);
            self.writes.new_job(&job, &member.spec, member.limit_seconds)?;
            if index == 1 {
                self.writes.new_key(new.user, &new.key, id, &new.asked);
                self.keys.insert((new.user, new.key.clone()), (id, new.asked.clone()));
            }
            if let Some(error) = self.enter(job, &event, hold.as_ref())? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(Submitted { id: array, existed: false }))
    }

    /// A command on several jobs: those that take it, and whether it changes anything of them.
    fn many(&mut self, jobs: &[JobId], command: &Command, array: JobId) -> Result<Vec<(Job, bool)>, Fault> {
        let mut taken = Vec::with_capacity(jobs.len());
        for id in jobs {
            let before = self.ledger.last_event;
            if let Ok(job) = self.command(*id, None, command)? {
                taken.push((job, self.ledger.last_event != before));
            }
        }
        if let (Command::Edit { edit, .. }, false) = (command, taken.is_empty()) {
            self.writes.arrays.edit(array, edit);
        }
        Ok(taken)
    }

    /// Removes those of these jobs that have ended.
    fn remove(&mut self, jobs: &[JobId], by: Uid, with_array: bool) -> Result<Vec<Result<Job, StoreError>>, Fault> {
        self.writes.removals.ask();
        let mut answers = Vec::with_capacity(jobs.len());
        for id in jobs {
            let held = self.jobs.get(id).filter(|held| held.job.state.is_terminal() && self.settling.needs(&held.job));
            if let Some(held) = held {
                let verb = "removed while a job that has not ended waits for it";
                let state = held.job.state.name();
                answers.push(Err(Refusal::WrongState { job: *id, state, verb }.into()));
                continue;
            }
            let answer = self.decide(*id, None, &Command::Remove { by, with_array })?;
            // For the commands after this one it is not there, and neither is its key.
            if answer.is_ok()
                && let Some(held) = self.jobs.remove(id)
            {
                self.writes.removed(&held, self.now, self.ledger.last_event)?;
                self.settling.removed(*id);
                self.keys.retain(|_, (job, _)| job != id);
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    /// A tick's job and its row, or neither.
    fn turn(&mut self, turn: &PreparedTurn) -> Result<Result<Option<Submitted>, StoreError>, Fault> {
        let submitted = match (self.timers.stands(turn), &turn.fire) {
            (Standing::Stale, _) => return Ok(Ok(None)),
            (Standing::Fires, Some((_, job))) => match self.submit(job)? {
                Ok((submitted, _)) => Some(submitted),
                Err(error) => return Ok(Err(error)),
            },
            _ => None,
        };
        self.timers.take(turn, submitted.map(|submitted| submitted.id), self.now)?;
        Ok(Ok(submitted))
    }

    fn claim(&mut self, id: JobId, attempt: &NewAttempt) -> Result<Result<Box<Claim>, StoreError>, Fault> {
        // It was let through its gate when it was read, and has been held or has ended since.
        if let Some(held) = self.jobs.get(&id).filter(|held| held.is_gated()) {
            let state = held.job.state.name();
            return Ok(Err(Refusal::WrongState { job: id, state, verb: "started: others have its place" }.into()));
        }
        let token = self.ledger.next_token();
        let NewAttempt { gpus, secret_hash, lease_until, process } = attempt;
        let mut job = match self.decide(id, None, &Command::Claim { token, gpus: gpus.clone() })? {
            Ok(job) => job,
            Err(error) => {
                self.ledger.put_back_token();
                return Ok(Err(error));
            }
        };
        let fence = Fence { job: id, attempt: AttemptNumber(job.attempt), token };
        // As the commands before this one left them, or as they were read.
        let held = self.attempts.values().find_map(|held| held.metrics_of(id, job.attempt.saturating_sub(1)));
        let metrics = held.or_else(|| self.earlier.get(&id)).cloned().unwrap_or_default();
        self.attempts.insert(token, HeldAttempt::new(fence, self.now, secret_hash, *lease_until, metrics));
        if let Some(process) = process.clone() {
            job = match self.decide(id, Some(fence), &Command::Launched { process })? {
                Ok(job) => job,
                Err(error) => return Ok(Err(error)),
            };
        }
        let spec = self.specs.get(&id).cloned().unwrap_or_default();
        let checkpoints = self.checkpoints.get(&id).cloned().unwrap_or_default();
        Ok(Ok(Box::new(Claim { job, token, spec, checkpoints })))
    }

    fn command(
        &mut self,
        id: JobId,
        fence: Option<Fence>,
        command: &Command,
    ) -> Result<Result<Job, StoreError>, Fault> {
        // A claim needs a token of ours, a secret and a lease: there is a way of its own.
        if matches!(command, Command::Claim { .. }) {
            let Some(held) = self.jobs.get(&id) else { return Ok(Err(StoreError::NotFound(id.to_string()))) };
            let state = held.job.state.name();
            return Ok(Err(Refusal::WrongState { job: id, state, verb: "claimed without a lease" }.into()));
        }
        self.decide(id, fence, command)
    }

    /// The heart: what the state machine says, on the row as the commands before this one left it.
    fn decide(&mut self, id: JobId, fence: Option<Fence>, command: &Command) -> Result<Result<Job, StoreError>, Fault> {
        let Some(held) = self.jobs.get_mut(&id) else { return Ok(Err(StoreError::NotFound(id.to_string()))) };
        let events = match state::decide(&held.job, fence, command, self.now) {
            Ok(events) => events,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let was_in_line = replace::is_in_line(held, self.now);
        for event in &events {
            let after = state::apply(id, Some(held.job.clone()), event, self.now)?;
            self.writes.event(&mut self.ledger, self.now, id, &serde_json::to_string(event)?);
            self.writes.effect(&held.job, event)?;
            if let JobState::Running { token, .. } = held.job.state {
                attempt_effect(self.attempts.get_mut(&token), event, self.now)?;
                if !matches!(after.state, JobState::Running { .. }) {
                    self.writes.usage.add(&held.job, self.now);
                }
            }
            self.settling.note(&held.job, &after, command);
            held.job = after;
        }
        self.arrivals.note(was_in_line, held, self.now);
        Ok(Ok(held.job.clone()))
    }

    fn report(&mut self, fence: Fence, seq: u64, body: &ReportBody) -> Result<Result<u64, StoreError>, Fault> {
        if let Err(error) = self.hold(fence) {
            return Ok(Err(error));
        }
        let taken = self.attempt(fence)?.last_seq;
        if seq <= taken {
            return Ok(Ok(taken));
        }
        let command = match body {
            ReportBody::Metrics { .. } | ReportBody::Finished { .. } | ReportBody::Unknown => None,
            ReportBody::Resumed { from, skipped } => {
                Some(Command::Resumed { step: from.step, skipped: skipped.clone() })
            }
            ReportBody::Checkpoint { checkpoint } => Some(Command::Checkpointed { checkpoint: checkpoint.clone() }),
            ReportBody::Warning { message } => Some(Command::Warned { message: message.clone() }),
        };
        if let Some(command) = command
            && let Err(error) = self.decide(fence.job, Some(fence), &command)?
        {
            return Ok(Err(error));
        }
        if let ReportBody::Checkpoint { checkpoint } = body {
            self.halve(fence.job, checkpoint)?;
        }
        let (result, points, metrics) = match body {
            ReportBody::Finished { result } => {
                (Some(serde_json::to_string(result)?), [].as_slice(), result.metrics.clone())
            }
            ReportBody::Metrics { points } => (None, points.as_slice(), last_values(points)),
            _ => (None, [].as_slice(), BTreeMap::new()),
        };
        self.attempt(fence)?.report(seq, result, &metrics)?;
        self.writes.points(fence, points)?;
        Ok(Ok(seq))
    }

    /// A member of an array whose checkpoint shows that others do better is asked to end, in the transaction that keeps the checkpoint.
    fn halve(&mut self, id: JobId, checkpoint: &CheckpointRef) -> Result<(), Fault> {
        let Some(held) = self.jobs.get(&id) else { return Ok(()) };
        if let Some(command) = self.rungs.judge(&held.job, checkpoint)? {
            // It runs and nothing else was asked of it: it takes that.
            drop(self.decide(id, None, &command)?);
        }
        Ok(())
    }

    fn beat(&mut self, beat: &Beat) -> Result<Result<(), StoreError>, Fault> {
        if let Err(error) = self.hold(beat.fence) {
            return Ok(Err(error));
        }
        let now = self.now;
        self.attempt(beat.fence)?.beat(beat, now)?;
        Ok(Ok(()))
    }

    fn forget(&mut self, id: JobId, uris: &[String]) -> Result<Result<(), StoreError>, Fault> {
        let Some(held) = self.jobs.get(&id) else { return Ok(Err(StoreError::NotFound(id.to_string()))) };
        // The newest is what the next attempt starts from: the row would point at nothing.
        let newest = held.job.checkpoint.as_ref().map(|checkpoint| &checkpoint.uri);
        for uri in uris.iter().filter(|uri| Some(*uri) != newest) {
            self.writes.forgotten.push(&[id.into(), uri.into()]);
        }
        Ok(Ok(()))
    }

    /// The attempt that holds its job.
    fn attempt(&mut self, fence: Fence) -> Result<&mut HeldAttempt, Fault> {
        self.attempts.get_mut(&fence.token).ok_or(MISSING)
    }

    /// Whether an attempt still holds its job.
    fn hold(&self, fence: Fence) -> Result<(), StoreError> {
        let held = self.jobs.get(&fence.job).is_some_and(|held| state::holds(&held.job, fence));
        if held { Ok(()) } else { Err(Refusal::Stale { job: fence.job, attempt: fence.attempt }.into()) }
    }
}

/// The last value of each metric.
fn last_values(points: &[MetricPoint]) -> BTreeMap<String, f64> {
    points.iter().flat_map(|point| point.values.clone()).collect()
}

/// What an event changes of the attempt under way. It was read, or the command had no fence: then nothing of it changes.
fn attempt_effect(held: Option<&mut HeldAttempt>, event: &Event, now: Timestamp) -> Result<(), Fault> {
    let exit = match event {
        Event::Launched { process, .. } => return Ok(held.ok_or(MISSING)?.launch(process)?),
        Event::Succeeded { .. } => &Exit { class: ExitClass::Ok, message: None, hint: None },
        Event::Expired { .. } => return Ok(()),
        Event::Failed { exit, .. }
        | Event::Requeued { exit, .. }
        | Event::Quarantined { exit, .. }
        | Event::Paused { exit, .. }
        | Event::Cancelled { exit: Some(exit), .. } => exit,
        Event::Submitted { .. }
        | Event::Claimed { .. }
        | Event::Resumed { .. }
        | Event::Checkpointed { .. }
        | Event::Warned { .. }
        | Event::Intended { .. }
        | Event::Replaced { .. }
        | Event::Pausing { .. }
        | Event::Yielding { .. }
        | Event::Cancelled { exit: None, .. }
        | Event::Retried { .. }
        | Event::Held { .. }
        | Event::Released { .. }
        | Event::Removed { .. }
        | Event::Unblocked
        | Event::Unmet(_)
        | Event::Waived { .. }
        | Event::Edited { .. } => return Ok(()),
    };
    Ok(held.ok_or(MISSING)?.end(exit, now)?)
}
