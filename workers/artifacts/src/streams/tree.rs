//! Folders: many small files at a time, then the large ones, each in parts. Names are taken as they are; what a store's names could do to a disk is refused before anything is written.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::JoinSet;

use super::{Received, Sent, Step, Streams, local::Source, send::WHOLE_BYTES};
use crate::{
    ArtifactError, Entry, Location,
    local::{blocking, sync_folder, uri},
    location::MAX_ENTRIES,
    uri::{bad_uri, normalise},
};

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Files.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Bytes of it that earlier, killed uploads had sent already.
    pub reused: u64,
    /// What was passed over: links to folders or to nothing, and what is no file.
    pub skipped: u64,
    /// Files that came and were compared with a checksum of the whole that the store keeps.
    pub verified: u64,
}

impl From<Sent> for Moved {
    fn from(sent: Sent) -> Self {
        Self { files: 1, bytes: sent.size, reused: sent.reused, ..Self::default() }
    }
}

impl From<Received> for Moved {
    fn from(received: Received) -> Self {
        Self { files: 1, bytes: received.size, verified: received.is_verified.into(), ..Self::default() }
    }
}

impl Moved {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.reused += other.reused;
        self.verified += other.verified;
    }
}

impl Streams {
    /// Writes all files under a folder as objects under a prefix. Links to files are followed, links to folders are not.
    ///
    /// # Errors
    /// As [`Self::send`], the first that happens; [`ArtifactError::BadUri`] for a name that no object can have. What was written stays.
    pub async fn send_folder(&self, folder: &Path, to: &Location) -> Result<Moved, ArtifactError> {
        let root = folder.to_owned();
        let found = blocking(move || Ok(walk(&root))).await;
        let (files, skipped) = found.map_err(|error| ArtifactError::from_io(&uri(folder), error))??;
        self.tell(Step::Expect(files.iter().map(|file| file.size).sum()));
        let mut moved = Moved { skipped, ..Moved::default() };
        let (small, large): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.size <= WHOLE_BYTES);
        let mut tasks = JoinSet::new();
        for Entry { name, .. } in small {
            let (file, to) = (folder.join(&name), to.join(&name)?);
            self.room(&mut tasks, &mut moved).await?;
            let streams = self.clone();
            tasks.spawn(async move {
                let source = Arc::new(Source::open(file).await?);
                match source.identity.size {
                    ..=WHOLE_BYTES => streams.send_whole(source, &to).await.map(Moved::from),
                    _ => Err(ArtifactError::corrupt(&source.uri(), "it changed while it was read")),
                }
            });
        }
        drain(&mut tasks, &mut moved, 0).await?;
        for Entry { name, .. } in large {
            let told = self.clone().without_totals();
            moved.add(told.send(&folder.join(&name), &to.join(&name)?).await?.into());
        }
        Ok(moved)
    }

    /// Writes all objects under a prefix as files under a folder.
    ///
    /// # Errors
    /// As [`Self::receive`], the first that happens; [`ArtifactError::BadUri`] for a key that leads out of the folder. What was written stays.
    pub async fn receive_folder(&self, from: &Location, folder: &Path) -> Result<Moved, ArtifactError> {
        let entries = from.list().await?;
        if entries.is_empty() {
            return Err(ArtifactError::NotFound { uri: from.uri().to_owned() });
        }
        let (entries, skipped) = files(from, entries)?;
        self.tell(Step::Expect(entries.iter().map(|entry| entry.size).sum()));
        let folders: BTreeSet<PathBuf> =
            entries.iter().filter_map(|entry| Some(folder.join(&entry.name).parent()?.to_owned())).collect();
        let mut moved = Moved { skipped, ..Moved::default() };
        let (small, large): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.size <= WHOLE_BYTES);
        let mut tasks = JoinSet::new();
        for Entry { name, size } in small {
            let (file, from) = (folder.join(&name), from.join(&name)?);
            self.room(&mut tasks, &mut moved).await?;
            let streams = self.clone();
            tasks.spawn(async move { streams.receive_whole(&from, &file, size, false).await.map(Moved::from) });
        }
        drain(&mut tasks, &mut moved, 0).await?;
        for Entry { name, .. } in large {
            let told = self.clone().without_totals();
            moved.add(told.receive(&from.join(&name)?, &folder.join(&name)).await?.into());
        }
        let synced = blocking(move || folders.iter().try_for_each(|folder| sync_folder(folder))).await;
        synced.map_err(|error| ArtifactError::from_io(&uri(folder), error))?;
        Ok(moved)
    }

    /// Waits until one more may wait for its turn.
    async fn room(
        &self,
        tasks: &mut JoinSet<Result<Moved, ArtifactError>>,
        moved: &mut Moved,
    ) -> Result<(), ArtifactError> {
        drain(tasks, moved, 2 * self.lanes.open()).await
    }

    fn without_totals(self) -> Self {
        let progress = self.progress.clone();
        self.with_progress(Arc::new(move |step| {
            if let Step::Moved(_) = step {
                progress(step);
            }
        }))
    }
}

