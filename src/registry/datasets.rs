//! Datasets: a manifest that a worker has made is stored, named by its digest, and becomes a version. What it says of the data is compared by workers when they read it; here it is one more object.

use bytes::Bytes;
use mlctl_artifacts::{ArtifactError, blake3_hex, keys};
use mlctl_protocol::dataset::{MAX_MANIFEST_BYTES, Manifest};

use super::{Registry, RegistryError};
use crate::{
    domain::{
        Uid,
        registry::{Dataset, misfit},
    },
    store::{DatasetVersion, NewDataset},
};

impl Registry {
    /// Stores a manifest under `storage_url` and makes it a version of a dataset, unless the newest is the same. Returns the version, and whether it was there before.
    ///
    /// # Errors
    /// [`RegistryError::BadManifest`] for one that no job could go by; else [`RegistryError`].
    pub async fn add_dataset(
        &self,
        storage_url: &str,
        dataset: &str,
        manifest: Bytes,
        by: Uid,
    ) -> Result<(DatasetVersion, bool), RegistryError> {
        let bad = RegistryError::BadManifest;
        let read: Manifest = serde_json::from_slice(&manifest).map_err(|error| bad(error.to_string()))?;
        if let Some(why) = misfit(&read) {
            return Err(bad(why));
        }
        let digest = blake3_hex(&manifest);
        let uri = keys::dataset_manifest_uri(storage_url, &self.store.instance().id, &digest);
        let at = self.artifacts.open(&uri)?;
        // The same under the same name, whoever else writes it; what was damaged is whole again.
        at.put(manifest.clone()).await?;
        let new = NewDataset { dataset: dataset.to_owned(), content: Dataset::of(&read, uri, digest), by };
        let added = self.store.add_dataset(new).await?;
        // Before the row was there, a collection may have taken it for one that nothing needs.
        if at.size().await?.is_none() {
            at.put(manifest).await?;
        }
        Ok(added)
    }

    /// What a version is of.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] for a manifest that is not the one that was stored; else [`RegistryError`].
    pub async fn manifest(&self, version: &DatasetVersion) -> Result<Manifest, RegistryError> {
        let uri = &version.content.manifest;
        let bytes = self.artifacts.open(uri)?.get(MAX_MANIFEST_BYTES as u64).await?;
        let corrupt = |what: String| ArtifactError::Corrupt { uri: uri.clone(), what };
        if blake3_hex(&bytes) != version.content.digest {
            return Err(corrupt("its checksum is not that of the version".into()).into());
        }
        Ok(serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?)
    }
}
