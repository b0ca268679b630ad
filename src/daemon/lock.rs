//! One daemon per state directory. The kernel drops the lock with the process, however that ends, so there is no stale lock to clean up. Called once, before anything
//! else in the state directory is touched.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use crate::supervisor::process::is_gone;

/// The lock's file in the state directory. It holds the daemon's pid, for people.
pub const LOCK_FILE: &str = "mld.lock";

/// How long one waits for what a daemon that is gone has left.
const LEFT_LIMIT: Duration = Duration::from_secs(5);
const LEFT_STEP: Duration = Duration::from_millis(5);

/// The right to be the daemon of a state directory, for as long as it is held.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// Why this process is not the daemon of the state directory.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another one is.
    #[error("another mld{} runs on {}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), state_dir.display())]
    Held {
        /// The state directory.
        state_dir: PathBuf,
        /// The other one's pid, as it wrote it down.
        pid: Option<u32>,
    },
    /// The lock's file cannot be used.
    #[error("lock {}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StateLock {
    /// Takes the lock, without waiting for a daemon that lives. One that was killed while it started a worker left the lock with that process for the moment until it has become its program.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join(LOCK_FILE);
        let failed = |source: io::Error| LockError::Failed { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        let patience = Instant::now() + LEFT_LIMIT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let pid = holder(&mut file);
                    if Instant::now() >= patience || !pid.is_some_and(is_gone) {
                        return Err(LockError::Held { state_dir: state_dir.to_owned(), pid });
                    }
                    std::thread::sleep(LEFT_STEP);
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        let mut note = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note().map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Who wrote down that the lock is his.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is_and_the_lock_ends_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::take(dir.path()).unwrap();
        let second = StateLock::take(dir.path()).unwrap_err();
        let LockError::Held { pid, .. } = &second else { panic!("{second}") };
        assert_eq!(*pid, Some(std::process::id()));
        assert!(second.to_string().contains(&format!("(pid {})", std::process::id())));
        drop(first);
        StateLock::take(dir.path()).unwrap();
        assert!(matches!(StateLock::take(&dir.path().join("absent")), Err(LockError::Failed { .. })));
    }

    /// As a daemon leaves it that is killed between a worker's fork and its exec: the copy of the file is the worker's for a moment.
    #[test]
    fn who_is_gone_is_outwaited() {
        let dir = tempfile::tempdir().unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        let pid = gone.id();
        gone.wait().unwrap();
        assert!(is_gone(pid) && !is_gone(std::process::id()));
        std::fs::write(dir.path().join(LOCK_FILE), format!("{pid}\n")).unwrap();
        let left = File::open(dir.path().join(LOCK_FILE)).unwrap();
        flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();
        let worker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(left);
        });
        drop(StateLock::take(dir.path()).unwrap());
        worker.join().unwrap();
    }
}
