//! Reads a model to predict with or to begin a training from: a published one, a checkpoint, or weights alone, as safetensors or as PyTorch saves
//! them, with the network that the spec gives. Everything is checked before it is used: checksums where there are some, then names, shapes,
//! types and values of the tensors.

use mlctl_artifacts::{ArtifactError, Location, keys, manifest::Role, restore::Reader};
use mlctl_protocol::{
    ExitClass,
    spec::{InitSpec, ModelSource, ModelSpec, is_pytorch},
};
use serde::Deserialize;

use super::{
    ModelConfig,
    config::MAX_CONFIG_BYTES,
    incoming,
    tensors::{self, OVERHEAD_BYTES},
};
use crate::{
    data::{memory, tokenizer::Tokenizer},
    fault::Fault,
    job::Job,
    nn::{self, Tensors},
    pth,
};

/// A model ready to predict.
#[derive(Debug)]
pub struct Model {
    /// Its architecture.
    pub network: ModelSpec,
    /// Its weights by name, on the CPU.
    pub weights: Tensors,
    /// What else is known of it; nothing for weights alone.
    pub config: Option<ModelConfig>,
}

/// The bytes of a PyTorch file for each number of the network: those of a checkpoint in f64 with both of Adam's averages, and some more.
const PTH_BYTES_PER_VALUE: u64 = 32;

/// The largest `state.json` of a checkpoint that is read, in bytes.
pub const MAX_STATE_BYTES: u64 = 16 * 1024 * 1024;

/// Reads the model that a spec names.
///
/// # Errors
/// `spec` when there is none, or it is not what its config or the spec says; `storage` when it is damaged or cannot be read.
pub fn read(job: Job<'_>, source: &ModelSource) -> Result<Model, Fault> {
    let from = &source.from;
    let at = open(job, from)?;
    let model = if is_pytorch(at.name()) {
        let network = source.network.as_ref().ok_or_else(|| {
            Fault::spec(
                format!("{from} holds weights, and its network is not known"),
                "describe it in infer.model.network, as in train.model",
            )
        })?;
        Model { network: network.clone(), weights: load_pth(job, &at, network, source.key.as_deref())?, config: None }
    } else if at.name().ends_with(".safetensors") {
        read_weights(job, &at, source.network.as_ref())?
    } else if is_there(job, &at, keys::MANIFEST)? {
        read_checkpoint(job, &at)?
    } else if is_there(job, &at, keys::MODEL_CONFIG)? {
        read_folder(job, &at)?
    } else {
        return Err(Fault::spec(
            format!("{from} holds no model: neither {} nor {} is in it", keys::MODEL_CONFIG, keys::MANIFEST),
            "name the folder of a model or of a checkpoint, a .safetensors or a .pth file",
        ));
    };
    check_finite(from, &model.weights)?;
    Ok(model)
}

/// Reads the weights that a training begins with.
///
/// # Errors
/// As [`read`], and `spec` when they are not those of the network to train.
pub fn read_initial(job: Job<'_>, init: &InitSpec, network: &ModelSpec) -> Result<Tensors, Fault> {
    let from = &init.from;
    let at = open(job, from)?;
    let weights = if is_pytorch(at.name()) {
        load_pth(job, &at, network, init.key.as_deref())?
    } else if at.name().ends_with(".safetensors") {
        load(job, &at, network)?
    } else {
        let Model { weights, network: found, .. } =
            read(job, &ModelSource { from: from.clone(), network: None, key: None })?;
        if nn::layout(&found) != nn::layout(network) {
            return Err(Fault::spec(
                format!("the model at {from} has other layers than train.model"),
                "give train.model the layers of that model, which its config.json lists",
            ));
        }
        weights
    };
    check_finite(from, &weights)?;
    Ok(weights)
}

