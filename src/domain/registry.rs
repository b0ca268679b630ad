//! What a version of a model is: its objects and where they come from. Plain data; kept by the store, made and read by the registry.

use mlctl_protocol::{JobId, progress::Metrics};
use serde::{Deserialize, Serialize};

/// What a version holds, and where it comes from. It never changes; fields are only added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The folder: of a job's final model, or of a checkpoint.
    pub uri: String,
    /// What is in it.
    pub objects: Vec<Object>,
    /// The job that trained it.
    pub job: JobId,
    /// The attempt, where it is a checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Optimizer steps done, where it is a checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// BLAKE3 over the tensors of a final model, sorted by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// BLAKE3 of the job's spec.
    pub spec_digest: String,
    /// BLAKE3 of the training data, where the job's newest checkpoint told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_digest: Option<String>,
    /// The last value of each metric of the job, or those of the checkpoint.
    #[serde(default)]
    pub metrics: Metrics,
}

/// An object of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
}

impl Content {
    /// Bytes of all its objects.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.size_bytes))
    }

    /// Whether two are of the same thing.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.job, &self.uri) == (other.job, &other.uri)
    }
}

/// Whether a URI is this one, or lies in the folder that it is.
#[must_use]
pub fn is_within(uri: &str, root: &str) -> bool {
    uri.strip_prefix(root.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
