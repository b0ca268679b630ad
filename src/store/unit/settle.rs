//! The jobs that wait for others: which are settled when others end, in the same transaction, and what follows from that. Called by the writer once the commands of a group are decided. A
//! chain is walked in rounds, never by recursion; of more than one transaction should settle, the rest is noted in table `unsettled` and taken up by the next.

use std::collections::{BTreeMap, BTreeSet};

use mlctl_protocol::JobId;
use sqlx::SqliteConnection;

use super::{
    super::{
        StoreError, dependencies,
        error::Fault,
        flush::{sweep, write},
        load, retrain,
        rows::{Rows, integer},
    },
    Held, Unit,
};
use crate::domain::{
    Command, Dependency, Event, Job, JobState, NeverMet, Uid,
    array::tally,
    dependency::{Standing, Verdict, verdict, waived},
};

/// Jobs that one transaction settles at most because others have ended, so that nobody waits long behind it.
const MOST: usize = 500;

/// What it costs to look at all, in jobs: a chain is a look for each of its links.
const COST: usize = 4;

/// Jobs looked at together.
const PAGE: u32 = 100;

/// Dependencies that one transaction looks at for that, about.
const MOST_ROWS: usize = 20_000;

/// Rows of `unsettled` taken up at a time.
const PIECE: u32 = 100;

/// What is to be settled at the end of a group.
#[derive(Default)]
pub(in super::super) struct Settling {
    /// What has ended, with the job up to which those that wait for it are settled.
    ended: BTreeMap<JobId, i64>,
    /// Arrays of which a member has ended.
    arrays: BTreeSet<JobId>,
    /// Whether an array's last look found it open, doomed or over.
    seen: BTreeMap<JobId, Standing>,
    /// Jobs that wait since this group, and whether what has ended is waived.
    blocked: BTreeMap<JobId, bool>,
    /// What jobs submitted in this group wait for.
    new: BTreeMap<JobId, Vec<Dependency>>,
    /// How the counts of arrays change in this group.
    moved: BTreeMap<(JobId, &'static str), i64>,
    /// Of what the submits of this group name: what is there.
    known: BTreeSet<JobId>,
    /// Of what is to be removed: what is waited for.
    needed: BTreeSet<JobId>,
    /// Removed in this group.
    gone: BTreeSet<JobId>,
    new_rows: Rows,
    waived: Rows,
    /// Taken up from table `unsettled`, or noted there.
    settled: Rows,
    unsettled: Rows,
}

impl Settling {
    pub(super) fn new(known: BTreeSet<JobId>, needed: BTreeSet<JobId>) -> Self {
        Self { known, needed, ..Self::default() }
    }

    /// What a new job waits for must be there.
    pub(super) fn admits(&self, event: &Event) -> Result<(), StoreError> {
        let mut on = waits_for(event).iter().map(|dependency| dependency.on);
        match on.find(|on| !self.known.contains(on)) {
            Some(missing) => Err(StoreError::NotFound(missing.to_string())),
            None => Ok(()),
        }
    }

    /// A new job that waits.
    pub(super) fn submitted(&mut self, id: JobId, event: &Event) {
        let on = waits_for(event);
        for Dependency { on, need } in on {
            self.new_rows.push(&[id.into(), (*on).into(), need.name().into()]);
            self.needed.insert(*on);
        }
        self.new.insert(id, on.to_vec());
        self.blocked.insert(id, false);
    }

    /// Whether a job that waits needs this one to be there.
    pub(super) fn needs(&self, job: &Job) -> bool {
        let array = job.array.as_ref().map(|array| array.id);
        self.needed.contains(&job.id) || array.is_some_and(|array| self.needed.contains(&array))
    }

    pub(super) fn removed(&mut self, id: JobId) {
        self.gone.insert(id);
    }

