//! Bodies about checkpoints and the final model: what there is, what it is made of, whether it is whole.

use jiff::Timestamp;
use mlctl_protocol::{JobId, progress::Metrics};
use serde::{Deserialize, Serialize};

/// `GET /v1/jobs/{ref}/checkpoints`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// The checkpoints kept.
    pub checkpoints: Vec<CheckpointView>,
}

/// A durable checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// The attempt that took it.
    pub attempt: u32,
    /// Optimizer steps done in the state it holds.
    pub step: u64,
    /// Epochs completed in the state it holds.
    pub epoch: u64,
    /// Its folder.
    pub uri: String,
    /// Size of all its objects.
    pub size_bytes: u64,
    /// BLAKE3 of its manifest.
    pub manifest_digest: String,
    /// Whether the next attempt starts from it.
    pub latest: bool,
    /// When it was put on record, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_at: Option<Timestamp>,
    /// Why it is kept: `newest`, `needed`, `last`, `best`, `nightly`, `weekly`. Empty for one that goes.
    #[serde(default)]
    pub kept_as: Vec<String>,
    /// What else needs it: `job 12`, which begins with it or would when it is tried again, `schedule nightly`, or `model digits/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed_by: Option<String>,
    /// When it goes: `now`, as soon as the newest is found whole; `over_budget`, the same, since there is no room for it; `next`, when the next one is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes: Option<String>,
    /// The metrics known when it was taken.
    pub metrics: Metrics,
}

/// `POST /v1/jobs/{ref}/checkpoint` (take one now), and `GET /v1/jobs/{ref}/checkpoints/{step}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointDetail {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// The checkpoint.
    pub checkpoint: CheckpointView,
    /// Its objects, as its manifest lists them.
    pub objects: Vec<ObjectView>,
}

/// `GET /v1/jobs/{ref}/model`: the final model of a job, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDetail {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// Its folder.
    pub uri: String,
    /// BLAKE3 over its tensors sorted by name.
    pub digest: String,
    /// Its files.
    pub objects: Vec<StoredView>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredView {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
}

/// An object of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectView {
    /// Its name in the checkpoint's folder.
    pub name: String,
    /// `model`, `optimizer` or `state`.
    pub role: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
}

/// `POST /v1/jobs/{ref}/checkpoints/verify`. An empty body asks for all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyRequest {
    /// Only those of this step.
    pub step: Option<u64>,
}

/// Checkpoints of a step that were removed: `DELETE /v1/jobs/{job}/checkpoints/{step}` answers with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedCheckpointView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// The step.
    pub step: u64,
    /// Where they were: one of each attempt that took one at that step.
    pub uris: Vec<String>,
    /// Bytes of them.
    pub size_bytes: u64,
}

/// What the verification found, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The job.
    pub id: JobId,
    /// Whether nothing is wrong with any.
    pub ok: bool,
    /// The checkpoints read.
    pub checkpoints: Vec<VerifiedView>,
}

/// A checkpoint that was read back whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedView {
    /// Its step.
    pub step: u64,
    /// The attempt that took it.
    pub attempt: u32,
    /// Its folder.
    pub uri: String,
    /// What is wrong with it; empty when it can be used.
    pub problems: Vec<String>,
}
