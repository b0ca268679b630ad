//! Every body that goes over the daemon's socket, in both directions: the API writes them, the CLI reads them, scripts see them with `-o json`. Plain data: how it is made
//! from a job is in `view`, and nothing here prints or decides. Fields are only added; what is not there yet is null.

mod after;
mod arrays;
mod checkpoints;
mod control;
mod daemon;
mod datasets;
mod db;
mod devices;
mod error;
mod gc;
mod models;
mod notify;
mod queues;
mod removal;
mod schedules;

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::{
    JobId, JobSpec,
    progress::{Metrics, Progress},
    result::{ModelRef, OutputRef},
    spec::Resources,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{array::Membership, retrain::Conclusion};

pub use after::{AfterView, WaiterView};
pub use arrays::{ArrayChangeView, ArrayDetail, ArrayDryRunView, ArrayView, MemberView, SubmitArrayRequest};
pub use checkpoints::{
    CheckpointDetail, CheckpointList, CheckpointView, ModelDetail, ObjectView, RemovedCheckpointView, StoredView,
    VerifiedView, VerifyRequest, VerifyView,
};
pub use control::{EditRequest, HoldRequest, MAX_HOLD_REASON};
pub use daemon::{
    CheckStatus, CheckView, DaemonView, DispatchState, DispatchView, DoctorView, DrainRequest, DrainView, FrozenView,
    ReloadView, ResumeView, StopView,
};
pub use datasets::{DatasetDetail, DatasetList, DatasetVersionList, DatasetVersionView, DatasetView};
pub use db::{BackupList, BackupRequest, BackupView, DamagedBackup, DatabaseView, DbCheckView, RestoreView};
pub use devices::{DeviceList, DeviceRequest, DeviceState, DeviceView, MAX_DEVICE_REASON};
pub use error::{ErrorBody, ErrorCode, ErrorView};
pub use gc::{DEFAULT_GRACE_SECONDS, GarbageView, GcRequest, GcView, SumView};
pub use models::{
    AliasMoveView, AliasRequest, ModelList, ModelView, MovedView, RegisterRequest, VersionList, VersionView,
};
pub use notify::{HookList, HookState, HookView, TestedView};
pub use queues::{QueueList, QueueRequest, QueueView};
pub use removal::{MAX_REMOVED_URIS, RemovedView};
pub use schedules::{
    AddScheduleRequest, Applied, AppliedView, ApplyRequest, ApplyView, BackfillRequest, BackfillView, BackfilledView,
    ChangeView, MissedTickView, PreviewView, RunScheduleRequest, RunView, ScheduleDetail, ScheduleList, ScheduleView,
    TickView,
};

/// The version of these bodies, in `schema` of each.
pub const SCHEMA: u32 = 1;

/// The largest request body, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The longest reference to a job (an id, a name or `@last`), in bytes, percent-decoded.
pub const MAX_REFERENCE_BYTES: usize = 200;

/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 200;

/// `POST /v1/jobs`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// The spec as JSON, read by the daemon as a [`JobSpec`].
    pub spec: Box<RawValue>,
    /// The idempotency key: the same key and spec of the same user name the same job.
    pub key: String,
    /// Whether to check only.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether it is held from the beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
}

/// The answer to a submit with `dry_run`: the spec has passed every check. Without it, a [`JobView`] is the answer: status 201 for a new job, 200 for the job that the key
/// named before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DryRunView {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Always true.
    pub dry_run: bool,
    /// The spec as it would be kept: defaults filled in, a model's job replaced by the model, names of jobs that it waits for by ids.
    pub spec: JobSpec,
    /// What it would wait for. Absent when that is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<AfterView>,
    /// What would become of it now.
    #[serde(default)]
    pub placement: Option<PlacementView>,
}

/// What would become of a job that is submitted now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementView {
    /// What it would wait for, in a line.
    pub reason: String,
    /// When it would start at the latest, if nothing more urgent comes and jobs run as long as their time limits allow; null where one without a limit is before it.
    pub starts_by: Option<Timestamp>,
}

/// The job that a stage of a retraining is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageView {
    /// `train` or `evaluate`.
    pub stage: String,
    /// The job.
    pub job: JobId,
    /// Where it stands.
    pub state: String,
}

