//! What is read about one job, an attempt, a log: one function, one statement. On the pool of read-only connections.

use std::sync::LazyLock;

use futures_util::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::{AttemptNumber, JobId, JobSpec, progress::MetricPoint, result::CheckpointRef};
use sqlx::{AssertSqlSafe, Either, Executor as _, Row as _, SqlitePool, sqlite::SqliteRow};

use super::{
    StoreError, arrays,
    error::Fault,
    rows::{self, Fields, RowError, attempt_columns, integer, job_columns},
    types::{Attempt, JobDetail, Ready, Running, StoredEvent},
};
use crate::domain::{Job, Uid};

/// A job with its current or last attempt, from a row of [`job_columns`] and [`attempt_columns`].
pub(super) fn detail(row: &SqliteRow) -> Result<JobDetail, RowError> {
    let attempt = rows::maybe_attempt(row)?;
    let metrics = match &attempt {
        None => Default::default(),
        Some(attempt) => Fields { row, table: "attempts", id: integer(attempt.fence.token.0) }.json("a_metrics")?,
    };
    Ok(JobDetail { job: rows::job(row)?, attempt, metrics, is_gated: rows::is_gated(row)? })
}

pub(super) const JOB: &str = concat!(
    "SELECT ",
    job_columns!(),
    ", ",
    attempt_columns!(),
    " FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt WHERE jobs.id = ?1"
);

pub(super) async fn job(pool: &SqlitePool, id: JobId) -> Result<JobDetail, StoreError> {
    let row = sqlx::query(JOB).bind(integer(id.0)).fetch_optional(pool).await?;
    let row = row.ok_or_else(|| StoreError::NotFound(id.to_string()))?;
    Ok(detail(&row).map_err(Fault::from)?)
}

pub(super) const KEYED: &str = "SELECT job_id, asked FROM idempotency WHERE user_id = ?1 AND key = ?2";

pub(super) async fn keyed(pool: &SqlitePool, user: Uid, key: &str) -> Result<Option<(JobId, String)>, StoreError> {
    let found = sqlx::query(KEYED).bind(user.0).bind(key).fetch_optional(pool).await?;
    let Some(row) = found else { return Ok(None) };
    let read = || {
        let fields = Fields::new(&row, "idempotency", "job_id")?;
        Ok::<_, RowError>((JobId(fields.number("job_id")?), fields.get("asked")?))
    };
    Ok(Some(read().map_err(Fault::from)?))
}

pub(super) async fn spec(pool: &SqlitePool, id: JobId) -> Result<JobSpec, StoreError> {
    let found = sqlx::query("SELECT job_id, spec FROM job_specs WHERE job_id = ?1").bind(integer(id.0));
    let row = found.fetch_optional(pool).await?.ok_or_else(|| StoreError::NotFound(id.to_string()))?;
    let spec = Fields::new(&row, "job_specs", "job_id").and_then(|fields| fields.json("spec"));
    Ok(spec.map_err(Fault::from)?)
}

pub(super) const LAST: &str = "SELECT max(id) FROM jobs";
pub(super) const OF_ARRAY: &str = "SELECT array_id FROM jobs WHERE id = ?1";
/// With 1 for an array. An array has not ended while a member has not.
pub(super) const OPEN_NAMED: &str = "SELECT id, 0 FROM (SELECT id FROM jobs WHERE name = ?1 AND finished_us IS NULL ORDER BY id LIMIT 2) \
     UNION ALL \
     SELECT id, 1 FROM (SELECT id FROM arrays WHERE name = ?1 AND EXISTS ( \
         SELECT 1 FROM array_counts WHERE array_id = arrays.id AND jobs > 0 AND tally NOT IN ('succeeded', 'failed', 'cancelled', 'stopped')) \
         ORDER BY id LIMIT 2)";
pub(super) const NEWEST_NAMED: &str = "SELECT id, 0 FROM (SELECT id FROM jobs WHERE name = ?1 ORDER BY id DESC LIMIT 1) \
     UNION ALL \
     SELECT id, 1 FROM (SELECT id FROM arrays WHERE name = ?1 ORDER BY id DESC LIMIT 1)";

/// What a reference means.
pub(super) enum Found {
    Job(JobId),
    Array(JobId),
}

impl Found {
    fn new((id, is_array): (i64, bool)) -> Self {
        if is_array { Self::Array(job_id(id)) } else { Self::Job(job_id(id)) }
    }

