//! The one error of a job: what a person reads and the class retries are decided on. Every room of this crate ends in one.
//! It never carries a backtrace or a path the user did not give.

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

    /// The same fault with advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
