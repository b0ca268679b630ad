//! The bodies about GPUs.

use jiff::Timestamp;
use mlctl_protocol::JobId;
use serde::{Deserialize, Serialize};

/// The longest reason that a person gives for taking a GPU from others, in characters.
pub const MAX_DEVICE_REASON: usize = 1000;

/// `POST /v1/devices/{device}`: says who may have it from now on. Jobs that have it already keep it; the answer is a [`DeviceView`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRequest {
    /// Who may have it.
    pub state: DeviceState,
    /// The queue for which it is reserved: this or `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The user for whom it is reserved: a login name, or a user id as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Who may have a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Every job.
    Open,
    /// None that does not have it already.
    Drained,
    /// The jobs of a queue, or of a user.
    Reserved,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// What the driver counts it as.
    pub index: u32,
    /// What it is called for ever.
    pub uuid: String,
    /// What it is sold as.
    pub name: String,
    /// All of its memory, in MiB.
    pub memory_mib: u32,
    /// What neither jobs nor others have of it, in MiB.
    pub free_mib: u32,
    /// Who may have it.
    pub state: DeviceState,
    /// The queue for which it is reserved; null for none.
    pub queue: Option<String>,
    /// The user for whom it is reserved, by login name or by id; null for none.
    pub user: Option<String>,
    /// What for; null where nobody has said so.
    pub reason: Option<String>,
    /// The jobs that have it, the oldest first.
    pub jobs: Vec<JobId>,
    /// Whether others use it so much that no job can have it for itself.
    pub busy: bool,
    /// Memory that others have of it, in MiB.
    pub foreign_mib: u32,
    /// Processes of others that compute on it.
    pub foreign_processes: u32,
    /// The worker's program for jobs with it.
    pub worker: String,
    /// The login name of who said last who may have it, or the user id as text; null where nobody has.
    pub changed_by: Option<String>,
    /// When.
    pub changed_at: Option<Timestamp>,
}

/// `GET /v1/devices`, by index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The GPUs that jobs are given.
    pub devices: Vec<DeviceView>,
}
