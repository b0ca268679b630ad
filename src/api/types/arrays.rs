//! Bodies about arrays: many jobs made from one spec by parameters.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::{JobId, JobSpec};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{AfterView, WaiterView};
use crate::domain::array::{Axis, Halving, Metric, Params, Sample, Sweep};

/// `POST /v1/arrays`: all of it is kept, or nothing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitArrayRequest {
    /// The spec that all members have in common, as JSON, read by the daemon as a [`JobSpec`]. Each member's parameters are laid over it.
    pub spec: Box<RawValue>,
    /// The idempotency key of the array as a whole.
    pub key: String,
    /// Where the members' parameters come from.
    pub sweep: Sweep,
    /// What members are compared by; `val_loss`, or else `train_loss`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Which members are stopped early; none when absent. A spec that does not say after how many steps checkpoints are taken has them every `min_steps` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halving: Option<Halving>,
    /// How many members run at once at most; as many as there is room for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// Whether to check only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Whether all members are held from the beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
}

/// The answer to an array's submit with `dry_run`: every member has passed every check. Without it, an [`ArrayView`] is the answer: status 201 for a new array, 200 for the one
/// that the key named before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArrayDryRunView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Always true.
    pub dry_run: bool,
    /// Members it would have.
    pub size: u32,
    /// The first member's spec as it would be kept.
    pub spec: JobSpec,
    /// What the first members have of their own, by index from 1; [`SHOWN`](Self::SHOWN) of them at most.
    pub params: Vec<Params>,
    /// What the first member would wait for. Absent when that is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<AfterView>,
}

impl ArrayDryRunView {
    /// Members shown at most.
    pub const SHOWN: u32 = 20;
}

/// An array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArrayView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Its number, as text, from the sequence of jobs' ids. The member of index 3 has the id that is 3 more, and the name `NAME.3`.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// The kind of its members.
    pub kind: String,
    /// Where it stands as a whole: `queued`, `blocked` or `held` while all members are, `running` while any is unfinished, then `failed` when one failed, `cancelled` when one was, or `succeeded`.
    pub state: String,
    /// The queue of its members.
    pub queue: String,
    /// The priority that they began with, or that an edit of the array gave those that wait.
    pub priority: u8,
    /// The login name of who submitted it, or the user id as text where there is none.
    pub user: String,
    /// The user id of who submitted it.
    pub uid: u32,
    /// The labels that all members began with, and what an edit of the array made of them.
    pub labels: BTreeMap<String, String>,
    /// Members.
    pub size: u32,
    /// How many of them have ended.
    pub finished: u64,
    /// How many of them stand where: by state, without those where none does; `stopped` are those that were cancelled since others do better.
    pub counts: BTreeMap<String, u64>,
    /// How many of those that are held are quarantined: they go on when a person has looked at them.
    #[serde(default)]
    pub quarantined: u64,
    /// What varies.
    pub axes: Vec<Axis>,
    /// How members were drawn; null for a grid.
    pub sample: Option<Sample>,
    /// What members are compared by, where the submit said so.
    pub metric: Option<Metric>,
    /// Which members are stopped early.
    #[serde(default)]
    pub halving: Option<Halving>,
    /// How many members run at once at most; null for as many as there is room for.
    #[serde(default)]
    pub parallel: Option<u32>,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
}

impl ArrayView {
    /// Whether nothing but a person changes it any more, and some members are quarantined: who waits for its end need not wait any longer.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.quarantined > 0 && self.finished.saturating_add(self.quarantined) >= self.counts.values().sum()
    }

    /// Whether every member has ended.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.finished >= self.counts.values().sum()
    }
}

/// `GET /v1/arrays/{ref}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArrayDetail {
    /// The array.
    #[serde(flatten)]
    pub array: ArrayView,
    /// What the members below were compared by; null when none of them has a value of it.
    pub compared_by: Option<Metric>,
    /// The members with the best last values, the best first.
    pub best: Vec<MemberView>,
    /// What its first member was submitted to wait for, and all the others unless they differ in it. Absent when that is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<AfterView>,
    /// The first jobs that were submitted to wait for it. Absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<WaiterView>,
    /// How many there are. Absent when there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dependents_count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A member as it stands among the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its id as a job.
    pub id: JobId,
    /// Its index in the array, from 1.
    pub index: u32,
    /// Its state.
    pub state: String,
    /// What it has of its own.
    pub params: Params,
    /// The last value of the metric.
    pub value: f64,
    /// How many steps its last attempt came to.
    pub step: Option<u64>,
}

/// The answer to `POST /v1/arrays/{ref}/cancel`, `stop`, `hold`, `pause`, `release`, `edit` and `retry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArrayChangeView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Members of which something was changed.
    pub changed: u64,
    /// The array afterwards.
    pub array: ArrayView,
}
