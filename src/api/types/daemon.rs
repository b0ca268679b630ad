//! Bodies about the daemon itself: what it does, that it is to stop, whether all is as it should be.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::spec::Resources;
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
