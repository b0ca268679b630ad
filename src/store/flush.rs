//! What a group of commands writes, one statement a table. Filled by `unit`, which decides; here is only which columns a decision touches. Attempts are in `held`.

use jiff::Timestamp;
use mlctl_protocol::{JobId, progress::MetricPoint};
use sqlx::SqliteConnection;

use super::{
    batch::Batch,
    datasets::HeldDatasets,
    devices::HeldDevices,
    error::Fault,
    gates::Gates,
    halving::Rungs,
    held::{self, HeldAttempt},
    hooks::HeldHooks,
    ledger::Ledger,
    members::Arrays,
    models::HeldModels,
    queues::{HeldQueues, Tally},
    removal::Removals,
    rows::{Cell, Rows, integer},
    timers::Timers,
    unit::{Held, settle::Settling},
    usage::Usage,
};
use crate::domain::{Event, Fence, Intent, Job, JobState, Uid};

/// The writes of one group.
#[derive(Default)]
pub(super) struct Writes {
    new_jobs: Rows,
    new_specs: Rows,
    new_keys: Rows,
    changed_jobs: Rows,
    events: Rows,
    checkpoints: Rows,
    superseded: Rows,
    points: Rows,
    pub(super) forgotten: Rows,
    tally: Tally,
    pub(super) usage: Usage,
    pub(super) devices: HeldDevices,
    pub(super) hooks: HeldHooks,
    pub(super) arrays: Arrays,
    gates: Gates,
    pub(super) removals: Removals,
    pub(super) promote_until: Option<Timestamp>,
    /// Of those whose start time comes and that replace others: those that have done so.
    pub(super) arrived: Rows,
    /// Whether a job with a deadline, or without one from now on, is among them.
    pub(super) moves_deadlines: bool,
}

/// What a group changes besides.
pub(super) struct Others {
    pub(super) timers: Timers,
    pub(super) rungs: Rungs,
    pub(super) queues: HeldQueues,
    pub(super) settling: Settling,
    pub(super) models: HeldModels,
    pub(super) datasets: HeldDatasets,
}

/// As JSON, where it is there.
fn written<T: serde::Serialize>(value: Option<&T>) -> Result<Option<String>, Fault> {
    Ok(value.map(serde_json::to_string).transpose()?)
}

