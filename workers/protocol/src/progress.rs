//! How far an attempt has come: overwritten with every heartbeat, never an event.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Named scalars such as `train_loss`; the last value of each is kept on the job, all of them in its history. Not-a-number
/// and infinite values cannot be written in JSON and are left out by the worker.
pub type Metrics = BTreeMap<String, f64>;

/// Where an attempt stands. What does not apply to a kind of job is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: Option<u64>,
    /// Optimizer steps planned at most.
    pub steps: Option<u64>,
    /// Epochs completed.
    pub epoch: Option<u64>,
    /// Epochs planned at most.
    pub epochs: Option<u64>,
    /// Records predicted.
    pub records: Option<u64>,
    /// Records to predict.
    pub total: Option<u64>,
    /// Training or input rows per second over the last few seconds.
    pub rows_per_second: Option<f64>,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// That the object storage does not answer. Absent while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_away: Option<StorageAway>,
}

/// An object storage that does not answer, as a worker sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StorageAway {
    /// Since when, RFC 3339 in UTC.
    pub since: String,
    /// Checkpoints that wait for it on this machine.
    pub checkpoints: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Whether the worker has nothing left to do but to wait for it.
    pub waiting: bool,
}

/// Metric values of one moment of a run: one point of the learning curve per name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricPoint {
    /// Optimizer steps done when it was measured.
    pub step: u64,
    /// Epochs completed when it was measured.
    pub epoch: u64,
    /// The values by name.
    pub values: Metrics,
}
