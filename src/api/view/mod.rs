//! From what the store keeps to what a client sees: data in, data out. Called by the handlers; the words are in [`reason`] and [`event`]; schedules are in [`schedule`].

pub(super) mod array;
mod db;
pub(super) mod device;
pub(super) mod dispatch;
pub(super) mod event;
pub(super) mod queue;
pub(super) mod reason;
pub(super) mod schedule;
#[cfg(test)]
mod tests;
pub(super) mod turn;

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::{
    JobId, JobSpec,
    progress::Progress,
    spec::{DataSource, Work},
};

use super::types::{AttemptView, CheckpointPlace, CheckpointView, JobView, PointView, SCHEMA, WorkerView};
use super::users::Names;
use crate::{
    domain::{Hold, Job, JobState, Machine, Uid, machine::Free, retention::checkpoints::Verdict},
    scheduler::{Outlook, Standing},
    store::{Attempt, Awaited, JobDetail},
    supervisor::Judged,
};

/// What a job is seen against.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    /// Now.
    pub(super) now: Timestamp,
    /// Login names.
    pub(super) names: Names,
    /// What there is to give to jobs.
    pub(super) machine: Machine,
    /// What is left of it.
    pub(super) free: Free,
    /// The jobs that occupy the rest.
    pub(super) occupants: Vec<JobId>,
    /// The jobs that have the places at the gate that it waits behind, where that was looked for.
    pub(super) through: Vec<JobId>,
    /// What has not ended of what jobs wait for, by job, where that was looked for.
    pub(super) awaited: BTreeMap<JobId, Vec<Awaited>>,
    /// Whether jobs are started at all.
    pub(super) standing: Standing,
    /// What the scheduler sees and means to do, where that was looked for.
    pub(super) outlook: Option<Box<Outlook>>,
    /// Seconds from the order to stop to SIGKILL.
    pub(super) grace_seconds: u32,
    /// Whether the disk that holds the database is full, so that nothing is started.
    pub(super) is_full: bool,
}

impl Scene {
    pub(super) fn name(&self, uid: Uid) -> String {
        if uid == Uid::SYSTEM {
            return "mld".into();
        }
        self.names.get(&uid.0).cloned().unwrap_or_else(|| uid.0.to_string())
    }
}

/// What is known of a job's spec, where that was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Planned {
    /// Rows of a step of a training job: its time left depends on it.
    pub(super) rows_per_step: Option<u64>,
    /// Seconds that each attempt may run.
    pub(super) time_limit_seconds: Option<u32>,
}

impl Planned {
    pub(super) const fn of(spec: &JobSpec) -> Self {
        let rows_per_step = match &spec.work {
            Work::Train(train) => Some(train.measured_per_step()),
            Work::Infer(_) | Work::Evaluate(_) | Work::Retrain(_) | Work::Command(_) => None,
        };
        Self { rows_per_step, time_limit_seconds: spec.time.limit_seconds }
    }
}

/// A job as a client sees it.
pub(super) fn job(detail: &JobDetail, planned: Planned, scene: &Scene) -> JobView {
    let JobDetail { job, attempt, metrics, .. } = detail;
    let exit = job.exit.as_ref();
    let running = matches!(job.state, JobState::Running { .. });
    let mut progress = attempt.as_ref().map(|attempt| attempt.progress.clone());
    // What an attempt that is over last said of the store is over, too.
    if let Some(progress) = progress.as_mut().filter(|_| !running) {
        progress.storage_away = None;
    }
    let eta_seconds = progress.as_ref().filter(|_| running).and_then(|progress| eta(progress, planned.rows_per_step));
    JobView {
        schema: SCHEMA,
        id: job.id,
        name: job.name.clone(),
        kind: job.kind.clone(),
        state: job.state.name().to_owned(),
        reason: reason::of(detail, planned, scene),
        queue: job.queue.clone(),
        priority: job.priority,
        user: scene.name(job.user),
        uid: job.user.0,
        labels: job.labels.clone(),
        resources: job.resources.clone(),
        gpus: job.gpus.clone(),
        attempt: (job.attempt > 0).then_some(job.attempt),
        retries_used: job.retries_used,
        retry_limit: job.retry.limit,
        infrastructure_retries_used: job.infrastructure_retries_used,
        infrastructure_retry_limit: job.retry.infrastructure_limit,
        quarantined: matches!(&job.state, JobState::Held(hold) if hold.is_quarantine()),
        exit_class: exit.map(|exit| exit.class.to_string()),
        exit_message: exit.and_then(|exit| exit.message.clone()),
        exit_hint: exit.and_then(|exit| exit.hint.clone()),
        submitted_at: job.submitted_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
        not_before: match job.state {
            JobState::Queued { not_before }
            | JobState::Blocked { not_before }
            | JobState::Held(Hold { not_before, .. }) => not_before,
            _ => None,
        },
        deadline: job.deadline,
        time_limit_seconds: job.time_limit_seconds(planned.time_limit_seconds),
        preemptible: job.preemptible,
        intent: match &job.state {
            JobState::Running { intent, .. } => intent.as_ref().map(|intent| intent.name().to_owned()),
            _ => None,
        },
        progress,
        eta_seconds,
        metrics: metrics.clone(),
        worker: attempt.as_ref().map(worker),
        peak_rss_bytes: attempt.as_ref().and_then(|attempt| attempt.peak_rss_bytes),
        peak_vram_bytes: attempt.as_ref().and_then(peak_vram_bytes),
        cpu_seconds: attempt.as_ref().and_then(cpu_seconds),
        checkpoint: job.checkpoint.as_ref().map(|found| CheckpointPlace { step: found.step, uri: found.uri.clone() }),
        model: job.model.clone(),
        output: job.output.clone(),
        conclusion: job.conclusion.as_deref().cloned(),
        stages: Vec::new(),
        dataset: None,
        spec_digest: job.spec_digest.clone(),
        array: job.array.clone(),
        replaced_by: job.replaced_by,
        unmet: job.unmet().map(|unmet| unmet.on),
        after: Vec::new(),
        dependents: Vec::new(),
        dependents_count: None,
    }
}

