//! Rows to domain types and back. What cannot be understood is an error that names the table, the column and the row: a database is input too.

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, FencingToken, JobId,
    spec::{Resources, RetryPolicy},
};
use serde::de::DeserializeOwned;
use sqlx::{Decode, Row, Sqlite, Type, sqlite::SqliteRow};

use super::types::{Attempt, StoredEvent};
use crate::domain::{Change, Fence, Gate, Intent, Job, JobState, Uid, array::Membership};

/// A value that no version of this program wrote.
#[derive(Debug, thiserror::Error)]
#[error("table {table}, row {row}, column {column}: {why}")]
pub(super) struct RowError {
    table: &'static str,
    row: i64,
    column: &'static str,
    why: String,
}

impl RowError {
    pub(super) fn new(table: &'static str, row: i64, column: &'static str, why: impl ToString) -> Self {
        Self { table, row, column, why: why.to_string() }
    }
}

/// The columns that make a [`Job`].
macro_rules! job_columns {
    () => {
        "jobs.id, jobs.name, jobs.kind, jobs.user_id, jobs.queue, jobs.priority, jobs.labels, jobs.cpus, jobs.gpus, jobs.retry_limit, \
         jobs.retry_backoff_seconds, jobs.retry_max_seconds, jobs.spec_digest, jobs.submitted_us, jobs.state, jobs.not_before_us, jobs.attempt, jobs.token, \
         jobs.intent, jobs.retries_used, jobs.started_us, jobs.finished_us, jobs.exit, jobs.checkpoint, jobs.model, jobs.output, jobs.hold, \
         jobs.preemptible, jobs.yields_to, \
         jobs.array_id, jobs.array_index, jobs.params, jobs.retry_on, jobs.retry_infrastructure_limit, jobs.infrastructure_retries_used, jobs.fruitless, \
         jobs.stopped_early, jobs.deadline_us, jobs.time_limit_seconds, jobs.gate_key, jobs.gate_limit, jobs.gated, jobs.waits, \
         jobs.gate_newest, jobs.replaced_by, jobs.memory_mib, jobs.vram_mib, jobs.gpu_uuids, jobs.conclusion"
    };
}

/// The columns that make an [`Attempt`], and the attempt's metrics.
macro_rules! attempt_columns {
    () => {
        "attempts.token AS a_token, attempts.job_id AS a_job_id, attempts.attempt AS a_attempt, attempts.started_us AS a_started_us, \
         attempts.ended_us AS a_ended_us, attempts.exit AS a_exit, attempts.process AS a_process, attempts.secret_hash AS a_secret_hash, \
         attempts.device AS a_device, attempts.progress AS a_progress, attempts.metrics AS a_metrics, attempts.heartbeat_us AS a_heartbeat_us, \
         attempts.lease_until_us AS a_lease_until_us, attempts.peak_rss_bytes AS a_peak_rss_bytes, attempts.last_seq AS a_last_seq, \
         attempts.result AS a_result, attempts.used AS a_used"
    };
}

pub(super) use {attempt_columns, job_columns};

/// A row with the names its errors need.
pub(super) struct Fields<'r> {
    pub(super) row: &'r SqliteRow,
    pub(super) table: &'static str,
    pub(super) id: i64,
}

impl<'r> Fields<'r> {
    /// A row of `table`, named in errors by its column `id_column`.
    pub(super) fn new(row: &'r SqliteRow, table: &'static str, id_column: &'static str) -> Result<Self, RowError> {
        let mut fields = Self { row, table, id: 0 };
        fields.id = fields.get(id_column)?;
        Ok(fields)
    }

    pub(super) fn error(&self, column: &'static str, why: impl ToString) -> RowError {
        RowError::new(self.table, self.id, column, why)
    }

