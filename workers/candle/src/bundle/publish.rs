//! Publishes a trained model: weights and whatever belongs to them first, `config.json` last, so that a model is whole or not there. The
//! folder belongs to the attempt alone, so an attempt that is no longer valid can spoil nobody else's model.

use bytes::Bytes;
use mlctl_artifacts::{keys, publish::folder};
use mlctl_protocol::{ExitClass, result::ModelRef};

use super::{ModelConfig, tensors};
use crate::{fault::Fault, job::Job, nn::Tensors};

/// Seconds for which a request is tried again before an order to end is looked for.
const PATIENCE_SECONDS: u32 = 10;

/// Publishes a model with other files beside it.
///
/// # Errors
/// When storage fails.
pub fn publish(
    job: Job<'_>,
    config: ModelConfig,
    weights: &Tensors,
    beside: Vec<(String, Bytes)>,
) -> Result<ModelRef, Fault> {
    let cannot = |what: String| Fault::new(ExitClass::Crash, format!("the model cannot be written: {what}"));
    let digest = tensors::digest(weights)?;
    let config = ModelConfig { weights_digest: Some(digest.clone()), ..config };
    let mut files = beside;
    files.push((keys::MODEL.into(), tensors::encode(weights).map_err(cannot)?));
    files.push((keys::MODEL_CONFIG.into(), config.to_json().map_err(cannot)?.into()));
    let storage = &job.start.storage;
    let waits = storage.spool.is_some();
    let stores = if waits { job.stores.patient_for(PATIENCE_SECONDS) } else { job.stores.clone() };
    let at = stores.open(&storage.model_uri).map_err(|error| Fault::storage(&error))?;
    let what = "the results of the job wait for it";
    crate::storage::patiently(job, what, || job.runtime.block_on(folder(&at, files.clone(), keys::MODEL_CONFIG)))?;
    Ok(ModelRef { uri: at.uri().to_owned(), digest })
}
