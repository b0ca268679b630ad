//! Why a verb did not do what it was asked: made wherever something fails, shown by `output` in three parts. What failed is the verb's goal and added at the end, so that
//! no message says it twice.

use std::fmt;

use super::exit::Exit;
use crate::{
    api::types::{ErrorCode, ErrorView},
    config::{ConfigError, document::Report},
    domain::{causes, rules::Problem},
};

/// A verb's failure.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The daemon's code, where the daemon refused.
    pub code: Option<ErrorCode>,
    /// Why, a line each; what is most general first.
    pub why: Vec<String>,
    /// Mistakes in a spec that the daemon found, by key; `why` has them too.
    pub problems: Vec<Problem>,
    /// Mistakes in a document.
    pub report: Option<Box<Report>>,
    /// What to do.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure for one reason.
    pub fn new(exit: Exit, why: impl fmt::Display) -> Self {
        Self { exit, code: None, why: vec![why.to_string()], problems: Vec::new(), report: None, hint: None }
    }

    /// An operation that failed, by an error and its causes.
    pub fn caused(what: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        Self::new(Exit::Failed, format!("{what}: {}", causes(error)))
    }

    /// A document that is wrong.
    pub fn report(exit: Exit, report: Report) -> Self {
        Self { exit, code: None, why: Vec::new(), problems: Vec::new(), report: Some(Box::new(report)), hint: None }
    }

    /// Nobody reads the output any more: the end, and no failure.
    pub fn unread() -> Self {
        Self { exit: Exit::Ok, code: None, why: Vec::new(), problems: Vec::new(), report: None, hint: None }
    }

    /// Whether there is something to say.
    pub const fn is_silent(&self) -> bool {
        self.why.is_empty() && self.report.is_none()
    }

    /// The failure with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<ErrorView> for Failure {
    fn from(error: ErrorView) -> Self {
        let ErrorView { code, message, hint, problems } = error;
        let mut why = vec![message];
        for Problem { path, message, hint } in &problems {
            let hint = hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
            why.push(format!("{path}: {message}{hint}"));
        }
        Self { exit: Exit::of_error(code), code: Some(code), why, problems, report: None, hint }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Wrong(report) => Self::report(Exit::Usage, report),
            other => Self { exit: Exit::Usage, ..Self::caused("settings", &other) },
        }
    }
}