impl Writes {
    pub(super) fn new_job(&mut self, job: &Job, spec: &str, limit_seconds: Option<u32>) -> Result<(), Fault> {
        let not_before = start_time(&job.state);
        let waits = written(job.waits.as_ref())?;
        let (array, gate) = (job.array.as_ref(), job.gate.as_ref());
        let params = array.map(|array| serde_json::to_string(&array.params)).transpose()?;
        let retry_on = written(job.retry.on.as_ref())?;
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
            is_due(&job.state, job.submitted_at),
            not_before.into(),
            Cell::Int(i64::from(job.preemptible)),
            array.map(|array| array.id).into(),
            array.map(|array| array.index).into(),
            params.as_ref().into(),
            retry_on.as_ref().into(),
            job.retry.infrastructure_limit.into(),
            job.deadline.into(),
            gate.map(|gate| &gate.key).into(),
            gate.map(|gate| gate.limit).into(),
            not_before.max(Some(job.submitted_at)).into(),
            job.state.name().into(),
            waits.as_ref().into(),
            limit_seconds.into(),
            Cell::Int(i64::from(gate.is_some_and(|gate| gate.newest))),
            job.resources.memory_mib.into(),
            job.resources.vram_mib.into(),
        ]);
        self.moves_deadlines |= job.deadline.is_some();
        self.new_specs.push(&[job.id.into(), spec.into()]);
        self.tally.add(&job.queue, &job.state, 1);
        self.arrays.count(None, job);
        self.gates.touch(job);
        Ok(())
    }

    /// The idempotency key that a job, or the array whose first member it is, was submitted under.
    pub(super) fn new_key(&mut self, user: Uid, key: &str, job: JobId, asked: &str) {
        self.new_keys.push_sealed("idempotency", &[user.0.into(), key.into(), job.into(), asked.into()]);
    }

    /// A job that is no longer as it was read.
    pub(super) fn job(&mut self, held: &Held, now: Timestamp) -> Result<(), Fault> {
        let Held { stored, job, .. } = held;
        let token = |state: &JobState| match state {
            JobState::Running { token, .. } => Some(*token),
            _ => None,
        };
        let not_before = start_time(&job.state);
        let waits = written(job.waits.as_ref())?;
        let intent = match &job.state {
            JobState::Running { intent, .. } => intent.as_ref(),
            _ => None,
        };
        let hold = match (&job.state, intent) {
            (JobState::Held(hold), _) | (_, Some(Intent::Pause(hold))) => Some(serde_json::to_string(hold)?),
            _ => None,
        };
        let yields_to = match intent {
            Some(Intent::Yield { to }) => Some(*to),
            _ => None,
        };
        let json = |changed: bool, value: Option<String>| if changed { value } else { None };
        let (checkpoint, exit) = (written(job.checkpoint.as_ref())?, written(job.exit.as_ref())?);
        let labels = (job.labels != stored.labels).then(|| serde_json::to_string(&job.labels)).transpose()?;
        let (model, output) = (written(job.model.as_ref())?, written(job.output.as_ref())?);
        let conclusion = written(job.conclusion.as_ref())?;
        let gpus = (!job.gpus.is_empty()).then(|| serde_json::to_string(&job.gpus)).transpose()?;
        self.changed_jobs.push(&[
            job.id.into(),
            stored.state.name().into(),
            stored.attempt.into(),
            token(&stored.state).into(),
            job.state.name().into(),
            is_due(&job.state, now),
            not_before.into(),
            job.attempt.into(),
            token(&job.state).into(),
            intent.map(Intent::name).into(),
            job.retries_used.into(),
            job.started_at.into(),
            job.finished_at.into(),
            exit.as_ref().into(),
            // A number is not parsed and written again without need: its last digit could change.
            json(job.checkpoint != stored.checkpoint, checkpoint).as_ref().into(),
            model.as_ref().into(),
            output.as_ref().into(),
            hold.as_ref().into(),
            (job.priority != stored.priority).then(|| u32::from(job.priority)).into(),
            labels.as_ref().into(),
            yields_to.into(),
            job.infrastructure_retries_used.into(),
            job.fruitless.into(),
            job.stopped_early.as_ref().into(),
            job.deadline.into(),
            job.time_limit_seconds.map(|limit| limit.value().unwrap_or(0)).into(),
            job.retry.limit.into(),
            Cell::Int(i64::from(held.is_gated())),
            waits_anew(&stored.state, &job.state, now).into(),
            waits.as_ref().into(),
            (job.queue != stored.queue).then_some(&job.queue).into(),
            job.replaced_by.into(),
            gpus.as_ref().into(),
            conclusion.as_ref().into(),
        ]);
        self.moves_deadlines |= job.deadline.is_some() || stored.deadline.is_some();
        self.tally.add(&stored.queue, &stored.state, -1);
        self.tally.add(&job.queue, &job.state, 1);
        self.arrays.count(Some(stored), job);
        self.gates.touch(job);
        Ok(())
    }

    /// A job that is removed by its last event, however the group has changed it before.
    pub(super) fn removed(&mut self, held: &Held, now: Timestamp, event: i64) -> Result<(), Fault> {
        let Held { stored, job, .. } = held;
        if job != stored {
            self.job(held, now)?;
        }
        self.tally.add(&job.queue, &job.state, -1);
        self.arrays.leave(job);
        self.removals.add(job, event);
        Ok(())
    }

    pub(super) fn event(&mut self, ledger: &mut Ledger, now: Timestamp, job: JobId, body: &str) {
        let (id, hash) = ledger.append(now.as_microsecond(), job, body);
        let hash = blake3::Hash::from(hash).to_hex();
        self.events.push(&[id.into(), now.into(), job.into(), body.into(), hash.as_str().into()]);
    }

    /// What an event changes besides the job's own row and the attempt's. `before` is the job before it.
    pub(super) fn effect(&mut self, before: &Job, event: &Event, now: Timestamp) -> Result<(), Fault> {
        match event {
            Event::Resumed { step, .. } => self.supersede(before.id, before.attempt, step.saturating_add(1), true),
            Event::Checkpointed { checkpoint, .. } => {
                let json = serde_json::to_string(checkpoint)?;
                let (uri, attempt) = (&checkpoint.uri, before.attempt);
                let cells = [before.id.into(), attempt.into(), uri.into(), (&json).into(), now.into()];
                self.checkpoints.push_sealed("checkpoints", &cells);
            }
            _ => {}
        }
        Ok(())
    }

    /// An attempt's points of the learning curve.
    pub(super) fn points(&mut self, fence: Fence, points: &[MetricPoint]) -> Result<(), Fault> {
        if let Some(first) = points.first() {
            self.supersede(fence.job, fence.attempt.0, first.step, false);
        }
        for point in points {
            let json = serde_json::to_string(point)?;
            let cells = [fence.job.into(), fence.attempt.0.into(), integer(point.step).into(), (&json).into()];
            self.points.push_sealed("metrics", &cells);
        }
        Ok(())
    }

    /// Earlier attempts' points from `step` on are replaced by this attempt's: always, or only if it has none yet.
    fn supersede(&mut self, job: JobId, attempt: u32, step: u64, always: bool) {
        if attempt > 1 {
            self.superseded.push(&[job.into(), attempt.into(), integer(step).into(), i64::from(always).into()]);
        }
    }

    /// Writes everything, in an order that the schema's checks and references allow. The ledger counts the commit if it changes anything.
    pub(super) async fn flush<'a>(
        mut self,
        conn: &mut SqliteConnection,
        ledger: &mut Ledger,
        attempts: impl Iterator<Item = &'a HeldAttempt>,
        Others { timers, rungs, queues, settling, models, datasets }: Others,
    ) -> Result<(), Fault> {
        let mut batch = Batch::default();
        batch.write(conn, "new jobs", NEW_JOBS, self.new_jobs).await?;
        batch.write(conn, "new specs", NEW_SPECS, self.new_specs).await?;
        batch.write(conn, "new keys", NEW_KEYS, self.new_keys).await?;
        timers.flush(conn, &mut batch).await?;
        batch.write(conn, "changed jobs", CHANGED_JOBS, self.changed_jobs).await?;
        held::save(conn, &mut batch, attempts).await?;
        batch.write(conn, "checkpoints", CHECKPOINTS, self.checkpoints).await?;
        batch.sweep(conn, FORGOTTEN, self.forgotten).await?;
        batch.sweep(conn, SUPERSEDED, self.superseded).await?;
        batch.write(conn, "metrics", POINTS, self.points).await?;
        batch.write(conn, "events", EVENTS, self.events).await?;
        self.tally.flush(conn, &mut batch).await?;
        self.usage.flush(conn, &mut batch).await?;
        self.devices.flush(conn, &mut batch).await?;
        self.hooks.flush(conn, &mut batch).await?;
        queues.flush(conn, &mut batch).await?;
        self.arrays.flush(conn, &mut batch).await?;
        rungs.flush(conn, &mut batch).await?;
        models.flush(conn, &mut batch).await?;
        datasets.flush(conn, &mut batch).await?;
        let is_all =
            self.promote_until.is_none() && self.gates.is_empty() && self.removals.is_empty() && settling.is_empty();
        if is_all && batch.must_change() {
            ledger.save(conn, &mut batch).await?;
            batch.run(conn).await?;
            return Ok(());
        }
        let mut changed = batch.run(conn).await?;
        changed += settling.flush(conn).await?;
        changed += self.removals.flush(conn, ledger).await?;
        if let Some(until) = self.promote_until {
            self.gates.touch_due(conn, until).await?;
            let arrived = self.arrived.finish();
            changed += sqlx::query(PROMOTE)
                .bind(until.as_microsecond())
                .bind(arrived)
                .execute(&mut *conn)
                .await?
                .rows_affected();
        }
        changed += self.gates.open(conn).await?;
        if changed > 0 {
            ledger.save(conn, &mut batch).await?;
            batch.run(conn).await?;
        }
        Ok(())
    }
}