    pub(super) fn get<T: Decode<'r, Sqlite> + Type<Sqlite>>(&self, column: &'static str) -> Result<T, RowError> {
        self.row.try_get(column).map_err(|error| self.error(column, error))
    }

    /// A number that must fit its type.
    pub(super) fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, RowError> {
        let value: i64 = self.get(column)?;
        T::try_from(value).map_err(|_| self.error(column, format_args!("{value} is out of range")))
    }

    pub(super) fn maybe_number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<Option<T>, RowError> {
        let Some(value) = self.get::<Option<i64>>(column)? else { return Ok(None) };
        T::try_from(value).map(Some).map_err(|_| self.error(column, format_args!("{value} is out of range")))
    }

    pub(super) fn time(&self, column: &'static str) -> Result<Timestamp, RowError> {
        Timestamp::from_microsecond(self.get(column)?).map_err(|error| self.error(column, error))
    }

    pub(super) fn maybe_time(&self, column: &'static str) -> Result<Option<Timestamp>, RowError> {
        let Some(value) = self.get::<Option<i64>>(column)? else { return Ok(None) };
        Timestamp::from_microsecond(value).map(Some).map_err(|error| self.error(column, error))
    }

    pub(super) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, RowError> {
        serde_json::from_str(self.get(column)?).map_err(|error| self.error(column, error))
    }

    /// What a job needs, from the columns of that.
    pub(super) fn resources(&self) -> Result<Resources, RowError> {
        Ok(Resources {
            cpus: self.number("cpus")?,
            gpus: self.number("gpus")?,
            memory_mib: self.number("memory_mib")?,
            vram_mib: self.number("vram_mib")?,
        })
    }

    pub(super) fn maybe_json<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, RowError> {
        let Some(text) = self.get::<Option<&str>>(column)? else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| self.error(column, error))
    }
}

/// A job from [`job_columns`].
pub(super) fn job(row: &SqliteRow) -> Result<Job, RowError> {
    let fields = Fields::new(row, "jobs", "id")?;
    Ok(Job {
        id: JobId(fields.number("id")?),
        name: fields.get("name")?,
        kind: fields.get("kind")?,
        user: Uid(fields.number("user_id")?),
        queue: fields.get("queue")?,
        priority: fields.number("priority")?,
        labels: fields.json("labels")?,
        resources: fields.resources()?,
        retry: RetryPolicy {
            limit: fields.number("retry_limit")?,
            backoff_seconds: fields.number("retry_backoff_seconds")?,
            max_backoff_seconds: fields.number("retry_max_seconds")?,
            on: fields.maybe_json("retry_on")?,
            infrastructure_limit: fields.number("retry_infrastructure_limit")?,
        },
        preemptible: fields.get("preemptible")?,
        spec_digest: fields.get("spec_digest")?,
        array: membership(&fields)?,
        gate: gate(&fields)?,
        waits: fields.maybe_json("waits")?,
        stopped_early: fields.get("stopped_early")?,
        replaced_by: fields.maybe_number("replaced_by")?.map(JobId),
        submitted_at: fields.time("submitted_us")?,
        deadline: fields.maybe_time("deadline_us")?,
        time_limit_seconds: fields.maybe_number("time_limit_seconds")?.map(time_limit),
        state: state(&fields)?,
        attempt: fields.number("attempt")?,
        retries_used: fields.number("retries_used")?,
        infrastructure_retries_used: fields.number("infrastructure_retries_used")?,
        fruitless: fields.number("fruitless")?,
        gpus: fields.maybe_json("gpu_uuids")?.unwrap_or_default(),
        started_at: fields.maybe_time("started_us")?,
        finished_at: fields.maybe_time("finished_us")?,
        exit: fields.maybe_json("exit")?,
        checkpoint: fields.maybe_json("checkpoint")?,
        model: fields.maybe_json("model")?,
        output: fields.maybe_json("output")?,
        conclusion: fields.maybe_json("conclusion")?,
    })
}

fn gate(fields: &Fields<'_>) -> Result<Option<Gate>, RowError> {
    let Some(key) = fields.get("gate_key")? else { return Ok(None) };
    Ok(Some(Gate { key, limit: fields.number("gate_limit")?, newest: fields.get("gate_newest")? }))
}

/// Whether the job of [`job_columns`] waits behind its gate.
pub(super) fn is_gated(row: &SqliteRow) -> Result<bool, RowError> {
    Fields::new(row, "jobs", "id")?.get("gated")
}

fn membership(fields: &Fields<'_>) -> Result<Option<Membership>, RowError> {
    let Some(id) = fields.maybe_number("array_id")? else { return Ok(None) };
    Ok(Some(Membership { id: JobId(id), index: fields.number("array_index")?, params: fields.json("params")? }))
}

fn state(fields: &Fields<'_>) -> Result<JobState, RowError> {
    Ok(match fields.get("state")? {
        "queued" => JobState::Queued { not_before: fields.maybe_time("not_before_us")? },
        "blocked" => JobState::Blocked { not_before: fields.maybe_time("not_before_us")? },
        "held" => match fields.maybe_json("hold")? {
            Some(hold) => JobState::Held(hold),
            None => return Err(fields.error("hold", "a held job says who holds it")),
        },
        "running" => JobState::Running { token: FencingToken(fields.number("token")?), intent: intent(fields)? },
        "succeeded" => JobState::Succeeded,
        "failed" => JobState::Failed,
        "cancelled" => JobState::Cancelled,
        other => return Err(fields.error("state", format_args!("unknown state {other:?}"))),
    })
}

