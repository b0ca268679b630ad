//! Arrays: many jobs made from one spec by parameters. What a member is, how its spec comes about, where an array as a whole stands. Called by the API, which keeps arrays,
//! by the store, which counts their members, and by the CLI. Pure: the seed of what is drawn comes in.

mod edit;
mod halving;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use mlctl_protocol::JobId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::edit::parts;
pub use self::halving::{Behind, Halving};
pub use self::sweep::{Axis, MAX_AXES, Range, Sample, Scale, Sweep};
use super::{
    gate::Gate,
    job::{Job, JobState},
};

/// The longest name of a metric, in characters.
const MAX_METRIC: usize = 100;

/// What a member's spec has of its own: values by dotted path, as `train.optimizer.learning_rate`.
pub type Params = BTreeMap<String, Value>;

/// Which member of which array a job is. The job's id is the array's and the index together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// The array.
    pub id: JobId,
    /// From 1.
    pub index: u32,
    /// What sets it apart from the others.
    pub params: Params,
}

/// What an array is kept with, besides its members.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Design {
    /// Where the members' parameters come from.
    pub sweep: Sweep,
    /// What members are compared by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Which members are stopped early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halving: Option<Halving>,
    /// How many members run at once at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
}

/// A metric, and which end of it is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Its name, such as `val_loss`.
    pub name: String,
    /// Which end is good.
    pub goal: Goal,
}

/// Which end of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The least is the best.
    Min,
    /// The greatest is the best.
    Max,
}

impl Goal {
    /// Both with their names.
    pub const ALL: [(&str, Self); 2] = [("min", Self::Min), ("max", Self::Max)];

    /// The name used in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
        }
    }

    /// What is meant where nobody says it: much accuracy, and little of everything else.
    #[must_use]
    pub fn of(metric: &str) -> Self {
        if metric.ends_with("accuracy") { Self::Max } else { Self::Min }
    }

    /// Whether one value is better than another.
    #[must_use]
    pub fn prefers(self, one: f64, other: f64) -> bool {
        match self {
            Self::Min => one < other,
            Self::Max => one > other,
        }
    }
}

impl Metric {
    /// A metric by its name, with the goal that is usually meant by it.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), goal: Goal::of(name) }
    }

    /// What is wrong with the name: it stands on command lines and in addresses.
    #[must_use]
    pub fn mistake(&self) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@');
        let fits = !self.name.is_empty() && self.name.chars().count() <= MAX_METRIC && self.name.chars().all(plain);
        (!fits).then(|| {
            let shown: String = self.name.chars().take(40).collect();
            format!("{shown:?} is no name of a metric: it has 1 to {MAX_METRIC} letters and digits of ASCII, `_`, `-`, `.`, `/` and `@`")
        })
    }
}

/// Lays parameters over a spec in its JSON form. Tables on the way are made where they are missing; what stands in the way of one is replaced.
pub fn lay_over(spec: &mut Value, params: &Params) {
    for (path, value) in params {
        let mut place = &mut *spec;
        for step in path.split('.') {
            if !place.is_object() {
                *place = Value::Object(serde_json::Map::new());
            }
            // It is an object by now.
            let Value::Object(table) = place else { return };
            place = table.entry(step).or_insert(Value::Null);
        }
        *place = value.clone();
    }
}

/// What keeps the members of an array from running all at once.
#[must_use]
pub fn gate(array: JobId, parallel: u32) -> Gate {
    Gate { key: format!("array:{array}"), limit: parallel.max(1), newest: false }
}

/// The name of a member.
#[must_use]
pub fn member_name(array: &str, index: u32) -> String {
    format!("{array}.{index}")
}

/// Under which word an array counts a member: its state, or `stopped` for one that was cancelled because others do better.
#[must_use]
pub const fn tally(job: &Job) -> &'static str {
    match (&job.state, &job.stopped_early) {
        (JobState::Cancelled, Some(_)) => STOPPED,
        (state, _) => state.name(),
    }
}

/// Members that were stopped early.
const STOPPED: &str = "stopped";

/// Where an array stands as a whole, by how many of its members stand where.
#[must_use]
pub fn state(counts: &BTreeMap<String, u64>) -> &'static str {
    let of = |state: &str| counts.get(state).copied().unwrap_or(0);
    let unfinished: u64 = counts.iter().filter(|(state, _)| !is_final(state)).map(|(_, jobs)| jobs).sum();
    let all: u64 = counts.values().sum();
    if unfinished == 0 {
        return match (of("failed"), of("cancelled")) {
            (0, 0) => JobState::Succeeded.name(),
            (0, _) => JobState::Cancelled.name(),
            _ => JobState::Failed.name(),
        };
    }
    // Nothing has begun, and all of it waits for the same.
    JobState::UNFINISHED.into_iter().find(|state| of(state) == all).unwrap_or("running")
}

/// Whether members that are counted under this word have ended.
#[must_use]
pub fn is_final(tally: &str) -> bool {
    tally == STOPPED || JobState::ENDED.contains(&tally)
}
