//! Removal of finished jobs, and what becomes of the log. A job's rows are deleted and the bodies of its events erased in one transaction; the `removed` event that says so stays. What stands at
//! the beginning of the log then, of removed jobs alone, is cut off in pieces behind a recorded head. Called by `unit` and `flush`; objects and files are the supervisor's business.
//!
//! The file does not shrink: SQLite uses the pages again.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::{Row as _, SqliteConnection};
use tracing::warn;

use super::{
    Store, StoreError,
    ask::Ask,
    chain::Hash,
    error::Fault,
    flush::{sweep, write},
    kept::is_held_by_others,
    ledger::Ledger,
    load,
    rows::{Fields, RowError, Rows},
    types::Finished,
};
use crate::domain::{Job, Uid, causes};

/// Jobs that one transaction removes at most, so that nobody waits long behind it.
pub(super) const GROUP: usize = 100;

/// Events that one transaction cuts off at most.
const PIECE: i64 = 2_000;

impl Store {
    /// Removes jobs that have ended, each wholly or not at all; members of arrays only with `with_array`, which removes an array that has none left. Answers for each of them as it was, or why it
    /// stays. An id is never used again.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: those before it are removed.
    pub async fn remove(
        &self,
        jobs: &[JobId],
        by: Uid,
        with_array: bool,
    ) -> Result<Vec<Result<Job, StoreError>>, StoreError> {
        self.remove_with(jobs, by, with_array, false).await
    }

    /// The same. `with_objects`: models and predictions will be deleted too, so that a job stays whose model another one begins with.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub async fn remove_with(
        &self,
        jobs: &[JobId],
        by: Uid,
        with_array: bool,
        with_objects: bool,
    ) -> Result<Vec<Result<Job, StoreError>>, StoreError> {
        let mut answers = Vec::with_capacity(jobs.len());
        for group in jobs.chunks(GROUP) {
            let jobs = group.to_vec();
            answers.extend(self.ask(|reply| Ask::Remove { jobs, by, with_array, with_objects, reply }).await?);
        }
        if let Err(error) = self.prune().await {
            warn!(error = causes(&error), "the log's beginning cannot be cut off yet; nothing is lost");
        }
        Ok(answers)
    }

    /// Cuts off what the log begins with and nobody needs any more, in pieces.
    async fn prune(&self) -> Result<(), StoreError> {
        while sqlx::query_scalar(IS_PRUNABLE).fetch_optional(&self.inner.readers).await? == Some(true) {
            let jobs = Vec::new();
            let (by, with_array, with_objects) = (Uid::SYSTEM, false, false);
            drop(self.ask(|reply| Ask::Remove { jobs, by, with_array, with_objects, reply }).await?);
        }
        Ok(())
    }

    /// Finished jobs and arrays, each of which counts as one with all its members: the oldest, with the moment at which each ended, and how many there are.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn oldest_finished(&self, limit: u32) -> Result<(Vec<(Finished, Timestamp)>, u64), StoreError> {
        let mut snapshot = self.inner.readers.begin().await?;
        let jobs = sqlx::query(OLDEST).bind(limit).fetch_all(&mut *snapshot).await?;
        let arrays = sqlx::query(OLDEST_ARRAYS).bind(limit).fetch_all(&mut *snapshot).await?;
        let all: i64 = sqlx::query_scalar(FINISHED).fetch_one(&mut *snapshot).await?;
        snapshot.rollback().await?;
        let jobs = jobs.iter().map(|row| {
            let fields = Fields::new(row, "jobs", "id")?;
            Ok((Finished::Job(JobId(fields.number("id")?)), fields.time("finished_us")?))
        });
        let arrays = arrays.iter().map(|row| {
            let fields = Fields::new(row, "arrays", "id")?;
            Ok((Finished::Array(JobId(fields.number("id")?)), fields.time("ended_us")?))
        });
        let mut oldest = jobs.chain(arrays).collect::<Result<Vec<_>, RowError>>().map_err(Fault::from)?;
        oldest.sort_by_key(|(_, at)| *at);
        oldest.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok((oldest, all.unsigned_abs()))
    }

    /// The ids of an array's members that are there, the last first: the first of them bears the array's idempotency key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn member_ids(&self, array: JobId) -> Result<Vec<JobId>, StoreError> {
        let bounds = super::arrays::bounds(&self.inner.readers, array).await?;
        let (first, last) = bounds.ok_or_else(|| StoreError::NotFound(array.to_string()))?;
        let ids: Vec<i64> = sqlx::query_scalar(MEMBERS).bind(first).bind(last).fetch_all(&self.inner.readers).await?;
        Ok(ids.into_iter().map(|id| JobId(id.unsigned_abs())).collect())
    }
}

