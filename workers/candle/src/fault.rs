//! The one error of a job: what a person reads and the class retries are decided on. Every room of this crate ends in one.
//! It never carries a backtrace or a path the user did not give.

use std::error::Error;

use mlctl_artifacts::ArtifactError;
use mlctl_protocol::ExitClass;

/// Why a job cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The class the attempt ends with.
    pub class: ExitClass,
    /// What failed and why, a lower-case fragment.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault of any class.
    pub fn new(class: ExitClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None }
    }

    /// The user's error: the spec, the data or the model cannot work, and a retry would end the same way.
    pub fn spec(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { class: ExitClass::Spec, message: message.into(), hint: Some(hint.into()) }
    }

    /// An error on an object that the system itself writes, with its causes.
    #[must_use]
    pub fn storage(error: &ArtifactError) -> Self {
        let fault = Self::new(error.storage_class(), with_causes(error));
        match error.hint() {
            Some(hint) => fault.with_hint(hint),
            None => fault,
        }
    }

    /// An error on the system's own storage before anything was kept there: a store that denies access has never granted it.
    #[must_use]
    pub fn before(error: &ArtifactError) -> Self {
        Self { class: error.exit_class(), ..Self::storage(error) }
    }

    /// An error on a file that the user brought. `what` names it: the data, the model.
    #[must_use]
    pub fn input(what: &str, error: &ArtifactError) -> Self {
        let hint = match error {
            ArtifactError::Denied { hint, .. } => hint,
            ArtifactError::NotFound { uri } if uri.starts_with("s3://") => {
                "check the bucket and the key in the spec, or upload it first"
            }
            ArtifactError::NotFound { .. } => {
                "check the path in the spec; a relative one is taken from the spec's folder"
            }
            ArtifactError::BadUri { .. } => "write a path, file:///absolute/path or s3://bucket/key",
            ArtifactError::TooLarge { .. } => "split it into smaller files",
            ArtifactError::Refused { .. } => "it must be a regular file that the daemon's user may read",
            ArtifactError::Corrupt { .. } => {
                "it is damaged, or was changed while it was read: restore it, or name another"
            }
            _ => "the store did not answer; the job is tried again",
        };
        Self::new(error.exit_class(), format!("cannot read {what}: {}", with_causes(error))).with_hint(hint)
    }

    /// The same fault with advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        message.push_str(": ");
        message.push_str(&inner.to_string());
        cause = inner.source();
    }
    message
}
