//! The store's surface for deadlines, and what is read about them: all from an index of the unfinished jobs that have one and do not run. Called by the scheduler's deadline loop
//! and, for the jobs themselves, by `unit` inside the writer's transaction.

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::SqliteConnection;
use tokio::sync::watch;

use super::{Store, StoreError, ask::Ask, error::Fault, read::job_id};

/// Jobs that fail in one transaction at most, so that no other write waits long: the loop comes again for the rest.
const MOST: u32 = 500;

macro_rules! waiting {
    ($columns:literal, $more:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM jobs INDEXED BY jobs_deadline WHERE deadline_us IS NOT NULL AND finished_us IS NULL AND token IS NULL",
            $more
        )
    };
}

pub(super) const NEXT: &str = waiting!("min(deadline_us)", "");
pub(super) const LATE: &str = waiting!("id", " AND deadline_us <= ?1 ORDER BY deadline_us LIMIT ?2 + 0");

impl Store {
    /// Fails the jobs that do not run and whose deadline has passed at `now`. Returns how many: there may be more, whose turn is in the next call.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn expire(&self, now: Timestamp) -> Result<u32, StoreError> {
        if self.next_deadline().await?.is_none_or(|deadline| deadline > now) {
            return Ok(0);
        }
        self.ask(|reply| Ask::Expire { now, reply }).await
    }

    /// The nearest deadline of a job that does not run.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn next_deadline(&self) -> Result<Option<Timestamp>, StoreError> {
        let at: Option<i64> = sqlx::query_scalar(NEXT).fetch_one(&self.inner.readers).await?;
        Ok(at.and_then(|at| Timestamp::from_microsecond(at).ok()))
    }

    /// Grows when another deadline may be the nearest: wakes whoever waits for one.
    #[must_use]
    pub fn deadline_changes(&self) -> watch::Receiver<u64> {
        self.inner.deadline_changes.clone()
    }
}

/// The jobs whose deadline has passed, the latest ones first.
pub(super) async fn late(conn: &mut SqliteConnection, now: Timestamp) -> Result<Vec<JobId>, Fault> {
    let ids: Vec<i64> = sqlx::query_scalar(LATE).bind(now.as_microsecond()).bind(MOST).fetch_all(conn).await?;
    Ok(ids.into_iter().map(job_id).collect())
}
