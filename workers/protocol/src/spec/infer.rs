//! What an inference job does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    data::{DataSource, SplitPart},
    model::ModelSpec,
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
    /// `job:NAME` or `job:ID` for the final model of a job; `model:NAME/VERSION` or `model:NAME@ALIAS` for a version of a model, as it is at the submit, of a schedule at each tick; or the URI or path of a model's folder, of a checkpoint's folder, of a
    /// `.safetensors` file or of a `.pth` file, a `state_dict` that PyTorch saved.
    #[schemars(length(min = 1))]
    pub from: String,
    /// The shape of the network, for a `.pth` file, and for a `.safetensors` file without a `config.json` beside it.
    #[serde(default)]
    pub network: Option<ModelSpec>,
    /// The key under which the `state_dict` lies in a `.pth` file that holds more than it, such as `model_state_dict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub key: Option<String>,
}

/// Weights that a training begins with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitSpec {
    /// As for the model of an inference job. Its tensors must be those of `train.model`; nothing else of it is taken over.
    #[schemars(length(min = 1))]
    pub from: String,
    /// The key under which the `state_dict` lies in a `.pth` file that holds more than it, such as `model_state_dict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub key: Option<String>,
}

/// The file endings that PyTorch's users give to what `torch.save` writes.
const PYTORCH_ENDINGS: [&str; 2] = [".pth", ".pt"];

/// Whether a URI or a path names a file that PyTorch wrote.
#[must_use]
pub fn is_pytorch(uri: &str) -> bool {
    PYTORCH_ENDINGS.iter().any(|ending| uri.ends_with(ending))
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