/// Waits until no more than so many are left.
async fn drain(
    tasks: &mut JoinSet<Result<Moved, ArtifactError>>,
    moved: &mut Moved,
    left: usize,
) -> Result<(), ArtifactError> {
    while tasks.len() > left {
        let Some(ended) = tasks.join_next().await else { break };
        moved.add(ended.unwrap_or_else(|error| {
            Err(ArtifactError::Unavailable { uri: "a file of the folder".into(), source: error.into() })
        })?);
    }
    Ok(())
}

/// The files under a folder with their sizes, sorted by name, and how many things were passed over.
fn walk(root: &Path) -> Result<(Vec<Entry>, u64), ArtifactError> {
    let (mut files, mut skipped) = (Vec::new(), 0);
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let failed = |error| ArtifactError::from_io(&uri(&folder), error);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                failed(io::Error::new(
                    ErrorKind::InvalidFilename,
                    format!("the name {name:?} in it is not valid UTF-8"),
                ))
            })?;
            let name = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                folders.push((entry.path(), name + "/"));
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(found) if found.is_file() => files.push(Entry { name, size: found.len() }),
                Ok(_) => skipped += 1,
                // It leads nowhere, or to itself.
                Err(error) if kind.is_symlink() && error.kind() != ErrorKind::PermissionDenied => skipped += 1,
                Err(error) => return Err(ArtifactError::from_io(&uri(&entry.path()), error)),
            }
            if files.len() > MAX_ENTRIES {
                let what = format!("there are more than {MAX_ENTRIES} files in it");
                return Err(ArtifactError::from_io(&uri(root), io::Error::new(ErrorKind::FileTooLarge, what)));
            }
        }
    }
    files.sort_unstable();
    Ok((files, skipped))
}

/// The objects that are to be files, and how many are none: empty ones with a folder's name, as consoles of stores make them for folders.
fn files(from: &Location, entries: Vec<Entry>) -> Result<(Vec<Entry>, u64), ArtifactError> {
    let mut folders = BTreeSet::new();
    for Entry { name, .. } in &entries {
        if normalise(name).as_deref() != Ok(name) {
            return Err(bad_uri(&format!("{}/{name}", from.uri()), "no file can be called so"));
        }
        folders.extend(name.match_indices('/').map(|(at, _)| name[..at].to_owned()));
    }
    let (both, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| folders.contains(&entry.name));
    match both.iter().find(|entry| entry.size > 0) {
        Some(entry) => {
            let uri = format!("{}/{}", from.uri(), entry.name);
            Err(bad_uri(&uri, "there are objects below it, and a file cannot be a folder too"))
        }
        None => Ok((files, both.len() as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stores;

    #[test]
    fn what_stands_for_a_folder_is_no_file() {
        let from = Stores::with_memory().open("memory:///data").unwrap();
        let listed = |all: &[(&str, u64)]| {
            let entries = all.iter().map(|(name, size)| Entry { name: (*name).to_owned(), size: *size }).collect();
            files(&from, entries).map(|(files, skipped)| {
                (files.into_iter().map(|file| file.name).collect::<Vec<_>>().join(" "), skipped)
            })
        };
        let all = [("a", 0), ("a/b", 0), ("a/b/c", 1), ("a-b", 0), ("empty", 0)];
        assert_eq!(listed(&all).unwrap(), ("a/b/c a-b empty".to_owned(), 2));
        assert!(listed(&[("a", 1), ("a/b", 1)]).unwrap_err().to_string().contains("cannot be a folder too"));
        assert!(listed(&[("a/../b", 1)]).unwrap_err().to_string().contains("no file can be called so"));
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        std::os::unix::fs::symlink("itself", dir.path().join("itself")).unwrap();
        let (found, skipped) = walk(dir.path()).unwrap();
        assert_eq!((found.len(), skipped), (1, 2));
        let gone = walk(&dir.path().join("gone")).unwrap_err();
        assert!(matches!(gone, ArtifactError::NotFound { .. }) && gone.to_string().contains("gone"), "{gone}");
    }
}
