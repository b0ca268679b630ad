//! Lists of jobs: one indexed walk for each state asked for, merged. Never a scan of what is not shown.

use sqlx::{SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    StoreError,
    error::Fault,
    read,
    rows::{RowError, attempt_columns, job_columns},
    types::{JobDetail, ListFilter},
};

macro_rules! list {
    ($conditions:literal) => {
        concat!(
            "SELECT ",
            job_columns!(),
            ", ",
            attempt_columns!(),
            " FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt ",
            "WHERE ",
            $conditions,
            " LIMIT ?4"
        )
    };
}

pub(super) const BY_STATE: &str =
    list!("state = ?1 AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR user_id = ?3) ORDER BY jobs.id DESC");

pub(super) const LAST_FINISHED: &str = list!(
    "finished_us IS NOT NULL AND ?1 = 'finished' AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR user_id = ?3) \
     ORDER BY finished_us DESC, jobs.id DESC"
);

/// Jobs, newest first.
pub(super) async fn list(pool: &SqlitePool, filter: &ListFilter) -> Result<Vec<JobDetail>, StoreError> {
    // One moment for all the statements.
    let mut snapshot = pool.begin().await?;
    let mut found = Vec::new();
    if filter.states.is_empty() {
        for state in ["running", "queued", "held"] {
            found.extend(walk(&mut snapshot, BY_STATE, state, filter, filter.limit).await?);
        }
        let finished = filter.finished.min(filter.limit);
        found.extend(walk(&mut snapshot, LAST_FINISHED, "finished", filter, finished).await?);
    }
    for state in &filter.states {
        found.extend(walk(&mut snapshot, BY_STATE, state, filter, filter.limit).await?);
    }
    snapshot.rollback().await?;
    let mut jobs = found.iter().map(read::detail).collect::<Result<Vec<_>, RowError>>().map_err(Fault::from)?;
    jobs.sort_by_key(|detail| std::cmp::Reverse(detail.job.id));
    jobs.dedup_by_key(|detail| detail.job.id);
    jobs.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
    Ok(jobs)
}

async fn walk(
    conn: &mut SqliteConnection,
    sql: &'static str,
    state: &str,
    filter: &ListFilter,
    limit: u32,
) -> Result<Vec<SqliteRow>, StoreError> {
    let query =
        sqlx::query(sql).bind(state).bind(filter.kind.as_deref()).bind(filter.user.map(|user| user.0)).bind(limit);
    Ok(query.fetch_all(conn).await?)
}
