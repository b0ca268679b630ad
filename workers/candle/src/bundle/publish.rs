//! Publishes a trained model: weights and whatever belongs to them first, `config.json` last, so that a model is whole or not there. The
//! folder belongs to the attempt alone, so an attempt that is no longer valid can spoil nobody else's model.

use bytes::Bytes;
use mlctl_artifacts::{keys, publish::folder};
use mlctl_protocol::{ExitClass, result::ModelRef};

use super::{ModelConfig, tensors};
use crate::{fault::Fault, job::Job, nn::Tensors};

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
    let at = job.stores.open(&job.start.storage.model_uri).map_err(|error| Fault::storage(&error))?;
    job.runtime.block_on(folder(&at, files, keys::MODEL_CONFIG)).map_err(|error| Fault::storage(&error))?;
    Ok(ModelRef { uri: at.uri().to_owned(), digest })
}
