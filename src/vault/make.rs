//! Makes a backup: a consistent copy beside the database, checked, then object by object to where it is to be, the manifest last. In bounded memory, whatever the database's size.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use mlctl_artifacts::{ArtifactError, Location, Upload, keys};

use super::{
    Backup, Manifest, Vault, VaultError,
    places::{self, read},
};
use crate::store::{Store, offline};

/// Read and written at a time.
const PIECE_BYTES: usize = 1024 * 1024;

/// What is copied.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// The database of a daemon at work.
    Live(&'a Store),
    /// A file that no daemon uses.
    File(&'a Path),
}

/// A file that goes away with this.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// Removes what an earlier try left.
    pub(super) fn new(path: PathBuf) -> Self {
        clear(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        clear(&self.0);
    }
}

fn clear(path: &Path) {
    for ending in ["", "-journal", "-wal", "-shm"] {
        // What is not there need not go, and what cannot go is in nobody's way.
        let _ = std::fs::remove_file(super::switch::beside(path, ending));
    }
}

impl Vault {
    /// Makes a backup in a place, a folder's path or URI, or in the usual one. It is read back before it counts.
    ///
    /// # Errors
    /// [`VaultError`]; no backup is to be seen then.
    pub async fn backup(&self, source: Source<'_>, place: Option<&str>) -> Result<Backup, VaultError> {
        let Ok(_busy) = self.busy.try_lock() else { return Err(VaultError::Busy) };
        let root = self.place(place)?;
        let made_at = self.clock.now();
        let scratch = Scratch::new(super::switch::beside(&self.config.database, ".backup"));
        let copy = &scratch.0;
        match source {
            Source::Live(store) => store.snapshot(copy).await?,
            Source::File(path) => offline::copy(path, copy).await?,
        }
        let examined = offline::examine(copy).await?;
        let summary = examined.summary.filter(|_| examined.problems.is_empty()).ok_or_else(|| VaultError::Unsound {
            what: format!("the database {}", self.config.database.display()),
            problems: examined.problems,
        })?;
        let at = root.join(&summary.instance)?.join(&places::name(made_at))?;
        let object = at.join(keys::BACKUP_DATABASE)?;
        let digest = upload(copy, object.clone()).await?;
        let stored = object.digest().await?;
        if stored != digest {
            let _ = object.delete().await;
            let what = "what was stored is not what was sent".to_owned();
            return Err(VaultError::Corrupt { uri: at.uri().to_owned(), what });
        }
        let manifest = Manifest::new(summary, made_at, digest);
        publish(&at, &manifest).await?;
        Ok(Backup { uri: at.uri().to_owned(), manifest })
    }
}

/// Writes the manifest, which makes a backup of it.
async fn publish(at: &Location, manifest: &Manifest) -> Result<(), VaultError> {
    let corrupt = |what| VaultError::Corrupt { uri: at.uri().to_owned(), what };
    let json = manifest.to_json().map_err(corrupt)?;
    match at.join(keys::MANIFEST)?.create(json.into()).await {
        Ok(()) => Ok(()),
        // Perhaps it was ours, and the answer was lost.
        Err(error @ ArtifactError::AlreadyExists { .. }) => match read(at).await? {
            Some(found) if found.manifest == *manifest => Ok(()),
            _ => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Gives the size and the digest of what was read.
async fn upload(from: &Path, to: Location) -> Result<(u64, String), VaultError> {
    let mut file = File::open(from).map_err(VaultError::io("read", from))?;
    let (mut upload, mut hasher, mut size) = (Upload::new(to), blake3::Hasher::new(), 0);
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            hasher.update(&piece);
            Ok::<_, io::Error>((file, hasher, piece))
        });
        let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let (back, hashed, piece) = match read {
            Ok(read) => read,
            Err(error) => {
                upload.abort().await;
                return Err(VaultError::io("read", from)(error));
            }
        };
        (file, hasher) = (back, hashed);
        if piece.is_empty() {
            upload.finish().await?;
            return Ok((size, hasher.finalize().to_hex().to_string()));
        }
        size += piece.len() as u64;
        upload.write(&piece).await?;
    }
}
