//! Files to and from stores at the speed of the wire: in parts, many at a time, within a budget of bytes that does not grow with what is moved. Called by `mlctl storage` and by whoever has
//! files or large objects to move. Where a store takes parts, an upload that was killed is gone on with; a download is seen whole or not at all.

mod buffers;
mod journal;
mod local;
mod parts;
mod patience;
mod receive;
mod send;
mod tree;

use std::{path::PathBuf, sync::Arc};

use self::buffers::Buffers;
use crate::{lanes::Lanes, local::LocalFiles};

pub use self::tree::Moved;

/// Bytes that are in memory at a time unless told otherwise.
pub const BUDGET_BYTES: usize = 40 * 1024 * 1024;

/// How far a transfer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes are to be moved, all in all.
    Expect(u64),
    /// So many bytes more have come through.
    Moved(u64),
}

/// Told of each step.
pub type Progress = Arc<dyn Fn(Step) + Send + Sync>;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The size of the object in bytes.
    pub size: u64,
    /// Bytes of it that an earlier, killed upload had sent already.
    pub reused: u64,
    /// Its CRC-64/NVME, where it was sent in parts; the store has compared it where it says that it can.
    pub crc64nvme: Option<u64>,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The size of the file in bytes.
    pub size: u64,
    /// Whether the store had a checksum of the whole, which is that of the file.
    pub is_verified: bool,
}

/// Moves files. Cheap to clone; clones share the budget and what is known of the pace that the store keeps.
#[derive(Clone)]
pub struct Streams {
    buffers: Buffers,
    lanes: Lanes,
    /// Folders that were made and survive a power cut.
    folders: LocalFiles,
    journals: Option<Arc<PathBuf>>,
    progress: Progress,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("journals", &self.journals).finish_non_exhaustive()
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new(BUDGET_BYTES)
    }
}

impl Streams {
    /// Streams with so many bytes in memory at most; a part that is larger goes alone.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            buffers: Buffers::new(budget_bytes),
            lanes: Lanes::default(),
            folders: LocalFiles::default(),
            journals: None,
            progress: Arc::new(|_| {}),
        }
    }

    /// The same streams, which write down in a folder how far uploads have come, so that a later call goes on with what a killed one left.
    #[must_use]
    pub fn with_journals(self, folder: PathBuf) -> Self {
        Self { journals: Some(Arc::new(folder)), ..self }
    }

    /// The same streams, which tell of their progress.
    #[must_use]
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    fn tell(&self, step: Step) {
        (self.progress)(step);
    }
}
