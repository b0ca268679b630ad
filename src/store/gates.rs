//! Gates: how many of the jobs with one key run or wait to be started at once. Who waits behind one is a column and not a part of the job, since no event says it: it follows from the
//! others. Called by `unit` and `flush`, inside the writer's transaction.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::{SqliteConnection, SqlitePool};

use super::{StoreError, error::Fault, flush::write, read::job_id, rows::Rows, unit::Held};
use crate::domain::{Job, JobState, Uid};

/// The gates at which something changed.
#[derive(Default)]
pub(super) struct Gates {
    touched: BTreeSet<(Uid, String)>,
}

impl Held {
    /// Whether it has a place: it was let through its gate, and has not ended or been held since. A job without a gate always has.
    pub(super) const fn has_place(&self) -> bool {
        let is_open = matches!(self.stored.state, JobState::Queued { .. } | JobState::Running { .. });
        self.job.gate.is_none() || (is_open && !self.gated)
    }

    /// Whether it waits behind its gate from now on, until it is let through.
    pub(super) const fn is_gated(&self) -> bool {
        matches!(self.job.state, JobState::Queued { .. }) && !self.has_place()
    }
}

impl Gates {
    /// A job is there, or no longer as it was.
    pub(super) fn touch(&mut self, job: &Job) {
        if let Some(gate) = &job.gate {
            self.touched.insert((job.user, gate.key.clone()));
        }
    }

    /// Whether nothing changed at any.
    pub(super) fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// The gates behind which jobs wait whose start time comes until `moment`.
    pub(super) async fn touch_due(&mut self, conn: &mut SqliteConnection, moment: Timestamp) -> Result<(), Fault> {
        let due: Vec<(u32, String)> = sqlx::query_as(DUE).bind(moment.as_microsecond()).fetch_all(&mut *conn).await?;
        self.touched.extend(due.into_iter().map(|(user, key)| (Uid(user), key)));
        Ok(())
    }

    /// Lets through as many as there are places for, after the jobs were written. Returns how many rows.
    pub(super) async fn open(self, conn: &mut SqliteConnection) -> Result<u64, Fault> {
        let mut changed = 0;
        for (user, key) in self.touched {
            loop {
                let opened = open(conn, user, &key).await?;
                changed += opened;
                if opened == 0 {
                    break;
                }
            }
        }
        Ok(changed)
    }
}

/// Lets through who is first behind a gate, and those right behind that have the same limit, as far as it goes. Each waits for its own limit, and nobody passes who is before him.
async fn open(conn: &mut SqliteConnection, user: Uid, key: &str) -> Result<u64, Fault> {
    let first: Option<(i64, i64)> =
        sqlx::query_as(BEHIND).bind(user.0).bind(key).bind(1).fetch_optional(&mut *conn).await?;
    let Some((_, limit)) = first else { return Ok(0) };
    let taken: i64 = sqlx::query_scalar(TAKEN).bind(user.0).bind(key).bind(limit).fetch_one(&mut *conn).await?;
    let free = limit.saturating_sub(taken);
    if free <= 0 {
        return Ok(0);
    }
    let behind: Vec<(i64, i64)> =
        sqlx::query_as(BEHIND).bind(user.0).bind(key).bind(free).fetch_all(&mut *conn).await?;
    let mut through = Rows::default();
    for (id, _) in behind.into_iter().take_while(|(_, own)| *own == limit) {
        through.push(&[id.into()]);
    }
    write(conn, "let through a gate", OPEN, through).await
}

/// Those that have a place at a gate, at most so many.
pub(super) async fn through(pool: &SqlitePool, user: Uid, key: &str, limit: u32) -> Result<Vec<JobId>, StoreError> {
    let found: Vec<i64> = sqlx::query_scalar(THROUGH).bind(user.0).bind(key).bind(limit).fetch_all(pool).await?;
    Ok(found.into_iter().map(job_id).collect())
}

pub(super) const TAKEN: &str = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE user_id = ?1 AND gate_key = ?2 AND gated = 0 \
     AND state IN ('queued', 'running') LIMIT ?3 + 0)";
pub(super) const THROUGH: &str = "SELECT id FROM jobs WHERE user_id = ?1 AND gate_key = ?2 AND gated = 0 AND state IN ('running', 'queued') LIMIT ?3 + 0";
pub(super) const BEHIND: &str = "SELECT id, gate_limit FROM jobs INDEXED BY jobs_behind \
     WHERE user_id = ?1 AND gate_key = ?2 AND gated = 1 AND due = 1 ORDER BY rank_us, id LIMIT ?3 + 0";
pub(super) const OPEN: &str =
    "UPDATE jobs SET gated = 0 WHERE gated = 1 AND id IN (SELECT value ->> 0 FROM jsonb_each(?1))";
pub(super) const DUE: &str = "SELECT DISTINCT user_id, gate_key FROM jobs WHERE state = 'queued' AND due = 0 AND not_before_us <= ?1 AND gated = 1";

/// Gates with more let through than any of those allows, and those behind whose first there is room.
pub(super) const WRONG: &str = "SELECT user_id, gate_key, limit_of_first, widest, through FROM ( \
         SELECT user_id, gate_key, count(*) FILTER (WHERE gated = 0) AS through, max(gate_limit) FILTER (WHERE gated = 0) AS widest, \
             (SELECT first.gate_limit FROM jobs AS first INDEXED BY jobs_behind \
              WHERE first.user_id = jobs.user_id AND first.gate_key = jobs.gate_key AND first.gated = 1 AND first.due = 1 \
              ORDER BY first.rank_us, first.id LIMIT 1) AS limit_of_first \
         FROM jobs WHERE gate_key IS NOT NULL AND state IN ('queued', 'running') GROUP BY 1, 2) \
     WHERE through > widest OR through < limit_of_first LIMIT 100";
