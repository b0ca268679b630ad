//! The bodies about models and their versions.

use jiff::Timestamp;
use mlctl_protocol::{JobId, progress::Metrics};
use serde::{Deserialize, Serialize};

use super::ObjectView;

/// `GET /v1/models`, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The models.
    pub models: Vec<ModelView>,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelView {
    /// Its name.
    pub name: String,
    /// Versions that were not removed.
    pub versions: u64,
    /// The newest of them.
    pub newest: Option<VersionView>,
    /// When its first version was registered.
    pub created_at: Timestamp,
}

/// `GET /v1/models/{model}`: its versions, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The model.
    pub name: String,
    /// Those that were not removed.
    pub versions: Vec<VersionView>,
}

/// A version of a model. `POST /v1/models/{model}` and `DELETE /v1/models/{model}/versions/{version}` answer with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The model.
    pub model: String,
    /// Its number.
    pub version: u32,
    /// The job that trained it.
    pub job: JobId,
    /// The attempt, where it is a checkpoint's.
    pub attempt: Option<u32>,
    /// The step, where it is a checkpoint's.
    pub step: Option<u64>,
    /// Its folder.
    pub uri: String,
    /// Bytes of its objects.
    pub size_bytes: u64,
    /// BLAKE3 over the tensors of a final model, sorted by name.
    pub digest: Option<String>,
    /// BLAKE3 of the job's spec.
    pub spec_digest: String,
    /// BLAKE3 of the training data, where it is known.
    pub dataset_digest: Option<String>,
    /// The last value of each metric.
    pub metrics: Metrics,
    /// Its objects, without `role`.
    pub objects: Vec<ObjectView>,
    /// The login name of who registered it, or the user id as text; `mld` where the spec did.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// `POST /v1/models/{model}`: a job's final model, or its checkpoint of a step, becomes a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The job: an id, a unique name or `@last`.
    pub job: String,
    /// The step of a checkpoint; the final model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
}
