//! Space on the disk that the database is sure of: a full disk is noticed while there is still room to put on record how running jobs end. Asked by the writer before each group.
//!
//! It is allocated behind the ends of SQLite's files, which do not become longer by it: what is written there later cannot find the disk full, and no other program can take it. Where it cannot be
//! allocated any more, the disk counts as full and new work is refused; it is tried again with each group, so that whoever frees space needs no restart.

use std::{
    fs::File,
    io,
    mem::ManuallyDrop,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use tracing::{error, info, warn};

use super::{StoreError, open::beside, open::unusable};

/// Behind the index of the log, which has a byte for every 128 of the log.
const INDEX_BYTES: u64 = 256 * 1024;

/// What is kept for a database.
pub(super) struct Reserve {
    extents: Vec<Extent>,
    /// Told to those who only look.
    is_full: Arc<AtomicBool>,
}

/// Space behind the end of a file.
struct Extent {
    /// Never closed: closing any descriptor of a file gives up the locks that this process has on it, and SQLite has some.
    file: ManuallyDrop<File>,
    bytes: u64,
}

impl Reserve {
    /// Keeps so many bytes behind the log, and a quarter of it behind the database, which grows as the log is copied into it. None with 0. The database is open already.
    pub(super) fn open(path: &Path, bytes: u64, is_full: Arc<AtomicBool>) -> Result<Self, StoreError> {
        let extent = |ending: &str, bytes: u64| {
            let path = beside(path, ending);
            let file = File::options().read(true).write(true).open(&path);
            let file = file.map_err(|error| unusable(&path, "cannot be opened", &error))?;
            Ok::<_, StoreError>(Extent { file: ManuallyDrop::new(file), bytes })
        };
        let extents = match bytes {
            0 => Vec::new(),
            bytes => vec![extent("-wal", bytes)?, extent("-shm", INDEX_BYTES)?, extent("", bytes / 4)?],
        };
        let mut reserve = Self { extents, is_full };
        reserve.keep();
        Ok(reserve)
    }

    /// Sees to it that the space is there. Whether it is.
    pub(super) fn keep(&mut self) -> bool {
        let kept = self.extents.iter().try_for_each(Extent::keep);
        let is_full = match kept {
            Ok(()) => false,
            Err(Errno::NOSPC | Errno::DQUOT) => true,
            // It is no less safe than without.
            Err(error) => {
                let error = io::Error::from(error);
                warn!(%error, "no space can be kept for the database: on a full disk the ends of jobs may have to wait");
                self.extents.clear();
                false
            }
        };
        match (self.is_full.swap(is_full, Ordering::Relaxed), is_full) {
            (false, true) => error!(
                "the disk that holds the database is full: new jobs are refused and none is started until space is freed on it; those that run go on, and their ends are kept"
            ),
            (true, false) => info!("there is room again on the disk that holds the database: new jobs are taken"),
            _ => {}
        }
        !is_full
    }
}

impl Extent {
    fn keep(&self) -> rustix::io::Result<()> {
        let found = self.file.metadata().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        // What was allocated is gone when SQLite cuts the file, be it to the length that it has.
        if found.blocks() * 512 >= found.len() + self.bytes {
            return Ok(());
        }
        // As much again, so that it is seldom asked for.
        let allocate = |more: u64| fallocate(&*self.file, FallocateFlags::KEEP_SIZE, 0, found.len() + more);
        allocate(2 * self.bytes).or_else(|_| allocate(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_kept_behind_the_end_and_again_after_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        for ending in ["", "-wal", "-shm"] {
            std::fs::write(beside(&path, ending), vec![1; 5000]).unwrap();
        }
        let mut reserve = Reserve::open(&path, 1 << 20, Arc::default()).unwrap();
        let log = File::options().write(true).open(beside(&path, "-wal")).unwrap();
        let allocated = || log.metadata().unwrap().blocks() * 512;
        assert!(allocated() > 1 << 20 && log.metadata().unwrap().len() == 5000, "{}", allocated());
        log.set_len(0).unwrap();
        assert!(allocated() < 1 << 20);
        assert!(reserve.keep());
        assert!(allocated() >= 1 << 20 && log.metadata().unwrap().len() == 0);
    }
}
