//! Checkpoints in object storage: a run's content as the parts that `artifacts` writes and verifies. The only place of this room that
//! reaches storage; when to write and what to read is decided in `saver` and `resume`.

use mlctl_artifacts::{
    ArtifactError, Location,
    checkpoint::{self, Header, Part},
    keys,
    manifest::Role,
};
use mlctl_protocol::{ExitClass, result::CheckpointRef};

use super::{
    resume::Unreadable,
    saver::Vault,
    state::{Content, RunState},
};
use crate::{fault::Fault, job::Job};

/// Room in a checkpoint for all but tensors' data: headers, `state.json`, the manifest.
const OVERHEAD_BYTES: u64 = 64 * 1024 * 1024;

/// Where an attempt's checkpoints go, and earlier attempts' come from.
#[derive(Debug)]
pub struct ObjectVault<'a> {
    job: Job<'a>,
    attempt: Location,
    dataset_digest: &'a str,
    /// The checkpoint this attempt started from.
    parent: Option<String>,
}

impl<'a> ObjectVault<'a> {
    /// The vault of an attempt.
    ///
    /// # Errors
    /// When the daemon named a folder that no store has.
    pub fn new(job: Job<'a>, dataset_digest: &'a str, parent: Option<String>) -> Result<Self, Fault> {
        let attempt = job.stores.open(&job.start.storage.attempt_uri).map_err(|e| Fault::storage(&e))?;
        Ok(Self { job, attempt, dataset_digest, parent })
    }
}

impl Vault for ObjectVault<'_> {
    fn write(&mut self, run: &RunState, content: Content) -> Result<CheckpointRef, Fault> {
        let Job { id, attempt, start, host, runtime, .. } = self.job;
        let header = Header {
            job: id,
            attempt,
            token: start.token,
            step: run.step,
            epoch: run.epoch,
            created_at: host.now_rfc3339(),
            spec_digest: start.spec_digest.clone(),
            dataset_digest: self.dataset_digest.to_owned(),
            parent: self.parent.clone(),
            metrics: run.metrics.clone(),
        };
        let part = |name: &str, role, bytes| Part { name: name.to_owned(), role, bytes };
        let parts = vec![
            part(keys::CHECKPOINT_MODEL, Role::Model, content.model),
            part(keys::CHECKPOINT_OPTIMIZER, Role::Optimizer, content.optimizer),
            part(keys::CHECKPOINT_STATE, Role::State, content.state),
        ];
        match runtime.block_on(checkpoint::write(&self.attempt, header, parts)) {
            Err(error @ ArtifactError::AlreadyExists { .. }) => Err(Fault::new(
                ExitClass::Lost,
                format!("another process writes the checkpoints of this attempt: {error}"),
            )),
            result => result.map_err(|e| Fault::storage(&e)),
        }
    }
}

/// Reads and verifies a checkpoint of a model of `values` numbers.
///
/// # Errors
/// See [`Unreadable`].
pub fn read(job: Job<'_>, candidate: &CheckpointRef, values: u64) -> Result<Content, Unreadable> {
    // Weights and two running averages each.
    let limit = values.saturating_mul(3 * 4).saturating_add(OVERHEAD_BYTES);
    let checkpoint = match job.runtime.block_on(checkpoint::read(job.stores, candidate, limit)) {
        Ok(checkpoint) => checkpoint,
        Err(error @ ArtifactError::Unavailable { .. }) => return Err(Unreadable::Store(Fault::storage(&error))),
        Err(error) => return Err(Unreadable::This(error.to_string())),
    };
    let part = |name: &str| {
        checkpoint.part(name).cloned().ok_or_else(|| Unreadable::This(format!("{} has no {name}", candidate.uri)))
    };
    Ok(Content {
        model: part(keys::CHECKPOINT_MODEL)?,
        optimizer: part(keys::CHECKPOINT_OPTIMIZER)?,
        state: part(keys::CHECKPOINT_STATE)?,
    })
}
