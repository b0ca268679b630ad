//! The body of a refusal: for programs and for people.

use serde::{Deserialize, Serialize};

use crate::domain::rules::Problem;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorView,
}

/// What went wrong, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// For programs.
    pub code: ErrorCode,
    /// For people: a lower-case fragment.
    pub message: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Every mistake found in a spec.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// What went wrong, for programs: the CLI makes its exit code of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not one: bad JSON, a bad parameter, an unknown path or method.
    BadRequest,
    /// There is no such job, attempt, checkpoint or schedule.
    NotFound,
    /// A name fits several jobs.
    Ambiguous,
    /// What was named is an array, and a job was wanted: `/v1/arrays` has it.
    IsArray,
    /// The job is in a state in which this makes no sense.
    WrongState,
    /// The idempotency key stands for another job, or the name for another schedule.
    KeyConflict,
    /// The spec is wrong; `problems` says where.
    SpecInvalid,
    /// The daemon's settings file is wrong.
    SettingsInvalid,
    /// The caller may not do this.
    NotPermitted,
    /// The request is larger than the daemon reads.
    TooLarge,
    /// Something took longer than it may.
    Timeout,
    /// The daemon has too much to do, or the queue is full: try again later.
    Busy,
    /// A disk is full; nothing new is taken.
    DiskFull,
    /// The database is damaged; nothing new is taken.
    Damaged,
    /// Object storage failed.
    Storage,
    /// The daemon is stopping.
    Stopping,
    /// The daemon failed; its log says more.
    Internal,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}
