//! An error with what caused it, in one line: how every room writes an error into a log or an answer.

use std::error::Error;

/// `error: its cause: the cause of that`.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line
}