/// A job: cli.md's "JSON of a job", and what its `show` needs besides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its number, as text.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// `train` or `infer`.
    pub kind: String,
    /// `queued`, `blocked`, `held`, `running`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// Why it is where it is, in a line; null for one that succeeded, unless it is a retraining, which says what came of it.
    pub reason: Option<String>,
    /// The queue it stands in.
    pub queue: String,
    /// 0 to 100, higher first.
    pub priority: u8,
    /// The login name of who submitted it, or the user id as text where there is none.
    pub user: String,
    /// The user id of who submitted it.
    pub uid: u32,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
    /// What it occupies while it runs.
    pub resources: Resources,
    /// The GPUs that its last attempt has or had, by UUID.
    #[serde(default)]
    pub gpus: Vec<String>,
    /// The number of starts, from 1; null before the first.
    pub attempt: Option<u32>,
    /// Retries used up.
    pub retries_used: u32,
    /// Retries allowed.
    pub retry_limit: u32,
    /// Retries used up by faults of the infrastructure, which use up none of the others.
    #[serde(default)]
    pub infrastructure_retries_used: u32,
    /// How many there may be.
    #[serde(default)]
    pub infrastructure_retry_limit: u32,
    /// Whether the daemon holds it since it died too often: a person is to look at it.
    #[serde(default)]
    pub quarantined: bool,
    /// How the last attempt ended, by class; null while none has, or a new one runs.
    pub exit_class: Option<String>,
    /// What failed and why.
    pub exit_message: Option<String>,
    /// What to do about it.
    pub exit_hint: Option<String>,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
    /// When its last attempt was started.
    pub started_at: Option<Timestamp>,
    /// When it ended for good.
    pub finished_at: Option<Timestamp>,
    /// A queued job does not start before this time: its start time, or a retry's backoff.
    pub not_before: Option<Timestamp>,
    /// The moment by which it must have ended.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// Seconds that each of its attempts may run; null without a limit, and in lists, for which no spec is read.
    #[serde(default)]
    pub time_limit_seconds: Option<u32>,
    /// Whether it may be asked to make way for a job that is more urgent.
    #[serde(default)]
    pub preemptible: bool,
    /// `cancel`, `stop`, `pause` or `yield` when a running job was asked to end, or to make way, and has not yet.
    pub intent: Option<String>,
    /// How far the current or last attempt has come.
    pub progress: Option<Progress>,
    /// Seconds until it is done at the present rate; null where that cannot be said.
    pub eta_seconds: Option<u64>,
    /// The last value of each metric.
    pub metrics: Metrics,
    /// Where the current or last attempt runs or ran.
    pub worker: Option<WorkerView>,
    /// Peak resident memory of the current or last attempt.
    pub peak_rss_bytes: Option<u64>,
    /// The most memory of its GPUs, all together, that the current or last attempt was seen to have at a heartbeat; null where none was seen.
    #[serde(default)]
    pub peak_vram_bytes: Option<u64>,
    /// Seconds of processors that the current or last attempt has used.
    pub cpu_seconds: Option<f64>,
    /// The newest durable checkpoint: what the next attempt starts from.
    pub checkpoint: Option<CheckpointPlace>,
    /// The final model.
    pub model: Option<ModelRef>,
    /// The predictions.
    pub output: Option<OutputRef>,
    /// What a retraining has come to, and why; absent for other jobs, and before it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conclusion: Option<Conclusion>,
    /// The jobs that a retraining's stages are, in their order; empty in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageView>,
    /// The version of a dataset that it reads, `digits/3`. Absent where its spec names files, and in lists, for which no spec is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// BLAKE3 of the spec as kept.
    pub spec_digest: String,
    /// Which member of which array it is; null for one that is none.
    #[serde(default)]
    pub array: Option<Membership>,
    /// The job or array that it was to wait for and that can no longer come to what was needed, where it is held or was cancelled for that; absent else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmet: Option<JobId>,
    /// The job with the same concurrency key for which it was cancelled, or is being cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<JobId>,
    /// What it was submitted to wait for. Absent in lists, and when that is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<AfterView>,
    /// The first jobs that were submitted to wait for it. Absent in lists, and when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<WaiterView>,
    /// How many there are; absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependents_count: Option<u64>,
}

impl JobView {
    /// Whether nothing but an explicit retry changes it any more.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "cancelled")
    }

    /// Whether nothing but a person changes it any more: who waits for its end need not wait any longer.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_terminal() || self.needs_a_person()
    }

    /// Whether it is held by the daemon, or since what it waited for can never come about.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        self.quarantined || (self.state == "held" && self.unmet.is_some())
    }
}

