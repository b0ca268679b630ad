//! Attempts in the writer's hands: read whole, changed in memory, written whole and sealed. Called by `unit`. A write about a running attempt names (token, job,
//! attempt), finds it open, and must change exactly one row.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use mlctl_protocol::{AttemptNumber, FencingToken, JobId};
use serde_json::value::RawValue;
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    batch::Batch,
    error::Fault,
    load::list,
    rows::{Cell, Fields, RowError, Rows, integer},
    types::Beat,
};
use crate::domain::{Exit, Fence, event::ProcessIdentity};

const TABLE: &str = "attempts";

/// Metrics by name, each value as it was written: a number that is parsed and written again may lose its last digit.
pub(super) type Metrics = BTreeMap<String, Box<RawValue>>;

/// A row of table `attempts`; texts are JSON.
pub(super) struct HeldAttempt {
    fence: Fence,
    started: Timestamp,
    ended: Option<Timestamp>,
    exit: Option<String>,
    process: Option<String>,
    secret_hash: String,
    device: Option<String>,
    progress: String,
    metrics: Metrics,
    heartbeat: Option<Timestamp>,
    lease_until: Timestamp,
    peak_rss_bytes: Option<i64>,
    pub(super) last_seq: u64,
    result: Option<String>,
    used: Option<String>,
    fate: Fate,
}

/// What becomes of a held attempt.
#[derive(PartialEq)]
enum Fate {
    AsRead,
    Changed,
    New,
}

impl HeldAttempt {
    /// An attempt that begins. The metrics of the one before go on being the last known ones.
    pub(super) fn new(
        fence: Fence,
        started: Timestamp,
        secret_hash: &[u8; 32],
        lease_until: Timestamp,
        metrics: Metrics,
    ) -> Self {
        Self {
            fence,
            started,
            ended: None,
            exit: None,
            process: None,
            secret_hash: blake3::Hash::from(*secret_hash).to_hex().to_string(),
            device: None,
            progress: "{}".to_owned(),
            metrics,
            heartbeat: None,
            lease_until,
            peak_rss_bytes: None,
            last_seq: 0,
            result: None,
            used: None,
            fate: Fate::New,
        }
    }

    /// From a row of [`LOAD`].
    pub(super) fn read(row: &SqliteRow) -> Result<Self, RowError> {
        let fields = Fields::new(row, "attempts", "token")?;
        let token = FencingToken(fields.number("token")?);
        let attempt = AttemptNumber(fields.number("attempt")?);
        Ok(Self {
            fence: Fence { job: JobId(fields.number("job_id")?), attempt, token },
            started: fields.time("started_us")?,
            ended: fields.maybe_time("ended_us")?,
            exit: fields.get("exit")?,
            process: fields.get("process")?,
            secret_hash: fields.get("secret_hash")?,
            device: fields.get("device")?,
            progress: fields.get("progress")?,
            metrics: fields.json("metrics")?,
            heartbeat: fields.maybe_time("heartbeat_us")?,
            lease_until: fields.time("lease_until_us")?,
            peak_rss_bytes: fields.get("peak_rss_bytes")?,
            last_seq: fields.number("last_seq")?,
            result: fields.get("result")?,
            used: fields.get("used")?,
            fate: Fate::AsRead,
        })
    }

    pub(super) const fn token(&self) -> FencingToken {
        self.fence.token
    }

    pub(super) fn launch(&mut self, process: &ProcessIdentity) -> Result<(), serde_json::Error> {
        self.process = Some(serde_json::to_string(process)?);
        self.touch();
        Ok(())
    }

    pub(super) fn end(&mut self, exit: &Exit, now: Timestamp) -> Result<(), serde_json::Error> {
        self.exit = Some(serde_json::to_string(exit)?);
        self.ended = Some(now);
        self.touch();
        Ok(())
    }

    pub(super) fn beat(&mut self, beat: &Beat, now: Timestamp) -> Result<(), serde_json::Error> {
        self.progress = serde_json::to_string(&beat.progress)?;
        self.device = Some(beat.device.clone());
        self.peak_rss_bytes = Some(integer(beat.peak_rss_bytes));
        self.used = Some(serde_json::to_string(&beat.used)?);
        self.lease_until = beat.lease_until;
        self.heartbeat = Some(now);
        self.touch();
        Ok(())
    }

    /// A report was taken, with this result or these last values of metrics.
    pub(super) fn report(
        &mut self,
        seq: u64,
        result: Option<String>,
        metrics: &BTreeMap<String, f64>,
    ) -> Result<(), serde_json::Error> {
        self.last_seq = seq;
        self.result = result.or(self.result.take());
        for (name, value) in metrics {
            self.metrics.insert(name.clone(), serde_json::value::to_raw_value(value)?);
        }
        self.touch();
        Ok(())
    }

