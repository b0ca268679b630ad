//! Every answer that is not a success: what went wrong as an [`ErrorBody`] with its HTTP status. Called by the handlers, which pass the other rooms' errors through
//! with `?`. What failed inside is logged here, once, and told to the client in a word.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use mlctl_artifacts::ArtifactError;
use tracing::error;

use super::types::{ErrorBody, ErrorCode, ErrorView};
use crate::{
    domain::{Refusal, alias::AliasError, causes, rules::Problem},
    store::StoreError,
    supervisor::CheckpointError,
};

/// Why a request is not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    view: ErrorView,
    status: StatusCode,
}

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let view = ErrorView { code, message: message.into(), hint: Some(hint.into()), problems: Vec::new() };
        Self { view, status: status(code) }
    }

    pub(super) fn bad_request(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message, hint)
    }

    /// The spec has mistakes; there is at least one.
    pub(super) fn spec(problems: Vec<Problem>) -> Self {
        Self::mistakes("job spec", problems)
    }

    /// What was sent has mistakes; there is at least one.
    pub(super) fn mistakes(what: &str, problems: Vec<Problem>) -> Self {
        let count = problems.len();
        let message =
            if count == 1 { format!("the {what} has a mistake") } else { format!("the {what} has {count} mistakes") };
        let mut failure = Self::new(ErrorCode::SpecInvalid, message, format!("correct the {what} and send it again"));
        failure.view.problems = problems;
        failure
    }

    /// The mistakes in what was sent.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.view.problems
    }

    /// The daemon's own fault. `what` and `cause` go to its log.
    pub(super) fn internal(what: &str, cause: &dyn std::error::Error) -> Self {
        error!(error = causes(cause), "{what}");
        Self::new(ErrorCode::Internal, what, "the daemon's log says more; `mlctl doctor` looks for the usual causes")
    }

    /// The same with another HTTP status than its code's usual one.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The error, to be told within an answer that has begun already.
    pub(super) fn into_view(self) -> ErrorView {
        self.view
    }

    #[cfg(test)]
    pub(super) const fn code(&self) -> ErrorCode {
        self.view.code
    }
}

const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Ambiguous | ErrorCode::IsArray | ErrorCode::WrongState | ErrorCode::KeyConflict => {
            StatusCode::CONFLICT
        }
        ErrorCode::SpecInvalid | ErrorCode::SettingsInvalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::NotPermitted => StatusCode::FORBIDDEN,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Busy | ErrorCode::Stopping | ErrorCode::Damaged => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::Storage => StatusCode::BAD_GATEWAY,
        ErrorCode::Internal | ErrorCode::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { view, status } = self;
        (status, Json(ErrorBody { error: view })).into_response()
    }
}

/// Where the versions of a model or a dataset are listed.
fn versions(noun: &str, name: &str) -> String {
    format!("`mlctl {noun} show {name}` lists its versions")
}