    const fn id(&self) -> JobId {
        match self {
            Self::Job(id) | Self::Array(id) => *id,
        }
    }
}

/// An id, `ARRAY.INDEX`, `@last`, or a name: of the one unfinished job or array that bears it, or else of the newest finished one. The last job of all is the array whose member
/// it is.
pub(super) async fn find(pool: &SqlitePool, reference: &str) -> Result<Found, StoreError> {
    let not_found = || StoreError::NotFound(reference.to_owned());
    if reference == "@last" {
        let id: Option<i64> = sqlx::query_scalar(LAST).fetch_one(pool).await?;
        let id = id.ok_or_else(not_found)?;
        let array: Option<i64> = sqlx::query_scalar(OF_ARRAY).bind(id).fetch_one(pool).await?;
        return Ok(array.map_or_else(|| Found::Job(job_id(id)), |array| Found::Array(job_id(array))));
    }
    if let Some(id) = number(reference) {
        let job: Option<i64> =
            sqlx::query_scalar("SELECT id FROM jobs WHERE id = ?1").bind(id).fetch_optional(pool).await?;
        if let Some(id) = job {
            return Ok(Found::Job(job_id(id)));
        }
        return match arrays::bounds(pool, job_id(id)).await? {
            Some((array, _)) => Ok(Found::Array(job_id(array))),
            None => Err(not_found()),
        };
    }
    if !reference.is_empty() && reference.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(not_found());
    }
    if let Some(member) = member(pool, reference).await? {
        return Ok(Found::Job(member));
    }
    let open: Vec<(i64, bool)> = sqlx::query_as(OPEN_NAMED).bind(reference).fetch_all(pool).await?;
    match open.as_slice() {
        [] => {}
        [one] => return Ok(Found::new(*one)),
        [first, second, ..] => {
            let (first, second) = (job_id(first.0), job_id(second.0));
            return Err(StoreError::Ambiguous { name: reference.to_owned(), first, second });
        }
    }
    let newest: Vec<(i64, bool)> = sqlx::query_as(NEWEST_NAMED).bind(reference).fetch_all(pool).await?;
    newest.into_iter().map(Found::new).max_by_key(Found::id).ok_or_else(not_found)
}

/// The member that `17.3` means, if there is one.
async fn member(pool: &SqlitePool, reference: &str) -> Result<Option<JobId>, StoreError> {
    let Some((array, index)) = reference.split_once('.') else { return Ok(None) };
    let (Some(array), Some(index)) = (number(array), number(index)) else { return Ok(None) };
    let sql = "SELECT id FROM jobs WHERE id = ?1 AND array_id = ?2";
    let found = sqlx::query_scalar(sql).bind(array.saturating_add(index)).bind(array).fetch_optional(pool).await?;
    Ok(found.map(job_id))
}

/// A number of digits alone.
fn number(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) { None } else { text.parse().ok() }
}

pub(super) fn job_id(id: i64) -> JobId {
    JobId(id.unsigned_abs())
}

pub(super) async fn counts(pool: &SqlitePool) -> Result<Vec<(String, u64)>, StoreError> {
    let found = sqlx::query_as::<_, (String, i64)>("SELECT state, sum(jobs) FROM queue_counters GROUP BY state")
        .fetch_all(pool)
        .await?;
    Ok(found.into_iter().map(|(state, jobs)| (state, jobs.unsigned_abs())).collect())
}

pub(super) const IS_OVERDUE: &str =
    "SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND due = 0 AND not_before_us <= ?1)";

