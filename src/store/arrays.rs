//! The store's surface for arrays, and what is read about them. An array and its members are kept in one transaction; members are jobs like any other from then on.

use std::collections::BTreeMap;

use mlctl_protocol::JobId;
use sqlx::{SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    ask::Ask,
    error::Fault,
    members::PreparedArray,
    read,
    rows::{Fields, RowError, attempt_columns, integer, job_columns},
    types::{Array, ArrayFilter, JobDetail, MemberFilter, NewArray, Submitted},
};
use crate::domain::{Command, Job, Uid, array::Goal};

/// Members that one transaction changes at most, so that nobody waits long behind it.
const GROUP: usize = 500;

impl Store {
    /// Keeps an array with all its members, or nothing of it. The id in the answer is the array's.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`], [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn submit_array(&self, new: NewArray) -> Result<Submitted, StoreError> {
        // A long list takes its time to be made ready: others are not kept waiting by it.
        let prepared = tokio::task::spawn_blocking(move || PreparedArray::new(new)).await;
        let array = Box::new(prepared.map_err(|_| StoreError::Stopping)??);
        self.ask(|reply| Ask::SubmitArray { array, reply }).await
    }

    /// The array that an idempotency key of a user stands for, if it was `asked` for the same.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`], [`StoreError::Failed`].
    pub async fn keyed_array(&self, user: Uid, key: &str, asked: &blake3::Hash) -> Result<Option<JobId>, StoreError> {
        // The key is kept with the first member.
        Ok(self.keyed(user, key, asked).await?.map(|first| JobId(first.0.saturating_sub(1))))
    }

    /// An array by id, unique name or `@last`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], [`StoreError::NoArray`] for a job that is none.
    pub async fn find_array(&self, reference: &str) -> Result<JobId, StoreError> {
        match read::find(&self.inner.readers, reference).await? {
            read::Found::Array(id) => Ok(id),
            read::Found::Job(job) => Err(StoreError::NoArray { job }),
        }
    }

    /// An array and where its members stand.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn array(&self, id: JobId) -> Result<Array, StoreError> {
        let mut snapshot = self.inner.readers.begin().await?;
        let row = sqlx::query(ONE).bind(integer(id.0)).fetch_optional(&mut *snapshot).await?;
        let row = row.ok_or_else(|| StoreError::NotFound(id.to_string()))?;
        let found = whole(&mut snapshot, &row).await?;
        snapshot.rollback().await?;
        Ok(found)
    }

    /// Arrays that have members in one of these states, and the last of those that have ended, newest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn arrays(&self, filter: &ArrayFilter) -> Result<Vec<Array>, StoreError> {
        let mut snapshot = self.inner.readers.begin().await?;
        let mut ids: Vec<i64> = Vec::new();
        for state in &filter.states {
            ids.extend(
                sqlx::query_scalar::<_, i64>(WITH_TALLY)
                    .bind(state)
                    .bind(filter.limit)
                    .fetch_all(&mut *snapshot)
                    .await?,
            );
        }
        ids.extend(sqlx::query_scalar::<_, i64>(ENDED).bind(filter.ended).fetch_all(&mut *snapshot).await?);
        ids.sort_unstable_by_key(|id| std::cmp::Reverse(*id));
        ids.dedup();
        let mut arrays = Vec::new();
        for id in ids {
            let Some(row) = sqlx::query(ONE).bind(id).fetch_optional(&mut *snapshot).await? else { continue };
            arrays.push(whole(&mut snapshot, &row).await?);
        }
        snapshot.rollback().await?;
        Ok(arrays)
    }

    /// Members of an array, by index.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn members(&self, array: JobId, filter: &MemberFilter) -> Result<Vec<JobDetail>, StoreError> {
        let (first, last) = self.bounds(array).await?;
        let states = (!filter.states.is_empty()).then(|| serde_json::to_string(&filter.states)).transpose();
        let states = states.map_err(Fault::from)?;
        let found = sqlx::query(MEMBERS).bind(first).bind(last).bind(states).bind(filter.limit);
        let found = found.fetch_all(&self.inner.readers).await?;
        Ok(found.iter().map(read::detail).collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }

    /// The members whose last value of a metric is best, the best first, each with that value; those that have none are left out.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn best_members(
        &self,
        array: JobId,
        metric: &str,
        goal: Goal,
        limit: u32,
    ) -> Result<Vec<(JobDetail, f64)>, StoreError> {
        let (first, last) = self.bounds(array).await?;
        let sql = match goal {
            Goal::Min => LEAST,
            Goal::Max => GREATEST,
        };
        let found = sqlx::query(sql).bind(first).bind(last).bind(metric).bind(limit);
        let found = found.fetch_all(&self.inner.readers).await?;
        let best = found.iter().map(|row| {
            let value = Fields { row, table: "attempts", id: 0 }.get("value")?;
            Ok((read::detail(row)?, value))
        });
        Ok(best.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }

    /// Carries out a command on each member that stands there (`domain::array::tally`), through `domain::state`, in transactions of a bounded size: those that wait first, so that none of them starts
    /// in the meantime. An edit holds for the array's row too. Returns the members that took it, and of how many it changed something; one that has moved on since, and can no longer take it, is left as it is.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn command_members(
        &self,
        array: JobId,
        states: &[&str],
        command: &Command,
    ) -> Result<(Vec<Job>, u64), StoreError> {
        let (first, last) = self.bounds(array).await?;
        let states = serde_json::to_string(states).map_err(Fault::from)?;
        let ids: Vec<i64> =
            sqlx::query_scalar(IDS).bind(first).bind(last).bind(states).fetch_all(&self.inner.readers).await?;
        let (mut taken, mut changed) = (Vec::new(), 0_u64);
        for group in ids.chunks(GROUP) {
            let jobs = group.iter().map(|id| JobId(id.unsigned_abs())).collect();
            let command = Box::new(command.clone());
            for (job, is_changed) in self.ask(|reply| Ask::Many { jobs, command, array, reply }).await? {
                changed += u64::from(is_changed);
                taken.push(job);
            }
        }
        Ok((taken, changed))
    }

    /// The ids of an array's members: above the first, up to the last.
    async fn bounds(&self, array: JobId) -> Result<(i64, i64), StoreError> {
        bounds(&self.inner.readers, array).await?.ok_or_else(|| StoreError::NotFound(array.to_string()))
    }
}