/// The jobs that a group of commands removes.
#[derive(Default)]
pub(super) struct Removals {
    is_asked: bool,
    ids: BTreeSet<JobId>,
    arrays: BTreeSet<JobId>,
    /// Each with its last event.
    events: Rows,
}

impl Removals {
    /// The log may have become shorter, if nothing else.
    pub(super) const fn ask(&mut self) {
        self.is_asked = true;
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_asked && self.ids.is_empty() && self.arrays.is_empty()
    }

    /// A job whose last event, which says that it is removed, is this one.
    pub(super) fn add(&mut self, job: &Job, event: i64) {
        self.ids.insert(job.id);
        self.arrays.extend(job.array.as_ref().map(|array| array.id));
        self.events.push(&[job.id.into(), event.into()]);
    }

    /// Deletes and erases, after everything else of the group is written. Returns how many rows that changed.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, ledger: &mut Ledger) -> Result<u64, Fault> {
        let mut changed = 0;
        if !self.ids.is_empty() {
            let ids = load::list(&self.ids);
            let token: Option<i64> = sqlx::query_scalar(LAST_TOKEN).bind(&ids).fetch_one(&mut *conn).await?;
            ledger.removed_token = ledger.removed_token.max(token.unwrap_or(0));
            changed += sweep(conn, ERASE, self.events).await?;
            for sql in ROWS {
                changed += sqlx::query(sql).bind(&ids).execute(&mut *conn).await?.rows_affected();
            }
            let mut jobs = Rows::default();
            self.ids.iter().for_each(|id| jobs.push(&[(*id).into()]));
            changed += write(conn, "removed jobs", JOBS, jobs).await?;
        }
        if !self.arrays.is_empty() {
            let arrays = load::list(&self.arrays);
            let empty: Vec<i64> = sqlx::query_scalar(EMPTY).bind(arrays).fetch_all(&mut *conn).await?;
            let empty: BTreeSet<JobId> = empty.into_iter().map(|id| JobId(id.unsigned_abs())).collect();
            let ids = load::list(&empty);
            for sql in ARRAYS {
                changed += sqlx::query(sql).bind(&ids).execute(&mut *conn).await?.rows_affected();
            }
        }
        if self.is_asked {
            changed += cut(conn, ledger).await?;
        }
        Ok(changed)
    }
}

/// Cuts a piece off the beginning of the log: events of removed jobs alone, and never the newest. Returns how many.
async fn cut(conn: &mut SqliteConnection, ledger: &mut Ledger) -> Result<u64, Fault> {
    let piece = sqlx::query(BEGINNING).bind(ledger.pruned_event).bind(ledger.last_event).bind(PIECE);
    let mut head = None;
    for row in &piece.fetch_all(&mut *conn).await? {
        if !row.try_get::<bool, _>("is_gone")? {
            break;
        }
        let fields = Fields::new(row, "events", "id")?;
        let hash: &[u8] = fields.get("hash")?;
        let hash: Hash = hash.try_into().map_err(|error| fields.error("hash", error))?;
        ledger.pruned_job = ledger.pruned_job.max(fields.get("job_id")?);
        head = Some((fields.id, hash));
    }
    let Some((event, hash)) = head else { return Ok(0) };
    (ledger.pruned_event, ledger.pruned_hash) = (event, Some(hash));
    Ok(sqlx::query(CUT).bind(event).execute(conn).await?.rows_affected())
}

pub(super) const LAST_TOKEN: &str =
    "SELECT max(token) FROM attempts WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1))";