    /// The metrics of this attempt, if it is the named one.
    pub(super) fn metrics_of(&self, job: JobId, attempt: u32) -> Option<&Metrics> {
        (self.fence.job == job && self.fence.attempt.0 == attempt).then_some(&self.metrics)
    }

    fn touch(&mut self) {
        if self.fate == Fate::AsRead {
            self.fate = Fate::Changed;
        }
    }

    fn push(&self, rows: &mut Rows) -> Result<(), serde_json::Error> {
        let metrics = serde_json::to_string(&self.metrics)?;
        rows.push_sealed(
            TABLE,
            &[
                self.fence.token.into(),
                self.fence.job.into(),
                self.fence.attempt.0.into(),
                self.started.into(),
                self.ended.into(),
                self.exit.as_ref().into(),
                self.process.as_ref().into(),
                (&self.secret_hash).into(),
                self.device.as_ref().into(),
                (&self.progress).into(),
                (&metrics).into(),
                self.heartbeat.into(),
                self.lease_until.into(),
                self.peak_rss_bytes.into(),
                integer(self.last_seq).into(),
                self.result.as_ref().into(),
                self.used.as_deref().map_or(Cell::Absent, Cell::Text),
            ],
        );
        Ok(())
    }
}

/// The columns in the order in which they are written and sealed; the hash as the writer has it.
macro_rules! columns {
    () => {
        "token, job_id, attempt, started_us, ended_us, exit, process, lower(hex(secret_hash)) AS secret_hash, device, progress, metrics, \
         heartbeat_us, lease_until_us, peak_rss_bytes, last_seq, result, used"
    };
}

pub(super) use columns as sealed_attempt_columns;

pub(super) const LOAD: &str =
    concat!("SELECT ", columns!(), " FROM attempts WHERE token IN (SELECT value ->> 0 FROM jsonb_each(?))");

pub(super) const LAST_METRICS: &str = "SELECT attempts.token, attempts.job_id, attempts.metrics FROM jsonb_each(?1) AS wanted \
     CROSS JOIN jobs ON jobs.id = wanted.value ->> 0 \
     CROSS JOIN attempts ON attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt";

/// The metrics of the last attempts of jobs.
pub(super) async fn last_metrics(
    conn: &mut SqliteConnection,
    jobs: &BTreeSet<JobId>,
) -> Result<HashMap<JobId, Metrics>, Fault> {
    if jobs.is_empty() {
        return Ok(HashMap::new());
    }
    let found = sqlx::query(LAST_METRICS).bind(list(jobs)).fetch_all(conn).await?;
    let mut metrics = HashMap::with_capacity(found.len());
    for row in &found {
        let fields = Fields::new(row, "attempts", "token")?;
        metrics.insert(JobId(fields.number("job_id")?), fields.json("metrics")?);
    }
    Ok(metrics)
}

/// Writes those that are not as they were read.
pub(super) async fn save<'a>(
    conn: &mut SqliteConnection,
    batch: &mut Batch,
    attempts: impl Iterator<Item = &'a HeldAttempt>,
) -> Result<(), Fault> {
    let (mut changed, mut new) = (Rows::default(), Rows::default());
    for attempt in attempts {
        match attempt.fate {
            Fate::AsRead => {}
            Fate::Changed => attempt.push(&mut changed)?,
            Fate::New => attempt.push(&mut new)?,
        }
    }
    // Ends before beginnings: a job has one open attempt at most.
    batch.write(conn, "attempts", CHANGED, changed).await?;
    batch.write(conn, "new attempts", NEW, new).await
}

pub(super) const CHANGED: &str = "
UPDATE attempts SET
    ended_us = new.value ->> 4, exit = new.value ->> 5, process = new.value ->> 6, device = new.value ->> 8, progress = new.value ->> 9,
    metrics = new.value ->> 10, heartbeat_us = new.value ->> 11, lease_until_us = new.value ->> 12, peak_rss_bytes = new.value ->> 13,
    last_seq = new.value ->> 14, result = new.value ->> 15, used = new.value ->> 16, seal = new.value ->> 17
FROM jsonb_each(?) AS new
WHERE token = new.value ->> 0 AND job_id = new.value ->> 1 AND attempt = new.value ->> 2 AND ended_us IS NULL AND last_seq <= new.value ->> 14";

const NEW: &str = "
INSERT INTO attempts (token, job_id, attempt, started_us, ended_us, exit, process, secret_hash, device, progress, metrics, heartbeat_us,
                      lease_until_us, peak_rss_bytes, last_seq, result, used, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, unhex(value ->> 7), value ->> 8, value ->> 9,
       value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14, value ->> 15, value ->> 16, value ->> 17
FROM jsonb_each(?)";
