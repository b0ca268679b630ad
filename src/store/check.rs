//! The full check: every event against the hash chain, every row against its replayed events, counters and references, and SQLite's own integrity check. Reads only,
//! in one snapshot, with bounded memory; says what is wrong, and repairs nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt as _;
use mlctl_protocol::JobId;
use sqlx::{ConnectOptions as _, Row, SqliteConnection, SqlitePool, sqlite::SqliteConnectOptions};
use tokio::sync::OnceCell;

use super::{
    StoreError, chain, dependencies,
    error::Fault,
    gates,
    ledger::Ledger,
    open::MIGRATIONS,
    rows::{self, Fields, RowError, job_columns},
    seals::{self, out_of_order},
    types::StoredEvent,
};
use crate::domain::{Event, Job, state};

/// Rows read at a time.
pub(super) const PAGE: i64 = 500;

/// Problems listed at most: a damaged page can hold thousands.
pub(super) const MOST: usize = 100;

pub(super) type Problems = Vec<String>;

/// Everything that is wrong; empty when all is well.
pub(super) async fn check(pool: &SqlitePool) -> Result<Vec<String>, StoreError> {
    let mut snapshot = pool.begin().await?;
    let problems = all(&mut snapshot).await;
    // A damaged file may not even let go of the snapshot; the connection ends it then.
    let _ = snapshot.rollback().await;
    Ok(problems)
}

/// The same, of what a connection sees.
pub(super) async fn all(conn: &mut SqliteConnection) -> Problems {
    let mut problems = pages(conn).await;
    let done = schema(conn, &mut problems).await;
    note(&mut problems, "the schema", done);
    let done = log(conn, &mut problems).await;
    note(&mut problems, "table events", done);
    let done = jobs(conn, &mut problems).await;
    note(&mut problems, "table jobs", done);
    let done = counts(conn, &mut problems).await;
    note(&mut problems, "table queue_counters", done);
    let done = arrays(conn, &mut problems).await;
    note(&mut problems, "table array_counts", done);
    let done = gates(conn, &mut problems).await;
    note(&mut problems, "the gates of table jobs", done);
    let done = dependencies::check(conn, &mut problems).await;
    note(&mut problems, "table dependencies", done);
    let done = attempts(conn, &mut problems).await;
    note(&mut problems, "table attempts", done);
    for sealed in &seals::TABLES {
        let done = sealed.check(conn, &mut problems).await;
        note(&mut problems, sealed.table, done);
    }
    problems.truncate(MOST);
    problems
}

/// Tables and indexes by name, with the statement that makes each.
type Schema = BTreeMap<String, String>;

/// The schema, letter by letter, against the one that this program makes: a damaged word of it may still be SQL.
async fn schema(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    static MADE: OnceCell<Schema> = OnceCell::const_new();
    let made = async {
        let mut conn = SqliteConnectOptions::new().in_memory(true).connect().await?;
        for migration in MIGRATIONS {
            sqlx::raw_sql(*migration).execute(&mut conn).await?;
        }
        parts(&mut conn).await
    };
    let made = MADE.get_or_try_init(|| made).await?;
    let found = parts(conn).await?;
    let names: BTreeSet<&String> = made.keys().chain(found.keys()).collect();
    let differ = names.into_iter().filter(|name| made.get(*name) != found.get(*name));
    problems.extend(differ.map(|name| format!("the schema's {name} is not as this program makes it")));
    Ok(())
}

async fn parts(conn: &mut SqliteConnection) -> Result<Schema, sqlx::Error> {
    let sql = "SELECT type || ' ' || name || ' on ' || tbl_name, coalesce(sql, '') FROM sqlite_schema \
               WHERE name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'";
    Ok(sqlx::query_as::<_, (String, String)>(sql).fetch_all(conn).await?.into_iter().collect())
}

/// What SQLite itself finds wrong.
pub(super) async fn pages(conn: &mut SqliteConnection) -> Problems {
    let mut problems = Problems::new();
    // What cannot be read is a find, and keeps nobody from looking at the rest.
    let done = integrity(conn, &mut problems).await;
    note(&mut problems, "the file", done);
    problems
}

