//! What is done through the proxy, and what is the truth about it, asked past the proxy.

use bytes::Bytes;
use mlctl_artifacts::{
    ArtifactError, Location, Stores,
    checkpoint::{self, Part},
    keys,
    manifest::Role,
};
use mlctl_protocol::{result::CheckpointRef, s3::S3Access};

use super::{
    proxy::Proxy,
    s3::{BUCKET, Server},
};

/// More than a checkpoint here has, in bytes.
const LIMIT: u64 = 1 << 30;

/// The way to a folder through the proxy, and past it.
pub struct Ways {
    pub proxy: Proxy,
    pub stores: Stores,
    pub spoiled: Location,
    pub sure: Location,
    sure_stores: Stores,
}

impl Ways {
    /// To a folder, for one who tries so many seconds.
    pub fn to(server: &Server, folder: &str, proxy: Proxy, retry_seconds: u32) -> Self {
        let access = S3Access { endpoint: Some(proxy.url.clone()), retry_seconds, ..server.access() };
        let stores = Stores::with_s3(Some(access));
        let sure_stores = Stores::with_s3(Some(server.access()));
        let uri = format!("s3://{BUCKET}/{folder}");
        let (spoiled, sure) = (stores.open(&uri).unwrap(), sure_stores.open(&uri).unwrap());
        Self { proxy, stores, spoiled, sure, sure_stores }
    }

    /// What the store has of a checkpoint: nothing, or all that was written. Anything else fails the test.
    pub async fn has(&self, step: u64, parts: &[Part]) -> bool {
        let folder = self.sure.join(&keys::checkpoint(step)).unwrap();
        match checkpoint::read(&self.sure_stores, folder.uri(), LIMIT).await {
            Ok(found) => {
                assert!(found.manifest.step == step && found.parts == parts, "step {step} is not what was written");
                true
            }
            Err(ArtifactError::NotFound { .. }) => false,
            Err(error) => panic!("step {step} is neither there nor not there: {error}"),
        }
    }

    /// Reads a checkpoint through the proxy.
    pub async fn load(&self, reference: &CheckpointRef) -> Result<Vec<Part>, ArtifactError> {
        let uri = format!("{}/{}", self.spoiled.uri(), keys::checkpoint(reference.step));
        let which = CheckpointRef { uri, ..reference.clone() };
        checkpoint::read(&self.stores, &which, LIMIT).await.map(|found| found.parts)
    }
}

/// Bytes that are not the same anywhere.
pub fn content(size: usize, seed: u64) -> Bytes {
    (seed..).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).take(size).collect()
}

/// The parts of a checkpoint with a model of so many bytes.
pub fn parts(model: usize, seed: u64) -> Vec<Part> {
    let part = |name: &str, role, bytes| Part { name: name.into(), role, bytes };
    vec![
        part(keys::CHECKPOINT_MODEL, Role::Model, content(model, seed)),
        part(keys::CHECKPOINT_OPTIMIZER, Role::Optimizer, content(1000, seed + 1)),
        part(keys::CHECKPOINT_STATE, Role::State, content(100, seed + 2)),
    ]
}
