//! The rules of a job spec that need more than its types: what makes a well-formed spec a sensible one.

use mlctl_protocol::JobSpec;

/// A mistake in a spec. `path` is dotted, as in TOML: `train.model.layers`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// Where, as a dotted path.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Every mistake in a spec, in the order of its keys; empty when it makes sense.
#[must_use]
pub fn problems(spec: &JobSpec) -> Vec<Problem> {
    let _ = spec;
    Vec::new()
}