/// What an edit made of a time limit: none is kept as 0.
const fn time_limit(seconds: u32) -> Change<u32> {
    if seconds == 0 { Change::Clear } else { Change::Set(seconds) }
}

fn intent(fields: &Fields<'_>) -> Result<Option<Intent>, RowError> {
    Ok(match fields.get::<Option<&str>>("intent")? {
        None => None,
        Some("cancel") => Some(Intent::Cancel),
        Some("stop") => Some(Intent::Stop),
        Some("pause") => match fields.maybe_json("hold")? {
            Some(hold) => Some(Intent::Pause(hold)),
            None => return Err(fields.error("hold", "a job that is being paused says who paused it")),
        },
        Some("yield") => Some(Intent::Yield { to: JobId(fields.number("yields_to")?) }),
        Some(other) => return Err(fields.error("intent", format_args!("unknown intent {other:?}"))),
    })
}

/// An attempt from [`attempt_columns`]; `None` where a left join found none.
pub(super) fn maybe_attempt(row: &SqliteRow) -> Result<Option<Attempt>, RowError> {
    let fields = Fields { row, table: "attempts", id: 0 };
    if fields.get::<Option<i64>>("a_token")?.is_none() { Ok(None) } else { attempt(row).map(Some) }
}

/// An attempt from [`attempt_columns`].
pub(super) fn attempt(row: &SqliteRow) -> Result<Attempt, RowError> {
    let fields = Fields::new(row, "attempts", "a_token")?;
    let secret_hash: &[u8] = fields.get("a_secret_hash")?;
    Ok(Attempt {
        fence: Fence {
            job: JobId(fields.number("a_job_id")?),
            attempt: AttemptNumber(fields.number("a_attempt")?),
            token: FencingToken(fields.number("a_token")?),
        },
        started_at: fields.time("a_started_us")?,
        ended_at: fields.maybe_time("a_ended_us")?,
        exit: fields.maybe_json("a_exit")?,
        process: fields.maybe_json("a_process")?,
        secret_hash: secret_hash.try_into().map_err(|error| fields.error("a_secret_hash", error))?,
        device: fields.get("a_device")?,
        progress: fields.json("a_progress")?,
        heartbeat_at: fields.maybe_time("a_heartbeat_us")?,
        lease_until: fields.time("a_lease_until_us")?,
        peak_rss_bytes: fields.maybe_number("a_peak_rss_bytes")?,
        last_seq: fields.number("a_last_seq")?,
        result: fields.maybe_json("a_result")?,
        used: fields.maybe_json("a_used")?,
    })
}

/// An event from `id, at_us, job_id, body`.
pub(super) fn event(row: &SqliteRow) -> Result<StoredEvent, RowError> {
    let fields = Fields::new(row, "events", "id")?;
    Ok(StoredEvent {
        id: fields.id,
        at: fields.time("at_us")?,
        job: JobId(fields.number("job_id")?),
        event: fields.json("body")?,
    })
}

/// A number as SQLite keeps it. What is larger than SQLite's largest (a worker may claim any step) becomes that.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Rows for one statement: an array of arrays in SQLite's binary JSON, read by `jsonb_each(?)` as `value ->> 0`, `value ->> 1` and so on. One statement for many rows is what makes
/// a group of commands cheap, and texts that nobody has to escape, parse and unescape make it cheaper still. (The format: <https://sqlite.org/jsonb.html>.)
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    bytes: Vec<u8>,
    count: u64,
}

/// The types of a value, in the low half of the byte it begins with.
mod jsonb {
    pub(super) const NULL: u8 = 0;
    pub(super) const INT: u8 = 3;
    /// Taken as it is.
    pub(super) const TEXT: u8 = 10;
    pub(super) const ARRAY: u8 = 11;
    /// In the high half: the payload's length follows in four bytes. It may be so even for lengths that would fit into fewer.
    pub(super) const LONG: u8 = 14;
    /// In the high half, and as long as a short payload at most: its length is there.
    pub(super) const SHORT: usize = 11;
    /// The bytes before a long payload.
    pub(super) const HEAD: usize = 5;
}

