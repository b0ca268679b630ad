//! Dependencies as they are kept: the store's surface for them, and what is read about them by the writer and the check. What follows from them is `domain::dependency`'s, and done by the
//! writer in `unit::settle`.

use std::collections::{BTreeMap, BTreeSet};

use mlctl_protocol::JobId;
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    check::{PAGE, Problems},
    error::Fault,
    load::list,
    read::job_id,
    retrain::open_stages,
    rows::{Fields, RowError, integer},
    types::{Awaited, Waiter},
};
use crate::domain::{
    Dependency, Event,
    array::state as state_of_array,
    dependency::{Need, Standing, Verdict, verdict},
};

/// Rows that the answer about a list of jobs has at most.
const MOST: u32 = 20_000;

impl Store {
    /// What these jobs wait for and has not ended, by job, stages of retrainings too; with `all`, whatever they were submitted to wait for. Bounded: of very many the last jobs are left out.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn awaited(&self, jobs: &[JobId], all: bool) -> Result<BTreeMap<JobId, Vec<Awaited>>, StoreError> {
        let ids: BTreeSet<JobId> = jobs.iter().copied().collect();
        let mut awaited: BTreeMap<JobId, Vec<Awaited>> = BTreeMap::new();
        if ids.is_empty() {
            return Ok(awaited);
        }
        let mut snapshot = self.inner.readers.begin().await?;
        let ids = list(&ids);
        let found = sqlx::query(AWAITED).bind(ids).bind(MOST).bind(all).fetch_all(&mut *snapshot).await?;
        let arrays = found.iter().filter_map(|row| {
            let fields = Fields { row, table: "dependencies", id: 0 };
            let is_job = fields.get::<Option<&str>>("state").ok()?.is_some();
            if is_job { None } else { fields.number("on_job").ok().map(JobId) }
        });
        let counts = counts(&mut snapshot, &arrays.collect()).await?;
        snapshot.rollback().await?;
        for row in &found {
            let (job, one) = awaited_of(row, &counts).map_err(Fault::from)?;
            if all || one.is_open {
                awaited.entry(job).or_default().push(one);
            }
        }
        Ok(awaited)
    }

    /// The jobs that were submitted to wait for a job or an array, the oldest first, at most so many; and how many there are.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn waiters(&self, on: JobId, limit: u32) -> Result<(Vec<Waiter>, u64), StoreError> {
        let mut snapshot = self.inner.readers.begin().await?;
        let all: i64 = sqlx::query_scalar(COUNT).bind(integer(on.0)).fetch_one(&mut *snapshot).await?;
        let found = sqlx::query(WAITERS).bind(integer(on.0)).bind(limit).fetch_all(&mut *snapshot).await?;
        snapshot.rollback().await?;
        let waiters = found.iter().map(|row| {
            let fields = Fields::new(row, "dependencies", "job_id")?;
            Ok(Waiter { job: job_id(fields.id), need: need(&fields)?, state: fields.get("state")? })
        });
        Ok((waiters.collect::<Result<_, RowError>>().map_err(Fault::from)?, all.unsigned_abs()))
    }
}

fn awaited_of(row: &SqliteRow, counts: &BTreeMap<JobId, BTreeMap<String, u64>>) -> Result<(JobId, Awaited), RowError> {
    let fields = Fields::new(row, "dependencies", "job_id")?;
    let on = JobId(fields.number("on_job")?);
    let array = counts.get(&on).filter(|counts| !counts.is_empty());
    let state: Option<&str> = fields.get("state")?;
    let state = state.or_else(|| array.map(state_of_array));
    let is_open = match array {
        Some(counts) => matches!(Standing::of_array(on, counts), Standing::Open | Standing::Doomed(_)),
        None => state.is_some_and(|state| Standing::of_job(on, state, None, None) == Standing::Open),
    };
    let one = Awaited {
        on,
        need: need(&fields)?,
        is_array: array.is_some(),
        state: state.map(str::to_owned),
        is_open,
        is_waived: fields.get("waived")?,
    };
    Ok((job_id(fields.id), one))
}

