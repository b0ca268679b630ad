//! What an inference job does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    data::{DataSource, SplitPart},
    train::ModelSpec,
};

/// Predict every row of a dataset with a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InferSpec {
    /// What to predict with.
    pub model: ModelSource,
    /// What to predict.
    pub data: DataSource,
    /// Only this part of the data, divided as it was for the model's training. All rows when absent.
    #[serde(default)]
    pub part: Option<SplitPart>,
    /// The column that names a row in the results; row numbers from 0 when absent.
    #[serde(default)]
    pub id_column: Option<String>,
    /// Rows per forward pass.
    #[serde(default = "default_batch_size")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub batch_size: u32,
    /// The form of the results.
    #[serde(default)]
    pub output: OutputFormat,
}

const fn default_batch_size() -> u32 {
    256
}

/// Where weights come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// `job:NAME` or `job:ID` for the final model of a job; or the URI or path of a model's folder, of a checkpoint's folder or of a
    /// `.safetensors` file.
    #[schemars(length(min = 1))]
    pub from: String,
    /// The shape of the network, for a `.safetensors` file without a `config.json` beside it.
    #[serde(default)]
    pub network: Option<ModelSpec>,
}

/// The form of predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// A JSON object a line.
    #[default]
    Jsonl,
    /// CSV with a header.
    Csv,
}
