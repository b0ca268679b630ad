//! Bodies of what a person asks of a job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Labels to be set; null takes one away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
}
