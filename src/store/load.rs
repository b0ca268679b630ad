//! What a group of commands needs to read, one statement a table. Called by `unit` inside the writer's transaction.

use std::collections::{BTreeSet, HashMap};

use mlctl_protocol::JobId;
use sqlx::SqliteConnection;

use super::{
    error::Fault,
    rows::{self, Fields, RowError, Rows, job_columns},
};
use crate::domain::{Job, Uid};

pub(super) const JOBS: &str =
    concat!("SELECT ", job_columns!(), " FROM jobs WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1))");
macro_rules! keys {
    () => {
        "SELECT i.job_id, i.user_id, i.key, i.asked FROM jsonb_each(?) AS wanted \
         CROSS JOIN idempotency AS i ON i.user_id = wanted.value ->> 0 AND i.key = wanted.value ->> 1"
    };
}
#[cfg(test)]
pub(super) const KEYS: &str = keys!();
const BEGIN: &str = "BEGIN IMMEDIATE";
const BEGIN_WITH_KEYS: &str = concat!("BEGIN IMMEDIATE; ", keys!());
pub(super) const SPECS: &str =
    "SELECT job_id, spec FROM job_specs WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1))";
pub(super) const CHECKPOINTS: &str = "SELECT id, job_id, checkpoint FROM checkpoints \
     WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1)) ORDER BY id DESC";

/// The jobs that exist among these, and whether each waits behind its gate.
pub(super) async fn jobs(conn: &mut SqliteConnection, ids: &BTreeSet<JobId>) -> Result<Vec<(Job, bool)>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query(JOBS).bind(list(ids)).fetch_all(conn).await?;
    Ok(found.iter().map(|row| Ok((rows::job(row)?, rows::is_gated(row)?))).collect::<Result<_, RowError>>()?)
}

/// Begins the transaction, and reads for which jobs idempotency keys stand, with the digest of what was asked for.
pub(super) async fn begin(
    conn: &mut SqliteConnection,
    keys: &[(Uid, &str)],
) -> Result<HashMap<(Uid, String), (JobId, String)>, Fault> {
    if keys.is_empty() {
        sqlx::query(BEGIN).execute(conn).await?;
        return Ok(HashMap::new());
    }
    let mut wanted = Rows::default();
    for (user, key) in keys {
        wanted.push(&[user.0.into(), (*key).into()]);
    }
    let found = sqlx::query(BEGIN_WITH_KEYS).bind(wanted.finish()).fetch_all(conn).await?;
    let mut known = HashMap::with_capacity(keys.len());
    for row in &found {
        let fields = Fields::new(row, "idempotency", "job_id")?;
        let key = (Uid(fields.number("user_id")?), fields.get("key")?);
        known.insert(key, (JobId(fields.number("job_id")?), fields.get("asked")?));
    }
    Ok(known)
}

/// The specs of jobs, as JSON.
pub(super) async fn specs(conn: &mut SqliteConnection, ids: &BTreeSet<JobId>) -> Result<HashMap<JobId, String>, Fault> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = sqlx::query(SPECS).bind(list(ids)).fetch_all(conn).await?;
    let mut specs = HashMap::with_capacity(ids.len());
    for row in &found {
        let fields = Fields::new(row, "job_specs", "job_id")?;
        specs.insert(JobId(fields.number("job_id")?), fields.get("spec")?);
    }
    Ok(specs)
}

/// The durable checkpoints of jobs, as JSON, newest first.
pub(super) async fn checkpoints(
    conn: &mut SqliteConnection,
    ids: &BTreeSet<JobId>,
) -> Result<HashMap<JobId, Vec<String>>, Fault> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = sqlx::query(CHECKPOINTS).bind(list(ids)).fetch_all(conn).await?;
    let mut checkpoints: HashMap<JobId, Vec<_>> = HashMap::new();
    for row in &found {
        let fields = Fields::new(row, "checkpoints", "id")?;
        let of_job = checkpoints.entry(JobId(fields.number("job_id")?)).or_default();
        of_job.push(fields.get("checkpoint")?);
    }
    Ok(checkpoints)
}

/// Ids as a parameter for `jsonb_each`.
pub(super) fn list<'a, T: Copy + Into<rows::Cell<'a>> + 'a>(ids: &'a BTreeSet<T>) -> Vec<u8> {
    let mut list = Rows::default();
    for id in ids {
        list.push(&[(*id).into()]);
    }
    list.finish()
}
