//! Brings a backup beside the database, to be looked at before anything is touched: by its name or its folder with the digest compared, or a plain database file.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use mlctl_artifacts::{ArtifactError, keys, uri};

use super::{
    Backup, Vault, VaultError,
    places::{read, uri_of},
    switch,
};
use crate::store::offline;

/// Stands for the newest backup.
const LATEST: &str = "latest";

/// What was brought.
pub(super) enum Found {
    /// A backup, which is as its manifest says.
    Backup(Backup),
    /// A database file without a manifest.
    File(PathBuf),
}

impl Found {
    /// Its name, for people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Backup(backup) => backup.uri.clone(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

impl Vault {
    /// Brings what `source` names to a file: `latest`, a backup's folder, the database in it, or a database file.
    pub(super) async fn fetch(&self, source: &str, from: Option<&str>, to: &Path) -> Result<Found, VaultError> {
        let backup = if source == LATEST {
            let marker = std::fs::read_to_string(switch::beside(&self.config.database, ".instance")).ok();
            self.latest(from, marker.as_deref().map(str::trim)).await?
        } else {
            let named = uri_of(source)?;
            match self.named(&named).await? {
                Some(backup) => backup,
                None => return self.plain(&named, to).await,
            }
        };
        let object = self.stores.open(&backup.uri)?.join(keys::BACKUP_DATABASE)?;
        let found = match download(object, backup.manifest.size_bytes, to).await {
            Err(VaultError::Storage(ArtifactError::NotFound { .. })) => {
                return Err(VaultError::Corrupt { uri: backup.uri, what: "its database is missing".into() });
            }
            found => found?,
        };
        let wanted = (backup.manifest.size_bytes, backup.manifest.blake3.clone());
        if found != wanted {
            let what = if found.0 == wanted.0 {
                "its digest is another".into()
            } else {
                format!("it has {} of {} bytes", found.0, wanted.0)
            };
            return Err(VaultError::Corrupt { uri: backup.uri, what });
        }
        Ok(Found::Backup(backup))
    }

    /// The backup in a folder, or that a database in such a folder belongs to.
    async fn named(&self, named: &str) -> Result<Option<Backup>, VaultError> {
        let at = self.stores.open(named)?;
        let inside = format!("/{}", keys::BACKUP_DATABASE);
        let folder = match at.uri().strip_suffix(&inside) {
            Some(folder) => self.stores.open(folder)?,
            None => at,
        };
        // Below a file there is nothing, and no folder either.
        match read(&folder).await {
            Err(VaultError::Storage(ArtifactError::Refused { .. }))
                if uri::to_path(folder.uri())?.is_some_and(|path| path.is_file()) =>
            {
                Ok(None)
            }
            Err(VaultError::Storage(ArtifactError::Unavailable { .. }))
                if uri::to_path(folder.uri())?.is_some_and(|path| path.is_file()) =>
            {
                Ok(None)
            }
            found => found,
        }
    }

    async fn plain(&self, named: &str, to: &Path) -> Result<Found, VaultError> {
        match uri::to_path(named)?.filter(|path| path.is_file()) {
            Some(path) => {
                offline::copy(&path, to).await?;
                Ok(Found::File(path))
            }
            None => Err(VaultError::Missing(format!("{named}: it is no folder with a manifest, and no database file"))),
        }
    }
}

/// Gives the size and the digest of what was written; what is larger than expected is not written.
async fn download(at: mlctl_artifacts::Location, size: u64, to: &Path) -> Result<(u64, String), VaultError> {
    let mut pieces = at.pieces(u64::MAX).await?;
    if pieces.size() != size {
        return Ok((pieces.size(), String::new()));
    }
    let mut file = File::create_new(to).map_err(VaultError::io("make", to))?;
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = pieces.next().await? {
        let written = tokio::task::spawn_blocking(move || {
            hasher.update(&piece);
            file.write_all(&piece)?;
            Ok::<_, io::Error>((file, hasher))
        });
        let written = written.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        (file, hasher) = written.map_err(VaultError::io("write", to))?;
    }
    Ok((size, hasher.finalize().to_hex().to_string()))
}
