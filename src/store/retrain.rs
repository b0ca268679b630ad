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
    /// The retrainings that wait for their stages, the oldest first, each with the moment before which it does not begin.
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
pub(super) async fn open_stages(conn: &mut SqliteConnection, runs: &BTreeSet<JobId>) -> Result<Vec<JobId>, Fault> {
    let found: Vec<i64> = sqlx::query_scalar(OPEN_STAGES).bind(list(runs)).fetch_all(conn).await?;
    Ok(found.into_iter().map(job_id).collect())
}

pub(super) const OPEN: &str = "SELECT id, not_before_us FROM jobs INDEXED BY jobs_retrain \
     WHERE kind = 'retrain' AND finished_us IS NULL AND state = 'blocked' ORDER BY id";

/// What a key of `domain::retrain::keys` begins with ends in a colon, behind which comes a semicolon.
macro_rules! stages_of {
    () => {
        "jobs AS run ON run.id = wanted.value ->> 0 AND run.kind = 'retrain' \
         CROSS JOIN idempotency AS keyed ON keyed.user_id = run.user_id \
         AND keyed.key >= 'mlctl:retrain:' || run.id || ':' AND keyed.key < 'mlctl:retrain:' || run.id || ';' \
         CROSS JOIN jobs AS stage ON stage.id = keyed.job_id AND stage.finished_us IS NULL"
    };
}

pub(super) use stages_of;

pub(super) const OPEN_STAGES: &str = concat!("SELECT stage.id FROM jsonb_each(?1) AS wanted CROSS JOIN ", stages_of!());