/// The ids of an array's members, if there is such an array: above the first, up to the last.
pub(super) async fn bounds(pool: &SqlitePool, array: JobId) -> Result<Option<(i64, i64)>, StoreError> {
    let id = integer(array.0);
    let size: Option<i64> = sqlx::query_scalar(SIZE).bind(id).fetch_optional(pool).await?;
    Ok(size.map(|size| (id, id.saturating_add(size))))
}

async fn whole(conn: &mut SqliteConnection, row: &SqliteRow) -> Result<Array, StoreError> {
    let mut array = array(row).map_err(Fault::from)?;
    let id = integer(array.id.0);
    let counts = sqlx::query_as::<_, (String, i64)>(COUNTS).bind(id).fetch_all(&mut *conn).await?;
    array.counts = counts.into_iter().map(|(tally, jobs)| (tally, jobs.unsigned_abs())).collect();
    // All members are looked at, which is not worth it while none is held.
    if array.counts.contains_key("held") {
        let last = id.saturating_add(array.size.into());
        let quarantined = sqlx::query_scalar::<_, i64>(QUARANTINED).bind(id).bind(last).bind(Uid::SYSTEM.0);
        array.quarantined = quarantined.fetch_one(conn).await?.unsigned_abs();
    }
    Ok(array)
}

/// An array without its counts.
fn array(row: &SqliteRow) -> Result<Array, RowError> {
    let fields = Fields::new(row, "arrays", "id")?;
    Ok(Array {
        id: JobId(fields.id.unsigned_abs()),
        name: fields.get("name")?,
        kind: fields.get("kind")?,
        user: Uid(fields.number("user_id")?),
        queue: fields.get("queue")?,
        priority: fields.number("priority")?,
        labels: fields.json("labels")?,
        size: fields.number("size")?,
        design: fields.json("design")?,
        submitted_at: fields.time("submitted_us")?,
        counts: BTreeMap::new(),
        quarantined: 0,
    })
}

pub(super) const ONE: &str =
    "SELECT id, name, kind, user_id, queue, priority, labels, size, design, submitted_us FROM arrays WHERE id = ?1";
pub(super) const SIZE: &str = "SELECT size FROM arrays WHERE id = ?1";
pub(super) const COUNTS: &str = "SELECT tally, jobs FROM array_counts WHERE array_id = ?1 AND jobs > 0";
pub(super) const WITH_TALLY: &str =
    "SELECT array_id FROM array_counts WHERE tally = ?1 AND jobs > 0 ORDER BY array_id DESC LIMIT ?2 + 0";

pub(super) const QUARANTINED: &str =
    "SELECT count(*) FROM jobs NOT INDEXED WHERE id > ?1 AND id <= ?2 AND state = 'held' AND hold ->> 'by' = ?3";

/// By the order of their submits: those that have not ended, which are few, are walked by.
pub(super) const ENDED: &str = "SELECT id FROM arrays WHERE NOT EXISTS ( \
     SELECT 1 FROM array_counts WHERE array_id = arrays.id AND jobs > 0 AND tally NOT IN ('succeeded', 'failed', 'cancelled', 'stopped')) \
     ORDER BY id DESC LIMIT ?1 + 0";

macro_rules! members {
    ($more:literal, $rest:literal) => {
        concat!(
            "SELECT ",
            $more,
            job_columns!(),
            ", ",
            attempt_columns!(),
            " FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt \
              WHERE jobs.id > ?1 AND jobs.id <= ?2 AND ",
            $rest
        )
    };
}

pub(super) const MEMBERS: &str =
    members!("", "(?3 IS NULL OR jobs.state IN (SELECT value FROM json_each(?3))) ORDER BY jobs.id LIMIT ?4 + 0");
pub(super) const LEAST: &str = members!(
    "attempts.metrics ->> ?3 AS value, ",
    "typeof(attempts.metrics ->> ?3) IN ('real', 'integer') ORDER BY attempts.metrics ->> ?3, jobs.id LIMIT ?4 + 0"
);
pub(super) const GREATEST: &str = members!(
    "attempts.metrics ->> ?3 AS value, ",
    "typeof(attempts.metrics ->> ?3) IN ('real', 'integer') ORDER BY attempts.metrics ->> ?3 DESC, jobs.id LIMIT ?4 + 0"
);
pub(super) const IDS: &str = "SELECT id FROM jobs NOT INDEXED WHERE id > ?1 AND id <= ?2 \
     AND iif(stopped_early IS NOT NULL AND state = 'cancelled', 'stopped', state) IN (SELECT value FROM json_each(?3)) \
     ORDER BY state = 'running', id DESC";
