//! Which rows a group of commands is about. Called by the unit before it decides anything.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mlctl_protocol::{FencingToken, JobId, message::ReportBody};

use super::super::{
    ask::{Ask, PreparedChange, PreparedTurn},
    datasets,
    models::Wanted,
    rows::Rows,
};
use crate::domain::{Event, Fence, Uid, alias::Change, retrain::Stage};

/// Which rows to read.
#[derive(Default)]
pub(in crate::store) struct Needs<'a> {
    pub(in crate::store) jobs: BTreeSet<JobId>,
    pub(in crate::store) claimed: BTreeSet<JobId>,
    pub(in crate::store) attempts: BTreeSet<FencingToken>,
    pub(in crate::store) keys: Vec<(Uid, &'a str)>,
    pub(in crate::store) schedules: BTreeSet<&'a str>,
    pub(in crate::store) queues: BTreeSet<&'a str>,
    pub(in crate::store) turns: Vec<&'a PreparedTurn>,
    /// Whose checkpoints come, and of which step.
    pub(in crate::store) checkpointed: Vec<(JobId, u64)>,
    pub(in crate::store) late: Option<Timestamp>,
    /// What new jobs wait for.
    pub(in crate::store) awaited: BTreeSet<JobId>,
    /// What is to be removed.
    pub(in crate::store) removed: BTreeSet<JobId>,
    /// Versions of models that are registered or removed, or that aliases are to mean.
    pub(in crate::store) versions: Wanted<'a>,
    /// The same of datasets.
    pub(in crate::store) datasets: datasets::Wanted<'a>,
    /// URIs of checkpoints that are to be forgotten.
    pub(in crate::store) forgotten: Rows,
    /// Checkpoints that are to be registered: each with its job before its URI.
    pub(in crate::store) registered: Rows,
    /// Whether models of some of it will be deleted too.
    pub(in crate::store) removes_objects: bool,
}

impl<'a> Needs<'a> {
    pub(super) fn of(asks: &'a [Ask]) -> Self {
        let mut needs = Self::default();
        for ask in asks {
            match ask {
                Ask::Submit { job, .. } => {
                    needs.jobs.extend(Stage::run_of(&job.key));
                    needs.keys.push((job.user, &job.key));
                    needs.after(&job.event);
                }
                Ask::SubmitArray { array, .. } => {
                    needs.keys.push((array.user, &array.key));
                    array.members.iter().for_each(|(member, _)| needs.after(&member.event));
                }
                Ask::Many { jobs, .. } => needs.jobs.extend(jobs),
                Ask::Remove { jobs, with_objects, .. } => {
                    needs.removes_objects |= with_objects;
                    needs.jobs.extend(jobs);
                    needs.removed.extend(jobs);
                }
                Ask::Claim { job, .. } => {
                    needs.jobs.insert(*job);
                    needs.claimed.insert(*job);
                }
                Ask::Command { job, fence, .. } => {
                    needs.jobs.insert(*job);
                    needs.attempts.extend(fence.map(|fence| fence.token));
                }
                Ask::Forget { job, uris, .. } => {
                    needs.jobs.insert(*job);
                    uris.iter().for_each(|uri| needs.forgotten.push(&[uri.into()]));
                }
                Ask::Report { fence, body, .. } => {
                    needs.attempt(*fence);
                    if let ReportBody::Checkpoint { checkpoint } = &**body {
                        needs.checkpointed.push((fence.job, checkpoint.step));
                    }
                }
                Ask::Beat { beat, .. } => needs.attempt(beat.fence),
                Ask::Promote { .. } | Ask::Settle { .. } | Ask::AssignDevice { .. } | Ask::KeepHook { .. } => {}
                Ask::Expire { now, .. } => needs.late = needs.late.max(Some(*now)),
                Ask::EditQueue { name, .. } | Ask::RemoveQueue { name, .. } => drop(needs.queues.insert(name)),
                Ask::Register { new, .. } => {
                    needs.jobs.insert(new.content.job);
                    needs.versions.same(new);
                    if new.content.step.is_some() {
                        needs.registered.push(&[new.content.job.into(), (&new.content.uri).into()]);
                    }
                }
                Ask::Unregister { model, version, .. } => needs.versions.numbered(model, *version),
                Ask::MoveAlias { new, .. } => match new.change {
                    Change::Set { version, .. } => needs.versions.numbered(&new.model, version),
                    Change::Clear { .. } | Change::RollBack => needs.versions.model(&new.model),
                },
                Ask::AddDataset { new, .. } => needs.datasets.newest(&new.dataset),
                Ask::RemoveDataset { dataset, version, .. } => needs.datasets.numbered(dataset, *version),
                Ask::AddSchedule { schedule, .. } => drop(needs.schedules.insert(&schedule.name)),
                Ask::ApplySchedules { changes, .. } => {
                    needs.schedules.extend(changes.iter().map(PreparedChange::name));
                }
                Ask::RemoveSchedule { name, .. } | Ask::EnableSchedule { name, .. } => {
                    needs.schedules.insert(name);
                }
                Ask::Turn { turn, .. } => needs.turn(turn),
            }
        }
        needs
    }

    fn turn(&mut self, turn: &'a PreparedTurn) {
        self.schedules.insert(&turn.name);
        if let Some((_, job)) = &turn.fire {
            self.keys.push((job.user, &job.key));
            self.after(&job.event);
        }
        self.jobs.extend(turn.ends.iter().flat_map(|(jobs, _)| jobs));
        self.turns.push(turn);
    }

    fn attempt(&mut self, fence: Fence) {
        self.jobs.insert(fence.job);
        self.attempts.insert(fence.token);
    }
    fn after(&mut self, event: &Event) {
        if let Event::Submitted { after: Some(after), .. } = event {
            self.awaited.extend(after.on.iter().map(|dependency| dependency.on));
        }
    }
}
