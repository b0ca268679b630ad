//! What jobs wait for, in bodies about them.

use std::fmt;

use mlctl_protocol::{JobId, spec::Need};
use serde::{Deserialize, Serialize};

/// A job or an array that a job was submitted to wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterView {
    /// Which.
    pub on: JobId,
    /// How it must have ended: `ok`, `any` or `notok`.
    pub need: Need,
    /// Whether it is an array.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub array: bool,
    /// Where it stands; null when it was removed.
    pub state: Option<String>,
    /// Whether the job does not wait for it again, as a person had it started anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waived: bool,
}

/// A job that was submitted to wait for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterView {
    /// Which.
    pub id: JobId,
    /// How the other must have ended.
    pub need: Need,
    /// Where it stands.
    pub state: String,
}

impl fmt::Display for AfterView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.as_deref().unwrap_or("removed");
        let waived = if self.waived { ", no longer waited for" } else { "" };
        write!(f, "{}:{} ({state}{waived})", self.need.name(), self.on)
    }
}

impl fmt::Display for WaiterView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.id, self.need.name(), self.state)
    }
}
