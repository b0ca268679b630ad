//! Gates: how many of the jobs with one key run or wait to be started at once. Who waits behind one is a column and not a part of the job, since no event says it: it follows from the
//! others. Called by `unit` and `flush`, inside the writer's transaction.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::{error::Fault, unit::Held};
use crate::domain::{Job, JobState, Uid};

/// The gates at which something changed.
#[derive(Default)]
pub(super) struct Gates {
    touched: BTreeMap<(Uid, String), u32>,
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
            self.touched.insert((job.user, gate.key.clone()), gate.limit);
        }
    }

    /// Lets through as many as there are places for, after the jobs were written. Returns how many rows.
    pub(super) async fn open(self, conn: &mut SqliteConnection) -> Result<u64, Fault> {
        let mut changed = 0;
        for ((user, key), limit) in self.touched {
            let taken: i64 =
                sqlx::query_scalar(TAKEN).bind(user.0).bind(&key).bind(limit).fetch_one(&mut *conn).await?;
            let free = i64::from(limit).saturating_sub(taken);
            if free > 0 {
                let open = sqlx::query(OPEN).bind(user.0).bind(&key).bind(free);
                changed += open.execute(&mut *conn).await?.rows_affected();
            }
        }
        Ok(changed)
    }
}

pub(super) const TAKEN: &str = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE user_id = ?1 AND gate_key = ?2 AND gated = 0 \
     AND state IN ('queued', 'running') LIMIT ?3)";
pub(super) const OPEN: &str = "UPDATE jobs SET gated = 0 WHERE id IN (SELECT id FROM jobs INDEXED BY jobs_gated \
     WHERE user_id = ?1 AND gate_key = ?2 AND gated = 1 ORDER BY priority DESC, id LIMIT ?3)";

/// Gates with more let through than may be, and those behind which jobs wait though there is room.
pub(super) const WRONG: &str = "SELECT user_id, gate_key, gate_limit, \
         count(*) FILTER (WHERE gated = 0 AND state IN ('queued', 'running')) AS through, count(*) FILTER (WHERE gated = 1) AS behind \
     FROM jobs WHERE gate_key IS NOT NULL GROUP BY 1, 2 HAVING through > gate_limit OR (through < gate_limit AND behind > 0) LIMIT 100";