fn note(problems: &mut Problems, what: &str, done: Result<(), Fault>) {
    if let Err(fault) = done {
        problems.push(format!("{what} cannot be read to the end: {fault}"));
    }
}

async fn integrity(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(100)").fetch_all(&mut *conn).await?;
    problems.extend(found.into_iter().filter(|line| line != "ok"));
    for row in sqlx::query("PRAGMA foreign_key_check").fetch_all(conn).await? {
        let (table, id, parent): (String, Option<i64>, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        problems.push(format!("table {table}, row {}: its row in table {parent} is missing", id.unwrap_or_default()));
    }
    Ok(())
}

/// The chain, from the first event to the head on record.
async fn log(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    let (instance, ledger) = Ledger::read(conn).await?;
    problems.extend(ledger.compare_head(conn, &instance.id).await?);
    problems.extend(ledger.compare_ends(conn).await?);
    let (mut last, mut hash) = ledger.beginning(&instance.id);
    let first: Option<i64> = sqlx::query_scalar("SELECT min(id) FROM events").fetch_one(&mut *conn).await?;
    if first.is_some_and(|first| first <= last) {
        problems.push(format!("table instance: the log is cut off up to event {last}, and earlier ones are there"));
    }
    loop {
        let sql = "SELECT id, at_us, job_id, body, hash FROM events WHERE id > ?1 ORDER BY id LIMIT ?2 + 0";
        let page = sqlx::query(sql).bind(last).bind(PAGE).fetch_all(&mut *conn).await?;
        for row in &page {
            let fields = Fields::new(row, "events", "id")?;
            if fields.id != last + 1 {
                problems.push(format!("events {} to {} are missing", last + 1, fields.id - 1));
            }
            last = fields.id;
            let stored: &[u8] = fields.get("hash")?;
            // Of one that is erased the hash alone is left; that it may be is the replay's business.
            hash = match fields.get::<Option<&str>>("body")? {
                Some(body) => chain::next(&hash, last, fields.get("at_us")?, fields.get("job_id")?, body),
                None => stored.try_into().map_err(|error| fields.error("hash", error))?,
            };
            if stored != hash.as_slice() {
                problems.push(format!("event {last} does not fit its hash: it or one before it was changed"));
                // Everything behind it is chained to what is stored.
                hash = stored.try_into().map_err(|error| fields.error("hash", error))?;
            }
        }
        if page.is_empty() || problems.len() > MOST {
            return Ok(());
        }
    }
}

/// Every job's row against its events, and its spec against its digest.
async fn jobs(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    let mut last = 0_i64;
    loop {
        let sql = concat!("SELECT ", job_columns!(), " FROM jobs WHERE jobs.id > ?1 ORDER BY jobs.id LIMIT ?2 + 0");
        let page = sqlx::query(sql).bind(last).bind(PAGE).fetch_all(&mut *conn).await?;
        // Behind the last job there are events of removed ones at most.
        let newest: i64 = page.last().map_or(Ok(i64::MAX), |newest| newest.try_get("id"))?;
        if newest <= last {
            problems.push(out_of_order("jobs", newest));
            return Ok(());
        }
        let mut told = dependencies::Told::default();
        let mut replayed = replay(conn, last, newest, &mut told, problems).await?;
        told.compare(conn, last, newest, problems).await?;
        let specs = digests(conn, last, newest).await?;
        for row in &page {
            let job = match rows::job(row) {
                Ok(job) => job,
                Err(error) => {
                    problems.push(error.to_string());
                    continue;
                }
            };
            match replayed.remove(&job.id) {
                None => problems.push(format!("job {} has no events that make it", job.id)),
                Some(replayed) if replayed == job => {}
                Some(replayed) => problems.push(differences(&job, &replayed)?),
            }
            if specs.get(&job.id) != Some(&job.spec_digest) {
                problems.push(format!("table job_specs, row {}: the spec does not fit its digest", job.id));
            }
        }
        problems.extend(replayed.keys().map(|id| format!("job {id} has events and no row")));
        last = newest;
        if page.is_empty() || problems.len() > MOST {
            return Ok(());
        }
    }
}

/// The jobs with ids above `after` up to `last`, as their events make them.
async fn replay(
    conn: &mut SqliteConnection,
    after: i64,
    last: i64,
    told: &mut dependencies::Told,
    problems: &mut Problems,
) -> Result<BTreeMap<JobId, Job>, Fault> {
    let sql = "SELECT id, at_us, job_id, body FROM events WHERE job_id > ?1 AND job_id <= ?2 ORDER BY job_id, id";
    let mut found = sqlx::query(sql).bind(after).bind(last).fetch(conn);
    let mut jobs = BTreeMap::new();
    // The job whose events come, which are all together, and whether one of them is erased that is not yet known to be removed.
    let mut erased: Option<i64> = None;
    let unexplained = |job: i64| format!("job {job} has an erased event and was not removed after it");
    while let Some(row) = found.try_next().await? {
        let fields = Fields::new(&row, "events", "id")?;
        let of: i64 = fields.get("job_id")?;
        problems.extend(erased.take_if(|job| *job != of).map(unexplained));
        if fields.get::<Option<&str>>("body")?.is_none() {
            erased = Some(of);
            continue;
        }
        let StoredEvent { id, at, job, event } = match rows::event(&row) {
            Ok(event) => event,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        // Everything before it is erased. That the job has no row is seen by the events that a row would need.
        if let Event::Removed { .. } = event {
            let is_whole = jobs.remove(&job).is_some();
            problems
                .extend(is_whole.then(|| format!("event {id}: job {job} was removed, and its events were not erased")));
            erased = None;
            continue;
        }
        told.take(job, &event);
        match state::apply(job, jobs.remove(&job), &event, at) {
            Ok(after) => drop(jobs.insert(job, after)),
            Err(error) => problems.push(format!("event {id}: {error}")),
        }
        if problems.len() > MOST {
            break;
        }
    }
    problems.extend(erased.map(unexplained));
    Ok(jobs)
}

async fn digests(conn: &mut SqliteConnection, after: i64, last: i64) -> Result<BTreeMap<JobId, String>, Fault> {
    let sql = "SELECT job_id, spec FROM job_specs WHERE job_id > ?1 AND job_id <= ?2";
    let found = sqlx::query(sql).bind(after).bind(last).fetch_all(conn).await?;
    let digests = found.iter().map(|row| {
        let fields = Fields::new(row, "job_specs", "job_id")?;
        let spec: &str = fields.get("spec")?;
        Ok((JobId(fields.number("job_id")?), blake3::hash(spec.as_bytes()).to_hex().to_string()))
    });
    Ok(digests.collect::<Result<_, RowError>>()?)
}

fn differences(row: &Job, replayed: &Job) -> Result<String, serde_json::Error> {
    let (left, right) = (serde_json::to_value(row)?, serde_json::to_value(replayed)?);
    let fields: Vec<&str> = match (left.as_object(), right.as_object()) {
        (Some(left), Some(right)) => left
            .keys()
            .chain(right.keys())
            .filter(|key| left.get(*key) != right.get(*key))
            .map(String::as_str)
            .collect(),
        _ => Vec::new(),
    };
    Ok(format!("table jobs, row {}: its events give another {}", row.id, fields.join(", ")))
}

async fn counts(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    let sql = "SELECT queue, state, sum(counted), sum(there) FROM ( \
                   SELECT queue, state, jobs AS counted, 0 AS there FROM queue_counters \
                   UNION ALL SELECT queue, state, 0, count(*) FROM jobs GROUP BY queue, state) \
               GROUP BY queue, state HAVING sum(counted) <> sum(there)";
    for (queue, state, counted, there) in sqlx::query_as::<_, (String, String, i64, i64)>(sql).fetch_all(conn).await? {
        problems.push(format!(
            "table queue_counters: {counted} jobs {state} in queue {queue} on record, and {there} are there"
        ));
    }
    Ok(())
}

/// An array's counts are those of its members, and no job is a member of what is no array.
async fn arrays(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    let counted: Vec<(i64, String, i64)> =
        sqlx::query_as("SELECT array_id, tally, jobs FROM array_counts WHERE jobs > 0").fetch_all(&mut *conn).await?;
    let there = "SELECT array_id, iif(stopped_early IS NOT NULL AND state = 'cancelled', 'stopped', state), count(*) FROM jobs WHERE array_id IS NOT NULL GROUP BY 1, 2";
    let there: Vec<(i64, String, i64)> = sqlx::query_as(there).fetch_all(&mut *conn).await?;
    let mut left: BTreeMap<(i64, String), i64> =
        there.into_iter().map(|(array, tally, jobs)| ((array, tally), jobs)).collect();
    for (array, tally, jobs) in counted {
        let there = left.remove(&(array, tally.clone())).unwrap_or(0);
        if there != jobs {
            problems.push(format!(
                "table array_counts: {jobs} members of array {array} {tally} on record, and {there} are there"
            ));
        }
    }
    let uncounted = left.iter().map(|((array, tally), jobs)| {
        format!("table array_counts: no members of array {array} {tally} on record, and {jobs} are there")
    });
    problems.extend(uncounted);
    let ends: Vec<i64> = sqlx::query_scalar(ENDS).fetch_all(&mut *conn).await?;
    problems.extend(ends.iter().map(|array| format!("table arrays, row {array}: it did not end when the row says so")));
    let stray = "SELECT jobs.id FROM jobs LEFT JOIN arrays ON arrays.id = jobs.array_id WHERE jobs.array_id IS NOT NULL \
                 AND (arrays.id IS NULL OR jobs.id <> jobs.array_id + jobs.array_index OR jobs.array_index > arrays.size) LIMIT 100";
    let stray: Vec<i64> = sqlx::query_scalar(stray).fetch_all(conn).await?;
    problems.extend(stray.iter().map(|job| format!("job {job} has no place in the array that it is a member of")));
    Ok(())
}

/// Arrays that are marked as ended and have not, the other way round, or that ended at a moment at which no member did; of one that is removed in part, the last may be gone.
const ENDS: &str = "SELECT id FROM ( \
         SELECT id, size, ended_us, EXISTS (SELECT 1 FROM array_counts WHERE array_id = arrays.id AND jobs > 0 \
             AND tally NOT IN ('succeeded', 'failed', 'cancelled', 'stopped')) AS is_open FROM arrays) AS this \
     WHERE (ended_us IS NULL) <> is_open OR (ended_us IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id > this.id AND jobs.id <= this.id + this.size AND jobs.finished_us = this.ended_us) \
         AND (SELECT count(*) FROM jobs WHERE jobs.id > this.id AND jobs.id <= this.id + this.size) = this.size) LIMIT 100";

/// A gate's user and key, the limit of who is first behind it, the widest limit of those let through, and how many these are.
type WrongGate = (i64, String, Option<i64>, Option<i64>, i64);

/// No gate lets through more than it may, and nobody waits behind one that has room.
async fn gates(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    let wrong: Vec<WrongGate> = sqlx::query_as(gates::WRONG).fetch_all(conn).await?;
    problems.extend(wrong.into_iter().map(|(user, key, first, widest, through)| {
        let limit = first.or(widest).unwrap_or_default();
        let waits = if first.is_some() { ", and there are jobs behind it" } else { "" };
        format!("gate {key:?} of user {user} lets {limit} through at once: {through} are{waits}")
    }));
    Ok(())
}

/// A running job has its attempt open, and no other attempt is open.
async fn attempts(conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
    let without = "SELECT jobs.id FROM jobs LEFT JOIN attempts ON attempts.token = jobs.token AND attempts.job_id = jobs.id \
                   AND attempts.attempt = jobs.attempt AND attempts.ended_us IS NULL \
                   WHERE jobs.state = 'running' AND attempts.token IS NULL LIMIT 100";
    let jobs: Vec<i64> = sqlx::query_scalar(without).fetch_all(&mut *conn).await?;
    problems.extend(jobs.iter().map(|job| format!("job {job} is running without an open attempt")));
    let stray = "SELECT attempts.token FROM attempts LEFT JOIN jobs ON jobs.id = attempts.job_id AND jobs.token = attempts.token \
                 WHERE attempts.ended_us IS NULL AND jobs.id IS NULL LIMIT 100";
    let tokens: Vec<i64> = sqlx::query_scalar(stray).fetch_all(conn).await?;
    problems.extend(
        tokens.iter().map(|token| format!("the attempt with token {token} is open, and its job is not running it")),
    );
    Ok(())
}
