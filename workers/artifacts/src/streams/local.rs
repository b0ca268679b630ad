//! The local ends of a transfer: a file that is read in parts and must not change meanwhile, and one that appears whole or not at all.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    ArtifactError,
    local::{blocking, sync_folder, uri},
};

/// `O_NONBLOCK`: opening a pipe would wait for its other end, for ever.
const NONBLOCK: i32 = 0o4000;

/// For how long a lock that somebody holds is tried, and how often.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) size: u64,
    modified: (i64, i64),
    inode: u64,
}

impl Identity {
    fn of(found: &Metadata) -> Self {
        Self { size: found.size(), modified: (found.mtime(), found.mtime_nsec()), inode: found.ino() }
    }
}

/// A file that is sent.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    file: File,
    pub(super) identity: Identity,
}

impl Source {
    /// Opens a regular file.
    pub(super) async fn open(path: PathBuf) -> Result<Self, ArtifactError> {
        let uri = uri(&path);
        let opened = blocking(move || {
            let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(&path)?;
            let found = file.metadata()?;
            if found.is_dir() {
                return Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder, not a file"));
            }
            if !found.is_file() {
                return Err(io::Error::new(ErrorKind::Unsupported, "it is not a regular file"));
            }
            Ok(Self { path, file, identity: Identity::of(&found) })
        });
        opened.await.map_err(|error| ArtifactError::from_io(&uri, error))
    }

    /// Fills a buffer with what begins at a byte.
    pub(super) fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    /// Fails where the file is another one, or has another content, than when it was opened.
    pub(super) fn require_unchanged(&self) -> Result<(), ArtifactError> {
        match self.file.metadata().map(|found| Identity::of(&found)) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) => Err(self.changed()),
            Err(error) => Err(ArtifactError::from_io(&self.uri(), error)),
        }
    }

    pub(super) fn uri(&self) -> String {
        uri(&self.path)
    }

    pub(super) fn failed(&self, error: io::Error) -> ArtifactError {
        match error.kind() {
            ErrorKind::UnexpectedEof => self.changed(),
            _ => ArtifactError::from_io(&self.uri(), error),
        }
    }

    fn changed(&self) -> ArtifactError {
        ArtifactError::corrupt(&self.uri(), "it changed while it was read")
    }
}

/// A file that is being received, beside the place where it will appear. Dropped before that, it is gone.
#[derive(Debug)]
pub(super) struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: File,
    is_published: bool,
}

impl Partial {
    /// Makes it, in a folder that is there. What a killed process left of an earlier one is overwritten.
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder, not a file"));
        };
        if target.is_dir() {
            return Err(io::Error::new(ErrorKind::IsADirectory, "a folder is there already"));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".part");
        let path = folder.join(hidden);
        let file = open_locked(&path, OpenOptions::new().write(true).create(true), "another process is writing it")?;
        file.set_len(0)?;
        Ok(Self { target: target.to_owned(), path, file, is_published: false })
    }

    /// Where it will appear.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Lets it appear. On return its content survives a power cut, and its name where `with_name` says so.
    pub(super) fn publish(mut self, with_name: bool) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        self.is_published = true;
        match self.target.parent() {
            Some(folder) if with_name => sync_folder(folder),
            _ => Ok(()),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_published
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "what was received of a file could not be removed");
        }
    }
}

/// Opens a file, made if need be, and locks it. Who held it before may have let it appear, or removed it, in the meantime: what is locked is what lies there now.
pub(super) fn open_locked(path: &Path, options: &OpenOptions, who: &'static str) -> io::Result<File> {
    loop {
        let file = options.open(path)?;
        lock(&file, who)?;
        let ours = file.metadata()?;
        match fs::metadata(path) {
            Ok(found) if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

/// Locks a file, or says why not. Whoever holds it may be about to end, or be a process between fork and exec, so that it is tried for a moment.
fn lock(file: &File, who: &'static str) -> io::Result<()> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(io::Error::new(ErrorKind::ResourceBusy, who)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_is_a_regular_file_that_does_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "content").unwrap();
        let source = Source::open(path.clone()).await.unwrap();
        source.require_unchanged().unwrap();
        fs::write(&path, "other content").unwrap();
        assert!(source.require_unchanged().unwrap_err().to_string().contains("changed while"));
        for path in ["/dev/zero", dir.path().to_str().unwrap()] {
            assert!(matches!(Source::open(path.into()).await, Err(ArtifactError::Refused { .. })), "{path}");
        }
        assert!(matches!(Source::open(dir.path().join("gone")).await, Err(ArtifactError::NotFound { .. })));
    }

    #[test]
    fn who_waited_for_a_file_that_has_appeared_writes_another() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        let first = Partial::create(&target).unwrap();
        first.write(b"first", 0).unwrap();
        let waits = {
            let target = target.clone();
            std::thread::spawn(move || Partial::create(&target))
        };
        std::thread::sleep(Duration::from_millis(100));
        first.publish(true).unwrap();
        let second = waits.join().unwrap().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "first", "it is not emptied under its readers");
        second.write(b"second", 0).unwrap();
        second.publish(true).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "second");
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        let target = dir.path().join("deep/x");
        let partial = Partial::create(&target).unwrap();
        partial.write(b"half", 0).unwrap();
        assert!(Partial::create(&target).is_err(), "two do not mix");
        drop(partial);
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 0, "and what is given up is gone");
        fs::write(dir.path().join("deep/.x.part"), "left by a killed process, and longer").unwrap();
        let partial = Partial::create(&target).unwrap();
        partial.write(b"whole", 0).unwrap();
        partial.publish(true).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "whole");
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1);
        assert!(Partial::create(&dir.path().join("deep")).is_err(), "a folder is no file");
    }
}