/// The first jobs of each class, from the index alone but for a look at the row where each class begins. Jobs of a class are in the same queue, of the same user, need the same, and may run
/// about as long, so that none of them starts before the first. The highest rank and the signs `+` have SQLite seek behind a class: it begins a comparison of several columns at the first equal row, and
/// compares further columns by the index only where the other side has no affinity. The start time is looked at again because a clock may have been set back.
pub(super) const READY: &str = "WITH RECURSIVE classes (at) AS ( \
     SELECT (SELECT id FROM jobs INDEXED BY jobs_ready WHERE state = 'queued' AND due = 1 AND gated = 0 \
             ORDER BY queue, user_id, cpus, gpus, memory_mib, vram_mib, brevity LIMIT 1) \
     UNION ALL \
     SELECT (SELECT next.id FROM jobs AS next INDEXED BY jobs_ready WHERE next.state = 'queued' AND next.due = 1 AND next.gated = 0 \
             AND (next.queue, next.user_id, next.cpus, next.gpus, next.memory_mib, next.vram_mib, next.brevity, next.rank_us) \
                 > (+this.queue, +this.user_id, +this.cpus, +this.gpus, +this.memory_mib, +this.vram_mib, +this.brevity, 9223372036854775807) \
             ORDER BY next.queue, next.user_id, next.cpus, next.gpus, next.memory_mib, next.vram_mib, next.brevity LIMIT 1) \
     FROM classes JOIN jobs AS this ON this.id = classes.at LIMIT ?3 + 0) \
     SELECT job.id, job.kind, job.queue, job.user_id, job.priority, job.rank_us, job.cpus, job.gpus, job.memory_mib, job.vram_mib, job.limit_seconds \
     FROM classes JOIN jobs AS class ON class.id = classes.at JOIN jobs AS job ON job.id IN ( \
         SELECT id FROM jobs INDEXED BY jobs_ready WHERE state = 'queued' AND due = 1 AND gated = 0 \
         AND queue = class.queue AND user_id = class.user_id AND cpus = class.cpus AND gpus = class.gpus \
         AND memory_mib = class.memory_mib AND vram_mib = class.vram_mib AND brevity = class.brevity \
         AND (not_before_us IS NULL OR not_before_us <= ?1) ORDER BY rank_us, id LIMIT ?2 + 0) \
     ORDER BY job.rank_us, job.id";

/// Classes looked at, at most: those behind come when there are fewer.
const MOST_CLASSES: u32 = 16_384;

fn one_ready(row: &SqliteRow) -> Result<Ready, RowError> {
    let fields = Fields::new(row, "jobs", "id")?;
    Ok(Ready {
        id: job_id(fields.id),
        kind: fields.get("kind")?,
        queue: fields.get("queue")?,
        user: Uid(fields.number("user_id")?),
        priority: fields.number("priority")?,
        rank: fields.get("rank_us")?,
        needs: fields.resources()?,
        limit_seconds: fields.maybe_number("limit_seconds")?,
    })
}

/// Of those not yet due, and of those that a clock set back has made undue again.
pub(super) const NEXT_READY: &str = "SELECT min(at) FROM ( \
     SELECT min(not_before_us) AS at FROM jobs WHERE state = 'queued' AND due = 0 AND not_before_us IS NOT NULL \
     UNION ALL \
     SELECT min(not_before_us) FROM jobs WHERE state = 'queued' AND due = 1 AND not_before_us > ?1)";

pub(super) const RUNNING: &str = concat!(
    "SELECT ",
    job_columns!(),
    ", ",
    attempt_columns!(),
    " FROM jobs JOIN attempts ON attempts.token = jobs.token WHERE jobs.state = 'running' ORDER BY jobs.id"
);

pub(super) async fn running(pool: &SqlitePool) -> Result<Vec<(Job, Attempt)>, StoreError> {
    let found = sqlx::query(RUNNING).fetch_all(pool).await?;
    let running = found.iter().map(|row| Ok((rows::job(row)?, rows::attempt(row)?)));
    Ok(running.collect::<Result<_, RowError>>().map_err(Fault::from)?)
}

pub(super) const OCCUPANTS: &str = "SELECT id, queue, user_id, cpus, gpus, memory_mib, vram_mib, gpu_uuids, started_us, limit_seconds FROM jobs WHERE state = 'running' ORDER BY id";

fn occupant(row: &SqliteRow) -> Result<Running, RowError> {
    let fields = Fields::new(row, "jobs", "id")?;
    let limit: Option<i64> = fields.get("limit_seconds")?;
    let started_at = fields.time("started_us")?;
    Ok(Running {
        id: job_id(fields.id),
        queue: fields.get("queue")?,
        user: Uid(fields.number("user_id")?),
        has: fields.resources()?,
        gpus: fields.maybe_json("gpu_uuids")?.unwrap_or_default(),
        ends_by: limit.and_then(|limit| started_at.checked_add(SignedDuration::from_secs(limit)).ok()),
        started_at,
    })
}

pub(super) async fn occupants(pool: &SqlitePool) -> Result<Vec<Running>, StoreError> {
    let found = sqlx::query(OCCUPANTS).fetch_all(pool).await?;
    Ok(found.iter().map(occupant).collect::<Result<_, RowError>>().map_err(Fault::from)?)
}

/// All that the scheduler looks at, in one trip to the connection's thread, which costs as much as the statements do.
static LOOK: LazyLock<String> = LazyLock::new(|| [IS_OVERDUE, OCCUPANTS, READY, NEXT_READY].join(";\n"));

