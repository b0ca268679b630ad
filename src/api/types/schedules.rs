//! The bodies about schedules.

use jiff::Timestamp;
use mlctl_protocol::{JobId, JobSpec};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::schedule::{Overlap, Policy};

/// `POST /v1/schedules`. The answer is a [`ScheduleView`]: status 201 for a new one, 200 when the same was there already.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddScheduleRequest {
    /// Its name; the job's when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// The crontab line: five fields, or `@daily` and the like.
    pub cron: String,
    /// The IANA name of the time zone; UTC when absent.
    #[serde(default)]
    pub zone: Option<String>,
    /// What it does besides its line; the defaults when absent. Overlapping runs are allowed where it does not say: `mlctl` says.
    #[serde(default)]
    pub policy: Policy,
    /// The spec of the job that each tick submits, as JSON.
    pub spec: Box<RawValue>,
}

/// `POST /v1/apply`: has schedules be what they are said to be. All of it is checked before any of it is done, in one transaction. The answer is an [`ApplyView`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// Each as it would be added; no two of one name.
    pub schedules: Vec<AddScheduleRequest>,
    /// Remove all other schedules. Their jobs stay.
    #[serde(default)]
    pub prune: bool,
    /// Only look at what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of schedules that were applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplyView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Each schedule: those that were sent, in their order, and those that were removed.
    pub schedules: Vec<AppliedView>,
}

/// What became of a schedule that was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppliedView {
    /// Its name.
    pub name: String,
    /// What was done.
    pub outcome: Applied,
    /// What it was and is, by key: `cron`, `zone`, `policy.jitter_seconds`, `job.train.max_epochs`. Empty but for one that was changed.
    pub changes: Vec<ChangeView>,
}

/// What was done about a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// There was none of its name.
    Added,
    /// It became another. Its ticks and whether it is paused stay as they were.
    Changed,
    /// It was the same already.
    Unchanged,
    /// It is gone, as nothing named it.
    Removed,
}

/// A key that was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeView {
    /// The key, with dots.
    pub key: String,
    /// What it was; null where it was not set.
    pub before: Option<serde_json::Value>,
    /// What it is; null where it is not set.
    pub after: Option<serde_json::Value>,
}

/// `POST /v1/schedules/{name}/run`. The answer is that of a submit.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunScheduleRequest {
    /// The idempotency key: asked twice with the same one, one job is submitted.
    pub key: String,
}

/// `POST /v1/schedules/{name}/backfill`: has the schedule's ticks of a span of time made up for that have no job. The answer is a [`BackfillView`]. Asked again, it is about what is still
/// missing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    /// No ticks before this moment; one at it is a tick.
    pub from: Timestamp,
    /// No ticks after this moment, which has passed; one at it is a tick.
    pub to: Timestamp,
    /// `buffer_all`: each job waits until those before it have ended; `allow`: it does not. When absent, `allow` where the schedule's own runs may overlap, else `buffer_all`.
    #[serde(default)]
    pub overlap: Option<Overlap>,
    /// Only look at what would be submitted.
    #[serde(default)]
    pub dry_run: bool,
}

/// A schedule's ticks of a span of time, and what they have come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Whether nothing was submitted.
    pub dry_run: bool,
    /// `buffer_all` or `allow`, as it was asked for or follows from the schedule.
    pub overlap: Overlap,
    /// The ticks, in order.
    pub runs: Vec<BackfilledView>,
}

/// A tick of a span of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfilledView {
    /// The moment that the line names.
    pub utc: Timestamp,
    /// The same as the zone's clock shows it: `2026-03-29T03:00:00+02:00[Europe/Berlin]`.
    pub local: String,
    /// What a change of the zone's offset did to it; null where there was none.
    pub note: Option<String>,
    /// Its job; null where it has none yet.
    pub job: Option<JobId>,
    /// Whether the job was submitted before.
    pub existed: bool,
}

/// A schedule. `DELETE /v1/schedules/{name}` answers with the one that was removed; `POST …/pause` and `…/resume`, which have no body, with what it is then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Its name.
    pub name: String,
    /// The crontab line as written.
    pub cron: String,
    /// The IANA name of its time zone.
    pub zone: String,
    /// What it does besides its line.
    #[serde(default)]
    pub policy: Policy,
    /// Whether it submits jobs: not while it is paused.
    pub enabled: bool,
    /// Why the daemon paused it; null where a person did, or nobody.
    #[serde(default)]
    pub paused: Option<String>,
    /// The login name of who added it, or the user id as text where there is none: its jobs are that user's.
    pub user: String,
    /// The user id of who added it.
    pub uid: u32,
    /// When it was added.
    pub created_at: Timestamp,
    /// The name of its jobs.
    pub job_name: String,
    /// `train` or `infer`.
    pub job_kind: String,
    /// When the next tick submits its job, its jitter included; null while it is paused.
    pub next_at: Option<Timestamp>,
    /// The same as its zone's clock shows it: `2026-03-29T03:00:00+02:00[Europe/Berlin]`.
    pub next_local: Option<String>,
    /// The last tick that submitted a job.
    pub last: Option<TickView>,
    /// Why it submits nothing; null when all is well.
    pub problem: Option<String>,
    /// What its line means that may not be meant.
    pub remarks: Vec<String>,
}

/// A tick that submitted a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickView {
    /// When it was.
    pub at: Timestamp,
    /// The local time that it stands for, without an offset.
    pub nominal: String,
    /// 2 for the second of two moments at which the clock shows that time, else 1.
    pub pass: u8,
    /// The job.
    pub job: JobId,
    /// When the job was submitted; later than `at` for a tick that was missed and made up for.
    pub submitted_at: Timestamp,
    /// Who had it made up for by a backfill: the login name, or the user id as text where there is none. Null where the clock submitted it.
    #[serde(default)]
    pub asked_by: Option<String>,
}

/// A tick whose job could not be submitted, or was not to be while another's had not ended: it is not made up for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedTickView {
    /// When it was.
    pub at: Timestamp,
    /// The local time that it stands for, without an offset.
    pub nominal: String,
    /// 2 for the second of two moments at which the clock shows that time, else 1.
    pub pass: u8,
    /// Why.
    pub reason: String,
    /// When that was found.
    pub missed_at: Timestamp,
}

/// `GET /v1/schedules`, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The schedules.
    pub schedules: Vec<ScheduleView>,
}

/// `GET /v1/schedules/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleDetail {
    /// The schedule.
    #[serde(flatten)]
    pub schedule: ScheduleView,
    /// The last ticks that submitted jobs, newest first.
    pub ticks: Vec<TickView>,
    /// The last ticks whose job could not be submitted, newest first.
    #[serde(default)]
    pub missed: Vec<MissedTickView>,
    /// The job that each tick submits.
    pub spec: JobSpec,
}

/// `GET /v1/schedules/{name}/preview`, and what `mlctl schedule preview` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The runs, in order.
    pub runs: Vec<RunView>,
}

/// A run to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// The moment that its line names.
    pub utc: Timestamp,
    /// The same as the zone's clock shows it: `2026-03-29T03:00:00+02:00[Europe/Berlin]`.
    pub local: String,
    /// What a change of the zone's offset does to it; null where there is none.
    pub note: Option<String>,
    /// When it submits its job, where the schedule has a jitter; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
}
