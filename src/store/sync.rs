//! Makes commits durable, and only then answers. The log is synced by a thread of its own while the writer carries out the next group; what comes meanwhile shares the next sync.
//! Fed by the writer; knows no SQL.
//!
//! The writer's connection runs with `synchronous=NORMAL`, under which SQLite keeps the database whole by itself: it syncs the head of a log that begins anew, syncs the log before a
//! checkpoint copies from it, and the database file before the log is used again. What it leaves out is the sync of the log after a commit, and that one is here. Each frame of the log bears a
//! checksum that covers all before it, so that of what was not synced when the power went, whole commits in their order are left, or nothing. Nobody was answered for them.
//!
//! Who reads may see a commit for the moment in which it is not yet synced: a read is no promise (see [`Ask::Settle`](super::ask::Ask::Settle) for where it would become one).

use std::{
    fs::File,
    sync::{Arc, OnceLock},
};

use tokio::sync::{mpsc, watch};
use tracing::error;

use super::{StoreError, ask::Ask, head::Head, ledger::Ledger};

/// Groups that may wait for the sync under way.
pub(super) const WAITING: usize = 16;

/// A group that is committed, with its answers staged.
pub(super) struct Committed {
    pub(super) group: Vec<Ask>,
    /// As of its commit.
    pub(super) ledger: Ledger,
    /// Whether it changed anything.
    pub(super) has_written: bool,
}

/// Why nothing is acknowledged any more, once that is so: only a restart, which reads the file again, shows what is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Broken(Arc<OnceLock<StoreError>>);

impl Broken {
    pub(super) fn get(&self) -> Option<StoreError> {
        self.0.get().cloned()
    }

    pub(super) fn set(&self, why: &(dyn std::error::Error + 'static)) -> StoreError {
        error!(
            error = why,
            "the database cannot be written any more: nothing is acknowledged until the daemon is restarted; check the disk first"
        );
        self.0.get_or_init(|| StoreError::Broken { why: why.to_string() }).clone()
    }
}

/// What syncs, before it runs.
pub(super) struct Syncer {
    /// The write-ahead log. It is the same file as long as the database is open.
    pub(super) log: File,
    pub(super) head: Head,
    pub(super) committed: mpsc::Receiver<Committed>,
    pub(super) changes: watch::Sender<i64>,
    pub(super) broken: Broken,
}

impl Syncer {
    /// Serves until the writer is gone. Blocks its thread.
    pub(super) fn run(mut self) {
        let mut groups = Vec::with_capacity(WAITING);
        while self.committed.blocking_recv_many(&mut groups, WAITING) > 0 {
            // All of them were committed before this sync begins.
            let has_written = groups.iter().any(|group| group.has_written);
            match self.sync(has_written) {
                Ok(()) => self.answer(&mut groups, has_written),
                Err(failure) => {
                    let asks = groups.drain(..).flat_map(|committed| committed.group);
                    asks.for_each(|ask| ask.fail(failure.clone()));
                }
            }
        }
    }

    fn sync(&self, has_written: bool) -> Result<(), StoreError> {
        if let Some(broken) = self.broken.get() {
            return Err(broken);
        }
        if !has_written {
            return Ok(());
        }
        // The kernel may have dropped what it could not write, and say that all is well the next time.
        self.log.sync_data().map_err(|error| self.broken.set(&error))
    }

    fn answer(&mut self, groups: &mut Vec<Committed>, has_written: bool) {
        let Some(newest) = groups.last() else { return };
        if has_written {
            self.head.tell(&newest.ledger);
        }
        let newest = newest.ledger.last_event;
        // Who is answered finds the change told.
        self.changes.send_if_modified(|seen| std::mem::replace(seen, newest) != newest);
        groups.drain(..).flat_map(|committed| committed.group).for_each(Ask::send);
    }
}
