//! Checkpoints as retention sees them: when each was put on record, and what else needs it. Called by the supervisor and whoever shows what is kept.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;
use mlctl_protocol::{AttemptNumber, JobId, result::CheckpointRef};
use sqlx::SqliteConnection;

use super::{
    Store, StoreError,
    error::Fault,
    load,
    rows::{Fields, RowError, integer},
};

/// A checkpoint on record.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptCheckpoint {
    /// The attempt that took it.
    pub attempt: AttemptNumber,
    /// The checkpoint.
    pub checkpoint: CheckpointRef,
    /// When it was put on record; unknown of what an older version kept.
    pub at: Option<Timestamp>,
    /// What else needs it: the first of it.
    pub needed_by: Option<NeededBy>,
}

/// What needs a checkpoint besides its own job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NeededBy {
    /// A job that begins with it, or would when it is tried again.
    Job(JobId),
    /// The jobs of a schedule do.
    Schedule(String),
    /// It is a version of a model: `digits/3`.
    Version(String),
}

impl fmt::Display for NeededBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(job) => write!(f, "job {job}"),
            Self::Schedule(name) => write!(f, "schedule {name}"),
            Self::Version(name) => write!(f, "model {name}"),
        }
    }
}

impl Store {
    /// A job's checkpoints, newest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn kept_checkpoints(&self, id: JobId) -> Result<Vec<KeptCheckpoint>, StoreError> {
        let found = sqlx::query(KEPT).bind(integer(id.0)).fetch_all(&self.inner.readers).await?;
        let scheduled: Vec<(String, String)> = sqlx::query_as(SCHEDULED).fetch_all(&self.inner.readers).await?;
        let kept = found.iter().map(|row| {
            let fields = Fields::new(row, "checkpoints", "id")?;
            let checkpoint: CheckpointRef = fields.json("checkpoint")?;
            let job = fields.maybe_number("needed_by")?.map(|job| NeededBy::Job(JobId(job)));
            let version = fields.get::<Option<String>>("held_by")?.map(NeededBy::Version);
            let is_in = |weights: &str| {
                weights.strip_prefix(&checkpoint.uri).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let schedule = scheduled.iter().find(|(_, weights)| is_in(weights));
            Ok(KeptCheckpoint {
                attempt: AttemptNumber(fields.number("attempt")?),
                at: fields.maybe_time("created_us")?,
                needed_by: version.or(job).or_else(|| schedule.map(|(name, _)| NeededBy::Schedule(name.clone()))),
                checkpoint,
            })
        });
        Ok(kept.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }
}

/// Of jobs that are to be removed: those that have stored what a job begins with that has not ended; `with_models` counts final models too.
pub(super) async fn begun_from(
    conn: &mut SqliteConnection,
    ids: &BTreeSet<JobId>,
    with_models: bool,
) -> Result<BTreeSet<JobId>, Fault> {
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let found = sqlx::query_scalar(BEGUN_FROM).bind(load::list(ids)).bind(with_models);
    let found: Vec<i64> = found.fetch_all(conn).await?;
    Ok(found.into_iter().map(|id| JobId(id.unsigned_abs())).collect())
}

/// Of jobs that are to be removed: those of which versions of models hold a checkpoint; `with_models` counts final models too.
pub(super) async fn versions_of(
    conn: &mut SqliteConnection,
    ids: &BTreeSet<JobId>,
    with_models: bool,
) -> Result<BTreeSet<JobId>, Fault> {
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let found = sqlx::query_scalar(VERSIONS_OF).bind(load::list(ids)).bind(with_models);
    let found: Vec<i64> = found.fetch_all(conn).await?;
    Ok(found.into_iter().map(|id| JobId(id.unsigned_abs())).collect())
}

/// What lies in a folder is named by it, and by what follows a slash behind it; `0` is the character after the slash.
macro_rules! within {
    ($uri:literal, $folder:literal) => {
        concat!($uri, " >= ", $folder, " AND ", $uri, " < ", $folder, " || '0'")
    };
}

/// A job that has not succeeded begins with its weights, or would if it were tried again.
pub(super) const KEPT: &str = concat!(
    "SELECT this.id, this.attempt, this.checkpoint, this.created_us, (SELECT min(other.id) FROM job_specs AS begins \
     CROSS JOIN jobs AS other ON other.id = begins.job_id AND other.state <> 'succeeded' \
     WHERE ",
    within!("begins.weights", "this.uri"),
    ") AS needed_by, (SELECT version.model || '/' || version.version FROM model_versions AS version \
     WHERE version.uri = this.uri ORDER BY version.id LIMIT 1) AS held_by FROM checkpoints AS this WHERE this.job_id = ?1 ORDER BY this.id DESC"
);

/// What schedules' jobs begin with; schedules are few.
const SCHEDULED: &str = "SELECT name, weights FROM ( \
     SELECT name, coalesce(spec ->> '$.train.init.from', spec ->> '$.infer.model.from') AS weights FROM schedules) \
     WHERE weights IS NOT NULL";

/// Those of these jobs of which a version of a model holds a checkpoint, or, where ?2, a model.
pub(super) const VERSIONS_OF: &str = "SELECT DISTINCT version.job_id FROM model_versions AS version \
     WHERE version.job_id IN (SELECT value ->> 0 FROM jsonb_each(?1)) AND version.uri IS NOT NULL \
     AND (?2 OR version.content ->> '$.step' IS NOT NULL)";

/// Those of these jobs that have stored what a job begins with that has not ended.
pub(super) const BEGUN_FROM: &str = concat!(
    "SELECT DISTINCT this.job_id FROM checkpoints AS this CROSS JOIN job_specs AS begins ON ",
    within!("begins.weights", "this.uri"),
    " CROSS JOIN jobs AS other ON other.id = begins.job_id AND other.finished_us IS NULL \
     WHERE this.job_id IN (SELECT value ->> 0 FROM jsonb_each(?1)) \
     UNION SELECT this.id FROM jobs AS this CROSS JOIN job_specs AS begins ON ",
    within!("begins.weights", "(this.model ->> 'uri')"),
    " CROSS JOIN jobs AS other ON other.id = begins.job_id AND other.finished_us IS NULL \
     WHERE ?2 AND this.id IN (SELECT value ->> 0 FROM jsonb_each(?1)) AND this.model IS NOT NULL"
);

/// The same of the jobs that conditions on `this.job_id` and `version.job_id` mean, as a condition, for checkpoints alone.
macro_rules! is_held_by_others {
    ($this:literal, $version:literal) => {
        concat!(
            "(EXISTS (SELECT 1 FROM checkpoints AS this CROSS JOIN job_specs AS begins ON begins.weights >= this.uri \
             AND begins.weights < this.uri || '0' CROSS JOIN jobs AS other ON other.id = begins.job_id AND other.finished_us IS NULL WHERE ",
            $this,
            ") OR EXISTS (SELECT 1 FROM model_versions AS version WHERE ",
            $version,
            " AND version.uri IS NOT NULL AND version.content ->> '$.step' IS NOT NULL))"
        )
    };
}

pub(super) use is_held_by_others;
