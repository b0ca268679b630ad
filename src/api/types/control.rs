//! Bodies of what a person asks of a job.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// The longest reason of a hold, in characters.
pub const MAX_HOLD_REASON: usize = 200;

/// `POST /v1/jobs/{ref}/hold` and `POST /v1/jobs/{ref}/pause`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HoldRequest {
    /// What it is held for, a line of at most [`MAX_HOLD_REASON`] characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /v1/jobs/{ref}/edit`. What is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EditRequest {
    /// The priority, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Labels to be set; null takes one away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// The moment before which it is not started; null takes it away.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub begin: Option<Option<Timestamp>>,
    /// The moment by which it must have ended; null takes it away.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub deadline: Option<Option<Timestamp>>,
    /// Seconds that each of its attempts may run; null for as long as it likes.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub time_limit_seconds: Option<Option<u32>>,
    /// Retries of its own allowed, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// What is there, be it null: serde would take that for what is absent.
#[expect(clippy::option_option, reason = "absent stays, null takes away")]
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