/// The moment before which a job must not start.
const fn start_time(state: &JobState) -> Option<Timestamp> {
    match state {
        JobState::Queued { not_before } | JobState::Blocked { not_before } => *not_before,
        _ => None,
    }
}

/// Whether no start time keeps it out of the index of those that may start.
fn is_due(state: &JobState, now: Timestamp) -> Cell<'static> {
    let waits = matches!(state, JobState::Queued { not_before: Some(time) } if *time > now);
    Cell::Int(i64::from(!waits))
}

/// Since when a job waits for its turn that did not wait for it before. One that is tried again by itself keeps its place.
fn waits_anew(before: &JobState, after: &JobState, now: Timestamp) -> Option<Timestamp> {
    let JobState::Queued { not_before } = after else { return None };
    match before {
        JobState::Running { .. } => None,
        JobState::Queued { not_before: before } if before == not_before => None,
        _ => (*not_before).max(Some(now)),
    }
}

/// A statement that must change one row for each it is given. Returns how many.
pub(super) async fn write(
    conn: &mut SqliteConnection,
    statement: &'static str,
    sql: &'static str,
    rows: Rows,
) -> Result<u64, Fault> {
    let expected = rows.len();
    let changed = sweep(conn, sql, rows).await?;
    if changed == expected { Ok(changed) } else { Err(Fault::Guard { statement, expected, changed }) }
}

