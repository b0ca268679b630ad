//! What a retraining does, night after night.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{data::DataSource, evaluate::BootstrapSpec, train::TrainSpec};

/// Train a challenger, compare it with the champion on the same rows, and promote it if it is better. Each stage is a job of its own; what is said of the job beside this table (queue, priority, resources,
/// retries, checkpoints, time limit) holds for each of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrainSpec {
    /// The model of which each run makes a version, and whose champion it may become.
    #[schemars(length(min = 1, max = 100))]
    pub model: String,
    /// How it is trained, as in a job of kind `train`. What `train.register` is for is done by the run itself.
    pub train: TrainSpec,
    /// The rows on which champion and challenger are compared.
    #[serde(default)]
    pub holdout: HoldoutSpec,
    /// What the challenger must come to.
    #[serde(default)]
    pub gate: GateSpec,
}

impl RetrainSpec {
    /// The kind of its jobs.
    pub const KIND: &'static str = "retrain";
}

/// The rows on which models are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HoldoutSpec {
    /// Data that no version was trained on, with labels. The test part of the training's data when absent: where that data grows, `train.stream` must divide its rows by their numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSource>,
    /// The column by whose values rows are also told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub slice: Option<String>,
    /// Rows per forward pass.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub batch_size: u32,
    /// How sure it is that one is better than the other.
    pub bootstrap: BootstrapSpec,
}

impl Default for HoldoutSpec {
    fn default() -> Self {
        Self { data: None, slice: None, batch_size: 256, bootstrap: BootstrapSpec::default() }
    }
}

/// What a challenger must come to before it is the champion. Where there is no champion yet, only what is said of the challenger alone holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateSpec {
    /// What decides.
    pub metric: GateMetric,
    /// By how much it must be better than the champion's, in the mean over the rows.
    #[schemars(range(min = -1000.0, max = 1000.0))]
    pub min_gain: f64,
    /// By how much it must be better at the lower end of the interval of that mean: 0 for surely better, a little below 0 for surely not worse. No matter when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000.0, max = 1000.0))]
    pub min_gain_low: Option<f64>,
    /// Rows that must have been compared.
    #[schemars(range(min = 1))]
    pub min_rows: u64,
    /// What the challenger's own metric must come to: that accuracy at least, that loss at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// The other metric must not be worse than the champion's by more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_other_loss: Option<f64>,
    /// No slice of at least `min_slice_rows` rows may be worse by more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_slice_loss: Option<f64>,
    /// Rows below which a slice says nothing.
    #[schemars(range(min = 1))]
    pub min_slice_rows: u64,
    /// Bytes that the challenger may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_bytes: Option<u64>,
}

impl Default for GateSpec {
    fn default() -> Self {
        Self {
            metric: GateMetric::Loss,
            min_gain: 0.0,
            min_gain_low: None,
            min_rows: 100,
            floor: None,
            max_other_loss: None,
            max_slice_loss: None,
            min_slice_rows: 30,
            max_bytes: None,
        }
    }
}

/// A metric by which models are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateMetric {
    /// The mean loss: lower is better.
    Loss,
    /// The share of rows whose class is right: higher is better.
    Accuracy,
}

impl GateMetric {
    /// Its name among the metrics of a model.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Loss => Self::Accuracy,
            Self::Accuracy => Self::Loss,
        }
    }

    /// A difference as a gain: above 0 is better.
    #[must_use]
    pub fn gain(self, difference: f64) -> f64 {
        match self {
            Self::Loss => -difference,
            Self::Accuracy => difference,
        }
    }
}
