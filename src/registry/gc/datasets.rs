//! What is stored of datasets in a collection: manifests, and files that were pushed. Those that no version, no job on record and no schedule reads go; their names say all that they are.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mlctl_artifacts::{
    Found, Location,
    keys::{self, DatasetPart},
};
use tracing::warn;

use super::{
    Collector, GcError,
    walk::{Collection, PIECE},
};
use crate::domain::causes;

impl Collection<'_> {
    /// Walks over all of it and deletes what nothing needs.
    pub(super) async fn datasets(&mut self) -> Result<(), GcError> {
        let folder = self.collector.artifacts.open(&keys::datasets_uri(&self.collector.storage_url))?;
        let mut walk = folder.walk();
        let mut piece = Vec::new();
        while let Some(found) = walk.next().await? {
            self.count(found.size);
            let is_ours = keys::dataset_part(&found.name, &self.collector.store.instance().id).is_some();
            if is_ours {
                piece.push(found);
            } else {
                self.collected.foreign.add(found.size);
            }
            if piece.len() >= PIECE {
                self.clear_datasets(&folder, std::mem::take(&mut piece)).await?;
            }
        }
        self.clear_datasets(&folder, piece).await
    }

    async fn clear_datasets(&mut self, folder: &Location, piece: Vec<Found>) -> Result<(), GcError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.collector.check_sound()?;
        let uri = |found: &Found| format!("{}/{}", folder.uri(), found.name);
        let needed = self.needed(folder, &piece).await?;
        #[cfg(test)]
        let needed = if self.collector.is_blind_for_datasets() { BTreeSet::new() } else { needed };
        let until = self.now.checked_sub(self.terms.grace).unwrap_or(Timestamp::MIN);
        let mut folders: BTreeSet<String> = BTreeSet::new();
        for found in piece {
            let is_young = Timestamp::from_microsecond(found.modified_us).map_or(true, |modified| modified > until);
            if needed.contains(&found.name) {
                self.collected.needed.add(found.size);
            } else if is_young {
                self.collected.young.add(found.size);
            } else {
                self.collected.garbage.add(found.size);
                let parent = uri(&found).rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default();
                self.name_folder(parent, found.size);
                if !self.is_dry && self.delete_of_dataset(folder, &found).await? {
                    folders.extend(found.name.match_indices('/').map(|(at, _)| found.name[..at].to_owned()));
                }
            }
        }
        // From the deepest up: a local disk keeps folders in which nothing is.
        for parent in folders.iter().rev() {
            folder.join(parent)?.remove_empty().await;
        }
        self.tell();
        Ok(())
    }

    /// The names of those of these objects that something needs.
    async fn needed(&self, folder: &Location, piece: &[Found]) -> Result<BTreeSet<String>, GcError> {
        let Collector { store, .. } = self.collector;
        let instance = &store.instance().id;
        let (mut manifests, mut files) = (BTreeMap::new(), BTreeMap::<String, Vec<&str>>::new());
        for Found { name, .. } in piece {
            match keys::dataset_part(name, instance) {
                Some(DatasetPart::Manifest) => drop(manifests.insert(format!("{}/{name}", folder.uri()), name)),
                Some(DatasetPart::File(parent)) => {
                    files.entry(format!("{}/{parent}", folder.uri())).or_default().push(name);
                }
                None => {}
            }
        }
        let mut needed = BTreeSet::new();
        for uri in store.needed_manifests(manifests.keys().cloned().collect()).await? {
            needed.extend(manifests.get(&uri).map(|name| (*name).clone()));
        }
        for uri in store.needed_folders(files.keys().cloned().collect()).await? {
            needed.extend(files.get(&uri).into_iter().flatten().map(|name| (*name).to_owned()));
        }
        Ok(needed)
    }

    async fn delete_of_dataset(&mut self, folder: &Location, found: &Found) -> Result<bool, GcError> {
        use mlctl_artifacts::ArtifactError::Unavailable;
        match folder.join(&found.name)?.delete().await {
            Ok(()) => self.collected.deleted.add(found.size),
            Err(error @ Unavailable { .. }) => return Err(error.into()),
            Err(error) => {
                warn!(
                    name = found.name,
                    error = causes(&error),
                    "an object of a dataset that nothing needs cannot be deleted"
                );
                self.collected.failed += 1;
                return Ok(false);
            }
        }
        Ok(true)
    }
}