/// What each of these jobs waits for, without what it does not wait for again.
pub(super) async fn of(
    conn: &mut SqliteConnection,
    jobs: &BTreeSet<JobId>,
) -> Result<BTreeMap<JobId, Vec<Dependency>>, Fault> {
    let mut dependencies: BTreeMap<JobId, Vec<Dependency>> = BTreeMap::new();
    if jobs.is_empty() {
        return Ok(dependencies);
    }
    for row in &sqlx::query(OF).bind(list(jobs)).fetch_all(conn).await? {
        let (job, dependency, _) = kept(row)?;
        dependencies.entry(job).or_default().push(dependency);
    }
    Ok(dependencies)
}

fn kept(row: &SqliteRow) -> Result<(JobId, Dependency, bool), RowError> {
    let fields = Fields::new(row, "dependencies", "job_id")?;
    let dependency = Dependency { on: JobId(fields.number("on_job")?), need: need(&fields)? };
    Ok((job_id(fields.id), dependency, fields.get("waived")?))
}

fn need(fields: &Fields<'_>) -> Result<Need, RowError> {
    let word: &str = fields.get("need")?;
    let known = Need::ALL.into_iter().find(|(name, _)| *name == word);
    known.map(|(_, need)| need).ok_or_else(|| fields.error("need", format_args!("unknown need {word:?}")))
}

/// Where these jobs stand, as kept; arrays are not among them.
pub(super) async fn standings(
    conn: &mut SqliteConnection,
    ids: &BTreeSet<JobId>,
) -> Result<BTreeMap<JobId, Standing>, Fault> {
    let mut standings = BTreeMap::new();
    if ids.is_empty() {
        return Ok(standings);
    }
    for row in &sqlx::query(STANDINGS).bind(list(ids)).fetch_all(conn).await? {
        let fields = Fields::new(row, "jobs", "id")?;
        let (id, exit, waits) = (job_id(fields.id), fields.maybe_json("exit")?, fields.maybe_json("waits")?);
        standings.insert(id, Standing::of_job(id, fields.get("state")?, exit.as_ref(), waits.as_ref()));
    }
    Ok(standings)
}

/// How many members of these arrays stand where, as kept. What is no array has no entry.
pub(super) async fn counts(
    conn: &mut SqliteConnection,
    arrays: &BTreeSet<JobId>,
) -> Result<BTreeMap<JobId, BTreeMap<String, u64>>, Fault> {
    let mut counts: BTreeMap<JobId, BTreeMap<String, u64>> = BTreeMap::new();
    if arrays.is_empty() {
        return Ok(counts);
    }
    for row in &sqlx::query(COUNTS).bind(list(arrays)).fetch_all(conn).await? {
        let fields = Fields::new(row, "array_counts", "array_id")?;
        counts.entry(job_id(fields.id)).or_default().insert(fields.get("tally")?, fields.number("jobs")?);
    }
    Ok(counts)
}

/// Which of these are jobs or arrays.
pub(super) async fn known(conn: &mut SqliteConnection, ids: &BTreeSet<JobId>) -> Result<BTreeSet<JobId>, Fault> {
    chosen(conn, KNOWN, ids).await
}

/// For which of these any job waits or has waited.
pub(super) async fn with_waiters(conn: &mut SqliteConnection, ids: &BTreeSet<JobId>) -> Result<BTreeSet<JobId>, Fault> {
    chosen(conn, WITH_WAITERS, ids).await
}

/// For which of these a job waits, or would wait when it is released.
pub(super) async fn needed(conn: &mut SqliteConnection, ids: &BTreeSet<JobId>) -> Result<BTreeSet<JobId>, Fault> {
    chosen(conn, NEEDED, ids).await
}

async fn chosen(
    conn: &mut SqliteConnection,
    sql: &'static str,
    ids: &BTreeSet<JobId>,
) -> Result<BTreeSet<JobId>, Fault> {
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let found: Vec<i64> = sqlx::query_scalar(sql).bind(list(ids)).fetch_all(conn).await?;
    Ok(found.into_iter().map(job_id).collect())
}

