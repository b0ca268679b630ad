//! What a local file system needs beside the storage library to keep what was acknowledged. Called by `location` for `file://` only.
//!
//! The library syncs a new file and its folder, and the folders it makes itself. It does not sync a folder that another process made
//! and did not live to sync, nor deletes; it leaves staging files behind when killed; and it opens pipes, which blocks for ever.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Folders remembered before all are forgotten and synced anew.
const MAX_REMEMBERED: usize = 4096;

/// A folder's identity: device, inode and birth, so that a folder deleted and made again is another one.
type Identity = (u64, u64, Option<SystemTime>);

/// The folders this process knows to be durable. Cheap to clone; clones share the knowledge.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalFiles {
    durable: Arc<Mutex<HashMap<PathBuf, Identity>>>,
    /// A folder that somebody else has made durable, with all above it, as long as it is there.
    given: Option<Arc<PathBuf>>,
}

impl LocalFiles {
    /// The same files, with the knowledge that a folder and all above it are durable. What is made in it is not.
    pub(crate) fn given(self, folder: PathBuf) -> Self {
        Self { given: Some(Arc::new(folder)), ..self }
    }

    /// Makes a folder, and makes it and every folder above it survive a power cut.
    pub(crate) async fn make_folder(&self, folder: PathBuf) -> io::Result<()> {
        self.make_folder_of(folder.join("any")).await
    }

    /// Makes the folder of a file, and makes every folder above it survive a power cut.
    pub(crate) async fn make_folder_of(&self, file: PathBuf) -> io::Result<()> {
        let files = self.clone();
        blocking(move || {
            let Some(folder) = file.parent() else { return Ok(()) };
            // Looked at before: one that is made here is nobody's gift.
            let given = files.given.as_deref().filter(|given| folder.starts_with(given) && given.is_dir());
            fs::create_dir_all(folder)?;
            let above = |folder: &Path| given.is_some_and(|given| given != folder && given.starts_with(folder));
            folder.ancestors().filter(|folder| !above(folder)).try_for_each(|folder| files.make_durable(folder))
        })
        .await
    }

    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        let identity = identity(&fs::metadata(folder)?);
        if self.known().get(folder) == Some(&identity) {
            return Ok(());
        }
        match sync_folder(folder) {
            Ok(()) => {}
            // We made no entry in a folder that we may not open; it was durable before us.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(folder.to_owned(), identity);
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Identity>> {
        // Each change is one insert or clear, so what a panicking thread left is whole.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what is there and is not a regular file: opening a pipe would wait for its writer, for ever.
pub(crate) async fn require_regular_file(file: PathBuf) -> io::Result<()> {
    blocking(move || {
        let kind = fs::metadata(&file)?.file_type();
        if kind.is_file() {
            Ok(())
        } else if kind.is_dir() {
            Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder, not a file"))
        } else {
            Err(io::Error::new(ErrorKind::Unsupported, "it is not a regular file"))
        }
    })
    .await
}

/// Syncs a file that is there, and its entry in its folder.
pub(crate) async fn sync_existing(file: PathBuf) -> io::Result<()> {
    blocking(move || {
        File::open(&file)?.sync_all()?;
        file.parent().map_or(Ok(()), sync_folder)
    })
    .await
}

/// Deletes a file for good. A file that is not there is no error.
pub(crate) async fn delete_file(file: PathBuf) -> io::Result<()> {
    blocking(move || match fs::remove_file(&file) {
        Ok(()) => file.parent().map_or(Ok(()), sync_folder),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(error),
    })
    .await
}

/// Deletes a folder and all in it for good: staging files too, and links rather than what they point to. A folder that is not there
/// is no error.
pub(crate) async fn delete_folder(folder: PathBuf) -> io::Result<()> {
    blocking(move || {
        let removed = match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&folder),
            // As with a prefix in a bucket: only what is under the folder's name and a slash is meant.
            Ok(_) => return Ok(()),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => folder.parent().map_or(Ok(()), sync_folder),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino(), metadata.created().ok())
}

/// Has the names in a folder survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What messages call a path.
pub(crate) fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Work that waits for a disk, off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn folders_are_made_and_a_folder_made_again_is_not_taken_for_the_old_one() {
        let temp = tempfile::tempdir().unwrap();
        let files = LocalFiles::default();
        let folder = temp.path().join("a/b");
        files.make_folder_of(folder.join("file")).await.unwrap();
        assert!(folder.is_dir());
        let first = files.known()[&folder];
        delete_folder(folder.clone()).await.unwrap();
        fs::create_dir(temp.path().join("a/other")).unwrap();
        files.make_folder_of(folder.join("file")).await.unwrap();
        assert_ne!(files.known()[&folder], first);
    }

    #[tokio::test]
    async fn what_is_above_a_folder_that_was_given_is_left_alone_while_the_folder_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let given = temp.path().join("objects/jobs");
        fs::create_dir_all(&given).unwrap();
        let synced = |files: &LocalFiles| {
            let mut folders: Vec<PathBuf> = files.known().keys().cloned().collect();
            folders.sort();
            folders
        };
        let files = LocalFiles::default().given(given.clone());
        files.make_folder_of(given.join("7/model/file")).await.unwrap();
        assert_eq!(synced(&files), [given.clone(), given.join("7"), given.join("7/model")]);
        // Elsewhere, and where it is not there, nothing is known.
        files.make_folder_of(temp.path().join("objects/other/file")).await.unwrap();
        assert!(files.known().contains_key(temp.path()));
        let files = LocalFiles::default().given(given.clone());
        fs::remove_dir_all(temp.path().join("objects")).unwrap();
        files.make_folder_of(given.join("8/file")).await.unwrap();
        assert!(files.known().contains_key(&temp.path().join("objects")) && files.known().contains_key(temp.path()));
    }

    #[tokio::test]
    async fn deleting_a_folder_does_not_follow_links() {
        let temp = tempfile::tempdir().unwrap();
        let (outside, folder) = (temp.path().join("outside"), temp.path().join("folder"));
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::write(outside.join("keep"), "x").unwrap();
        fs::write(folder.join("object#1"), "left by a killed writer").unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
        std::os::unix::fs::symlink(&outside, temp.path().join("alias")).unwrap();
        delete_folder(temp.path().join("alias")).await.unwrap();
        delete_folder(folder.clone()).await.unwrap();
        delete_folder(folder.clone()).await.unwrap();
        delete_file(folder.join("x")).await.unwrap();
        assert!(!folder.exists());
        assert!(outside.join("keep").exists());
    }

    #[tokio::test]
    async fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(require_regular_file("/dev/zero".into()).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(require_regular_file(folder.path().into()).await.unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(require_regular_file(folder.path().join("x")).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
