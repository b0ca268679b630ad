//! What an attempt leaves behind: sent as the last report, and written as a file because a daemon that adopted the worker
//! cannot wait for its exit code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AttemptNumber, ExitClass, FencingToken, JobId, progress::Metrics};

/// The file's name in the attempt directory; written as temporary file, fsync, rename, fsync of the directory.
pub const RESULT_FILE: &str = "result.json";

/// The largest result a daemon reads, in bytes.
pub const MAX_RESULT_BYTES: u64 = 256 * 1024;

/// How an attempt ended, in the worker's own words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerResult {
    /// The version of this format: 1.
    pub v: u32,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptNumber,
    /// The attempt's token; a result with another one is stale.
    pub token: FencingToken,
    /// The class of the end.
    pub class: ExitClass,
    /// What failed and why, for a person; absent when all went well.
    pub message: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Last values of the metrics.
    #[serde(default)]
    pub metrics: Metrics,
    /// The final model of a training job.
    pub model: Option<ModelRef>,
    /// The results of an inference job.
    pub output: Option<OutputRef>,
}

/// A published model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    /// The folder that holds `model.safetensors` and `config.json`, without a slash at its end.
    pub uri: String,
    /// BLAKE3, 64 hexadecimal digits, over the tensors sorted by name: name, dtype, shape, bytes. Independent of how files are cut.
    pub digest: String,
}

/// Published predictions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputRef {
    /// The object that holds the predictions.
    pub uri: String,
    /// Records predicted.
    pub records: u64,
    /// Records that could not be predicted.
    pub errors: u64,
}

/// A durable checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointRef {
    /// Optimizer steps done in the state it holds.
    pub step: u64,
    /// Epochs completed in the state it holds.
    pub epoch: u64,
    /// The folder that holds `manifest.json`, without a slash at its end.
    pub uri: String,
    /// Size of all its objects.
    pub size_bytes: u64,
    /// BLAKE3 of the manifest, 64 hexadecimal digits.
    pub manifest_digest: String,
    /// The metrics known when it was taken.
    #[serde(default)]
    pub metrics: Metrics,
}
