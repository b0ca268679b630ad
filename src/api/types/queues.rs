//! The bodies about queues.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::spec::Resources;
use serde::{Deserialize, Serialize};

use super::control::given;
use crate::domain::queue::{Flow, Order};

/// `POST /v1/queues/{name}`: makes the queue where there is none. What is absent stays; the answer is a [`QueueView`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueRequest {
    /// Jobs that run at once at most; null for no limit.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub running: Option<Option<u32>>,
    /// Cores that they have at most; null for no limit.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub cpus: Option<Option<u32>>,
    /// GPUs that they have at most; null for no limit.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub gpus: Option<Option<u32>>,
    /// Jobs of one user that run at once at most; null for no limit.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub per_user: Option<Option<u32>>,
    /// Whether one without room may be passed by those behind it that do not delay it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Whether its jobs start, and whether more may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Flow>,
}

/// A queue. `DELETE /v1/queues/{name}` answers with the one that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Its name.
    pub name: String,
    /// `open`, `paused` (nothing of it starts) or `draining` (nothing is taken into it).
    pub state: Flow,
    /// `best-effort` or `strict`.
    pub order: Order,
    /// Jobs that run at once at most; null for no limit.
    pub running_limit: Option<u32>,
    /// Cores that they have at most; null for no limit.
    pub cpus_limit: Option<u32>,
    /// GPUs that they have at most; null for no limit.
    pub gpus_limit: Option<u32>,
    /// Jobs of one user that run at once at most; null for no limit.
    pub per_user_limit: Option<u32>,
    /// What its running jobs have.
    pub used: Resources,
    /// Its jobs by state, without those in which none is.
    pub jobs: BTreeMap<String, u64>,
    /// The login name of who changed it last, or the user id as text; null where nobody has.
    pub changed_by: Option<String>,
    /// When.
    pub changed_at: Option<Timestamp>,
}

/// `GET /v1/queues`, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The queues, those too that have jobs and nothing else.
    pub queues: Vec<QueueView>,
}
