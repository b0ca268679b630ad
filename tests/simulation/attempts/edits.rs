//! Deadlines that are changed while jobs wait and run: an attempt goes by the one that was acknowledged last, in this daemon and in the next.

use std::time::Duration;

use jiff::SignedDuration;
use mlctl::{
    domain::{Change, Command, Edit, Terms, Uid},
    supervisor::core::{Answer, Event, Reason},
};
use mlctl_protocol::JobId;

use super::{
    ledger::Write,
    world::{Happening, World},
};

/// How late it may be noticed that somebody has set the clock, and how late anything else.
const NOTICED: Duration = Duration::from_secs(60);
const LATE: Duration = Duration::from_secs(3);

impl World {
    /// A person changes a job's deadline: it is answered when it is durable, and handed over to the attempt a moment later.
    pub fn edit(&mut self) {
        let open = self.ledger.jobs.values().filter(|job| !job.state.is_terminal());
        let jobs: Vec<JobId> = open.map(|job| job.id).collect();
        if jobs.is_empty() || !self.serves() || self.store_down {
            return;
        }
        let (job, now) = (self.chance.pick(&jobs), self.wall());
        let before = self.ledger.jobs[&job].deadline;
        let after = 1 + i64::try_from(self.chance.below(120)).expect("it is small");
        let change =
            if self.chance.once_in(3) { Change::Clear } else { Change::Set(now + SignedDuration::from_secs(after)) };
        let terms = Terms { deadline: Some(change), ..Terms::default() };
        let command = Command::Edit { by: Uid(1), edit: Edit { terms, ..Edit::default() } };
        if self.ledger.take(&Write::Wish { job, command }, now) != Answer::Done(0) {
            return;
        }
        let deadline = self.ledger.jobs[&job].deadline;
        self.tally.edits += 1;
        let runs = self.daemon.as_ref().is_some_and(|daemon| daemon.live.contains_key(&job));
        self.tally.reprieves += u64::from(runs && before.is_some_and(|before| deadline.is_none_or(|at| at > before)));
        if self.rules.forgets_edits {
            return;
        }
        *self.editing.entry(job).or_default() += 1;
        let (after, life) = (self.millis(20), self.life);
        self.plan(after, Happening::Retimed { life, job });
    }

    /// An attempt is told of its job's deadline.
    pub fn retime(&mut self, job: JobId) {
        if let Some(left) = self.editing.get_mut(&job) {
            *left = left.saturating_sub(1);
        }
        let token = self.daemon.as_ref().and_then(|daemon| daemon.live.get(&job).copied());
        if let Some(token) = token {
            let times = self.times(job);
            self.step(token, None, Event::Retimed(times));
        }
    }

    /// An attempt is being ended for a reason: where that is a deadline, it is its job's, or was a moment ago.
    pub fn judge_deadline(&mut self, job: JobId, reason: Option<&Reason>) {
        let Some(Reason::Deadline { at }) = reason else { return };
        self.tally.overdue += 1;
        let is_told = self.editing.get(&job).is_none_or(|left| *left == 0);
        let deadline = self.ledger.jobs[&job].deadline;
        if is_told && deadline != Some(*at) {
            self.broken
                .push(format!("S5: the deadline that was taken from job {job} ends it: {at}, it is {deadline:?}"));
        }
    }

    /// Attempts at work whose job's deadline is behind are asked to end.
    pub fn judge_overdue(&mut self) {
        let (now, wall) = (self.at(), self.wall());
        let is_new = self.jumped_at.is_some_and(|at| now < at + NOTICED + LATE);
        let Some(daemon) = &mut self.daemon else { return };
        for task in daemon.tasks.values_mut() {
            let deadline = self.ledger.jobs[&task.fence.job].deadline;
            let is_at_work = task.core.is_attended() && task.core.reason().is_none();
            if !is_at_work || deadline.is_none_or(|at| wall < at) {
                task.overdue = None;
            } else if now > *task.overdue.get_or_insert(now) + LATE && !is_new {
                let job = task.fence.job;
                self.broken.push(format!("S5: the deadline that was set for job {job} does not end it: {deadline:?}"));
            }
        }
    }
}
