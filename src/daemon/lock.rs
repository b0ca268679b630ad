//! One daemon per state directory. The kernel drops the lock with the process, however that ends, so there is no stale lock to clean up. Called once, before anything
//! else in the state directory is touched.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// The lock's file in the state directory. It holds the daemon's pid, for people.
pub const LOCK_FILE: &str = "mld.lock";

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
    /// Takes the lock, without waiting.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join(LOCK_FILE);
        let failed = |source: io::Error| LockError::Failed { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let read = (&mut file).take(32).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held { state_dir: state_dir.to_owned(), pid });
            }
            Err(error) => return Err(failed(error.into())),
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
}
