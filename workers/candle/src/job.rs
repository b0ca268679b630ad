//! What `main.rs` hands to a job: who it is, its orders from the daemon, and its ways out. Passed down by reference; holds
//! no state of its own.

use std::sync::Arc;

use mlctl_artifacts::Stores;
use mlctl_protocol::{AttemptNumber, JobId, message::Start};
use tokio::runtime::Handle;

use crate::{host::Host, pinned::Pinned};

/// An attempt at a job.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The job.
    pub id: JobId,
    /// The attempt.
    pub attempt: AttemptNumber,
    /// The daemon's word.
    pub start: &'a Start,
    /// The outside.
    pub host: &'a dyn Host,
    /// Object storage.
    pub stores: &'a Stores,
    /// Runs storage operations, on threads other than the job's.
    pub runtime: &'a Handle,
    /// The version of a dataset that its data is, where that is one.
    pub pinned: Option<&'a Arc<Pinned>>,
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("id", &self.id).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
