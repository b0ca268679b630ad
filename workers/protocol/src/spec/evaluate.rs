//! What an evaluation does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    data::{DataSource, SplitPart},
    infer::ModelSource,
};

/// Models that are compared at once, at most.
pub const MAX_COMPARED: usize = 8;

/// Compare models on the same rows: the first with each of the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSpec {
    /// The models. The first is what the others are compared with: the champion, where challengers are.
    #[schemars(length(min = 1, max = 8))]
    pub models: Vec<ModelSource>,
    /// The rows, with their labels.
    pub data: DataSource,
    /// Only this part of the data, divided as it was for the training of the last model. The others must have been trained on the same data with the same division, or all with `train.stream`, which divides rows by their numbers: rows may have been
    /// added since.
    #[serde(default)]
    pub part: Option<SplitPart>,
    /// The column by whose values rows are also told apart: at most 100 of them, in the order in which they come; rows of others are counted together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub slice: Option<String>,
    /// Rows per forward pass.
    #[serde(default = "default_batch_size")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub batch_size: u32,
    /// How sure it is that one is better than the other.
    #[serde(default)]
    pub bootstrap: BootstrapSpec,
}

const fn default_batch_size() -> u32 {
    256
}

/// The paired bootstrap: rows are drawn again and again with replacement, and the difference of two models is taken each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapSpec {
    /// How often.
    #[schemars(range(min = 100, max = 10_000))]
    pub replicates: u32,
    /// The confidence of the intervals.
    #[schemars(range(min = 0.5, max = 0.999))]
    pub confidence: f64,
    /// The seed of the draws.
    pub seed: u64,
}

impl Default for BootstrapSpec {
    fn default() -> Self {
        Self { replicates: 1000, confidence: 0.95, seed: 0 }
    }
}
