//! Jobs that replace others with the same concurrency key: what follows when one comes to wait for a place. Called by the writer once the commands of a group are decided, and as often
//! as others come by what is settled then. Who makes way is `domain::gate`'s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::SqliteConnection;

use super::{
    super::{error::Fault, load, read::job_id},
    Held, Unit,
};
use crate::domain::{
    Command, Intent, Job, JobState, Uid,
    gate::{InLine, replaced},
};

/// Jobs with one key that are looked at, at most: far more than a limit of those that replace others says.
const MOST: u32 = 1000;

/// Jobs whose start time comes and that are looked at in one transaction, at most: those that replace others and are not among them have their turn in the next.
const MOST_DUE: u32 = 500;

/// A job whose start time comes, its user and its gate, and whether it replaces others.
type Due = (i64, u32, String, bool);

/// Who came to wait for places in this group.
#[derive(Default)]
pub(super) struct Arrivals {
    /// By gate, in the order in which they came.
    came: BTreeMap<(Uid, String), Vec<InLine>>,
    /// Those of them that replace others, and have not yet done so.
    next: VecDeque<JobId>,
    /// By gate: who was there before, as read, the oldest first.
    before: BTreeMap<(Uid, String), Vec<InLine>>,
    replaces: bool,
}

impl Arrivals {
    /// What a command did to a job that was in line for a place before it or was not.
    pub(super) fn note(&mut self, was_in_line: bool, held: &Held, now: Timestamp) {
        let Some(gate) = held.job.gate.as_ref().filter(|gate| gate.chosen_key().is_some()) else { return };
        let (is_in_line, job) = (is_in_line(held, now), InLine { id: held.job.id, newest: gate.newest });
        if was_in_line != is_in_line {
            self.note_at((held.job.user, gate.key.clone()), is_in_line, job);
        }
    }

    fn note_at(&mut self, gate: (Uid, String), came_in: bool, job: InLine) {
        let came = self.came.entry(gate).or_default();
        came.retain(|other| other.id != job.id);
        if came_in {
            came.push(job);
            self.next.extend(job.newest.then_some(job.id));
        }
    }

    /// Another is to come in place of this job, which may run.
    pub(super) fn note_end(&mut self, job: &Job) {
        self.replaces |= matches!(job.state, JobState::Running { .. });
    }

    /// Whether jobs that run are to end since others replace them.
    pub(super) const fn replaces(&self) -> bool {
        self.replaces
    }
}

/// Whether a job runs or waits for nothing but its turn, and was not asked to end. One with a place is in line while it waits to be tried again.
pub(super) fn is_in_line(held: &Held, now: Timestamp) -> bool {
    match &held.job.state {
        JobState::Running { intent, .. } => !intent.as_ref().is_some_and(Intent::ends),
        JobState::Queued { not_before } => held.has_place() || not_before.is_none_or(|time| time <= now),
        _ => false,
    }
}

impl Unit {
    /// Has those replace others whose start time comes with this group, too.
    pub(super) async fn arrive(&mut self, conn: &mut SqliteConnection) -> Result<(), Fault> {
        let Some(until) = self.writes.promote_until else { return Ok(()) };
        let due: Vec<Due> =
            sqlx::query_as(DUE).bind(until.as_microsecond()).bind(MOST_DUE).fetch_all(&mut *conn).await?;
        let replacing: Vec<JobId> = due.iter().filter(|(.., newest)| *newest).map(|(id, ..)| job_id(*id)).collect();
        if replacing.is_empty() {
            return Ok(());
        }
        self.read(conn, &replacing).await?;
        for id in replacing {
            self.writes.arrived.push(&[id.into()]);
        }
        for (id, user, key, newest) in due {
            let id = job_id(id);
            match self.jobs.get(&id) {
                Some(held) => self.arrivals.note(false, held, until),
                None => self.arrivals.note_at((Uid(user), key), true, InLine { id, newest }),
            }
        }
        Ok(())
    }

