//! The bodies about notifications.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `GET /v1/notify`, in the order of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The hooks.
    pub hooks: Vec<HookView>,
}

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookView {
    /// Its name.
    pub name: String,
    /// What it is told of.
    pub on: Vec<String>,
    /// Of which jobs; null for all.
    pub filter: Option<String>,
    /// `webhook`, `command` or `mail`.
    pub channel: String,
    /// Whom it leads to: of a webhook the server alone, of a command the program.
    pub target: String,
    /// Where it stands.
    pub state: HookState,
    /// Messages that have arrived.
    pub delivered: u64,
    /// When the last one did.
    pub delivered_at: Option<Timestamp>,
    /// Since when none has arrived; null where the last one did.
    pub failing_since: Option<Timestamp>,
    /// Tries of the message that is being sent that have failed.
    pub tries: u32,
    /// When the next one is.
    pub next_try: Option<Timestamp>,
    /// What came of the last one, or what is wrong with the hook.
    pub error: Option<String>,
    /// Messages that were given up.
    pub given_up: u64,
    /// Events of jobs that were removed before it could be told of them.
    pub missed: u64,
    /// When something was given up or missed last.
    pub lost_at: Option<Timestamp>,
}

/// Where a hook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookState {
    /// It delivers, or has had nothing to deliver yet.
    Ok,
    /// The last try has failed.
    Failing,
    /// It cannot be used as it is set up.
    Broken,
}

impl HookState {
    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Broken => "broken",
        }
    }
}

/// `POST /v1/notify/{hook}/test`: what came of a message that says that it is a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestedView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The hook.
    pub name: String,
    /// Whether it has arrived.
    pub delivered: bool,
    /// Why not.
    pub error: Option<String>,
}
