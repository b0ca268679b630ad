//! The manifests of datasets in a collection: those that no version, no job on record and no schedule names go, as their names say all that they are.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mlctl_artifacts::{Found, Location, keys};
use tracing::warn;

use super::{
    GcError,
    walk::{Collection, PIECE},
};
use crate::domain::causes;

impl Collection<'_> {
    /// Walks over all manifests and deletes what nothing needs.
    pub(super) async fn manifests(&mut self) -> Result<(), GcError> {
        let folder = self.collector.artifacts.open(&keys::datasets_uri(&self.collector.storage_url))?;
        let mut walk = folder.walk();
        let mut piece = Vec::new();
        while let Some(found) = walk.next().await? {
            self.count(found.size);
            let is_ours = keys::dataset_digest(&found.name, &self.collector.store.instance().id).is_some();
            if is_ours {
                piece.push(found);
            } else {
                self.collected.foreign.add(found.size);
            }
            if piece.len() >= PIECE {
                self.clear_manifests(&folder, std::mem::take(&mut piece)).await?;
            }
        }
        self.clear_manifests(&folder, piece).await
    }

    async fn clear_manifests(&mut self, folder: &Location, piece: Vec<Found>) -> Result<(), GcError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.collector.check_sound()?;
        let uri = |found: &Found| format!("{}/{}", folder.uri(), found.name);
        let needed = self.collector.store.needed_manifests(piece.iter().map(uri).collect()).await?;
        #[cfg(test)]
        let needed = if self.collector.is_blind_for_manifests() { BTreeSet::new() } else { needed };
        let until = self.now.checked_sub(self.terms.grace).unwrap_or(Timestamp::MIN);
        let mut folders: BTreeSet<String> = BTreeSet::new();
        for found in piece {
            let is_young = Timestamp::from_microsecond(found.modified_us).map_or(true, |modified| modified > until);
            if needed.contains(&uri(&found)) {
                self.collected.needed.add(found.size);
            } else if is_young {
                self.collected.young.add(found.size);
            } else {
                self.collected.garbage.add(found.size);
                let parent = uri(&found).rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default();
                self.name_folder(parent, found.size);
                if !self.is_dry && self.delete_manifest(folder, &found).await? {
                    folders.extend(found.name.rsplit_once('/').map(|(parent, _)| parent.to_owned()));
                }
            }
        }
        for parent in folders {
            folder.join(&parent)?.remove_empty().await;
        }
        self.tell();
        Ok(())
    }

    async fn delete_manifest(&mut self, folder: &Location, found: &Found) -> Result<bool, GcError> {
        use mlctl_artifacts::ArtifactError::Unavailable;
        match folder.join(&found.name)?.delete().await {
            Ok(()) => self.collected.deleted.add(found.size),
            Err(error @ Unavailable { .. }) => return Err(error.into()),
            Err(error) => {
                warn!(name = found.name, error = causes(&error), "a manifest that nothing needs cannot be deleted");
                self.collected.failed += 1;
                return Ok(false);
            }
        }
        Ok(true)
    }
}