    /// What a command did to a job.
    pub(super) fn note(&mut self, before: &Job, after: &Job, command: &Command) {
        if let Some(array) = &after.array
            && tally(before) != tally(after)
        {
            *self.moved.entry((array.id, tally(before))).or_default() -= 1;
            *self.moved.entry((array.id, tally(after))).or_default() += 1;
        }
        if after.state.is_terminal() && !before.state.is_terminal() {
            self.ended.insert(after.id, 0);
            self.arrays.extend(after.array.as_ref().map(|array| array.id));
        }
        match (&before.state, &after.state) {
            (JobState::Blocked { .. }, JobState::Blocked { .. }) => {}
            (_, JobState::Blocked { .. }) => {
                let is_wanted = match command {
                    Command::Retry { .. } => true,
                    Command::Release { .. } => before.unmet().is_some(),
                    _ => false,
                };
                self.blocked.insert(after.id, is_wanted);
            }
            _ => drop(self.blocked.remove(&after.id)),
        }
    }

    /// Whether there is nothing to write.
    pub(in super::super) fn is_empty(&self) -> bool {
        [&self.new_rows, &self.waived, &self.settled, &self.unsettled].into_iter().all(Rows::is_empty)
    }

    /// Writes what is new. Returns how many rows.
    pub(in super::super) async fn flush(self, conn: &mut SqliteConnection) -> Result<u64, Fault> {
        let mut changed = write(conn, "new dependencies", NEW, self.new_rows).await?;
        changed += write(conn, "waived dependencies", WAIVED, self.waived).await?;
        changed += sweep(conn, SETTLED, self.settled).await?;
        Ok(changed + sweep(conn, UNSETTLED, self.unsettled).await?)
    }
}

fn waits_for(event: &Event) -> &[Dependency] {
    match event {
        Event::Submitted { after: Some(after), .. } => &after.on,
        _ => &[],
    }
}

/// How much one transaction may still settle.
struct Budget {
    jobs: usize,
    rows: usize,
}

impl Budget {
    const fn is_used_up(&self) -> bool {
        self.jobs == 0 || self.rows == 0
    }
}

impl Unit {
    /// Has the jobs that come to wait for a place replace others, settles the jobs that wait for what has ended, those that wait since this group, and with `backlog` those that
    /// earlier groups left. Returns whether some are left for the next.
    pub(in super::super) async fn settle(&mut self, conn: &mut SqliteConnection, backlog: bool) -> Result<bool, Fault> {
        let mut budget = Budget { jobs: MOST, rows: MOST_ROWS };
        let mut left = BTreeMap::new();
        self.arrive(conn).await?;
        self.end_stages(conn).await?;
        self.settle_ended(conn, &mut budget, &mut left).await?;
        // As others that wait since this group may have ended by it, until there is none.
        while !self.settling.blocked.is_empty() {
            let blocked: Vec<JobId> = self.settling.blocked.keys().copied().collect();
            self.judge(conn, &blocked).await?;
            self.replace(conn).await?;
            if self.settling.ended.is_empty() {
                break;
            }
            self.settle_ended(conn, &mut budget, &mut left).await?;
        }
        let mut is_left = !left.is_empty();
        if backlog && !budget.is_used_up() {
            let earlier: Vec<(i64, i64)> = sqlx::query_as(EARLIER).bind(PIECE).fetch_all(&mut *conn).await?;
            is_left |= earlier.len() >= PIECE as usize;
            for (on, after) in earlier {
                self.settling.settled.push(&[on.into()]);
                self.settling.ended.insert(JobId(on.unsigned_abs()), after);
            }
            self.settle_ended(conn, &mut budget, &mut left).await?;
            is_left |= !left.is_empty();
        } else {
            is_left |= backlog;
        }
        for (on, after) in left {
            self.settling.unsettled.push(&[on.into(), after.into()]);
        }
        Ok(is_left)
    }