/// A statement that changes what it finds. Returns how much that was.
pub(super) async fn sweep(conn: &mut SqliteConnection, sql: &'static str, rows: Rows) -> Result<u64, Fault> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(sqlx::query(sql).bind(rows.finish()).execute(conn).await?.rows_affected())
}

const NEW_JOBS: &str = "
INSERT INTO jobs (id, name, kind, user_id, queue, priority, labels, cpus, gpus, retry_limit, retry_backoff_seconds, retry_max_seconds,
                  spec_digest, submitted_us, due, not_before_us, preemptible, array_id, array_index, params, retry_on,
                  retry_infrastructure_limit, deadline_us, gate_key, gate_limit, waiting_us, gated, state, waits, planned_limit_seconds, gate_newest,
                  memory_mib, vram_mib,
                  attempt, retries_used)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9,
       value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14, value ->> 15, value ->> 16, value ->> 17, value ->> 18,
       value ->> 19, value ->> 20, value ->> 21, value ->> 22, value ->> 23, value ->> 24, value ->> 25,
       value ->> 23 IS NOT NULL AND value ->> 26 = 'queued', value ->> 26, value ->> 27, value ->> 28, value ->> 29, value ->> 30, value ->> 31, 0, 0
FROM jsonb_each(?)";

const NEW_SPECS: &str = "INSERT INTO job_specs (job_id, spec) SELECT value ->> 0, value ->> 1 FROM jsonb_each(?)";

const NEW_KEYS: &str = "
INSERT INTO idempotency (user_id, key, job_id, asked, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM jsonb_each(?)";

pub(super) const CHANGED_JOBS: &str = "
UPDATE jobs SET
    state = new.value ->> 4, due = new.value ->> 5, not_before_us = new.value ->> 6, attempt = new.value ->> 7, token = new.value ->> 8,
    intent = new.value ->> 9, retries_used = new.value ->> 10, started_us = new.value ->> 11, finished_us = new.value ->> 12,
    exit = new.value ->> 13, checkpoint = coalesce(new.value ->> 14, checkpoint), model = new.value ->> 15, output = new.value ->> 16,
    hold = new.value ->> 17, priority = coalesce(new.value ->> 18, priority), labels = coalesce(new.value ->> 19, labels),
    yields_to = new.value ->> 20, infrastructure_retries_used = new.value ->> 21, fruitless = new.value ->> 22,
    stopped_early = new.value ->> 23,
    deadline_us = new.value ->> 24, time_limit_seconds = new.value ->> 25, retry_limit = new.value ->> 26, gated = new.value ->> 27,
    waiting_us = coalesce(new.value ->> 28, waiting_us), waits = new.value ->> 29, queue = coalesce(new.value ->> 30, queue),
    replaced_by = new.value ->> 31, gpu_uuids = new.value ->> 32, conclusion = new.value ->> 33
FROM jsonb_each(?) AS new
WHERE jobs.id = new.value ->> 0 AND jobs.state = new.value ->> 1 AND jobs.attempt = new.value ->> 2 AND jobs.token IS new.value ->> 3";

const CHECKPOINTS: &str = "
INSERT INTO checkpoints (job_id, attempt, uri, checkpoint, created_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each(?) WHERE true
ON CONFLICT (job_id, uri) DO UPDATE SET attempt = excluded.attempt, checkpoint = excluded.checkpoint, created_us = excluded.created_us,
    seal = excluded.seal";

pub(super) const FORGOTTEN: &str = "
DELETE FROM checkpoints WHERE (job_id, uri) IN (SELECT value ->> 0, value ->> 1 FROM jsonb_each(?))";

pub(super) const SUPERSEDED: &str = "
DELETE FROM metrics WHERE id IN (
    SELECT old.id FROM jsonb_each(?) AS new
    CROSS JOIN metrics AS old ON old.job_id = new.value ->> 0 AND old.attempt < new.value ->> 1 AND old.step >= new.value ->> 2
    WHERE new.value ->> 3 = 1
       OR NOT EXISTS (SELECT 1 FROM metrics AS own WHERE own.job_id = new.value ->> 0 AND own.attempt = new.value ->> 1))";

const POINTS: &str = "
INSERT INTO metrics (job_id, attempt, step, point, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM jsonb_each(?)";

const EVENTS: &str = "
INSERT INTO events (id, at_us, job_id, body, hash)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4) FROM jsonb_each(?)";

pub(super) const PROMOTE: &str = "UPDATE jobs SET due = 1 WHERE state = 'queued' AND due = 0 AND not_before_us <= ?1 \
     AND (gate_newest = 0 OR gated = 0 OR id IN (SELECT value ->> 0 FROM jsonb_each(?2)))";