/// The tokenizer of the model that a training begins with, where one is known.
///
/// # Errors
/// As [`read`].
pub fn tokenizer(job: Job<'_>, init: &InitSpec) -> Result<Option<Tokenizer>, Fault> {
    let at = open(job, &init.from)?;
    if is_pytorch(at.name()) {
        return Ok(None);
    }
    if at.name().ends_with(".safetensors") {
        let beside = at.sibling(keys::MODEL_CONFIG).map_err(|error| unreadable(&error))?;
        let json = job.runtime.block_on(beside.get_optional(MAX_CONFIG_BYTES)).map_err(|error| unreadable(&error))?;
        return Ok(json.and_then(|json| ModelConfig::from_json(&json).ok()?.tokenizer));
    }
    if is_there(job, &at, keys::MANIFEST)? {
        let reader = job.runtime.block_on(Reader::open(job.stores, at.uri())).map_err(|error| unreadable(&error))?;
        return Ok(checkpoint_config(job, &at, &reader)?.tokenizer);
    }
    // A folder that holds no model is told of when the weights are read.
    let is_model = is_there(job, &at, keys::MODEL_CONFIG)?;
    Ok(if is_model { folder_config(job, &at)?.tokenizer } else { None })
}

fn open(job: Job<'_>, from: &str) -> Result<Location, Fault> {
    if from.starts_with("job:") {
        return Err(Fault::spec(
            format!("{from:?} names a job, and the daemon gave no model for it"),
            "name the model's folder, or submit the job again",
        ));
    }
    job.stores.open(from).map_err(|error| unreadable(&error))
}

fn check_finite(from: &str, weights: &Tensors) -> Result<(), Fault> {
    match tensors::not_finite(weights)? {
        None => Ok(()),
        Some(name) => Err(Fault::spec(
            format!("tensor {name:?} of {from} holds values that are not finite"),
            "the model is broken: take an earlier checkpoint",
        )),
    }
}

fn read_folder(job: Job<'_>, folder: &Location) -> Result<Model, Fault> {
    let config = folder_config(job, folder)?;
    let weights = folder.join(keys::MODEL).map_err(|error| unreadable(&error))?;
    with_config(job, &weights, config)
}

fn folder_config(job: Job<'_>, folder: &Location) -> Result<ModelConfig, Fault> {
    let at = folder.join(keys::MODEL_CONFIG).map_err(|error| unreadable(&error))?;
    let json = job.runtime.block_on(at.get(MAX_CONFIG_BYTES)).map_err(|error| unreadable(&error))?;
    ModelConfig::from_json(&json).map_err(|what| unusable(at.uri(), &what))
}

/// A file of weights: with a config beside it, or with the spec's network.
fn read_weights(job: Job<'_>, at: &Location, network: Option<&ModelSpec>) -> Result<Model, Fault> {
    let beside = at.sibling(keys::MODEL_CONFIG).map_err(|error| unreadable(&error))?;
    let json = job.runtime.block_on(beside.get_optional(MAX_CONFIG_BYTES)).map_err(|error| unreadable(&error))?;
    match (json.map(|json| ModelConfig::from_json(&json)), network) {
        (Some(Ok(config)), Some(network)) if config.network != *network => Err(Fault::spec(
            format!("infer.model.network is not the network that {} describes", beside.uri()),
            "leave infer.model.network out",
        )),
        (Some(Ok(config)), _) => with_config(job, at, config),
        // Another program's file of that name; the spec says all that is needed.
        (Some(Err(_)) | None, Some(network)) => {
            let weights = load(job, at, network)?;
            Ok(Model { network: network.clone(), weights, config: None })
        }
        (Some(Err(what)), None) => Err(unusable(beside.uri(), &what)),
        (None, None) => Err(Fault::spec(
            format!("{} has no {} beside it, so its network is not known", at.uri(), keys::MODEL_CONFIG),
            "describe it in infer.model.network, as in train.model",
        )),
    }
}

fn with_config(job: Job<'_>, at: &Location, config: ModelConfig) -> Result<Model, Fault> {
    let weights = load(job, at, &config.network)?;
    if let Some(known) = &config.weights_digest
        && tensors::digest(&weights)? != *known
    {
        return Err(Fault::new(
            ExitClass::Storage,
            format!("{} is corrupt: its digest is not the one in {}", at.uri(), keys::MODEL_CONFIG),
        )
        .with_hint("restore it from a copy, or take a checkpoint of the job that made it"));
    }
    Ok(Model { network: config.network.clone(), weights, config: Some(config) })
}