/// What [`LOOK`] finds.
#[derive(Default)]
pub(super) struct Look {
    /// Whether a queued job's time has come without its having been put among the ready ones.
    pub(super) is_overdue: bool,
    pub(super) running: Vec<Running>,
    pub(super) ready: Vec<Ready>,
    pub(super) next_ready_at: Option<Timestamp>,
}

pub(super) async fn look(pool: &SqlitePool, now: Timestamp, limit: u32) -> Result<Look, StoreError> {
    let query = sqlx::query(AssertSqlSafe(LOOK.as_str())).bind(now.as_microsecond()).bind(limit).bind(MOST_CLASSES);
    let (mut look, mut statement) = (Look::default(), 0);
    let mut found = pool.fetch_many(query);
    while let Some(step) = found.try_next().await? {
        match (step, statement) {
            (Either::Left(_), _) => statement += 1,
            (Either::Right(row), 0) => look.is_overdue = row.try_get(0)?,
            (Either::Right(row), 1) => look.running.push(occupant(&row).map_err(Fault::from)?),
            (Either::Right(row), 2) => look.ready.push(one_ready(&row).map_err(Fault::from)?),
            (Either::Right(row), _) => {
                let at: Option<i64> = row.try_get(0)?;
                look.next_ready_at = at.and_then(|at| Timestamp::from_microsecond(at).ok());
            }
        }
    }
    Ok(look)
}

pub(super) const ATTEMPTS: &str =
    concat!("SELECT ", attempt_columns!(), " FROM attempts WHERE job_id = ?1 ORDER BY attempt");

pub(super) async fn attempts(pool: &SqlitePool, id: JobId) -> Result<Vec<Attempt>, StoreError> {
    let found = sqlx::query(ATTEMPTS).bind(integer(id.0)).fetch_all(pool).await?;
    Ok(found.iter().map(rows::attempt).collect::<Result<_, _>>().map_err(Fault::from)?)
}

pub(super) const CHECKPOINTS: &str =
    "SELECT id, attempt, checkpoint FROM checkpoints WHERE job_id = ?1 ORDER BY id DESC";

pub(super) async fn checkpoints(
    pool: &SqlitePool,
    id: JobId,
) -> Result<Vec<(AttemptNumber, CheckpointRef)>, StoreError> {
    let found = sqlx::query(CHECKPOINTS).bind(integer(id.0)).fetch_all(pool).await?;
    let checkpoints = found.iter().map(|row| {
        let fields = Fields::new(row, "checkpoints", "id")?;
        Ok((AttemptNumber(fields.number("attempt")?), fields.json("checkpoint")?))
    });
    Ok(checkpoints.collect::<Result<_, RowError>>().map_err(Fault::from)?)
}

pub(super) const METRICS: &str = "SELECT id, point FROM metrics WHERE job_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3 + 0";

pub(super) async fn metrics(
    pool: &SqlitePool,
    id: JobId,
    after: i64,
    limit: u32,
) -> Result<Vec<(i64, MetricPoint)>, StoreError> {
    let found = sqlx::query(METRICS).bind(integer(id.0)).bind(after).bind(limit).fetch_all(pool).await?;
    let points = found.iter().map(|row| {
        let fields = Fields::new(row, "metrics", "id")?;
        Ok((fields.id, fields.json("point")?))
    });
    Ok(points.collect::<Result<_, RowError>>().map_err(Fault::from)?)
}

pub(super) const EVENTS: &str =
    "SELECT id, at_us, job_id, body FROM events WHERE id > ?1 AND body IS NOT NULL ORDER BY id LIMIT ?2 + 0";
pub(super) const EVENTS_OF_ONE: &str = "SELECT id, at_us, job_id, body FROM events WHERE id > ?1 AND job_id = ?3 AND body IS NOT NULL ORDER BY id LIMIT ?2 + 0";

pub(super) async fn events(
    pool: &SqlitePool,
    job: Option<JobId>,
    after: i64,
    limit: u32,
) -> Result<Vec<StoredEvent>, StoreError> {
    let query = sqlx::query(if job.is_some() { EVENTS_OF_ONE } else { EVENTS }).bind(after).bind(limit);
    let query = match job {
        Some(job) => query.bind(integer(job.0)),
        None => query,
    };
    let found = query.fetch_all(pool).await?;
    Ok(found.iter().map(rows::event).collect::<Result<_, _>>().map_err(Fault::from)?)
}
