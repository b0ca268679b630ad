//! Checkpoints as retention sees them: when each was put on record, and what else needs it. Called by the supervisor and whoever shows what is kept.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;
use mlctl_protocol::{AttemptNumber, JobId, result::CheckpointRef};
use sqlx::SqliteConnection;

use super::{
    Store, StoreError,
    error::Fault,
    load,
    rows::{Fields, RowError, Rows, integer},
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
        let kept = found.iter().map(|row| {
            let fields = Fields::new(row, "checkpoints", "id")?;
            let checkpoint: CheckpointRef = fields.json("checkpoint")?;
            let job = fields.maybe_number("needed_by")?.map(|job| NeededBy::Job(JobId(job)));
            let version = fields.get::<Option<String>>("held_by")?.map(NeededBy::Version);
            let schedule = fields.get::<Option<String>>("scheduled")?.map(NeededBy::Schedule);
            Ok(KeptCheckpoint {
                attempt: AttemptNumber(fields.number("attempt")?),
                at: fields.maybe_time("created_us")?,
                needed_by: version.or(job).or(schedule),
                checkpoint,
            })
        });
        Ok(kept.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }
}

/// Those of these jobs that a query names, which is [`BEGUN_FROM`] or [`VERSIONS_OF`]; `with_models` counts final models too.
pub(super) async fn among(
    conn: &mut SqliteConnection,
    query: &'static str,
    ids: &BTreeSet<JobId>,
    with_models: bool,
) -> Result<BTreeSet<JobId>, Fault> {
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let found: Vec<i64> = sqlx::query_scalar(query).bind(load::list(ids)).bind(with_models).fetch_all(conn).await?;
    Ok(found.into_iter().map(|id| JobId(id.unsigned_abs())).collect())
}

/// The checkpoints that a group of commands forgets, or registers as versions.
#[derive(Default)]
pub(super) struct HeldCheckpoints {
    /// Those that are needed for something besides their own job.
    needed: BTreeSet<String>,
    /// Those on record that are to be registered.
    recorded: BTreeSet<String>,
}

impl HeldCheckpoints {
    /// Reads where they stand: of those that may be forgotten their URIs, of those that are to be registered with their jobs before.
    pub(super) async fn load(conn: &mut SqliteConnection, forgotten: Rows, registered: Rows) -> Result<Self, Fault> {
        let mut held = Self::default();
        for (query, rows, found) in [(NEEDED, forgotten, &mut held.needed), (RECORDED, registered, &mut held.recorded)]
        {
            if !rows.is_empty() {
                let uris: Vec<String> = sqlx::query_scalar(query).bind(rows.finish()).fetch_all(&mut *conn).await?;
                found.extend(uris);
            }
        }
        Ok(held)
    }

    /// Forgets one, unless it is needed. Returns whether it did.
    pub(super) fn forget(&mut self, uri: &str) -> bool {
        let is_needed = self.needed.contains(uri);
        if !is_needed {
            self.recorded.remove(uri);
        }
        !is_needed
    }

    /// Needs one for a version of a model. Returns whether it is on record.
    pub(super) fn register(&mut self, uri: &str) -> bool {
        let is_there = self.recorded.contains(uri);
        if is_there {
            self.needed.insert(uri.to_owned());
        }
        is_there
    }
}

/// What lies in a folder is named by it, and by what follows a slash behind it; `0` is the character after the slash.
macro_rules! within {
    ($uri:literal, $folder:literal) => {
        concat!("(", $uri, " >= ", $folder, " AND ", $uri, " < ", $folder, " || '0')")
    };
}

