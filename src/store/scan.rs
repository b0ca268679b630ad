//! The full check as it is made beside the work that goes on: on a connection and threads of its own that yield to all others, so that neither the writer nor a reader waits for it. What it found is kept
//! in a file beside the database, so that a daemon that is started again knows it before it starts a job.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Store, StoreError, check,
    open::{beside, options, write_durably},
};

/// How far its threads stand behind all others: they get about a tenth of a processor that others want.
const NICENESS: i32 = 10;

/// What is read of the file at most, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

impl Store {
    /// The same as [`Self::check`], with what is left of the machine: takes longer where others work.
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Stopping`].
    pub async fn scan(&self) -> Result<Vec<String>, StoreError> {
        let (path, stop) = (self.inner.path.clone(), self.inner.stop.clone());
        let (done, found) = oneshot::channel();
        let work = move || {
            // Of this thread alone, and of the connection's, which it makes. Where it is refused the check goes on all the same.
            let _ = rustix::process::nice(NICENESS);
            // Nobody listens where the daemon stops meanwhile.
            let _ = done.send(alone(&path, &stop));
        };
        let started = std::thread::Builder::new().name("scan".into()).spawn(work);
        started.map_err(|error| StoreError::Failed(Arc::new(error)))?;
        found.await.map_err(|_| StoreError::Stopping)?
    }

    /// What the last full check of this database found, if that was something. Blocks for as long as it takes to read a small file.
    #[must_use]
    pub fn known_problems(&self) -> Vec<String> {
        let mut text = String::new();
        let read = fs::File::open(self.notes()).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
        let mut lines = text.lines();
        match read {
            Ok(_) if lines.next() == Some(&self.stamp()) => lines.map(str::to_owned).collect(),
            // There is none, or it speaks of a database that was put back since.
            _ => Vec::new(),
        }
    }

    /// Keeps what a full check found. Blocks until it is on disk.
    ///
    /// # Errors
    /// Those of the file.
    pub fn remember_problems(&self, problems: &[String]) -> io::Result<()> {
        let path = self.notes();
        if !problems.is_empty() {
            let lines: Vec<String> = problems.iter().map(|problem| problem.replace('\n', " ")).collect();
            return write_durably(&path, &format!("{}\n{}", self.stamp(), lines.join("\n")));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn notes(&self) -> PathBuf {
        beside(&self.inner.path, ".damaged")
    }

    /// Which database the file speaks of.
    fn stamp(&self) -> String {
        let instance = self.instance();
        format!("{} {}", instance.id, instance.epoch)
    }
}

/// On a thread of its own.
fn alone(path: &Path, stop: &CancellationToken) -> Result<Vec<String>, StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| StoreError::Failed(Arc::new(error)))?;
    let looked = runtime.block_on(stop.run_until_cancelled(look(path)));
    looked.unwrap_or(Err(StoreError::Stopping))
}

async fn look(path: &Path) -> Result<Vec<String>, StoreError> {
    let options = options(path).read_only(true).pragma("query_only", "ON").pragma("cache_size", "-2048");
    let mut conn = options.connect().await?;
    let mut snapshot = conn.begin().await?;
    let problems = check::all(&mut snapshot).await;
    // A damaged file may not even let go of the snapshot; the connection's end does then.
    let _ = snapshot.rollback().await;
    let _ = conn.close().await;
    Ok(problems)
}
