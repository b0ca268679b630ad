//! What is on record of what stored objects are needed for. Called by the collection of what is not. One job's folder at a time, by indexes, so that a store of any size is walked with little memory.

use std::collections::BTreeSet;

use mlctl_protocol::JobId;

use super::{
    Store, StoreError,
    error::Fault,
    kept::within,
    rows::{Fields, RowError, Rows, integer},
    types::TOKEN_BITS,
};

/// What is on record of a job's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredRoots {
    /// Whether a job of this number was ever submitted.
    pub is_known: bool,
    /// The starts of the job, and whether the last is under way; none when it was removed.
    pub attempts: Option<(u32, bool)>,
    /// The epochs in which the job ran.
    pub epochs: Vec<u32>,
    /// URIs of checkpoints on record.
    pub checkpoints: Vec<String>,
    /// The folder of its model, and the file of its predictions.
    pub model: Option<String>,
    /// See `model`.
    pub output: Option<String>,
    /// What jobs that have not succeeded begin with in this folder.
    pub weights: Vec<String>,
    /// What the jobs of schedules begin with in this folder.
    pub scheduled: Vec<String>,
    /// What versions of models hold in this folder.
    pub versions: Vec<String>,
}

impl Store {
    /// Everything on record that something in a job's folder is needed for. `home` is the folder's URI, without a slash at its end.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn roots(&self, job: JobId, home: &str) -> Result<StoredRoots, StoreError> {
        let mut snapshot = self.inner.readers.begin().await?;
        let id = integer(job.0);
        let mut roots = StoredRoots {
            is_known: sqlx::query_scalar(IS_KNOWN).bind(id).fetch_one(&mut *snapshot).await?,
            ..StoredRoots::default()
        };
        if let Some(row) = sqlx::query(JOB).bind(id).fetch_optional(&mut *snapshot).await? {
            let read = || {
                let fields = Fields::new(&row, "jobs", "id")?;
                let attempts = (fields.number("attempt")?, fields.get::<&str>("state")? == "running");
                Ok::<_, RowError>((attempts, fields.get("model")?, fields.get("output")?))
            };
            let (attempts, model, output) = read().map_err(Fault::from)?;
            (roots.attempts, roots.model, roots.output) = (Some(attempts), model, output);
        }
        let epochs: Vec<i64> = sqlx::query_scalar(EPOCHS).bind(id).bind(TOKEN_BITS).fetch_all(&mut *snapshot).await?;
        roots.epochs = epochs.into_iter().filter_map(|epoch| epoch.try_into().ok()).collect();
        roots.checkpoints = sqlx::query_scalar(CHECKPOINTS).bind(id).fetch_all(&mut *snapshot).await?;
        roots.weights = sqlx::query_scalar(WEIGHTS).bind(home).fetch_all(&mut *snapshot).await?;
        roots.scheduled = sqlx::query_scalar(SCHEDULED).bind(home).fetch_all(&mut *snapshot).await?;
        roots.versions = sqlx::query_scalar(VERSIONS).bind(home).fetch_all(&mut *snapshot).await?;
        snapshot.rollback().await?;
        Ok(roots)
    }

    /// URIs of the checkpoints on record of all jobs, each with its row: those after the row `after`.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn checkpoint_uris(&self, after: i64, limit: u32) -> Result<Vec<(i64, String)>, StoreError> {
        Ok(sqlx::query_as(ALL_CHECKPOINTS).bind(after).bind(limit).fetch_all(&self.inner.readers).await?)
    }

    /// Those of these manifests of datasets that a version is of, or that a job on record or a schedule reads.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn needed_manifests(&self, uris: Vec<String>) -> Result<BTreeSet<String>, StoreError> {
        let mut rows = Rows::default();
        uris.iter().for_each(|uri| rows.push(&[uri.into()]));
        let found: Vec<String> =
            sqlx::query_scalar(MANIFESTS).bind(rows.finish()).fetch_all(&self.inner.readers).await?;
        Ok(found.into_iter().collect())
    }

    /// Those of these folders in which data of a version of a dataset lies, or what a job on record or one of a schedule reads.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn needed_folders(&self, uris: Vec<String>) -> Result<BTreeSet<String>, StoreError> {
        let mut rows = Rows::default();
        uris.iter().for_each(|uri| rows.push(&[uri.into()]));
        let found: Vec<String> = sqlx::query_scalar(FOLDERS).bind(rows.finish()).fetch_all(&self.inner.readers).await?;
        Ok(found.into_iter().collect())
    }

    /// URIs of the checkpoints that versions of models hold.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn version_uris(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(ALL_VERSIONS).fetch_all(&self.inner.readers).await?)
    }
}

pub(super) const IS_KNOWN: &str = "SELECT ?1 <= last_job_id FROM instance";
pub(super) const JOB: &str =
    "SELECT id, state, attempt, model ->> 'uri' AS model, output ->> 'uri' AS output FROM jobs WHERE id = ?1";
pub(super) const EPOCHS: &str = "SELECT DISTINCT token >> ?2 FROM attempts WHERE job_id = ?1";
pub(super) const CHECKPOINTS: &str = "SELECT uri FROM checkpoints WHERE job_id = ?1";
pub(super) const WEIGHTS: &str = concat!(
    "SELECT DISTINCT begins.weights FROM job_specs AS begins \
     CROSS JOIN jobs ON jobs.id = begins.job_id AND jobs.state <> 'succeeded' WHERE ",
    within!("begins.weights", "?1")
);
pub(super) const SCHEDULED: &str = concat!("SELECT DISTINCT weights FROM schedules WHERE ", within!("weights", "?1"));
pub(super) const VERSIONS: &str = concat!("SELECT uri FROM model_versions WHERE ", within!("uri", "?1"));
pub(super) const MANIFESTS: &str = "SELECT asked.value ->> 0 FROM jsonb_each(?1) AS asked \
     WHERE EXISTS (SELECT 1 FROM dataset_versions AS version WHERE version.manifest = asked.value ->> 0) \
     OR EXISTS (SELECT 1 FROM job_specs AS begins WHERE begins.dataset = asked.value ->> 0) \
     OR EXISTS (SELECT 1 FROM schedules AS timed WHERE timed.dataset = asked.value ->> 0)";
pub(super) const FOLDERS: &str = concat!(
    "SELECT asked.value ->> 0 FROM jsonb_each(?1) AS asked WHERE EXISTS (SELECT 1 FROM dataset_versions AS version WHERE ",
    within!("version.uri", "(asked.value ->> 0)"),
    ") OR EXISTS (SELECT 1 FROM job_specs AS begins WHERE ",
    within!("begins.dataset_uri", "(asked.value ->> 0)"),
    ") OR EXISTS (SELECT 1 FROM schedules AS timed WHERE ",
    within!("timed.dataset_uri", "(asked.value ->> 0)"),
    ")"
);
pub(super) const ALL_CHECKPOINTS: &str = "SELECT id, uri FROM checkpoints WHERE id > ?1 ORDER BY id LIMIT ?2 + 0";
const ALL_VERSIONS: &str = "SELECT uri FROM model_versions WHERE uri IS NOT NULL";
