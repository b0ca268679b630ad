//! Lists of jobs: one indexed walk for each state asked for, merged. Never a scan of what is not shown: where a filter that no index serves must look at jobs that it leaves
//! out, it looks at a bounded number of them, and the list says when that was not all.

use futures_util::TryStreamExt as _;
use sqlx::{SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    StoreError,
    error::Fault,
    read,
    rows::{self, RowError, attempt_columns, job_columns},
    types::{ListFilter, Listed},
};
use crate::domain::JobState;

macro_rules! list {
    ($walked:literal, $order:literal) => {
        concat!(
            "SELECT ",
            job_columns!(),
            ", ",
            attempt_columns!(),
            " FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt WHERE ",
            $walked,
            " AND (?4 IS NULL OR kind = ?4) AND (?5 IS NULL OR user_id = ?5) AND (?6 IS NULL OR queue = ?6) ",
            // To lay these labels over the job's changes nothing: it has them all.
            "AND (?7 IS NULL OR json_patch(labels, ?7) = json(labels)) ORDER BY ",
            $order,
            " LIMIT ?2 + 0"
        )
    };
}

/// One walk, of the members of arrays (1) or of all other jobs (0).
pub(super) const BY_STATE: &str = list!("state = ?1 AND (array_id IS NOT NULL) = ?8 AND jobs.id > ?3", "jobs.id DESC");

/// The state is one in which jobs have ended, or `finished` for all of these.
pub(super) const LAST_FINISHED: &str =
    list!("finished_us > ?3 AND (?1 = 'finished' OR state = ?1)", "finished_us DESC, jobs.id DESC");

/// The same without members of arrays.
pub(super) const LAST_FINISHED_ALONE: &str = list!(
    "finished_us > ?3 AND array_id IS NULL AND (?1 = 'finished' OR state = ?1)",
    "finished_us DESC, jobs.id DESC"
);

/// The first of those that are too many, in the order of the walk.
pub(super) const BOUND_BY_STATE: &str = "SELECT id FROM jobs WHERE state = ?1 AND (array_id IS NOT NULL) = ?4 AND id > ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3";
pub(super) const BOUND_FINISHED: &str =
    "SELECT finished_us FROM jobs WHERE finished_us > ?2 ORDER BY finished_us DESC LIMIT 1 OFFSET ?3";
pub(super) const BOUND_FINISHED_ALONE: &str = "SELECT finished_us FROM jobs WHERE finished_us > ?2 AND array_id IS NULL ORDER BY finished_us DESC LIMIT 1 OFFSET ?3";

const FINISHED: &str = "finished";

/// Jobs, newest first.
pub(super) async fn list(pool: &SqlitePool, filter: &ListFilter) -> Result<Listed, StoreError> {
    // One moment for all the statements.
    let mut snapshot = pool.begin().await?;
    let finished = filter.finished.min(filter.limit);
    let mut walks: Vec<(&str, u32)> = filter.states.iter().map(|state| (state.as_str(), filter.limit)).collect();
    if walks.is_empty() {
        walks.extend(JobState::UNFINISHED.map(|state| (state, filter.limit)));
        walks.push((FINISHED, finished));
    }
    let (mut found, mut is_partial) = (Vec::new(), false);
    let both = walks.iter().filter(|(state, _)| filter.members && !is_by_end(state, filter));
    let members: Vec<_> = both.map(|(state, limit)| (*state, *limit, true)).collect();
    let walks = walks.into_iter().map(|(state, limit)| (state, limit, false)).chain(members);
    for (state, limit, members) in walks {
        let (rows, is_bounded) = walk(&mut snapshot, (state, members), filter, limit).await?;
        is_partial |= is_bounded && rows.len() < usize::try_from(limit).unwrap_or(usize::MAX);
        found.extend(rows);
    }
    snapshot.rollback().await?;
    let mut jobs = found.iter().map(read::detail).collect::<Result<Vec<_>, RowError>>().map_err(Fault::from)?;
    jobs.sort_by_key(|detail| std::cmp::Reverse(detail.job.id));
    jobs.dedup_by_key(|detail| detail.job.id);
    jobs.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
    Ok(Listed { jobs, is_partial })
}

/// The jobs of one state, or all that have ended, and whether there were more of them than are looked at.
async fn walk(
    conn: &mut SqliteConnection,
    (state, members): (&str, bool),
    filter: &ListFilter,
    limit: u32,
) -> Result<(Vec<SqliteRow>, bool), StoreError> {
    let since = filter.since.filter(|_| !JobState::UNFINISHED.contains(&state));
    let by_end = is_by_end(state, filter);
    let (sql, bound) = match (by_end, filter.members) {
        (false, _) => (BY_STATE, BOUND_BY_STATE),
        (true, true) => (LAST_FINISHED, BOUND_FINISHED),
        (true, false) => (LAST_FINISHED_ALONE, BOUND_FINISHED_ALONE),
    };
    // Exclusive, where the moment asked for is part of what is asked for.
    let mut above = since.map_or(i64::MIN, |since| since.as_microsecond().saturating_sub(1));
    let sifts = filter.sifts() || (by_end && state != FINISHED);
    let mut is_bounded = false;
    if let Some(most) = filter.look_at.filter(|_| sifts) {
        let first: Option<i64> = sqlx::query_scalar(bound)
            .bind(state)
            .bind(above)
            .bind(most)
            .bind(members)
            .fetch_optional(&mut *conn)
            .await?;
        is_bounded = first.is_some();
        above = first.unwrap_or(above);
    }
    let labels = if filter.labels.is_empty() { None } else { Some(&filter.labels) };
    let labels = labels.map(serde_json::to_string).transpose().map_err(Fault::from)?;
    // What a sift leaves out does not count.
    let most = if filter.sift.is_some() { -1 } else { i64::from(limit) };
    let query = sqlx::query(sql).bind(state).bind(most).bind(above).bind(filter.kind.as_deref());
    let query = query.bind(filter.user.map(|user| user.0)).bind(filter.queue.as_deref()).bind(labels).bind(members);
    let Some(sift) = &filter.sift else { return Ok((query.fetch_all(conn).await?, is_bounded)) };
    let (mut rows, mut found) = (query.fetch(conn), Vec::new());
    while found.len() < usize::try_from(limit).unwrap_or(usize::MAX)
        && let Some(row) = rows.try_next().await?
    {
        if sift.fits(&rows::job(&row).map_err(Fault::from)?) {
            found.push(row);
        }
    }
    Ok((found, is_bounded))
}

/// Whether jobs of a state are walked by when they ended; members of arrays stand among the others then.
fn is_by_end(state: &str, filter: &ListFilter) -> bool {
    state == FINISHED || (filter.since.is_some() && !JobState::UNFINISHED.contains(&state))
}