/// The version of a dataset that a job reads.
pub(super) fn dataset(spec: &JobSpec) -> Option<String> {
    match spec.work.data().first()? {
        DataSource::Dataset { dataset, .. } => Some(dataset.clone()),
        _ => None,
    }
}

/// Seconds until all rows are through, at the present rate. What may end earlier (convergence) is not foreseen.
pub(super) fn eta(progress: &Progress, rows_per_step: Option<u64>) -> Option<u64> {
    /// A year: what takes longer has no rate worth the name.
    const LONGEST: f64 = 366.0 * 86_400.0;
    let rate = progress.rows_per_second.filter(|rate| rate.is_finite() && *rate > 0.0)?;
    let rows = match (progress.records, progress.total) {
        (Some(records), Some(total)) => total.saturating_sub(records),
        _ => progress.steps?.saturating_sub(progress.step?).saturating_mul(rows_per_step?),
    };
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = (rows as f64 / rate).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and a year")]
    (seconds <= LONGEST).then_some(seconds as u64)
}

fn peak_vram_bytes(attempt: &Attempt) -> Option<u64> {
    attempt.used.and_then(|used| used.peak_vram_bytes)
}

fn cpu_seconds(attempt: &Attempt) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    attempt.used.map(|used| used.cpu_ms as f64 / 1000.0)
}

fn worker(attempt: &Attempt) -> WorkerView {
    let process = attempt.process.as_ref();
    WorkerView {
        pid: process.map(|process| process.pid),
        host: process.map(|process| process.host.clone()),
        device: attempt.device.clone(),
    }
}

/// An attempt as a client sees it.
pub(super) fn attempt(attempt: &Attempt) -> AttemptView {
    let exit = attempt.exit.as_ref();
    AttemptView {
        attempt: attempt.fence.attempt.0,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        exit_class: exit.map(|exit| exit.class.to_string()),
        exit_message: exit.and_then(|exit| exit.message.clone()),
        exit_hint: exit.and_then(|exit| exit.hint.clone()),
        worker: worker(attempt),
        progress: attempt.progress.clone(),
        heartbeat_at: attempt.heartbeat_at,
        peak_rss_bytes: attempt.peak_rss_bytes,
        peak_vram_bytes: peak_vram_bytes(attempt),
        cpu_seconds: cpu_seconds(attempt),
    }
}

/// A checkpoint as a client sees it.
pub(super) fn checkpoint(job: &Job, judged: &Judged) -> CheckpointView {
    let Judged { kept, verdict, goes_next } = judged;
    let (kept_as, goes) = match verdict {
        Verdict::Stays(why) => (why.iter().map(|why| why.name().to_owned()).collect(), (*goes_next).then_some("next")),
        Verdict::Goes { over_budget } => (Vec::new(), Some(if *over_budget { "over_budget" } else { "now" })),
    };
    let found = &kept.checkpoint;
    CheckpointView {
        attempt: kept.attempt.0,
        step: found.step,
        epoch: found.epoch,
        uri: found.uri.clone(),
        size_bytes: found.size_bytes,
        manifest_digest: found.manifest_digest.clone(),
        latest: job.checkpoint.as_ref().is_some_and(|latest| latest.uri == found.uri),
        kept_at: kept.at,
        kept_as,
        needed_by: kept.needed_by.as_ref().map(ToString::to_string),
        goes: goes.map(str::to_owned),
        metrics: found.metrics.clone(),
    }
}

/// A point of a learning curve as a client sees it.
pub(super) fn point((id, point): (i64, mlctl_protocol::progress::MetricPoint)) -> PointView {
    let mlctl_protocol::progress::MetricPoint { step, epoch, values } = point;
    PointView { id, step, epoch, values }
}
