//! A group of commands as one unit of work: read the rows they are about, decide in memory through `domain::state`, write what changed with one statement a table.
//! Called by the writer inside its transaction. The number of statements does not depend on the number of commands.

mod attempts;
pub(super) mod needs;
pub(super) mod replace;
pub(super) mod settle;
mod submits;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use mlctl_protocol::{FencingToken, JobId};
use sqlx::SqliteConnection;

use self::{attempts::attempt_effect, needs::Needs, replace::Arrivals, settle::Settling};
use super::{
    StoreError,
    ask::{Ask, Enabling, PreparedTurn},
    datasets::HeldDatasets,
    deadlines, dependencies,
    error::Fault,
    flush::{Others, Writes},
    halving::Rungs,
    held::{self, HeldAttempt, Metrics},
    kept::{self, HeldCheckpoints},
    ledger::Ledger,
    load::{self, Loaded},
    models::{HeldModels, ModelVersion, NewVersion},
    queues::HeldQueues,
    timers::{Standing, Timers},
    types::Submitted,
};
use crate::domain::{Command, Fence, Job, JobState, Refusal, Uid, machine::Assigned, notify::Notice, state};

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
    begun: Begun,
    kept: HeldCheckpoints,
    models: HeldModels,
    datasets: HeldDatasets,
    writes: Writes,
}

/// Of what is to be removed: what others hold.
#[derive(Default)]
struct Begun {
    /// Jobs that have not ended begin with it, or those of a schedule.
    jobs: Stored,
    /// It is a version of a model.
    versions: Stored,
}

/// The jobs of which something is held.
#[derive(Default)]
struct Stored {
    /// Checkpoints.
    checkpoints: BTreeSet<JobId>,
    /// Checkpoints or models.
    models: BTreeSet<JobId>,
}

impl Begun {
    async fn load(conn: &mut SqliteConnection, removed: &BTreeSet<JobId>, with_objects: bool) -> Result<Self, Fault> {
        let mut begun = Self::default();
        begun.jobs.checkpoints = kept::among(conn, kept::BEGUN_FROM, removed, false).await?;
        begun.versions.checkpoints = kept::among(conn, kept::VERSIONS_OF, removed, false).await?;
        if with_objects {
            begun.jobs.models = kept::among(conn, kept::BEGUN_FROM, removed, true).await?;
            begun.versions.models = kept::among(conn, kept::VERSIONS_OF, removed, true).await?;
        }
        Ok(begun)
    }
}

