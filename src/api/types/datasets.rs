//! The bodies about datasets and their versions.

use jiff::Timestamp;
use mlctl_protocol::dataset::Manifest;
use serde::{Deserialize, Serialize};

/// `GET /v1/datasets`, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The datasets.
    pub datasets: Vec<DatasetView>,
}

/// A dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetView {
    /// Its name.
    pub name: String,
    /// Versions that were not removed.
    pub versions: u64,
    /// The newest of them.
    pub newest: Option<DatasetVersionView>,
    /// When its first version was added.
    pub created_at: Timestamp,
}

/// `GET /v1/datasets/{dataset}`: its versions, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetVersionList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The dataset.
    pub name: String,
    /// Those that were not removed.
    pub versions: Vec<DatasetVersionView>,
}

/// A version of a dataset. `POST /v1/datasets/{dataset}`, whose body is a [`Manifest`], and `DELETE /v1/datasets/{dataset}/versions/{version}` answer with it: status 201 for a new one, 200 for what was
/// the newest version already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetVersionView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The dataset.
    pub dataset: String,
    /// Its number.
    pub version: u32,
    /// What its files are: `csv`, `jsonl`, `npy`, `parquet` or `text`.
    pub format: String,
    /// What was named: a file, a folder or a pattern.
    pub uri: String,
    /// The same of the files with what is to be learnt.
    pub targets_uri: Option<String>,
    /// Rows; null of text.
    pub rows: Option<u64>,
    /// Columns.
    pub columns: u64,
    /// Files.
    pub objects: u64,
    /// Bytes of all of them.
    pub size_bytes: u64,
    /// Where its manifest is.
    pub manifest_uri: String,
    /// BLAKE3 of the manifest.
    pub digest: String,
    /// The login name of who added it, or the user id as text.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// `GET /v1/datasets/{dataset}/versions/{version}`: a version with all that its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetDetail {
    /// The version.
    #[serde(flatten)]
    pub version: DatasetVersionView,
    /// Its manifest.
    pub manifest: Manifest,
}
