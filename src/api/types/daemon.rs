//! Bodies about the daemon itself: what it does, that it is to stop, whether all is as it should be.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::{JobId, spec::Resources};
use serde::{Deserialize, Serialize};

/// `GET /v1/daemon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The daemon's version.
    pub version: String,
    /// The worker's program.
    pub worker: String,
    /// Process id.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// When it began to serve.
    pub started_at: Timestamp,
    /// Its clock.
    pub now: Timestamp,
    /// The folder that holds all that must survive.
    pub state_dir: String,
    /// The socket it listens on.
    pub socket: String,
    /// The prefix of all objects.
    pub storage_url: String,
    /// The database's id, part of every object's key.
    pub instance: String,
    /// Grows with every restore.
    pub epoch: u32,
    /// What there is to give to jobs.
    pub machine: Resources,
    /// What attempts occupy.
    pub used: Resources,
    /// Jobs by state.
    pub jobs: BTreeMap<String, u64>,
    /// Whether jobs are started.
    #[serde(default)]
    pub dispatch: DispatchView,
}

/// Whether jobs are started, and if not, why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchView {
    /// `open`, `draining` or `frozen`; the latter where both are true.
    pub state: DispatchState,
    /// The drain; null when there is none.
    pub drain: Option<DrainView>,
    /// What the last full check of the database found; null when that was nothing.
    pub frozen: Option<FrozenView>,
    /// When the last full check in this daemon's time ended; null before the first.
    pub checked_at: Option<Timestamp>,
}

/// Whether jobs are started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DispatchState {
    /// They are.
    #[default]
    Open,
    /// None is until the drain is taken back, or another daemon runs.
    Draining,
    /// None is, since the database is damaged.
    Frozen,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

/// A drain: no job is started; those that run finish, or save their work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// Since when.
    pub at: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Seconds from then on after which jobs are asked to save their work; null for never.
    pub patience_seconds: Option<u64>,
    /// Whether they are by now.
    pub saving: bool,
    /// Whether the daemon stops when none runs any more.
    pub stop: bool,
    /// How many run.
    pub running: u64,
    /// Which: the oldest hundred.
    pub jobs: Vec<JobId>,
}

/// A damaged database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenView {
    /// When that was found.
    pub at: Timestamp,
    /// What was found, each in a line; the first hundred.
    pub problems: Vec<String>,
    /// What to do.
    pub hint: String,
}

/// The body of `POST /v1/daemon/drain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Seconds after which jobs that still run are asked to save their work and wait for their turn again; 0 for at once, never when absent.
    #[serde(default)]
    pub patience_seconds: Option<u64>,
    /// Whether the daemon stops when none runs any more.
    pub stop: bool,
}

/// `POST /v1/daemon/reload`: the settings were read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Keys that have changed and hold from now on.
    pub applied: Vec<String>,
    /// Keys that have changed and hold from the daemon's next start on.
    pub pending: Vec<String>,
}

/// `POST /v1/daemon/resume`: jobs are started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Whether there was a drain to take back.
    pub resumed: bool,
}

/// `POST /v1/daemon/stop`: the daemon is stopping. Workers go on; the next daemon adopts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Always true.
    pub stopping: bool,
    /// The process that ends.
    pub pid: u32,
    /// Jobs that run on.
    pub running: u64,
}

/// `GET /v1/doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Whether no check failed; warnings do not count.
    pub ok: bool,
    /// The checks, in the order in which they were made.
    pub checks: Vec<CheckView>,
}

/// One check of the doctor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// What was looked at.
    pub name: String,
    /// What came of it.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
    /// What to do about it; null when all is well.
    pub hint: Option<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// All is well.
    Ok,
    /// It works, and something should be looked at.
    Warn,
    /// It does not work.
    Fail,
}