    /// With a retraining that is over, so is the stage that it waited for.
    async fn end_stages(&mut self, conn: &mut SqliteConnection) -> Result<(), Fault> {
        let is_over =
            |held: &&Held| held.job.is_retraining() && held.job.state.is_terminal() && !held.stored.state.is_terminal();
        let runs: BTreeSet<JobId> = self.jobs.values().filter(is_over).map(|held| held.job.id).collect();
        if runs.is_empty() {
            return Ok(());
        }
        let stages = retrain::under_way(conn, &runs).await?;
        self.read(conn, &stages).await?;
        for stage in stages {
            // One that this very group has ended takes no command, and needs none.
            if let Ok(job) = self.decide(stage, None, &Command::Cancel { by: Uid::SYSTEM })? {
                self.arrivals.note_end(&job);
            }
        }
        Ok(())
    }

    /// Settles those that wait for what has ended, round after round, as far as the budget goes. What remains is put into `left`.
    async fn settle_ended(
        &mut self,
        conn: &mut SqliteConnection,
        budget: &mut Budget,
        left: &mut BTreeMap<JobId, i64>,
    ) -> Result<(), Fault> {
        loop {
            // Who may start by what has ended may replace others, which ends those.
            self.replace(conn).await?;
            let ended = std::mem::take(&mut self.settling.ended);
            let arrays = std::mem::take(&mut self.settling.arrays);
            if ended.is_empty() && arrays.is_empty() {
                return Ok(());
            }
            let ids: BTreeSet<JobId> = ended.keys().chain(&arrays).copied().collect();
            let mut waited_for = dependencies::with_waiters(conn, &ids).await?;
            let arrays = arrays.intersection(&waited_for).copied().collect();
            let unmoved = self.unmoved(conn, arrays).await?;
            waited_for.retain(|id| ended.contains_key(id) || !unmoved.contains(id));
            for on in waited_for {
                let mut after = ended.get(&on).copied().unwrap_or(0);
                loop {
                    if budget.is_used_up() {
                        left.insert(on, left.get(&on).map_or(after, |other| after.min(*other)));
                        break;
                    }
                    let page = dependencies::blocked_by(conn, on, after, PAGE).await?;
                    let Some(last) = page.last() else { break };
                    after = integer(last.0);
                    let rows = self.judge(conn, &page).await?;
                    budget.jobs = budget.jobs.saturating_sub(page.len().max(COST));
                    budget.rows = budget.rows.saturating_sub(rows);
                    if page.len() < PAGE as usize {
                        break;
                    }
                }
            }
        }
    }

    /// Those of these arrays that stand where they stood at the last look, for all who wait for them.
    async fn unmoved(
        &mut self,
        conn: &mut SqliteConnection,
        arrays: BTreeSet<JobId>,
    ) -> Result<BTreeSet<JobId>, Fault> {
        let counts = dependencies::counts(conn, &arrays).await?;
        let mut unmoved = BTreeSet::new();
        for (id, counts) in counts {
            let before = self.settling.seen.get(&id).cloned().unwrap_or_else(|| Standing::of_array(id, &counts));
            let now = self.standing_of_array(id, counts);
            if std::mem::discriminant(&before) == std::mem::discriminant(&now) {
                unmoved.insert(id);
            }
            self.settling.seen.insert(id, now);
        }
        Ok(unmoved)
    }

    /// Where an array stands with what this group has changed.
    fn standing_of_array(&self, id: JobId, mut counts: BTreeMap<String, u64>) -> Standing {
        for ((_, tally), change) in self.settling.moved.range((id, "")..(JobId(id.0.saturating_add(1)), "")) {
            let count = counts.entry((*tally).to_owned()).or_default();
            *count = count.saturating_add_signed(*change);
        }
        Standing::of_array(id, &counts)
    }

