//! The bodies about models and their versions.

use jiff::Timestamp;
use mlctl_protocol::{JobId, progress::Metrics};
use serde::{Deserialize, Serialize};

use super::ObjectView;
use crate::domain::alias::Aliases;

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
    /// Its aliases, each with the version that it means.
    #[serde(default)]
    pub aliases: Aliases,
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
    /// Its aliases, each with the version that it means.
    #[serde(default)]
    pub aliases: Aliases,
    /// The last moves of aliases, the newest first.
    #[serde(default)]
    pub moves: Vec<AliasMoveView>,
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
    /// The aliases that mean it.
    #[serde(default)]
    pub aliases: Vec<String>,
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

/// `POST /v1/models/{model}/aliases/{alias}`: it means another version. The champion moves with the previous.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AliasRequest {
    /// The version: its number, or an alias that means it. The newest when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// As in [`MoveQuery`](crate::api::query::MoveQuery).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<u32>,
    /// See `expect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// See `expect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// What became of aliases: the answer to `POST` and `DELETE /v1/models/{model}/aliases/{alias}` and to `POST /v1/models/{model}/rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The model.
    pub model: String,
    /// The alias that was asked about.
    pub alias: String,
    /// The version that it means now.
    pub version: Option<u32>,
    /// What moved, in order; nothing where all was so already.
    pub moves: Vec<AliasMoveView>,
}

/// A move of an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasMoveView {
    /// The alias.
    pub alias: String,
    /// The version that it meant before.
    pub before: Option<u32>,
    /// The version that it means since.
    pub version: Option<u32>,
    /// Why.
    pub reason: Option<String>,
    /// The job that did it.
    pub job: Option<JobId>,
    /// The login name of who did it, or the user id as text.
    pub moved_by: String,
    /// When.
    pub moved_at: Timestamp,
}