impl Stored {
    fn holds(&self, job: JobId, with_objects: bool) -> bool {
        self.checkpoints.contains(&job) || (with_objects && self.models.contains(&job))
    }
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
        let begun = Begun::load(conn, &needs.removed, needs.removes_objects).await?;
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
            begun,
            kept: HeldCheckpoints::load(conn, needs.forgotten, needs.registered).await?,
            models: HeldModels::load(conn, needs.versions).await?,
            datasets: HeldDatasets::load(conn, needs.datasets).await?,
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
            Ask::Remove { jobs, by, with_array, with_objects, reply } => {
                reply.stage(Ok(self.remove(jobs, *by, *with_array, *with_objects)?));
            }
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
            Ask::KeepHook { name, standing, reply } => {
                self.writes.hooks.keep(name, standing.as_ref());
                reply.stage(Ok(()));
            }
            Ask::Register { new, reply } => reply.stage(self.register(new)?.map(Box::new)),
            Ask::Unregister { model, version, by, reply } => {
                reply.stage(self.models.remove(model, *version, *by, self.now).map(Box::new));
            }
            Ask::MoveAlias { new, reply } => reply.stage(self.models.move_alias(new, self.now)),
            Ask::AddDataset { new, reply } => reply.stage(Ok(Box::new(self.datasets.add(new, self.now)?))),
            Ask::RemoveDataset { dataset, version, by, reply } => {
                reply.stage(self.datasets.remove(dataset, *version, *by, self.now).map(Box::new));
            }
            Ask::AddSchedule { schedule, reply } => reply.stage(self.timers.add(schedule)),
            Ask::ApplySchedules { changes, reply } => reply.stage(Ok(self.timers.apply(changes)?)),
            Ask::RemoveSchedule { name, reply } => reply.stage(self.timers.remove(name)?),
            Ask::EnableSchedule { name, change, reply } => reply.stage(self.enable(name, change)?),
            Ask::Turn { turn, reply } => reply.stage(self.turn(turn)?),
        }
        Ok(())
    }

    /// Registers what a job has stored, if the job is there still.
    fn register(&mut self, new: &NewVersion) -> Result<Result<(ModelVersion, bool), StoreError>, Fault> {
        let job = new.content.job;
        if !self.jobs.contains_key(&job) {
            return Ok(Err(StoreError::NotFound(job.to_string())));
        }
        // One that is being deleted is gone from the record before it is from storage.
        if let Some(step) = new.content.step
            && !self.kept.register(&new.content.uri)
        {
            return Ok(Err(StoreError::NoCheckpoint { job, step }));
        }
        // For a removal behind it in the same group.
        let begun = &mut self.begun;
        begun.versions.models.insert(job);
        if new.content.step.is_some() {
            begun.versions.checkpoints.insert(job);
        }
        Ok(Ok(self.models.register(new, self.now)?))
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
        let Self { timers, rungs, queues, settling, arrivals, models, datasets, .. } = self;
        let replaces = arrivals.replaces();
        let others = Others { timers, rungs, queues, settling, models, datasets };
        self.writes.flush(conn, &mut self.ledger, self.attempts.values(), others).await?;
        Ok(Done { ledger: self.ledger, moves_deadlines, replaces })
    }

    /// Has a schedule go on or submit nothing. That its jobs fail is something to be told of.
    fn enable(&mut self, name: &str, change: &Enabling) -> Result<Result<bool, StoreError>, Fault> {
        let enabled = self.timers.enable(name, change);
        if let (Ok(true), Enabling::Failed { why, .. }, Some(user)) = (&enabled, change, self.timers.user(name)) {
            let notice = Notice::SchedulePaused { schedule: name.to_owned(), user, why: why.clone() };
            self.writes.hooks.notice(&notice, self.now)?;
        }
        Ok(enabled)
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
    fn remove(
        &mut self,
        jobs: &[JobId],
        by: Uid,
        with_array: bool,
        with_objects: bool,
    ) -> Result<Vec<Result<Job, StoreError>>, Fault> {
        self.writes.removals.ask();
        let mut answers = Vec::with_capacity(jobs.len());
        for id in jobs {
            let held = self.jobs.get(id).filter(|held| held.job.state.is_terminal());
            if let Some((held, verb)) = held.and_then(|held| Some((held, self.keeps(&held.job, with_objects)?))) {
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

    /// Why a job that has ended is not removed yet.
    fn keeps(&self, job: &Job, with_objects: bool) -> Option<&'static str> {
        let Begun { jobs, versions } = &self.begun;
        if self.settling.needs(job) {
            return Some("removed while a job that has not ended waits for it");
        }
        if jobs.holds(job.id, with_objects) {
            return Some(
                "removed while a job that has not ended, or one of a schedule, is to begin with what it has stored",
            );
        }
        let is_held = versions.holds(job.id, with_objects);
        is_held.then_some("removed with what a version of a model holds")
    }

    /// A tick's job, its row, and the ends of those that it comes instead of; or nothing.
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
        if let (Some((jobs, command)), Some(Submitted { existed: false, .. })) = (&turn.ends, submitted) {
            for job in jobs {
                // One that has ended meanwhile takes no command, and needs none.
                if let Ok(job) = self.decide(*job, None, command)? {
                    self.arrivals.note_end(&job);
                }
            }
        }
        Ok(Ok(submitted))
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
            self.writes.effect(&held.job, event, self.now)?;
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
}
