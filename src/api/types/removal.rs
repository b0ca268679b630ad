//! Bodies about removal.

use mlctl_protocol::JobId;
use serde::{Deserialize, Serialize};

/// URIs that an answer names at most, of each sort.
pub const MAX_REMOVED_URIS: usize = 100;

/// `DELETE /v1/jobs/{ref}` and `DELETE /v1/arrays/{ref}`: what was removed, and what stays behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The job or array. Its id is never used again.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// How many jobs that were.
    pub jobs: usize,
    /// Models and predictions that were kept, [`MAX_REMOVED_URIS`] at most.
    pub kept: Vec<String>,
    /// How many there are.
    pub kept_count: usize,
    /// Folders that should have been deleted and could not be, [`MAX_REMOVED_URIS`] at most; the daemon's log says why.
    pub left: Vec<String>,
    /// How many there are.
    pub left_count: usize,
}