fn load(job: Job<'_>, at: &Location, network: &ModelSpec) -> Result<Tensors, Fault> {
    let layout = nn::layout(network);
    let limit = nn::values(&layout).saturating_mul(4).saturating_add(OVERHEAD_BYTES);
    let bytes = job.runtime.block_on(at.get(limit)).map_err(|error| match error {
        ArtifactError::TooLarge { .. } => unusable(at.uri(), "it is larger than the network's tensors can be"),
        error => unreadable(&error),
    })?;
    tensors::decode_as(&bytes, &layout).map_err(|problems| unusable(at.uri(), &problems.join("; ")))
}

fn load_pth(job: Job<'_>, at: &Location, network: &ModelSpec, key: Option<&str>) -> Result<Tensors, Fault> {
    let layout = nn::layout(network);
    let limit = nn::values(&layout).saturating_mul(PTH_BYTES_PER_VALUE).saturating_add(pth::OVERHEAD_BYTES);
    let bytes = job.runtime.block_on(at.get(limit.min(memory::budget()))).map_err(|error| match error {
        ArtifactError::TooLarge { size, limit, .. } => Fault::spec(
            format!("{} has {size} bytes, and a file with this network's weights {limit} at most", at.uri()),
            "save the state_dict alone: torch.save(model.state_dict(), path); and check the network's layers",
        ),
        error => unreadable(&error),
    })?;
    pth::load(&bytes, &layout, key).map_err(|fault| Fault {
        message: format!("cannot read the model at {}: {}", at.uri(), fault.message),
        ..fault
    })
}

/// Reads the weights of a checkpoint, and nothing of its optimizer.
fn read_checkpoint(job: Job<'_>, folder: &Location) -> Result<Model, Fault> {
    let unfit = |what: &str| unusable(folder.uri(), what);
    let runtime = job.runtime;
    let reader = runtime.block_on(Reader::open(job.stores, folder.uri())).map_err(|error| unreadable(&error))?;
    let config = checkpoint_config(job, folder, &reader)?;
    let layout = nn::layout(&config.network);
    let limit = nn::values(&layout).saturating_mul(4).saturating_add(OVERHEAD_BYTES).min(memory::budget());
    let size = reader.manifest().size_of(Role::Model);
    if size > limit {
        return Err(unfit(&format!("its weights have {size} bytes, and the network's {limit} at most")));
    }
    let weights = runtime.block_on(incoming::fetch(&reader, Role::Model)).map_err(|error| unreadable(&error))?;
    let weights = tensors::fit(weights, &layout).map_err(|problems| unfit(&problems.join("; ")))?;
    Ok(Model { network: config.network.clone(), weights, config: Some(config) })
}

/// The config of the model that a checkpoint is of.
fn checkpoint_config(job: Job<'_>, folder: &Location, reader: &Reader) -> Result<ModelConfig, Fault> {
    #[derive(Deserialize)]
    struct State<'a> {
        #[serde(borrow)]
        config: &'a serde_json::value::RawValue,
    }
    let unfit = |what: &str| unusable(folder.uri(), what);
    let state = job.runtime.block_on(reader.get(keys::CHECKPOINT_STATE, MAX_STATE_BYTES));
    let state = state.map_err(|error| unreadable(&error))?;
    let state = state.ok_or_else(|| unfit(&format!("the checkpoint has no {}", keys::CHECKPOINT_STATE)))?;
    let state: State<'_> =
        serde_json::from_slice(&state).map_err(|error| unfit(&format!("state.json cannot be read: {error}")))?;
    ModelConfig::from_json(state.config.get().as_bytes()).map_err(|what| unfit(&what))
}

fn is_there(job: Job<'_>, folder: &Location, name: &str) -> Result<bool, Fault> {
    let at = folder.join(name).map_err(|error| unreadable(&error))?;
    Ok(job.runtime.block_on(at.size()).map_err(|error| unreadable(&error))?.is_some())
}

fn unreadable(error: &ArtifactError) -> Fault {
    Fault::input("the model", error)
}

fn unusable(uri: &str, what: &str) -> Fault {
    Fault::spec(
        format!("the model at {uri} cannot be used: {what}"),
        "check that it is the model meant, and that its network is the one it was trained as",
    )
}