/// Where an attempt runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Process id.
    pub pid: Option<u32>,
    /// The host's name.
    pub host: Option<String>,
    /// `cpu`, or the accelerator in use.
    pub device: Option<String>,
}

/// Which checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointPlace {
    /// Optimizer steps done in the state it holds.
    pub step: u64,
    /// Its folder.
    pub uri: String,
}

/// `GET /v1/jobs`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// The arrays, each for all its members, which are not among the jobs then. Absent when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrays: Vec<ArrayView>,
    /// What should be known of the list: that some jobs which fit may not be in it. Absent when there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `GET /v1/jobs/{ref}/spec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpecView {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// Its spec as kept.
    pub spec: JobSpec,
}

/// `GET /v1/jobs/{ref}/attempts`, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptList {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// Its attempts.
    pub attempts: Vec<AttemptView>,
}

/// A start of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    /// Its number, from 1.
    pub attempt: u32,
    /// When it was claimed.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended, by class.
    pub exit_class: Option<String>,
    /// What failed and why.
    pub exit_message: Option<String>,
    /// What to do about it.
    pub exit_hint: Option<String>,
    /// Where it runs or ran.
    pub worker: WorkerView,
    /// How far it came.
    pub progress: Progress,
    /// When it was last heard of.
    pub heartbeat_at: Option<Timestamp>,
    /// Peak resident memory.
    pub peak_rss_bytes: Option<u64>,
    /// The most memory of its GPUs, all together, that it was seen to have at a heartbeat; null where none was seen.
    #[serde(default)]
    pub peak_vram_bytes: Option<u64>,
    /// Seconds of processors that it has used.
    pub cpu_seconds: Option<f64>,
}

/// `GET /v1/jobs/{ref}/events`, oldest first. With `follow`, a stream whose `event` messages carry one [`EventView`] each, with its id as the message's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventList {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// The events.
    pub events: Vec<EventView>,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Its place in the log; `after` takes it.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// To which job.
    pub job: JobId,
    /// What: `submitted`, `claimed`, `checkpointed` …
    pub event: String,
    /// The same in words.
    pub text: String,
    /// The event's own fields; those of a later version are here too.
    #[serde(flatten)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// `GET /v1/jobs/{ref}/metrics`, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricList {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// The points.
    pub points: Vec<PointView>,
    /// What `after` must be to get the next ones; null when these are all for now.
    pub next: Option<i64>,
}

/// A moment of a learning curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointView {
    /// Its place among the job's points; `after` takes it.
    pub id: i64,
    /// Optimizer steps done.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// The values by name.
    pub values: Metrics,
}

/// The messages of `GET /v1/jobs/{ref}/follow`, by the name of each: `job` carries a [`JobView`] whenever the job or its progress has changed, `metrics` carries
/// [`FollowedPoints`], and `end` the last [`JobView`], after which the stream is over. A stream that is over without `end` was cut off by the daemon's stop.
pub mod follow {
    /// The job or its progress has changed.
    pub const JOB: &str = "job";
    /// Of an array: where its members stand has changed.
    pub const ARRAY: &str = "array";
    /// There are new points of the learning curve.
    pub const METRICS: &str = "metrics";
    /// An event of the job's log.
    pub const EVENT: &str = "event";
    /// A piece of a log.
    pub const LOG: &str = "log";
    /// A log goes on in another attempt.
    pub const ATTEMPT: &str = "attempt";
    /// Nothing follows; carries the last [`JobView`](super::JobView).
    pub const END: &str = "end";
}

/// Points that came in while a job was followed. The message's id is the last point's, so that a new connection with `Last-Event-ID` goes on after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FollowedPoints {
    /// The points, oldest first.
    pub points: Vec<PointView>,
}

/// The data of `log` messages of `GET /v1/jobs/{ref}/logs?follow=true`. Without `follow` the answer is the log's bytes as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPiece {
    /// The attempt that printed it.
    pub attempt: u32,
    /// What it printed. Bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// The data of `attempt` messages of a followed log: what follows was printed by this attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAttempt {
    /// Its number.
    pub attempt: u32,
}

/// `GET /v1/jobs/{ref}/why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyView {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: String,
    /// Why it is where it is, in a line; never null.
    pub reason: String,
    /// When a job that waits for its turn starts at the latest, if nothing more urgent comes and jobs run as long as their time limits allow; null where one without a limit is before it, or too
    /// many are.
    #[serde(default)]
    pub starts_by: Option<Timestamp>,
    /// What to do about it.
    pub hint: Option<String>,
}
