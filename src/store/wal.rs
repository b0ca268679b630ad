//! Copies the write-ahead log into the database file, on a connection and in a task of its own: a checkpoint on the writer's connection is what makes the slowest
//! writes. Woken by the writer after its answers are out; does nothing while nothing is written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Writes that come within this time share a checkpoint.
const PAUSE: Duration = Duration::from_millis(500);

/// Pages of 4 KiB in the log beyond which the writer stops for a checkpoint: under unbroken load the other task never catches up, and the log would grow for ever.
const MOST_PAGES: i64 = 32_768;

/// The log as the writer and the checkpointer see it.
#[derive(Default)]
pub(super) struct Log {
    dirty: Notify,
    /// At the last checkpoint.
    pages: AtomicI64,
}

impl Log {
    /// Called by the writer after a group's answers are out.
    pub(super) async fn written(&self, writer: &mut SqliteConnection) {
        self.dirty.notify_one();
        if self.pages.load(Ordering::Relaxed) > MOST_PAGES {
            self.checkpoint(writer).await;
        }
    }

    /// Passive: waits for nobody and lets nobody wait. When it copied everything, the next write begins the log anew.
    async fn checkpoint(&self, conn: &mut SqliteConnection) {
        match sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(conn).await {
            Ok(row) => {
                let (pages, copied): (i64, i64) = (row.try_get(1).unwrap_or(0), row.try_get(2).unwrap_or(0));
                self.pages.store(if copied < pages { pages } else { 0 }, Ordering::Relaxed);
            }
            Err(error) => {
                self.pages.store(0, Ordering::Relaxed);
                warn!(%error, "the write-ahead log cannot be copied into the database; nothing is lost");
            }
        }
    }
}

/// Checkpoints after writes until `stop`.
pub(super) async fn run(mut conn: SqliteConnection, log: Arc<Log>, stop: CancellationToken) {
    let wait = async || {
        log.dirty.notified().await;
        tokio::time::sleep(PAUSE).await;
    };
    while stop.run_until_cancelled(wait()).await.is_some() {
        log.checkpoint(&mut conn).await;
    }
    if let Err(error) = conn.close().await {
        warn!(%error, "a database connection could not be closed; nothing is lost");
    }
}