/// What a row of a table without a log is sealed with: a change of any of its values, made by anything but the writer, is found by the check.
pub(super) fn seal(table: &str, cells: &[Cell<'_>]) -> i64 {
    let mut hasher = blake3::Hasher::new_derive_key("mlctl row, version 1");
    let mut field = |kind: u8, bytes: &[u8]| {
        hasher.update(&[kind]);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(0, table.as_bytes());
    for cell in cells {
        match cell {
            Cell::Null => field(1, &[]),
            Cell::Absent => {}
            Cell::Int(value) => field(2, &value.to_le_bytes()),
            Cell::Text(text) => field(3, text.as_bytes()),
        }
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// One value of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    Null,
    /// Null in a column that rows of earlier versions do not have: their seals are without it.
    Absent,
    Int(i64),
    Text(&'a str),
}

impl From<i64> for Cell<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Cell<'_> {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<JobId> for Cell<'_> {
    fn from(value: JobId) -> Self {
        Self::Int(integer(value.0))
    }
}

impl From<FencingToken> for Cell<'_> {
    fn from(value: FencingToken) -> Self {
        Self::Int(integer(value.0))
    }
}

impl From<Timestamp> for Cell<'_> {
    fn from(value: Timestamp) -> Self {
        Self::Int(value.as_microsecond())
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a String> for Cell<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value)
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, cells: &[Cell<'_>]) {
        if self.bytes.is_empty() {
            self.bytes.extend([0; jsonb::HEAD]);
        }
        let row = self.bytes.len();
        self.bytes.extend([0; jsonb::HEAD]);
        for cell in cells {
            match cell {
                Cell::Null | Cell::Absent => self.bytes.push(jsonb::NULL),
                Cell::Int(value) => self.value(jsonb::INT, value.to_string().as_bytes()),
                Cell::Text(text) => self.value(jsonb::TEXT, text.as_bytes()),
            }
        }
        self.close(row);
        self.count += 1;
    }

    fn value(&mut self, kind: u8, payload: &[u8]) {
        let head = self.bytes.len();
        match u8::try_from(payload.len()) {
            Ok(length) if payload.len() <= jsonb::SHORT => self.bytes.push(length << 4 | kind),
            _ => self.bytes.extend([jsonb::LONG << 4 | kind, 0, 0, 0, 0]),
        }
        self.bytes.extend_from_slice(payload);
        if payload.len() > jsonb::SHORT {
            self.measure(head);
        }
    }

    /// An array that began at `head` ends here.
    fn close(&mut self, head: usize) {
        self.bytes[head] = jsonb::LONG << 4 | jsonb::ARRAY;
        self.measure(head);
    }

    /// Puts the length of what follows the head of a long payload into it. SQLite refuses what is longer than it can take (`SQLITE_TOOBIG`), which is less than four bytes can say.
    fn measure(&mut self, head: usize) {
        let payload = self.bytes.len() - head - jsonb::HEAD;
        let length = u32::try_from(payload).unwrap_or(u32::MAX);
        self.bytes[head + 1..head + jsonb::HEAD].copy_from_slice(&length.to_be_bytes());
    }

    /// A row with the seal of its cells as the last one.
    pub(super) fn push_sealed(&mut self, table: &str, cells: &[Cell<'_>]) {
        let mut sealed = cells.to_vec();
        sealed.push(Cell::Int(seal(table, cells)));
        self.push(&sealed);
    }

    /// The array, to be bound.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.bytes.is_empty() {
            self.bytes.extend([0; jsonb::HEAD]);
        }
        self.close(0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, SqliteConnection};

    use super::*;

    /// SQLite reads back what was pushed, byte for byte.
    #[tokio::test]
    async fn rows_come_back_as_they_were_pushed() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let texts = ["", "a", "elf letters", "zwölf\u{1F980}", "\"quoted\" \\ \n\t\u{1} '", "[1,2]", "null", "12"];
        let long = "x\"".repeat(100_000);
        let numbers = [0, 1, -1, 99_999_999_999, -99_999_999_999, i64::MAX, i64::MIN];
        let mut expected: Vec<(Option<i64>, Option<String>)> = vec![(None, None)];
        expected.extend(texts.iter().chain([&long.as_str()]).map(|text| (None, Some((*text).to_owned()))));
        expected.extend(numbers.map(|number| (Some(number), None)));
        let mut rows = Rows::default();
        for (number, text) in &expected {
            rows.push(&[(*number).into(), text.as_ref().into()]);
        }
        assert_eq!(rows.len(), expected.len() as u64);
        let sql = "SELECT value ->> 0, value ->> 1 FROM jsonb_each(?)";
        let found: Vec<(Option<i64>, Option<String>)> =
            sqlx::query_as(sql).bind(rows.finish()).fetch_all(&mut conn).await.unwrap();
        assert_eq!(found, expected);
        let valid: i64 = sqlx::query_scalar("SELECT json_valid(?, 8)")
            .bind(Rows::default().finish())
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!(valid, 1, "no rows are an array too");
        let none = sqlx::query(sql).bind(Rows::default().finish()).fetch_all(&mut conn).await.unwrap();
        assert!(none.is_empty());
    }
}
