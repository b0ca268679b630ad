//! Every exit code, and nothing else: scripts rely on them.

use std::process::ExitCode;

use crate::api::types::{ArrayView, ErrorCode, JobView};

/// How `mlctl` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// The operation failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// No daemon answers.
    Unreachable,
    /// There is no such job, attempt or checkpoint.
    NotFound,
    /// The job is in a state in which this makes no sense, or the name or key stands for something else.
    Conflict,
    /// A spec, or a file it names, is wrong.
    Invalid,
    /// The daemon does not let this user do it.
    NotPermitted,
    /// The `--timeout` of a wait ran out.
    WaitedTooLong,
    /// The job that was waited for failed.
    JobFailed,
    /// The job that was waited for was cancelled.
    JobCancelled,
    /// The job that was waited for ran into its own time limit.
    JobTimedOut,
    /// Ctrl-C while something was followed.
    Interrupted,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
            Self::Invalid => 6,
            Self::NotPermitted => 7,
            Self::WaitedTooLong => 8,
            Self::JobFailed => 20,
            Self::JobCancelled => 21,
            Self::JobTimedOut => 22,
            Self::Interrupted => 130,
        }
    }

    /// The name that stands in JSON errors which do not come from the daemon.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Invalid => "spec_invalid",
            Self::NotPermitted => "not_permitted",
            Self::WaitedTooLong => "timeout",
            Self::JobFailed => "job_failed",
            Self::JobCancelled => "job_cancelled",
            Self::JobTimedOut => "job_timed_out",
            Self::Interrupted => "interrupted",
        }
    }

    /// What an error of the daemon's makes of the program.
    pub const fn of_error(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadRequest => Self::Usage,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Ambiguous | ErrorCode::IsArray | ErrorCode::WrongState | ErrorCode::KeyConflict => {
                Self::Conflict
            }
            ErrorCode::SpecInvalid | ErrorCode::SettingsInvalid | ErrorCode::TooLarge => Self::Invalid,
            ErrorCode::NotPermitted => Self::NotPermitted,
            ErrorCode::Stopping => Self::Unreachable,
            ErrorCode::Timeout
            | ErrorCode::Busy
            | ErrorCode::DiskFull
            | ErrorCode::Damaged
            | ErrorCode::Storage
            | ErrorCode::Internal
            | ErrorCode::Unknown => Self::Failed,
        }
    }

    /// What the end of a job that was waited for makes of the program. A job that has not ended has not failed.
    pub fn of_job(job: &JobView) -> Self {
        match (job.state.as_str(), job.exit_class.as_deref()) {
            ("failed", Some("timeout")) => Self::JobTimedOut,
            ("failed", _) => Self::JobFailed,
            ("held", _) if job.needs_a_person() => Self::JobFailed,
            ("cancelled", _) => Self::JobCancelled,
            _ => Self::Ok,
        }
    }

    /// What the end of an array that was waited for makes of the program.
    pub fn of_array(array: &ArrayView) -> Self {
        match array.state.as_str() {
            "failed" => Self::JobFailed,
            _ if array.is_stuck() => Self::JobFailed,
            "cancelled" => Self::JobCancelled,
            _ => Self::Ok,
        }
    }

    /// The worse of the ends of two jobs: a failure outweighs a time limit, and that a cancellation.
    pub fn worse(self, other: Self) -> Self {
        let weight = |exit| match exit {
            Self::JobFailed => 3,
            Self::JobTimedOut => 2,
            Self::JobCancelled => 1,
            _ => 0,
        };
        if weight(other) > weight(self) { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