/// The first jobs above one of those that are blocked and wait for this.
pub(super) async fn blocked_by(
    conn: &mut SqliteConnection,
    on: JobId,
    after: i64,
    limit: u32,
) -> Result<Vec<JobId>, Fault> {
    let found: Vec<i64> =
        sqlx::query_scalar(BLOCKED_BY).bind(integer(on.0)).bind(after).bind(limit).fetch_all(conn).await?;
    Ok(found.into_iter().map(job_id).collect())
}

/// What jobs wait for by their events: by the other job, how it must end, and whether that was waived.
#[derive(Default)]
pub(super) struct Told(BTreeMap<JobId, BTreeMap<JobId, (Need, bool)>>);

impl Told {
    /// Takes a job's next event.
    pub(super) fn take(&mut self, job: JobId, event: &Event) {
        match event {
            Event::Submitted { after: Some(after), .. } if !after.on.is_empty() => {
                let told = after.on.iter().map(|dependency| (dependency.on, (dependency.need, false)));
                self.0.insert(job, told.collect());
            }
            Event::Waived { on } => {
                let told = self.0.entry(job).or_default();
                for on in on {
                    told.entry(*on).and_modify(|(_, waived)| *waived = true);
                }
            }
            _ => {}
        }
    }

    /// Compares with the rows of jobs above `after` up to `last`.
    pub(super) async fn compare(
        self,
        conn: &mut SqliteConnection,
        after: i64,
        last: i64,
        problems: &mut Problems,
    ) -> Result<(), Fault> {
        let mut there: BTreeMap<JobId, BTreeMap<JobId, (Need, bool)>> = BTreeMap::new();
        for row in &sqlx::query(ROWS).bind(after).bind(last).fetch_all(conn).await? {
            let (job, Dependency { on, need }, waived) = kept(row)?;
            there.entry(job).or_default().insert(on, (need, waived));
        }
        let jobs: BTreeSet<JobId> = self.0.keys().chain(there.keys()).copied().collect();
        let differ = jobs.into_iter().filter(|job| self.0.get(job) != there.get(job));
        problems.extend(
            differ.map(|job| format!("table dependencies: the events of job {job} say that it waits for others")),
        );
        Ok(())
    }
}

/// No job is blocked whose dependencies are all met, or one of which never can be, unless its turn to be settled is to come.
pub(super) async fn check(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    let mut last = 0;
    loop {
        let page: Vec<i64> = sqlx::query_scalar(BLOCKED).bind(last).bind(PAGE).fetch_all(&mut *conn).await?;
        let Some(newest) = page.last() else { return Ok(()) };
        let before = std::mem::replace(&mut last, *newest);
        if last <= before {
            problems.push(super::seals::out_of_order("jobs", last));
            return Ok(());
        }
        let jobs: BTreeSet<JobId> = page.into_iter().map(job_id).collect();
        let dependencies = of(conn, &jobs).await?;
        let on: BTreeSet<JobId> = dependencies.values().flatten().map(|dependency| dependency.on).collect();
        let (jobs_there, arrays) = (standings(conn, &on).await?, counts(conn, &on).await?);
        let standing = |on: JobId| {
            let array = || arrays.get(&on).map(|counts| Standing::of_array(on, counts));
            jobs_there.get(&on).cloned().or_else(array).unwrap_or(Standing::Gone(on))
        };
        let unsettled: BTreeSet<JobId> = chosen(conn, UNSETTLED, &on).await?;
        for job in jobs {
            let waits_for = dependencies.get(&job).map(Vec::as_slice).unwrap_or_default();
            if waits_for.iter().any(|dependency| unsettled.contains(&dependency.on)) {
                continue;
            }
            let standings: Vec<_> = waits_for.iter().map(|one| (*one, standing(one.on))).collect();
            match verdict(standings.iter().map(|(one, standing)| (*one, standing))) {
                Verdict::Waits => {}
                Verdict::Starts => {
                    problems.push(format!("job {job} is blocked, and all that it waits for has come about"));
                }
                Verdict::Never(on, _) => {
                    problems.push(format!("job {job} is blocked, and what it waits for of {on} can never come about"));
                }
            }
        }
    }
}