    /// Decides what becomes of those of these jobs that are blocked. Returns how many dependencies were looked at.
    async fn judge(&mut self, conn: &mut SqliteConnection, ids: &[JobId]) -> Result<usize, Fault> {
        let away = ids.iter().filter(|id| !self.jobs.contains_key(id) && !self.settling.gone.contains(id));
        for (job, gated) in load::jobs(conn, &away.copied().collect()).await? {
            self.jobs.insert(job.id, Held { gated, stored: job.clone(), job });
        }
        let is_blocked =
            |id: &&JobId| matches!(self.jobs.get(id).map(|held| &held.job.state), Some(JobState::Blocked { .. }));
        let blocked: BTreeSet<JobId> = ids.iter().filter(is_blocked).copied().collect();
        let kept = blocked.iter().filter(|id| !self.settling.new.contains_key(id)).copied().collect();
        let mut waits_for = dependencies::of(conn, &kept).await?;
        for id in &blocked {
            if let Some(new) = self.settling.new.get(id) {
                waits_for.insert(*id, new.clone());
            }
        }
        let on = waits_for.values().flatten().map(|dependency| dependency.on).collect();
        let standings = self.standings(conn, on).await?;
        let rows = waits_for.values().map(Vec::len).sum();
        for id in blocked {
            let mut seen: Vec<(Dependency, &Standing)> = Vec::new();
            for dependency in waits_for.remove(&id).unwrap_or_default() {
                seen.extend(standings.get(&dependency.on).map(|standing| (dependency, standing)));
            }
            self.decide_blocked(id, seen)?;
        }
        Ok(rows)
    }

    fn decide_blocked(&mut self, id: JobId, mut seen: Vec<(Dependency, &Standing)>) -> Result<(), Fault> {
        if let Some(is_wanted) = self.settling.blocked.get_mut(&id)
            && std::mem::take(is_wanted)
        {
            let on = waived(seen.iter().copied());
            if !on.is_empty() {
                seen.retain(|(dependency, _)| !on.contains(&dependency.on));
                for other in &on {
                    self.settling.waived.push(&[id.into(), (*other).into()]);
                }
                // It is blocked, and takes that.
                drop(self.decide(id, None, &Command::Waive { on })?);
            }
        }
        let command = match verdict(seen) {
            Verdict::Waits => return Ok(()),
            Verdict::Starts => Command::Unblock,
            Verdict::Never(on, end) => Command::Unmet(NeverMet { on, message: end.told, cause: end.cause }),
        };
        drop(self.decide(id, None, &command)?);
        Ok(())
    }

    /// Where all of these stand, jobs and arrays, with what this group has changed.
    async fn standings(
        &self,
        conn: &mut SqliteConnection,
        mut ids: BTreeSet<JobId>,
    ) -> Result<BTreeMap<JobId, Standing>, Fault> {
        let mut standings = BTreeMap::new();
        ids.retain(|id| match self.jobs.get(id) {
            Some(held) => standings.insert(*id, Standing::of(&held.job)).is_some(),
            None => true,
        });
        let found = dependencies::standings(conn, &ids).await?;
        ids.retain(|id| !found.contains_key(id));
        standings.extend(found);
        for (id, counts) in dependencies::counts(conn, &ids).await? {
            ids.remove(&id);
            standings.insert(id, self.standing_of_array(id, counts));
        }
        standings.extend(ids.into_iter().map(|id| (id, Standing::Gone(id))));
        Ok(standings)
    }
}

const NEW: &str =
    "INSERT INTO dependencies (job_id, on_job, need) SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?1)";
pub(in super::super) const WAIVED: &str = "UPDATE dependencies SET waived = 1 FROM jsonb_each(?1) AS new \
     WHERE dependencies.job_id = new.value ->> 0 AND dependencies.on_job = new.value ->> 1 AND dependencies.waived = 0";
const EARLIER: &str = "SELECT on_job, after_job FROM unsettled ORDER BY on_job LIMIT ?1 + 0";
const SETTLED: &str = "DELETE FROM unsettled WHERE on_job IN (SELECT value ->> 0 FROM jsonb_each(?1))";
const UNSETTLED: &str = "
INSERT INTO unsettled (on_job, after_job) SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1) WHERE true
ON CONFLICT (on_job) DO UPDATE SET after_job = min(unsettled.after_job, excluded.after_job)";
