//! Where backups are and what they are called: `<place>/<instance>/<time>`, so that names sort by time. Finds them again, for a list and for `latest`.

use std::path::Path;

use jiff::Timestamp;
use mlctl_artifacts::{ArtifactError, Location, keys, uri};

use super::{
    Backup, Vault, VaultError,
    manifest::{self, Manifest},
};

/// Backups of a list at most, the newest.
const MOST: usize = 1000;

/// The backups in a place, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Where.
    pub url: String,
    /// Those that are whole.
    pub backups: Vec<Backup>,
    /// Those with a manifest that cannot be read: where, and why.
    pub damaged: Vec<(String, String)>,
}

impl Vault {
    /// The backups in a place: the newest thousand of each database, newest first.
    ///
    /// # Errors
    /// [`VaultError::Storage`].
    pub async fn list(&self, place: Option<&str>) -> Result<Listing, VaultError> {
        let root = self.place(place)?;
        let mut listing = Listing { url: root.uri().to_owned(), backups: Vec::new(), damaged: Vec::new() };
        for instance in root.folders().await? {
            let home = root.join(&instance)?;
            for name in home.folders().await?.iter().rev().take(MOST) {
                let at = home.join(name)?;
                match read(&at).await {
                    Ok(Some(backup)) => listing.backups.push(backup),
                    // One that is being made, or was given up.
                    Ok(None) => {}
                    Err(VaultError::Corrupt { uri, what }) => listing.damaged.push((uri, what)),
                    Err(error) => return Err(error),
                }
            }
        }
        listing.backups.sort_by_key(|backup| std::cmp::Reverse(backup.manifest.made_at));
        Ok(listing)
    }

    /// The newest backup in a place that is whole: of the database that is meant here, or of the only one that has any.
    pub(super) async fn latest(&self, place: Option<&str>, instance: Option<&str>) -> Result<Backup, VaultError> {
        let root = self.place(place)?;
        let instances = root.folders().await?;
        let instance = match (instance, instances.as_slice()) {
            (Some(instance), all) if all.iter().any(|name| name == instance) => instance.to_owned(),
            (_, [only]) => only.clone(),
            (_, []) => return Err(VaultError::Missing(format!("under {}", root.uri()))),
            (_, _) => return Err(VaultError::Several { url: root.uri().to_owned(), instances }),
        };
        let home = root.join(&instance)?;
        for name in home.folders().await?.iter().rev() {
            if let Some(backup) = read(&home.join(name)?).await? {
                return Ok(backup);
            }
        }
        Err(VaultError::Missing(format!("under {}", home.uri())))
    }

    /// The newest backup of a database in the usual place, if there is one.
    ///
    /// # Errors
    /// [`VaultError::Storage`], [`VaultError::Corrupt`].
    pub async fn newest_of(&self, instance: &str) -> Result<Option<Backup>, VaultError> {
        let home = self.place(None)?.join(instance)?;
        for name in home.folders().await?.iter().rev() {
            if let Some(backup) = read(&home.join(name)?).await? {
                return Ok(Some(backup));
            }
        }
        Ok(None)
    }

    /// Deletes all but the newest `keep` backups of a database in the usual place, and what was given up half-way before the oldest that stays. Returns how many.
    ///
    /// # Errors
    /// [`VaultError::Storage`]: some may be gone.
    pub async fn prune(&self, instance: &str, keep: u32) -> Result<usize, VaultError> {
        let home = self.place(None)?.join(instance)?;
        let (mut kept, mut gone) = (0, 0);
        for name in home.folders().await?.iter().rev() {
            let at = home.join(name)?;
            let manifest = at.join(keys::MANIFEST)?;
            if kept < keep.max(1) {
                kept += u32::from(manifest.size().await?.is_some());
                continue;
            }
            // The manifest first: half of a backup is none.
            manifest.delete().await?;
            at.delete_prefix().await?;
            gone += 1;
        }
        Ok(gone)
    }

    /// A folder for backups, by its URI or its path.
    pub(super) fn place(&self, place: Option<&str>) -> Result<Location, VaultError> {
        Ok(self.stores.open(&uri_of(place.unwrap_or(&self.config.backups_url))?)?)
    }
}

/// A backup by its folder; none where it has no manifest.
pub(super) async fn read(at: &Location) -> Result<Option<Backup>, VaultError> {
    let Some(bytes) = at.join(keys::MANIFEST)?.get_optional(manifest::MAX_BYTES).await? else { return Ok(None) };
    let corrupt = |what| VaultError::Corrupt { uri: at.uri().to_owned(), what };
    Ok(Some(Backup { uri: at.uri().to_owned(), manifest: Manifest::from_json(&bytes).map_err(corrupt)? }))
}

/// What a person named, as a URI.
pub(super) fn uri_of(named: &str) -> Result<String, ArtifactError> {
    if named.contains("://") { Ok(named.to_owned()) } else { uri::from_path(Path::new(named)) }
}

/// The name of a backup that was begun at a moment: sorts by it.
pub(super) fn name(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%S.%3fZ").to_string()
}
