//! Retrainings as they are kept: which have not ended, and the jobs of their stages, which are found by their idempotency keys.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::SqliteConnection;

use super::{
    Store, StoreError,
    error::Fault,
    load::list,
    read::{self, job_id},
    rows::{Fields, RowError},
};
use crate::domain::{Job, retrain::Stage};

impl Store {
    /// The retrainings that wait and of which no stage is under way, the oldest first, each with the moment before which it does not begin.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn retrainings(&self) -> Result<Vec<(JobId, Option<Timestamp>)>, StoreError> {
        let found = sqlx::query(OPEN).fetch_all(&self.inner.readers).await?;
        let runs = found.iter().map(|row| {
            let fields = Fields::new(row, "jobs", "id")?;
            Ok((job_id(fields.id), fields.maybe_time("not_before_us")?))
        });
        Ok(runs.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }

    /// The job of a stage of a run, if it was submitted and is still there.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn stage(&self, run: &Job, stage: Stage) -> Result<Option<Job>, StoreError> {
        let found = read::keyed(&self.inner.readers, run.user, &stage.key(run.id)).await?;
        let Some((id, _)) = found else { return Ok(None) };
        match read::job(&self.inner.readers, id).await {
            Ok(detail) => Ok(Some(detail.job)),
            // Removed in this very moment.
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The jobs of stages of these runs that have not ended.
pub(super) async fn under_way(conn: &mut SqliteConnection, runs: &BTreeSet<JobId>) -> Result<Vec<JobId>, Fault> {
    let found: Vec<i64> = sqlx::query_scalar(OPEN_STAGES).bind(list(runs)).fetch_all(conn).await?;
    Ok(found.into_iter().map(job_id).collect())
}

/// The jobs of stages of a `run` that have not ended, behind what comes before them in a statement. What a key of `domain::retrain::keys` begins with ends in a colon, behind which comes a semicolon.
macro_rules! open_stages {
    ($before:literal) => {
        concat!(
            $before,
            "idempotency AS keyed CROSS JOIN jobs AS stage ON stage.id = keyed.job_id AND stage.finished_us IS NULL \
             AND keyed.user_id = run.user_id \
             AND keyed.key >= 'mlctl:retrain:' || run.id || ':' AND keyed.key < 'mlctl:retrain:' || run.id || ';'"
        )
    };
}

pub(super) use open_stages;

pub(super) const OPEN_STAGES: &str = open_stages!(
    "SELECT stage.id FROM jsonb_each(?1) AS wanted \
     CROSS JOIN jobs AS run ON run.id = wanted.value ->> 0 AND run.kind = 'retrain' CROSS JOIN "
);

pub(super) const OPEN: &str = concat!(
    "SELECT run.id, run.not_before_us FROM jobs AS run INDEXED BY jobs_retrain \
     WHERE run.kind = 'retrain' AND run.finished_us IS NULL AND run.state = 'blocked' AND NOT EXISTS (",
    open_stages!("SELECT 1 FROM "),
    ") ORDER BY run.id"
);