/// What to do where aliases of a model stay as they are, or keep a version.
fn about_alias(error: &StoreError, message: String) -> Failure {
    let (code, hint) = match error {
        StoreError::VersionNamed { model, alias, .. } => (
            ErrorCode::WrongState,
            format!("move the alias first, or take it away with `mlctl model alias {model} {alias} --rm`"),
        ),
        StoreError::Alias { model, why: AliasError::Unknown(_) } => {
            (ErrorCode::NotFound, format!("`mlctl model show {model}` lists its aliases"))
        }
        StoreError::Alias { model, why: AliasError::Moved { .. } } => {
            (ErrorCode::WrongState, format!("somebody else was first: `mlctl model show {model}` says who and why"))
        }
        StoreError::Alias { model, why: AliasError::NoPrevious } => {
            (ErrorCode::WrongState, format!("`mlctl model promote {model}/VERSION` makes any version the champion"))
        }
        StoreError::Alias { model, why: AliasError::TooMany } => {
            (ErrorCode::WrongState, format!("`mlctl model alias {model} NAME --rm` takes one away"))
        }
        _ => return Failure::internal("the database failed", error),
    };
    Failure::new(code, message, hint)
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match &error {
            StoreError::NotFound(_) => Self::new(ErrorCode::NotFound, message, "`mlctl ls --all` lists every job"),
            StoreError::IsArray { id, .. } => Self::new(
                ErrorCode::IsArray,
                message,
                format!("name one of them, such as {id}.1; `mlctl ls --array {id}` lists them"),
            ),
            StoreError::NoArray { job } => Self::new(
                ErrorCode::BadRequest,
                message,
                format!("`mlctl show {job}` shows the job; `mlctl ls` lists arrays"),
            ),
            StoreError::NoSchedule(_) => {
                Self::new(ErrorCode::NotFound, message, "`mlctl schedule ls` lists every schedule")
            }
            StoreError::ScheduleExists(name) => Self::new(
                ErrorCode::KeyConflict,
                message,
                format!("choose another name, or remove that one first with `mlctl schedule rm {name}`"),
            ),
            StoreError::NoQueue(_) => Self::new(ErrorCode::NotFound, message, "`mlctl queue ls` lists every queue"),
            StoreError::TooManyQueues(_) => Self::new(ErrorCode::Busy, message, "remove some with `mlctl queue rm`"),
            StoreError::QueueInUse { name, .. } => Self::new(
                ErrorCode::WrongState,
                message,
                format!("`mlctl queue drain {name}` takes no more; `mlctl ls --queue {name}` shows what is left"),
            ),
            StoreError::NoCheckpoint { job, .. } => {
                Self::new(ErrorCode::NotFound, message, format!("`mlctl checkpoint ls {job}` lists what is kept"))
            }
            StoreError::NoModel(_) => Self::new(ErrorCode::NotFound, message, "`mlctl model ls` lists every model"),
            StoreError::NoVersion { model, .. } => Self::new(ErrorCode::NotFound, message, versions("model", model)),
            StoreError::VersionNamed { .. } | StoreError::Alias { .. } => about_alias(&error, message),
            StoreError::VersionInUse { .. } | StoreError::DatasetInUse { .. } => {
                Self::new(ErrorCode::WrongState, message, "wait until the job has ended, or remove the schedule")
            }
            StoreError::NoDataset(_) => Self::new(ErrorCode::NotFound, message, "`mlctl dataset ls` lists all"),
            StoreError::NoDatasetVersion { dataset, .. } => {
                Self::new(ErrorCode::NotFound, message, versions("dataset", dataset))
            }
            StoreError::Ambiguous { .. } => {
                Self::new(ErrorCode::Ambiguous, message, "`mlctl ls` shows the ids of jobs and their names")
            }
            StoreError::Refused(Refusal::WrongState { job, .. }) => {
                Self::new(ErrorCode::WrongState, message, format!("`mlctl show {job}` shows where it stands"))
            }
            StoreError::Refused(Refusal::Stale { job, .. }) => Self::new(
                ErrorCode::WrongState,
                message,
                format!("try again; `mlctl show {job}` shows where it stands"),
            ),
            StoreError::KeyConflict { job, .. } => Self::new(
                ErrorCode::KeyConflict,
                message,
                format!("submit it under another key, or see what became of the first with `mlctl show {job}`"),
            ),
            StoreError::Full => {
                Self::new(ErrorCode::DiskFull, message, "free space on it and try again; what was acknowledged is safe")
            }
            StoreError::Stopping => {
                Self::new(ErrorCode::Stopping, message, "try again when it is back; the same key names the same job")
            }
            StoreError::Broken { .. } => Self::new(
                ErrorCode::Internal,
                message,
                "check the disk, then restart the daemon: what was acknowledged is there, this was not",
            ),
            StoreError::Unusable { .. } | StoreError::Failed(_) => Self::internal("the database failed", &error),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let message = error.to_string();
        let show = |job| format!("`mlctl show {job}` shows where it stands");
        match error {
            CheckpointError::NotRunning(job) | CheckpointError::Ended(job) => {
                Self::new(ErrorCode::WrongState, message, show(job))
            }
            CheckpointError::NotConnected(_) => {
                Self::new(ErrorCode::Busy, message, "it dials again by itself: try again in a few seconds")
            }
            CheckpointError::Timeout { job, .. } => {
                Self::new(ErrorCode::Timeout, message, format!("it may still come: `mlctl checkpoint ls {job}`"))
            }
        }
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        let message = causes(&error);
        match error {
            ArtifactError::NotFound { .. } => {
                Self::new(ErrorCode::NotFound, message, "it may have been deleted since; list what there is again")
            }
            ArtifactError::Denied { hint, .. } => Self::new(ErrorCode::Storage, message, hint),
            ArtifactError::Full { .. } => Self::new(ErrorCode::DiskFull, message, "free space on it and try again"),
            _ => Self::new(ErrorCode::Storage, message, "`mlctl doctor` tries whether storage can be used"),
        }
    }
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::JobId;

    use super::*;

    #[test]
    fn every_error_of_the_store_has_its_code_and_status() {
        let failed = StoreError::Failed(std::sync::Arc::new(std::io::Error::other("secret detail")));
        let wrong = Refusal::WrongState { job: JobId(3), state: "succeeded", verb: "cancelled" };
        let ambiguous = StoreError::Ambiguous { name: "x".into(), first: JobId(1), second: JobId(2) };
        let cases = [
            (StoreError::NotFound("x".into()), ErrorCode::NotFound, 404),
            (ambiguous, ErrorCode::Ambiguous, 409),
            (StoreError::IsArray { id: JobId(1), name: "x".into(), size: 3 }, ErrorCode::IsArray, 409),
            (StoreError::NoArray { job: JobId(1) }, ErrorCode::BadRequest, 400),
            (wrong.into(), ErrorCode::WrongState, 409),
            (StoreError::KeyConflict { key: "k".into(), job: JobId(1) }, ErrorCode::KeyConflict, 409),
            (StoreError::NoSchedule("x".into()), ErrorCode::NotFound, 404),
            (StoreError::ScheduleExists("x".into()), ErrorCode::KeyConflict, 409),
            (StoreError::NoQueue("x".into()), ErrorCode::NotFound, 404),
            (StoreError::TooManyQueues(3), ErrorCode::Busy, 503),
            (StoreError::QueueInUse { name: "x".into(), jobs: 2 }, ErrorCode::WrongState, 409),
            (StoreError::Full, ErrorCode::DiskFull, 507),
            (StoreError::Stopping, ErrorCode::Stopping, 503),
            (failed, ErrorCode::Internal, 500),
        ];
        for (error, code, status) in cases {
            let failure = Failure::from(error);
            assert_eq!((failure.code(), failure.status.as_u16()), (code, status));
            assert!(failure.view.hint.is_some(), "{code:?}");
            assert!(!failure.view.message.contains("secret"), "{code:?}");
        }
    }
}