    /// Has those that came replace others.
    pub(super) async fn replace(&mut self, conn: &mut SqliteConnection) -> Result<(), Fault> {
        while let Some(id) = self.arrivals.next.pop_front() {
            let until = self.until();
            let Some(held) = self.jobs.get(&id).filter(|held| is_in_line(held, until)) else { continue };
            let Some(gate) = held.job.gate.clone() else { continue };
            let line = self.in_line_before(conn, id, (held.job.user, gate.key)).await?;
            let victims = replaced(&line, gate.limit);
            self.read(conn, &victims).await?;
            for victim in victims {
                // It is in line, and takes that.
                if let Ok(job) = self.decide(victim, None, &Command::Replace { by: id })? {
                    self.arrivals.note_end(&job);
                }
            }
        }
        Ok(())
    }

    /// Until when a start time has come.
    fn until(&self) -> Timestamp {
        self.now.max(self.writes.promote_until.unwrap_or(self.now))
    }

    /// Who is in line at a gate and came before this job, as this group has left them.
    async fn in_line_before(
        &mut self,
        conn: &mut SqliteConnection,
        id: JobId,
        gate: (Uid, String),
    ) -> Result<Vec<InLine>, Fault> {
        if !self.arrivals.before.contains_key(&gate) {
            let mut before = line(conn, NEWEST, &gate, true).await?;
            before.extend(line(conn, OTHERS, &gate, false).await?);
            self.arrivals.before.insert(gate.clone(), before);
        }
        let Arrivals { came, before, .. } = &self.arrivals;
        let came = came.get(&gate).map(Vec::as_slice).unwrap_or_default();
        let until = self.until();
        let is_there = |other: &&InLine| self.jobs.get(&other.id).is_none_or(|held| is_in_line(held, until));
        let earlier = before.get(&gate).into_iter().flatten();
        let earlier = earlier.filter(|other| came.iter().all(|late| late.id != other.id)).filter(is_there);
        let late = came.iter().take_while(|other| other.id != id).filter(is_there);
        Ok(earlier.chain(late).copied().collect())
    }

    /// Reads those of these jobs that this group has not read yet.
    pub(super) async fn read(&mut self, conn: &mut SqliteConnection, ids: &[JobId]) -> Result<(), Fault> {
        let away: BTreeSet<JobId> = ids.iter().filter(|id| !self.jobs.contains_key(id)).copied().collect();
        for (job, gated) in load::jobs(conn, &away).await? {
            self.jobs.insert(job.id, Held { gated, stored: job.clone(), job });
        }
        Ok(())
    }
}

async fn line(
    conn: &mut SqliteConnection,
    sql: &'static str,
    (user, key): &(Uid, String),
    newest: bool,
) -> Result<Vec<InLine>, Fault> {
    let ids: Vec<i64> = sqlx::query_scalar(sql).bind(user.0).bind(key).bind(MOST).fetch_all(conn).await?;
    Ok(ids.into_iter().map(|id| InLine { id: job_id(id), newest }).collect())
}

pub(in super::super) const DUE: &str = "SELECT id, user_id, gate_key, gate_newest FROM jobs \
     WHERE state = 'queued' AND due = 0 AND not_before_us <= ?1 AND gated = 1 ORDER BY not_before_us, id LIMIT ?2 + 0";
pub(in super::super) const NEWEST: &str = "SELECT id FROM jobs INDEXED BY jobs_newest \
     WHERE user_id = ?1 AND gate_key = ?2 AND gate_newest = 1 AND state IN ('queued', 'running') \
     AND (gated = 0 OR due = 1) AND (intent IS NULL OR intent = 'yield') ORDER BY waiting_us, id LIMIT ?3 + 0";
pub(in super::super) const OTHERS: &str = "SELECT id FROM (SELECT id FROM jobs INDEXED BY jobs_through WHERE user_id = ?1 AND gate_key = ?2 AND gated = 0 \
         AND state IN ('queued', 'running') AND gate_newest = 0 AND (intent IS NULL OR intent = 'yield') LIMIT ?3 + 0) \
     UNION ALL SELECT id FROM (SELECT id FROM jobs INDEXED BY jobs_behind WHERE user_id = ?1 AND gate_key = ?2 AND gated = 1 AND due = 1 \
         AND gate_newest = 0 LIMIT ?3 + 0)";
