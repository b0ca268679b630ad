//! What a group of commands writes, one statement a table. Filled by `unit`, which decides; here is only which columns a decision touches. Every write about a running
//! attempt names (token, job, attempt), finds it open, and must change exactly one row.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::{
    FencingToken, JobId,
    message::ReportBody,
    progress::{MetricPoint, Metrics},
};
use sqlx::SqliteConnection;

use super::{
    ask::Prepared,
    error::Fault,
    ledger::Ledger,
    rows::{Cell, Rows, integer},
    types::Beat,
    unit::Held,
};
use crate::domain::{Event, Exit, Fence, Intent, Job, JobState};

/// The writes of one group.
#[derive(Default)]
pub(super) struct Writes {
    new_jobs: Rows,
    new_specs: Rows,
    new_keys: Rows,
    changed_jobs: Rows,
    new_attempts: Rows,
    launched: Rows,
    ended: Rows,
    events: Rows,
    checkpoints: Rows,
    superseded: Rows,
    points: Rows,
    pub(super) forgotten: Rows,
    /// The last of each attempt wins.
    pub(super) beats: BTreeMap<FencingToken, Beat>,
    reports: BTreeMap<FencingToken, Taken>,
    counters: BTreeMap<&'static str, i64>,
    pub(super) promote_until: Option<Timestamp>,
}

/// What the reports of one attempt come to.
struct Taken {
    fence: Fence,
    seq: i64,
    metrics: Metrics,
    result: Option<String>,
}

impl Writes {
    pub(super) fn new_job(&mut self, job: &Job, new: &Prepared) -> Result<(), Fault> {
        self.new_jobs.push(&[
            job.id.into(),
            (&job.name).into(),
            (&job.kind).into(),
            job.user.0.into(),
            (&job.queue).into(),
            u32::from(job.priority).into(),
            (&serde_json::to_string(&job.labels)?).into(),
            job.resources.cpus.into(),
            job.resources.gpus.into(),
            job.retry.limit.into(),
            job.retry.backoff_seconds.into(),
            job.retry.max_backoff_seconds.into(),
            (&job.spec_digest).into(),
            job.submitted_at.into(),
        ])?;
        self.new_specs.push(&[job.id.into(), (&new.spec).into()])?;
        self.new_keys.push(&[job.user.0.into(), (&new.key).into(), job.id.into()])?;
        *self.counters.entry(job.state.name()).or_default() += 1;
        Ok(())
    }

    /// A job that is no longer as it was read.
    pub(super) fn job(&mut self, held: &Held, now: Timestamp) -> Result<(), Fault> {
        let Held { stored, job } = held;
        let token = |state: &JobState| match state {
            JobState::Running { token, .. } => Some(*token),
            _ => None,
        };
        let not_before = match job.state {
            JobState::Queued { not_before } => not_before,
            _ => None,
        };
        let intent = match job.state {
            JobState::Running { intent: Some(Intent::Cancel), .. } => Some("cancel"),
            _ => None,
        };
        let json = |changed: bool, value: Option<String>| if changed { value } else { None };
        let checkpoint = job.checkpoint.as_ref().map(serde_json::to_string).transpose()?;
        let exit = job.exit.as_ref().map(serde_json::to_string).transpose()?;
        let model = job.model.as_ref().map(serde_json::to_string).transpose()?;
        let output = job.output.as_ref().map(serde_json::to_string).transpose()?;
        self.changed_jobs.push(&[
            job.id.into(),
            stored.state.name().into(),
            stored.attempt.into(),
            token(&stored.state).into(),
            job.state.name().into(),
            Cell::Int(i64::from(not_before.is_none_or(|time| time <= now))),
            not_before.into(),
            job.attempt.into(),
            token(&job.state).into(),
            intent.into(),
            job.retries_used.into(),
            job.started_at.into(),
            job.finished_at.into(),
            exit.as_ref().into(),
            // A number is not parsed and written again without need: its last digit could change.
            json(job.checkpoint != stored.checkpoint, checkpoint).as_ref().into(),
            model.as_ref().into(),
            output.as_ref().into(),
        ])?;
        *self.counters.entry(stored.state.name()).or_default() -= 1;
        *self.counters.entry(job.state.name()).or_default() += 1;
        Ok(())
    }