/// A job that has not succeeded begins with its weights, or would if it were tried again.
pub(super) const KEPT: &str = concat!(
    "SELECT this.id, this.attempt, this.checkpoint, this.created_us, (SELECT min(other.id) FROM job_specs AS begins \
     CROSS JOIN jobs AS other ON other.id = begins.job_id AND other.state <> 'succeeded' WHERE ",
    within!("begins.weights", "this.uri"),
    ") AS needed_by, (SELECT version.model || '/' || version.version FROM model_versions AS version \
     WHERE version.uri = this.uri ORDER BY version.id LIMIT 1) AS held_by, (SELECT min(timed.name) FROM schedules AS timed WHERE ",
    within!("timed.weights", "this.uri"),
    ") AS scheduled FROM checkpoints AS this WHERE this.job_id = ?1 ORDER BY this.id DESC"
);

/// Those of these jobs of which a version of a model holds a checkpoint, or, where ?2, a model.
pub(super) const VERSIONS_OF: &str = "SELECT DISTINCT version.job_id FROM model_versions AS version \
     WHERE version.job_id IN (SELECT value ->> 0 FROM jsonb_each(?1)) AND version.uri IS NOT NULL \
     AND (?2 OR version.content ->> '$.step' IS NOT NULL)";

/// Those of these URIs of checkpoints that are needed for something besides their own job.
pub(super) const NEEDED: &str = concat!(
    "SELECT gone.value ->> 0 FROM jsonb_each(?1) AS gone WHERE EXISTS (SELECT 1 FROM job_specs AS begins \
     CROSS JOIN jobs AS other ON other.id = begins.job_id AND other.state <> 'succeeded' WHERE ",
    within!("begins.weights", "(gone.value ->> 0)"),
    ") OR EXISTS (SELECT 1 FROM schedules AS timed WHERE ",
    within!("timed.weights", "(gone.value ->> 0)"),
    ") OR EXISTS (SELECT 1 FROM model_versions AS version WHERE version.uri = gone.value ->> 0)"
);

/// Those of these checkpoints that are on record.
pub(super) const RECORDED: &str = "SELECT this.uri FROM jsonb_each(?1) AS new \
     CROSS JOIN checkpoints AS this ON this.job_id = new.value ->> 0 AND this.uri = new.value ->> 1";

/// Whether a job that has not ended begins with what is in a folder, or the jobs of a schedule do.
macro_rules! is_begun_with {
    ($folder:literal) => {
        concat!(
            "(EXISTS (SELECT 1 FROM job_specs AS begins \
             CROSS JOIN jobs AS other ON other.id = begins.job_id AND other.finished_us IS NULL WHERE ",
            $crate::store::kept::within!("begins.weights", $folder),
            ") OR EXISTS (SELECT 1 FROM schedules AS timed WHERE ",
            $crate::store::kept::within!("timed.weights", $folder),
            "))"
        )
    };
}

/// Those of these jobs that have stored what a job begins with that has not ended, or a schedule: a checkpoint, or, where ?2, a model.
pub(super) const BEGUN_FROM: &str = concat!(
    "SELECT DISTINCT this.job_id FROM checkpoints AS this WHERE this.job_id IN (SELECT value ->> 0 FROM jsonb_each(?1)) AND ",
    is_begun_with!("this.uri"),
    " UNION SELECT this.id FROM jobs AS this WHERE ?2 AND this.id IN (SELECT value ->> 0 FROM jsonb_each(?1)) \
     AND this.model IS NOT NULL AND ",
    is_begun_with!("(this.model ->> 'uri')")
);

/// The same of the jobs that conditions on `this.job_id` and `version.job_id` mean, as a condition, for checkpoints alone.
macro_rules! is_held_by_others {
    ($this:literal, $version:literal) => {
        concat!(
            "(EXISTS (SELECT 1 FROM checkpoints AS this WHERE ",
            $this,
            " AND ",
            $crate::store::kept::is_begun_with!("this.uri"),
            ") OR EXISTS (SELECT 1 FROM model_versions AS version WHERE ",
            $version,
            " AND version.uri IS NOT NULL AND version.content ->> '$.step' IS NOT NULL))"
        )
    };
}

pub(super) use {is_begun_with, is_held_by_others, within};
