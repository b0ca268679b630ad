//! Folders: many small files at a time, then the large ones, each in parts. Names are taken as they are; what a store's names could do to a disk is refused before anything is written.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::JoinSet;

use super::{
    Step, Streams,
    local::{Source, blocking, uri},
    send::WHOLE_BYTES,
};
use crate::{
    ArtifactError, Entry, Location,
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
    /// What was passed over: links to folders, and what is no file.
    pub skipped: u64,
}

impl Moved {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.reused += other.reused;
    }
}

impl Streams {
    /// Writes all files under a folder as objects under a prefix. Links to files are followed, links to folders are not.
    ///
    /// # Errors
    /// As [`Self::send`], the first that happens; [`ArtifactError::BadUri`] for a name that no object can have. What was written stays.
    pub async fn send_folder(&self, folder: &Path, to: &Location) -> Result<Moved, ArtifactError> {
        let root = folder.to_owned();
        let found = blocking(move || walk(&root)).await.map_err(|error| ArtifactError::from_io(&uri(folder), error))?;
        let (files, skipped) = found;
        self.tell(Step::Expect(files.iter().map(|file| file.size).sum()));
        let mut moved = Moved { skipped, ..Moved::default() };
        let quiet = self.clone();
        let (small, large): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.size <= WHOLE_BYTES);
        let mut tasks = JoinSet::new();
        for Entry { name, .. } in small {
            let (file, to) = (folder.join(&name), to.join(&name)?);
            self.room(&mut tasks, &mut moved).await?;
            let streams = quiet.clone();
            tasks.spawn(async move {
                let source = Arc::new(Source::open(file).await?);
                let sent = match source.identity.size {
                    ..=WHOLE_BYTES => streams.send_whole(source, &to).await?,
                    _ => return Err(ArtifactError::corrupt(&source.uri(), "it changed while it was read")),
                };
                Ok(Moved { files: 1, bytes: sent.size, ..Moved::default() })
            });
        }
        drain(&mut tasks, &mut moved, 0).await?;
        for Entry { name, .. } in large {
            let told = self.clone().without_totals();
            let sent = told.send(&folder.join(&name), &to.join(&name)?).await?;
            moved.add(Moved { files: 1, bytes: sent.size, reused: sent.reused, skipped: 0 });
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
        self.tell(Step::Expect(entries.iter().map(|entry| entry.size).sum()));
        for entry in &entries {
            if normalise(&entry.name).as_deref() != Ok(&entry.name) {
                return Err(bad_uri(&format!("{}/{}", from.uri(), entry.name), "no file can be called so"));
            }
        }
        let folders: BTreeSet<PathBuf> =
            entries.iter().filter_map(|entry| Some(folder.join(&entry.name).parent()?.to_owned())).collect();
        let mut moved = Moved::default();
        let (small, large): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.size <= WHOLE_BYTES);
        let mut tasks = JoinSet::new();
        for Entry { name, size } in small {
            let (file, from) = (folder.join(&name), from.join(&name)?);
            self.room(&mut tasks, &mut moved).await?;
            let streams = self.clone();
            tasks.spawn(async move {
                let received = streams.receive_whole(&from, &file, size, false).await?;
                Ok(Moved { files: 1, bytes: received.size, ..Moved::default() })
            });
        }
        drain(&mut tasks, &mut moved, 0).await?;
        for Entry { name, .. } in large {
            let told = self.clone().without_totals();
            let received = told.receive(&from.join(&name)?, &folder.join(&name)).await?;
            moved.add(Moved { files: 1, bytes: received.size, ..Moved::default() });
        }
        let root = folder.to_owned();
        let synced = blocking(move || sync(&root, &folders)).await;
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
fn walk(root: &Path) -> io::Result<(Vec<Entry>, u64)> {
    let (mut files, mut skipped) = (Vec::new(), 0);
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                let what = format!("the name {name:?} in {} is not valid UTF-8", folder.display());
                io::Error::new(ErrorKind::InvalidFilename, what)
            })?;
            let name = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push((entry.path(), name + "/"));
                continue;
            }
            let found = fs::metadata(entry.path());
            match found {
                Ok(found) if found.is_file() => files.push(Entry { name, size: found.len() }),
                _ => skipped += 1,
            }
            if files.len() > MAX_ENTRIES {
                let what = format!("there are more than {MAX_ENTRIES} files in it");
                return Err(io::Error::new(ErrorKind::FileTooLarge, what));
            }
        }
    }
    files.sort_unstable();
    Ok((files, skipped))
}

/// Has the names in folders survive a power cut, and those of the folders up to the root and its own.
fn sync(root: &Path, folders: &BTreeSet<PathBuf>) -> io::Result<()> {
    let mut all = BTreeSet::new();
    for folder in folders {
        all.extend(folder.ancestors().take_while(|above| above.starts_with(root)).map(Path::to_owned));
    }
    all.extend(root.parent().filter(|above| !above.as_os_str().is_empty()).map(Path::to_owned));
    all.iter().try_for_each(|folder| match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        // We made no entry in a folder that we may not open.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    })
}