    pub(super) fn event(&mut self, ledger: &mut Ledger, now: Timestamp, job: JobId, body: &str) -> Result<(), Fault> {
        let (id, hash) = ledger.append(now.as_microsecond(), job, body);
        let hash = blake3::Hash::from(hash).to_hex();
        self.events.push(&[id.into(), now.into(), job.into(), body.into(), hash.as_str().into()])?;
        Ok(())
    }

    /// What an event changes besides the job's own row. `before` is the job before it.
    pub(super) fn effect(&mut self, before: &Job, event: &Event, now: Timestamp) -> Result<(), Fault> {
        let JobState::Running { token, .. } = before.state else { return Ok(()) };
        let fence: [Cell<'_>; 3] = [token.into(), before.id.into(), before.attempt.into()];
        let ended = |exit: &Exit| serde_json::to_string(exit);
        match event {
            Event::Launched { process, .. } => {
                let process = serde_json::to_string(process)?;
                self.launched.push(&[fence[0], fence[1], fence[2], (&process).into()])?;
            }
            Event::Resumed { step, .. } => self.supersede(before.id, before.attempt, step.saturating_add(1), true)?,
            Event::Checkpointed { checkpoint, .. } => {
                let json = serde_json::to_string(checkpoint)?;
                self.checkpoints.push(&[fence[1], fence[2], (&checkpoint.uri).into(), (&json).into()])?;
            }
            Event::Succeeded { .. } => {
                let exit = ended(&Exit { class: mlctl_protocol::ExitClass::Ok, message: None, hint: None })?;
                self.ended.push(&[fence[0], fence[1], fence[2], now.into(), (&exit).into()])?;
            }
            Event::Failed { exit, .. } | Event::Requeued { exit, .. } | Event::Cancelled { exit: Some(exit), .. } => {
                self.ended.push(&[fence[0], fence[1], fence[2], now.into(), (&ended(exit)?).into()])?;
            }
            Event::Submitted { .. }
            | Event::Claimed { .. }
            | Event::Warned { .. }
            | Event::Intended { .. }
            | Event::Cancelled { exit: None, .. }
            | Event::Retried { .. } => {}
        }
        Ok(())
    }

    pub(super) fn new_attempt(
        &mut self,
        fence: Fence,
        now: Timestamp,
        secret_hash: &[u8; 32],
        lease_until: Timestamp,
    ) -> Result<(), Fault> {
        let hash = blake3::Hash::from(*secret_hash).to_hex();
        let [token, job, attempt] = cells(fence);
        self.new_attempts.push(&[token, job, attempt, now.into(), hash.as_str().into(), lease_until.into()])?;
        Ok(())
    }

    /// A report's own part: its number, its points, its result. What of it is an event was decided before.
    pub(super) fn report(&mut self, fence: Fence, seq: i64, body: &ReportBody) -> Result<(), Fault> {
        let new = Taken { fence, seq, metrics: Metrics::new(), result: None };
        let taken = self.reports.entry(fence.token).or_insert(new);
        taken.seq = seq;
        match body {
            ReportBody::Finished { result } => taken.result = Some(serde_json::to_string(result)?),
            ReportBody::Metrics { points } => {
                for point in points {
                    taken.metrics.extend(point.values.iter().map(|(name, value)| (name.clone(), *value)));
                }
                if let Some(first) = points.first() {
                    self.supersede(fence.job, fence.attempt.0, first.step, false)?;
                }
                for point in points {
                    self.point(fence, point)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn point(&mut self, fence: Fence, point: &MetricPoint) -> Result<(), Fault> {
        let json = serde_json::to_string(point)?;
        let [_, job, attempt] = cells(fence);
        self.points.push(&[job, attempt, integer(point.step).into(), (&json).into()])?;
        Ok(())
    }

    /// Earlier attempts' points from `step` on are replaced by this attempt's: always, or only if it has none yet.
    fn supersede(&mut self, job: JobId, attempt: u32, step: u64, always: bool) -> Result<(), Fault> {
        if attempt > 1 {
            self.superseded.push(&[job.into(), attempt.into(), integer(step).into(), i64::from(always).into()])?;
        }
        Ok(())
    }

    /// Writes everything, in an order that the schema's checks and references allow.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, ledger: &Ledger, now: Timestamp) -> Result<(), Fault> {
        let recorded = !self.events.is_empty();
        write(conn, "new jobs", NEW_JOBS, self.new_jobs).await?;
        write(conn, "new specs", NEW_SPECS, self.new_specs).await?;
        write(conn, "new keys", NEW_KEYS, self.new_keys).await?;
        write(conn, "changed jobs", CHANGED_JOBS, self.changed_jobs).await?;
        write(conn, "launched attempts", LAUNCHED, self.launched).await?;
        write(conn, "reports", REPORTS, reports(self.reports.into_values())?).await?;
        write(conn, "heartbeats", BEATS, beats(self.beats.into_values(), now)?).await?;
        write(conn, "ended attempts", ENDED, self.ended).await?;
        // After the ends: a job has one open attempt at most.
        write(conn, "new attempts", NEW_ATTEMPTS, self.new_attempts).await?;
        write(conn, "checkpoints", CHECKPOINTS, self.checkpoints).await?;
        sweep(conn, FORGOTTEN, self.forgotten).await?;
        sweep(conn, SUPERSEDED, self.superseded).await?;
        write(conn, "metrics", POINTS, self.points).await?;
        write(conn, "events", EVENTS, self.events).await?;
        let mut counters = Rows::default();
        for (state, change) in self.counters.into_iter().filter(|(_, change)| *change != 0) {
            counters.push(&[state.into(), change.into()])?;
        }
        write(conn, "counters", COUNTERS, counters).await?;
        if let Some(until) = self.promote_until {
            sqlx::query(PROMOTE).bind(until.as_microsecond()).execute(&mut *conn).await?;
        }
        if recorded {
            sqlx::query(LEDGER)
                .bind(ledger.tokens_drawn)
                .bind(ledger.last_job)
                .bind(ledger.last_event)
                .bind(ledger.last_hash.as_slice())
                .execute(conn)
                .await?;
        }
        Ok(())
    }
}

fn cells(fence: Fence) -> [Cell<'static>; 3] {
    [fence.token.into(), fence.job.into(), fence.attempt.0.into()]
}

fn reports(taken: impl Iterator<Item = Taken>) -> Result<Rows, Fault> {
    let mut rows = Rows::default();
    for Taken { fence, seq, metrics, result } in taken {
        let [token, job, attempt] = cells(fence);
        let metrics = if metrics.is_empty() { None } else { Some(serde_json::to_string(&metrics)?) };
        rows.push(&[token, job, attempt, seq.into(), metrics.as_ref().into(), result.as_ref().into()])?;
    }
    Ok(rows)
}

fn beats(beats: impl Iterator<Item = Beat>, now: Timestamp) -> Result<Rows, Fault> {
    let mut rows = Rows::default();
    for beat in beats {
        let [token, job, attempt] = cells(beat.fence);
        let progress = serde_json::to_string(&beat.progress)?;
        rows.push(&[
            token,
            job,
            attempt,
            now.into(),
            beat.lease_until.into(),
            (&progress).into(),
            integer(beat.peak_rss_bytes).into(),
            (&beat.device).into(),
        ])?;
    }
    Ok(rows)
}

/// A statement that must change one row for each it is given.
async fn write(conn: &mut SqliteConnection, name: &'static str, sql: &'static str, rows: Rows) -> Result<(), Fault> {
    let expected = rows.len();
    if expected == 0 {
        return Ok(());
    }
    let changed = sqlx::query(sql).bind(rows.finish()).execute(conn).await?.rows_affected();
    if changed == expected { Ok(()) } else { Err(Fault::Guard { statement: name, expected, changed }) }
}

/// A statement that removes what it finds.
async fn sweep(conn: &mut SqliteConnection, sql: &'static str, rows: Rows) -> Result<(), Fault> {
    if !rows.is_empty() {
        sqlx::query(sql).bind(rows.finish()).execute(conn).await?;
    }
    Ok(())
}

const NEW_JOBS: &str = "
INSERT INTO jobs (id, name, kind, user_id, queue, priority, labels, cpus, gpus, retry_limit, retry_backoff_seconds, retry_max_seconds,
                  spec_digest, submitted_us, state, due, attempt, retries_used)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9,
       value ->> 10, value ->> 11, value ->> 12, value ->> 13, 'queued', 1, 0, 0
FROM jsonb_each(?1)";

const NEW_SPECS: &str = "INSERT INTO job_specs (job_id, spec) SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1)";

const NEW_KEYS: &str = "
INSERT INTO idempotency (user_id, key, job_id) SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?1)";

const CHANGED_JOBS: &str = "
UPDATE jobs SET
    state = new.value ->> 4, due = new.value ->> 5, not_before_us = new.value ->> 6, attempt = new.value ->> 7, token = new.value ->> 8,
    intent = new.value ->> 9, retries_used = new.value ->> 10, started_us = new.value ->> 11, finished_us = new.value ->> 12,
    exit = new.value ->> 13, checkpoint = coalesce(new.value ->> 14, checkpoint), model = new.value ->> 15, output = new.value ->> 16
FROM jsonb_each(?1) AS new
WHERE jobs.id = new.value ->> 0 AND jobs.state = new.value ->> 1 AND jobs.attempt = new.value ->> 2 AND jobs.token IS new.value ->> 3";

/// The metrics of the attempt before go on being the last known ones.
const NEW_ATTEMPTS: &str = "
INSERT INTO attempts (token, job_id, attempt, started_us, secret_hash, lease_until_us, metrics)
SELECT new.value ->> 0, new.value ->> 1, new.value ->> 2, new.value ->> 3, unhex(new.value ->> 4), new.value ->> 5,
       coalesce((SELECT earlier.metrics FROM attempts AS earlier
                 WHERE earlier.job_id = new.value ->> 1 AND earlier.attempt = (new.value ->> 2) - 1), '{}')
FROM jsonb_each(?1) AS new";

const LAUNCHED: &str = "
UPDATE attempts SET process = new.value ->> 3 FROM jsonb_each(?1) AS new
WHERE token = new.value ->> 0 AND job_id = new.value ->> 1 AND attempt = new.value ->> 2 AND ended_us IS NULL";

const ENDED: &str = "
UPDATE attempts SET ended_us = new.value ->> 3, exit = new.value ->> 4 FROM jsonb_each(?1) AS new
WHERE token = new.value ->> 0 AND job_id = new.value ->> 1 AND attempt = new.value ->> 2 AND ended_us IS NULL";

const REPORTS: &str = "
UPDATE attempts SET
    last_seq = new.value ->> 3,
    metrics = CASE WHEN new.value ->> 4 IS NULL THEN metrics ELSE json_patch(metrics, new.value ->> 4) END,
    result = coalesce(new.value ->> 5, result)
FROM jsonb_each(?1) AS new
WHERE token = new.value ->> 0 AND job_id = new.value ->> 1 AND attempt = new.value ->> 2 AND ended_us IS NULL AND last_seq < new.value ->> 3";

const BEATS: &str = "
UPDATE attempts SET
    heartbeat_us = new.value ->> 3, lease_until_us = new.value ->> 4, progress = new.value ->> 5, peak_rss_bytes = new.value ->> 6,
    device = new.value ->> 7
FROM jsonb_each(?1) AS new
WHERE token = new.value ->> 0 AND job_id = new.value ->> 1 AND attempt = new.value ->> 2 AND ended_us IS NULL";

const CHECKPOINTS: &str = "
INSERT INTO checkpoints (job_id, attempt, uri, checkpoint)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?1) WHERE true
ON CONFLICT (job_id, uri) DO UPDATE SET attempt = excluded.attempt, checkpoint = excluded.checkpoint";

const FORGOTTEN: &str = "
DELETE FROM checkpoints WHERE (job_id, uri) IN (SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1))";

const SUPERSEDED: &str = "
DELETE FROM metrics WHERE id IN (
    SELECT old.id FROM jsonb_each(?1) AS new
    CROSS JOIN metrics AS old ON old.job_id = new.value ->> 0 AND old.attempt < new.value ->> 1 AND old.step >= new.value ->> 2
    WHERE new.value ->> 3 = 1
       OR NOT EXISTS (SELECT 1 FROM metrics AS own WHERE own.job_id = new.value ->> 0 AND own.attempt = new.value ->> 1))";

const POINTS: &str = "
INSERT INTO metrics (job_id, attempt, step, point) SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?1)";

const EVENTS: &str = "
INSERT INTO events (id, at_us, job_id, body, hash)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4) FROM jsonb_each(?1)";

const COUNTERS: &str = "
UPDATE counters SET jobs = counters.jobs + new.value ->> 1 FROM jsonb_each(?1) AS new WHERE counters.state = new.value ->> 0";

const PROMOTE: &str = "UPDATE jobs SET due = 1 WHERE state = 'queued' AND due = 0 AND not_before_us <= ?1";

const LEDGER: &str =
    "UPDATE instance SET tokens_drawn = ?1, last_job_id = ?2, last_event_id = ?3, last_hash = ?4 WHERE id = 1";
