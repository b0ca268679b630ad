//! What a group of commands needs to read, one statement a table. Called by `unit` inside the writer's transaction.

use std::collections::{BTreeSet, HashMap};

use futures_util::TryStreamExt as _;
use mlctl_protocol::{FencingToken, JobId};
use sqlx::{
    Arguments as _, AssertSqlSafe, Either, Executor as _, SqliteConnection,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{
    error::Fault,
    held::{self, HeldAttempt},
    rows::{self, Fields, RowError, Rows, job_columns},
    unit::needs::Needs,
};
use crate::domain::{Job, Uid};

pub(super) const JOBS: &str =
    concat!("SELECT ", job_columns!(), " FROM jobs WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?))");
pub(super) const KEYS: &str = "SELECT i.job_id, i.user_id, i.key, i.asked FROM jsonb_each(?) AS wanted \
     CROSS JOIN idempotency AS i ON i.user_id = wanted.value ->> 0 AND i.key = wanted.value ->> 1";
pub(super) const SPECS: &str =
    "SELECT job_id, spec FROM job_specs WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?))";
pub(super) const CHECKPOINTS: &str = "SELECT id, job_id, checkpoint FROM checkpoints \
     WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?)) ORDER BY id DESC";

/// What almost every group needs.
#[derive(Default)]
pub(super) struct Loaded {
    /// The jobs that exist among those wanted, and whether each waits behind its gate.
    pub(super) jobs: Vec<(Job, bool)>,
    /// For which jobs idempotency keys stand, with the digest of what was asked for.
    pub(super) keys: HashMap<(Uid, String), (JobId, String)>,
    /// The attempts that exist.
    pub(super) attempts: HashMap<FencingToken, HeldAttempt>,
    /// The specs of jobs, as JSON.
    pub(super) specs: HashMap<JobId, String>,
    /// The durable checkpoints of jobs, as JSON, newest first.
    pub(super) checkpoints: HashMap<JobId, Vec<String>>,
}

/// A statement of [`begin`].
#[derive(Clone, Copy)]
enum Part {
    Begin,
    Keys,
    Jobs,
    Attempts,
    Specs,
    Checkpoints,
}

impl Part {
    const fn sql(self) -> &'static str {
        match self {
            Self::Begin => "BEGIN IMMEDIATE",
            Self::Keys => KEYS,
            Self::Jobs => JOBS,
            Self::Attempts => held::LOAD,
            Self::Specs => SPECS,
            Self::Checkpoints => CHECKPOINTS,
        }
    }
}

/// Begins the transaction and reads in the same trip to the connection's thread, which costs as much as the statements do.
pub(super) async fn begin(conn: &mut SqliteConnection, needs: &Needs<'_>) -> Result<Loaded, Fault> {
    let mut keys = Rows::default();
    for (user, key) in &needs.keys {
        keys.push(&[user.0.into(), (*key).into()]);
    }
    let wanted = [
        (Part::Keys, keys),
        (Part::Jobs, rows_of(&needs.jobs)),
        (Part::Attempts, rows_of(&needs.attempts)),
        (Part::Specs, rows_of(&needs.claimed)),
        (Part::Checkpoints, rows_of(&needs.claimed)),
    ];
    let (mut parts, mut values) = (vec![Part::Begin], SqliteArguments::default());
    for (part, rows) in wanted {
        if !rows.is_empty() {
            parts.push(part);
            values.add(rows.finish()).map_err(sqlx::Error::Encode)?;
        }
    }
    let sql = parts.iter().map(|part| part.sql()).collect::<Vec<_>>().join(";\n");
    let mut loaded = Loaded::default();
    let mut found = conn.fetch_many(sqlx::query_with(AssertSqlSafe(sql), values));
    let mut parts = parts.into_iter();
    let mut part = parts.next();
    while let Some(step) = found.try_next().await? {
        match (step, part) {
            (Either::Left(_), _) => part = parts.next(),
            (Either::Right(row), Some(part)) => loaded.take(part, &row)?,
            (Either::Right(_), None) => {}
        }
    }
    Ok(loaded)
}

impl Loaded {
    fn take(&mut self, part: Part, row: &SqliteRow) -> Result<(), RowError> {
        match part {
            Part::Begin => {}
            Part::Keys => {
                let fields = Fields::new(row, "idempotency", "job_id")?;
                let key = (Uid(fields.number("user_id")?), fields.get("key")?);
                self.keys.insert(key, (JobId(fields.number("job_id")?), fields.get("asked")?));
            }
            Part::Jobs => self.jobs.push((rows::job(row)?, rows::is_gated(row)?)),
            Part::Attempts => {
                let held = HeldAttempt::read(row)?;
                self.attempts.insert(held.token(), held);
            }
            Part::Specs => {
                let fields = Fields::new(row, "job_specs", "job_id")?;
                self.specs.insert(JobId(fields.number("job_id")?), fields.get("spec")?);
            }
            Part::Checkpoints => {
                let fields = Fields::new(row, "checkpoints", "id")?;
                let of_job = self.checkpoints.entry(JobId(fields.number("job_id")?)).or_default();
                of_job.push(fields.get("checkpoint")?);
            }
        }
        Ok(())
    }
}

/// The jobs that exist among these, and whether each waits behind its gate.
pub(super) async fn jobs(conn: &mut SqliteConnection, ids: &BTreeSet<JobId>) -> Result<Vec<(Job, bool)>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query(JOBS).bind(list(ids)).fetch_all(conn).await?;
    Ok(found.iter().map(|row| Ok((rows::job(row)?, rows::is_gated(row)?))).collect::<Result<_, RowError>>()?)
}

fn rows_of<'a, T: Copy + Into<rows::Cell<'a>> + 'a>(ids: &'a BTreeSet<T>) -> Rows {
    let mut rows = Rows::default();
    for id in ids {
        rows.push(&[(*id).into()]);
    }
    rows
}

/// Ids as a parameter for `jsonb_each`.
pub(super) fn list<'a, T: Copy + Into<rows::Cell<'a>> + 'a>(ids: &'a BTreeSet<T>) -> Vec<u8> {
    rows_of(ids).finish()
}
