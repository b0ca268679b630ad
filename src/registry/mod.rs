//! Models and what is kept of them: versions, each with the objects that it holds; datasets, each version with its manifest; and the collection of objects that nothing needs. Called by the API and the daemon's lifecycle. It knows no SQL, no
//! process and no tensor: what an object is worth is its digest.

mod datasets;
pub mod gc;
mod registrar;

use std::sync::Arc;

use mlctl_artifacts::{ArtifactError, Stores, checkpoint, keys};
use mlctl_protocol::{
    JobId,
    result::{CheckpointRef, ModelRef},
};

pub use self::registrar::run as register_all;
use crate::{
    domain::{
        Uid,
        registry::{Content, Object},
    },
    store::{JobDetail, ModelVersion, NewVersion, Store, StoreError},
};

/// Whether the database may be relied on.
pub type IsSound = Arc<dyn Fn() -> bool + Send + Sync>;

/// Models and their versions. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    store: Store,
    artifacts: Stores,
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The database refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Object storage failed.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The job has no final model.
    #[error("job {0} has published no model")]
    NoModel(JobId),
    /// What is to become a version of a dataset says nothing that a job could go by.
    #[error("the manifest of the dataset cannot be kept: {0}")]
    BadManifest(String),
    /// What is stored is not whole.
    #[error("what job {job} has stored is damaged: {what}")]
    Damaged {
        /// The job.
        job: JobId,
        /// What is wrong.
        what: String,
    },
}

impl Registry {
    /// The registry of a database, with the stores that hold its objects.
    #[must_use]
    pub const fn new(store: Store, artifacts: Stores) -> Self {
        Self { store, artifacts }
    }

    /// Registers a job's final model, or its checkpoint of a step, as a version of a model. Every byte is read once for its digest. Returns the version, and whether it was there before.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn register(
        &self,
        model: &str,
        job: JobId,
        step: Option<u64>,
        by: Uid,
    ) -> Result<(ModelVersion, bool), RegistryError> {
        let content = self.describe(job, step).await?;
        let new = NewVersion { model: model.to_owned(), content, by, once: by == Uid::SYSTEM };
        Ok(self.store.register_version(new).await?)
    }

    async fn describe(&self, id: JobId, step: Option<u64>) -> Result<Content, RegistryError> {
        let detail = self.store.job(id).await?;
        let Some(step) = step else { return self.of_model(detail).await };
        let kept = self.store.checkpoints(id).await?;
        let found = kept.into_iter().map(|(_, found)| found).find(|found| found.step == step);
        self.of_checkpoint(detail, &found.ok_or(StoreError::NoCheckpoint { job: id, step })?).await
    }

    async fn of_model(&self, detail: JobDetail) -> Result<Content, RegistryError> {
        let JobDetail { job, metrics, .. } = detail;
        let Some(ModelRef { uri, digest }) = job.model else { return Err(RegistryError::NoModel(job.id)) };
        let folder = self.artifacts.open(&uri)?;
        let mut objects = Vec::new();
        for entry in folder.list().await? {
            let (size_bytes, blake3) = folder.join(&entry.name)?.digest().await?;
            objects.push(Object { name: entry.name, size_bytes, blake3 });
        }
        if !objects.iter().any(|object| object.name == keys::MODEL_CONFIG) {
            let what = format!("{uri} has no {}", keys::MODEL_CONFIG);
            return Err(RegistryError::Damaged { job: job.id, what });
        }
        // Told by a checkpoint alone; a model without it is none the worse.
        let manifest = match &job.checkpoint {
            Some(newest) => checkpoint::manifest(&self.artifacts, newest).await.ok(),
            None => None,
        };
        Ok(Content {
            uri,
            objects,
            job: job.id,
            attempt: None,
            step: None,
            digest: Some(digest),
            spec_digest: job.spec_digest,
            dataset_digest: manifest.map(|manifest| manifest.dataset_digest),
            metrics,
        })
    }

    async fn of_checkpoint(&self, detail: JobDetail, found: &CheckpointRef) -> Result<Content, RegistryError> {
        let job = detail.job;
        let report = checkpoint::verify(&self.artifacts, found).await?;
        if !report.problems.is_empty() {
            return Err(RegistryError::Damaged { job: job.id, what: report.problems.join("; ") });
        }
        let manifest = report.manifest;
        let objects = manifest.objects.into_iter().map(|object| Object {
            name: object.name,
            size_bytes: object.size_bytes,
            blake3: object.blake3,
        });
        let mut objects: Vec<_> = objects.collect();
        let (size_bytes, blake3) = self.artifacts.open(&found.uri)?.join(keys::MANIFEST)?.digest().await?;
        objects.push(Object { name: keys::MANIFEST.into(), size_bytes, blake3 });
        Ok(Content {
            uri: found.uri.clone(),
            objects,
            job: job.id,
            attempt: Some(manifest.attempt.0),
            step: Some(found.step),
            digest: None,
            spec_digest: manifest.spec_digest,
            dataset_digest: Some(manifest.dataset_digest),
            metrics: manifest.metrics,
        })
    }
}
