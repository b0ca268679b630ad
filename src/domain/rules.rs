//! The rules of a job spec: what makes a well-formed spec a sensible one. Called by the CLI, which knows where in the file a path was written, and by the daemon, which
//! trusts no client. Everything that is wrong is found at once. Whether files exist, and what is in them, is asked elsewhere: nothing here looks at the world.

mod bounds;
mod command;
mod data;
mod detect;
mod evaluate;
mod infer;
mod job;
mod model;
mod retrain;
mod schedule;
mod time;
mod train;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use mlctl_protocol::{JobSpec, spec::Work};

use super::{Change, Terms};

pub use self::time::{begin, deadline};

/// The longest time limit, a year.
const MAX_TIME_LIMIT_SECONDS: u32 = 31_536_000;

/// The most retries.
const MAX_RETRIES: u32 = 100;

/// The highest priority.
const MAX_PRIORITY: u8 = 100;

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

impl Problem {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), hint: Some(hint.into()) }
    }
}

/// What is wrong with a schedule's name, which stands on command lines and in paths as a job's does, and follows the same rules.
#[must_use]
pub fn schedule_name(name: &str) -> Option<Problem> {
    job::name(name)
}

/// What is wrong with a model's name, in the same way.
#[must_use]
pub fn model_name(name: &str) -> Option<Problem> {
    job::name(name)
}

/// What is wrong with a dataset's name, in the same way.
#[must_use]
pub fn dataset_name(name: &str) -> Option<Problem> {
    job::name(name)
}

/// Why a URI, of a file or of several, names no data; `None` for one that does.
#[must_use]
pub fn data_place(uri: &str) -> Option<String> {
    data::place("", uri).map(|problem| problem.message)
}

/// The dotted path of every key that a spec of this shape may set, whether it does or not; tables are left out. The spec is in its JSON form and may lack what must be there.
#[must_use]
pub fn keys(spec: &serde_json::Value) -> Vec<String> {
    bounds::keys(spec)
}

/// Every mistake in a spec, in the order of its keys; empty when it makes sense. The bounds of the published schema are checked too: a spec that came as JSON has met
/// no schema yet.
#[must_use]
pub fn problems(spec: &JobSpec) -> Vec<Problem> {
    let mut found = bounds::problems(spec);
    // A value out of its bounds needs no second complaint, and the rules may rely on the bounds.
    if found.is_empty() {
        found = misfits(spec);
    }
    found
}

/// What is wrong with what an edit makes of a job.
#[must_use]
pub fn of_edit(priority: Option<u8>, labels: &BTreeMap<String, String>) -> Vec<Problem> {
    let too_high = priority.filter(|priority| *priority > MAX_PRIORITY);
    let too_high = too_high.map(|priority| {
        let message = format!("expected from 0 to {MAX_PRIORITY}, found {priority}");
        Problem::new("priority", message, "higher is sooner")
    });
    too_high.into_iter().chain(job::labels(labels)).collect()
}

/// What is wrong with the terms that an edit gives a job, whatever its state: the bounds are those of a spec.
#[must_use]
pub fn of_terms(terms: &Terms) -> Vec<Problem> {
    let limit = terms.time_limit_seconds.and_then(Change::value);
    let limit = limit.filter(|seconds| !(1..=MAX_TIME_LIMIT_SECONDS).contains(seconds)).map(|seconds| {
        let message = format!("expected from 1 to {MAX_TIME_LIMIT_SECONDS} seconds, found {seconds}");
        Problem::new("time_limit_seconds", message, "without a limit, it may run as long as it likes")
    });
    let retries = terms.retries.filter(|retries| *retries > MAX_RETRIES).map(|retries| {
        let message = format!("expected from 0 to {MAX_RETRIES}, found {retries}");
        Problem::new("retries", message, "what dies so often will die once more")
    });
    limit.into_iter().chain(retries).collect()
}

/// The mistakes that no schema can say, of a spec that fits the schema.
#[must_use]
pub fn misfits(spec: &JobSpec) -> Vec<Problem> {
    let mut found = job::problems(spec);
    found.extend(time::problems(&spec.time));
    match &spec.work {
        Work::Train(train) => found.extend(train::problems(train)),
        Work::Infer(infer) => found.extend(infer::problems(infer)),
        Work::Evaluate(evaluate) => found.extend(evaluate::problems(evaluate)),
        Work::Retrain(retrain) => found.extend(retrain::problems(spec, retrain)),
        Work::Command(command) => found.extend(command::problems(command)),
    }
    found
}