/// With the state of the other where that is a job: an array's is made of its counts.
pub(super) const AWAITED: &str = concat!(
    "SELECT waits.job_id, waits.on_job, waits.need, waits.waived, other.state \
     FROM jsonb_each(?1) AS wanted CROSS JOIN dependencies AS waits ON waits.job_id = wanted.value ->> 0 \
     LEFT JOIN jobs AS other ON other.id = waits.on_job \
     WHERE ?3 OR (waits.waived = 0 AND other.finished_us IS NULL) \
     UNION ALL ",
    open_stages!(
        "SELECT run.id, stage.id, 'any', 0, stage.state FROM jsonb_each(?1) AS wanted \
         CROSS JOIN jobs AS run ON run.id = wanted.value ->> 0 AND run.kind = 'retrain' CROSS JOIN "
    ),
    " WHERE NOT ?3 LIMIT ?2 + 0"
);
pub(super) const COUNT: &str = "SELECT count(*) FROM dependencies WHERE on_job = ?1";
pub(super) const WAITERS: &str = "SELECT waits.job_id, waits.need, jobs.state FROM dependencies AS waits \
     CROSS JOIN jobs ON jobs.id = waits.job_id WHERE waits.on_job = ?1 ORDER BY waits.job_id LIMIT ?2 + 0";
pub(super) const OF: &str = "SELECT waits.job_id, waits.on_job, waits.need, waits.waived \
     FROM jsonb_each(?1) AS wanted CROSS JOIN dependencies AS waits ON waits.job_id = wanted.value ->> 0 WHERE waits.waived = 0";
pub(super) const STANDINGS: &str =
    "SELECT id, state, exit, waits FROM jobs WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1))";
pub(super) const COUNTS: &str = "SELECT array_id, tally, jobs FROM array_counts \
     WHERE array_id IN (SELECT value ->> 0 FROM jsonb_each(?1)) AND jobs > 0";
pub(super) const KNOWN: &str = "SELECT id FROM jobs WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1)) \
     UNION ALL SELECT id FROM arrays WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1))";
pub(super) const WITH_WAITERS: &str = "SELECT value ->> 0 FROM jsonb_each(?1) AS wanted \
     WHERE EXISTS (SELECT 1 FROM dependencies AS waits WHERE waits.on_job = wanted.value ->> 0)";
pub(super) const NEEDED: &str = "SELECT value ->> 0 FROM jsonb_each(?1) AS wanted WHERE EXISTS ( \
     SELECT 1 FROM dependencies AS waits CROSS JOIN jobs ON jobs.id = waits.job_id \
     WHERE waits.on_job = wanted.value ->> 0 AND waits.waived = 0 AND jobs.waits IS NOT NULL AND jobs.finished_us IS NULL)";
pub(super) const BLOCKED_BY: &str = "SELECT waits.job_id FROM dependencies AS waits CROSS JOIN jobs ON jobs.id = waits.job_id \
     WHERE waits.on_job = ?1 AND waits.job_id > ?2 AND waits.waived = 0 AND jobs.state = 'blocked' ORDER BY waits.job_id LIMIT ?3 + 0";
pub(super) const ROWS: &str =
    "SELECT job_id, on_job, need, waived FROM dependencies WHERE job_id > ?1 AND job_id <= ?2";
/// Members of arrays and others alike; retrainings wait for their stages.
pub(super) const BLOCKED: &str = "SELECT id FROM jobs NOT INDEXED WHERE state = 'blocked' AND kind <> 'retrain' AND id > ?1 ORDER BY id LIMIT ?2 + 0";
pub(super) const UNSETTLED: &str =
    "SELECT on_job FROM unsettled WHERE on_job IN (SELECT value ->> 0 FROM jsonb_each(?1))";