pub(super) const ERASE: &str = "
UPDATE events SET body = NULL FROM jsonb_each(?1) AS gone
WHERE events.job_id = gone.value ->> 0 AND events.id < gone.value ->> 1";

/// What refers to a job. Its ticks stay.
pub(super) const ROWS: [&str; 6] = [
    "DELETE FROM dependencies WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
    "DELETE FROM job_specs WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
    "DELETE FROM idempotency WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
    "DELETE FROM attempts WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
    "DELETE FROM checkpoints WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
    "DELETE FROM metrics WHERE job_id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
];

pub(super) const JOBS: &str =
    "DELETE FROM jobs WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1)) AND finished_us IS NOT NULL";

/// Those of these arrays that have no member any more.
pub(super) const EMPTY: &str = "SELECT id FROM arrays WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1)) \
     AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id > arrays.id AND jobs.id <= arrays.id + arrays.size)";

pub(super) const ARRAYS: [&str; 3] = [
    "DELETE FROM rungs WHERE array_id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
    "DELETE FROM array_counts WHERE array_id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
    "DELETE FROM arrays WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1))",
];

macro_rules! is_gone {
    () => {
        "(body IS NULL OR body LIKE '{\"event\":\"removed\"%') AS is_gone"
    };
}

pub(super) const BEGINNING: &str =
    concat!("SELECT id, job_id, hash, ", is_gone!(), " FROM events WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3 + 0");

pub(super) const IS_PRUNABLE: &str = concat!(
    "SELECT ",
    is_gone!(),
    " FROM events WHERE id > (SELECT pruned_event_id FROM instance) AND id < (SELECT last_event_id FROM instance) \
     ORDER BY id LIMIT 1"
);

pub(super) const CUT: &str = "DELETE FROM events WHERE id <= ?1";

/// Without those that a job waits for which has not ended, or of which a checkpoint is what one begins with, or a schedule, or a version of a model.
pub(super) const OLDEST: &str = concat!(
    "SELECT id, finished_us FROM jobs WHERE finished_us IS NOT NULL AND array_id IS NULL AND NOT EXISTS ( \
     SELECT 1 FROM dependencies AS waits CROSS JOIN jobs AS waiter ON waiter.id = waits.job_id \
     WHERE waits.on_job = jobs.id AND waits.waived = 0 AND waiter.waits IS NOT NULL AND waiter.finished_us IS NULL) AND NOT ",
    is_held_by_others!("this.job_id = jobs.id", "version.job_id = jobs.id"),
    " ORDER BY finished_us LIMIT ?1 + 0"
);

/// The same of arrays, with none of whose members a job waits that has not ended.
pub(super) const OLDEST_ARRAYS: &str = concat!(
    "SELECT id, ended_us FROM arrays WHERE ended_us IS NOT NULL AND NOT EXISTS ( \
     SELECT 1 FROM dependencies AS waits CROSS JOIN jobs AS waiter ON waiter.id = waits.job_id \
     WHERE waits.on_job >= arrays.id AND waits.on_job <= arrays.id + arrays.size \
     AND waits.waived = 0 AND waiter.waits IS NOT NULL AND waiter.finished_us IS NULL) AND NOT ",
    is_held_by_others!(
        "this.job_id > arrays.id AND this.job_id <= arrays.id + arrays.size",
        "version.job_id > arrays.id AND version.job_id <= arrays.id + arrays.size"
    ),
    " ORDER BY ended_us LIMIT ?1 + 0"
);

/// From the counts, which are a few rows for each array.
pub(super) const FINISHED: &str = "SELECT (SELECT coalesce(sum(jobs), 0) FROM queue_counters WHERE state IN ('succeeded', 'failed', 'cancelled')) \
     - (SELECT coalesce(sum(jobs), 0) FROM array_counts WHERE tally IN ('succeeded', 'failed', 'cancelled', 'stopped') AND jobs > 0) \
     + (SELECT count(*) FROM arrays WHERE ended_us IS NOT NULL)";

pub(super) const MEMBERS: &str = "SELECT id FROM jobs WHERE id > ?1 AND id <= ?2 ORDER BY id DESC";
