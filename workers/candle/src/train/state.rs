//! What a checkpoint holds, and how it becomes bytes and back: weights, optimizer, and `state.json` with the position, the running sums
//! and what the run was started with. Equal states give equal bytes. Whether bytes are whole is for `artifacts` to check;
//! whether they belong to this job is checked here, before a tensor is used.

use std::collections::BTreeMap;

use bytes::Bytes;
use mlctl_artifacts::Body;
use mlctl_protocol::{
    ExitClass,
    progress::Metrics,
    spec::{DataSource, TrainSpec},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::detect::Watch;
use crate::{
    bundle::tensors::{self, Raw},
    fault::Fault,
    nn::Tensors,
    optim::snapshot::Snapshot,
};

/// The version of `state.json` this build reads and writes.
pub const STATE_FORMAT: u32 = 1;

/// The most bytes of tensors in a file that has several.
const SHARD_BYTES: usize = 512 * 1024 * 1024;

/// Where a run stands. With the weights and the optimizer's state, all that the next step depends on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Optimizer steps done.
    pub step: u64,
    /// Epochs completed and closed.
    pub epoch: u64,
    /// Steps of the current epoch done. All of them are when a run was stopped while the epoch was validated.
    pub batch: u64,
    /// Sums over the current epoch.
    pub sums: Sums,
    /// Early stopping.
    pub stopping: Stopping,
    /// The best epoch, where the model is to be that one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// What the detectors of hopeless runs remember.
    #[serde(default, skip_serializing_if = "Watch::is_empty")]
    pub watch: Watch,
    /// Last values of the metrics.
    #[serde(with = "exact_map")]
    pub metrics: Metrics,
}

/// An epoch whose weights were the best so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// What it was compared by, less being better.
    #[serde(with = "exact")]
    pub value: f64,
    /// Steps done then.
    pub step: u64,
    /// Epochs completed then.
    pub epoch: u64,
    /// The metrics of then.
    #[serde(with = "exact_map")]
    pub metrics: Metrics,
}

/// Sums over the steps of an epoch so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sums {
    /// Rows trained on.
    pub rows: u64,
    /// Their losses.
    #[serde(with = "exact")]
    pub loss: f64,
    /// Rows of which the class was predicted.
    pub correct: u64,
}

/// The memory of early stopping.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopping {
    /// The best loss of an epoch.
    #[serde(with = "exact_option")]
    pub best: Option<f64>,
    /// Epochs since.
    pub stale: u64,
}

impl Stopping {
    /// Takes in the loss of an epoch. One that is not a number is no improvement.
    pub fn observe(&mut self, loss: f64, min_improvement: f64) {
        let improved = self.best.map_or(!loss.is_nan(), |best| loss < best - min_improvement);
        if improved {
            *self = Self { best: Some(loss), stale: 0 };
        } else {
            self.stale += 1;
        }
    }
}

/// What a run is made of and must not change between its attempts, as JSON texts by field of the spec. Texts, because a float
/// that is parsed and written again may differ in its last digit.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity {
    fields: BTreeMap<String, Box<RawValue>>,
    /// Which data is meant, for messages: it decides nothing, since the same content may be uploaded again.
    #[serde(skip)]
    data: Named,
    /// Where the rows of streamed data lie, which a resume reads before it reads data.
    #[serde(skip)]
    index: Option<Box<RawValue>>,
}

/// Data by the names it has outside.
#[derive(Debug, Default)]
struct Named {
    uri: Option<String>,
    version: Option<String>,
}

impl Identity {
    /// The identity of a job on a dataset.
    ///
    /// # Errors
    /// When the spec holds a number that JSON cannot.
    pub fn new(spec: &TrainSpec, dataset_digest: &str) -> Result<Self, Fault> {
        let raw = |text: serde_json::Result<String>| text.and_then(RawValue::from_string);
        let fields = [
            ("batch_size", raw(serde_json::to_string(&spec.batch_size))),
            ("dataset", raw(serde_json::to_string(dataset_digest))),
            ("loss", raw(serde_json::to_string(&spec.loss))),
            ("model", raw(serde_json::to_string(&spec.model))),
            ("optimizer", raw(serde_json::to_string(&spec.optimizer))),
            ("scaling", raw(serde_json::to_string(&spec.scaling))),
            ("seed", raw(serde_json::to_string(&spec.seed))),
            ("split", raw(serde_json::to_string(&spec.split))),
        ];
        // What a job without it lacks, and so did jobs of earlier releases.
        let init = spec.init.iter().map(|init| ("init", raw(serde_json::to_string(init))));
        let norm = spec.max_grad_norm.iter().map(|norm| ("max_grad_norm", raw(serde_json::to_string(norm))));
        let groups = (!spec.groups.is_empty()).then(|| ("groups", raw(serde_json::to_string(&spec.groups))));
        let select = (!spec.select.is_default()).then(|| ("select", raw(serde_json::to_string(&spec.select))));
        let ema = spec.ema.iter().map(|ema| ("ema", raw(serde_json::to_string(ema))));
        let value = spec.max_grad_value.iter().map(|value| ("max_grad_value", raw(serde_json::to_string(value))));
        let accumulate = (spec.accumulate > 1).then(|| ("accumulate", raw(serde_json::to_string(&spec.accumulate))));
        let freeze = (!spec.freeze.is_empty()).then(|| ("freeze", raw(serde_json::to_string(&spec.freeze))));
        let schedule = spec.schedule.iter().map(|schedule| ("schedule", raw(serde_json::to_string(schedule))));
        // Longer than it was, it would have had other rates from the first step on.
        let length = spec.schedule.iter().filter(|schedule| schedule.follows_the_training()).flat_map(|_| {
            [
                ("max_epochs", raw(serde_json::to_string(&spec.max_epochs))),
                ("max_steps", raw(serde_json::to_string(&spec.max_steps))),
            ]
        });
        let stream = spec.stream.iter().map(|stream| ("stream", raw(serde_json::to_string(stream))));
        let fields = fields
            .into_iter()
            .chain(init)
            .chain(norm)
            .chain(groups)
            .chain(ema)
            .chain(select)
            .chain(value)
            .chain(accumulate)
            .chain(schedule)
            .chain(length)
            .chain(freeze)
            .chain(stream)
            .map(|(name, text)| text.map(|text| (name.to_owned(), text)));
        let uri = match &spec.data {
            DataSource::Csv { uri, .. }
            | DataSource::Jsonl { uri, .. }
            | DataSource::Npy { uri, .. }
            | DataSource::Parquet { uri, .. }
            | DataSource::Text { uri, .. } => Some(uri.clone()),
            DataSource::Randn { .. } | DataSource::Dataset { .. } => None,
        };
        let data = Named { uri, version: None };
        fields.collect::<Result<_, _>>().map(|fields| Self { fields, data, index: None }).map_err(|e| {
            Fault::spec(
                format!("the spec cannot be written as JSON: {e}"),
                "look for a number that is infinite or not a number",
            )
        })
    }

    /// The identity with what the store calls the version of the data.
    #[must_use]
    pub fn of_version(mut self, version: Option<&str>) -> Self {
        self.data.version = version.map(str::to_owned);
        self
    }

    /// The identity with the index of streamed data.
    #[must_use]
    pub fn with_index(mut self, index: Option<&RawValue>) -> Self {
        self.index = index.map(ToOwned::to_owned);
        self
    }

    /// A sentence for each field in which a checkpoint differs from this job. `version` is what the store called the data of then.
    fn differences(&self, saved: &Self, version: Option<&str>) -> Vec<String> {
        let differs = |(name, ours): (&String, &str)| match saved.fields.get(name).map(|theirs| theirs.get()) {
            Some(theirs) if theirs == ours => None,
            Some(theirs) if name == "dataset" && self.data.uri.is_some() => {
                let uri = self.data.uri.as_deref().unwrap_or_default();
                let (then, now) = (shown(version, theirs), shown(self.data.version.as_deref(), ours));
                Some(format!("the data at {uri} was {then} and is {now}"))
            }
            Some(theirs) => Some(format!("{name} was {theirs} and is {ours}")),
            None => Some(format!("{name} is not recorded")),
        };
        self.fields.iter().map(|(name, ours)| (name, ours.get())).filter_map(differs).collect()
    }
}

/// A version of some data, by its store's name for it and by its digest.
fn shown(version: Option<&str>, digest: &str) -> String {
    match version {
        Some(version) => format!("version {version} (digest {digest})"),
        None => format!("of digest {digest}"),
    }
}

/// The bytes of a checkpoint, before they are objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Weights as safetensors, in as many files as they are large.
    pub model: Vec<Body>,
    /// The optimizer's state as safetensors, likewise.
    pub optimizer: Vec<Body>,
    /// `state.json`.
    pub state: Bytes,
}

/// A checkpoint as it was read.
#[derive(Debug, Clone)]
pub struct Found {
    /// `state.json`.
    pub state: Bytes,
    /// Weights by name, on the CPU.
    pub model: Tensors,
    /// The optimizer's state by name, on the CPU.
    pub optimizer: Tensors,
}

/// `state.json` as written. `config` is the model's, for inference from a checkpoint.
#[derive(Serialize)]
struct StateOut<'a, C> {
    format: u32,
    threads: u32,
    run: &'a RunState,
    identity: &'a Identity,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<&'a RawValue>,
    config: &'a C,
}

/// `state.json` as read. The model's config is worked out again from the spec and the data.
#[derive(Deserialize)]
struct StateIn {
    threads: u32,
    run: RunState,
    identity: Identity,
    #[serde(default)]
    config: Option<Box<RawValue>>,
}

impl StateIn {
    /// What the store called the data of then.
    fn version(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Config {
            dataset: Dataset,
        }
        #[derive(Deserialize)]
        struct Dataset {
            version: Option<String>,
        }
        serde_json::from_str::<Config>(self.config.as_ref()?.get()).ok()?.dataset.version
    }
}

/// What `state.json` tells.
#[derive(Debug)]
pub struct Told<'a, C> {
    /// Where the run stands.
    pub run: &'a RunState,
    /// What it is made of.
    pub identity: &'a Identity,
    /// Threads of arithmetic.
    pub threads: u32,
    /// The model's config.
    pub config: &'a C,
}

/// What comes out of one that belongs to this job.
#[derive(Debug)]
pub struct Restored {
    /// Where the run stands.
    pub run: RunState,
    /// Threads of arithmetic it was taken with.
    pub threads: u32,
    /// Weights by name, on the CPU, checked against the model.
    pub model: Tensors,
    /// The optimizer's state by name, on the CPU, not yet checked.
    pub optimizer: Tensors,
}

/// Why a checkpoint cannot be used.
#[derive(Debug)]
pub enum Refusal {
    /// Its content is not what was written: another may be whole.
    Corrupt(String),
    /// It is not of this job as it is now: no other will be either.
    Foreign(Fault),
}

/// Writes `state.json`.
///
/// # Errors
/// When something in it cannot be written: a bug.
pub fn encode<C: Serialize>(told: &Told<'_, C>) -> Result<Bytes, Fault> {
    let Told { run, identity, threads, config } = *told;
    let state = StateOut { format: STATE_FORMAT, threads, run, identity, index: identity.index.as_deref(), config };
    serde_json::to_vec_pretty(&state).map(Bytes::from).map_err(|e| cannot("state.json", &e))
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> Fault {
    Fault::new(ExitClass::Crash, format!("{what} cannot be written: {error}"))
}

fn files(what: &str, tensors: Vec<Raw>) -> Result<Vec<Body>, Fault> {
    tensors::files(tensors, SHARD_BYTES).map_err(|error| cannot(what, &error))
}

/// The files of tensors that are not trained, which are the same in each checkpoint.
///
/// # Errors
/// When tensors are not what they say: a bug.
pub fn frozen_files(tensors: Vec<Raw>) -> Result<Vec<Body>, Fault> {
    Ok(files("the frozen part of the model", tensors)?.into_iter().map(|file| file.shared(true)).collect())
}

impl Content {
    /// The content of a checkpoint of some tensors, over their memory, of those that are frozen, and of what was told of that moment.
    ///
    /// # Errors
    /// When tensors are not what they say: a bug.
    pub fn new(snapshot: Snapshot, frozen: &[Body], state: Bytes) -> Result<Self, Fault> {
        let (model, optimizer) =
            (files("the model", snapshot.model)?, files("the optimizer's state", snapshot.optimizer)?);
        let model = frozen.iter().cloned().chain(model).collect();
        Ok(Self { model, optimizer, state })
    }
}

/// Takes a checkpoint over for a job of this identity and a model of this layout.
///
/// # Errors
/// See [`Refusal`].
pub fn decode(found: Found, identity: &Identity, layout: &[(String, Vec<usize>)]) -> Result<Restored, Refusal> {
    let Found { state, model, optimizer } = found;
    let corrupt = |e: serde_json::Error| Refusal::Corrupt(format!("state.json cannot be read: {e}"));
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let version: Version = serde_json::from_slice(&state).map_err(corrupt)?;
    if version.format != STATE_FORMAT {
        let found = version.format;
        return Err(Refusal::Foreign(Fault::spec(
            format!("the checkpoint is of format {found}, and this worker reads {STATE_FORMAT}"),
            "run the worker that wrote it, or submit the job anew",
        )));
    }
    let state: StateIn = serde_json::from_slice(&state).map_err(corrupt)?;
    let version = state.version();
    let StateIn { threads, run, identity: saved, .. } = state;
    let differences = identity.differences(&saved, version.as_deref());
    if !differences.is_empty() {
        return Err(Refusal::Foreign(Fault::spec(
            format!("the checkpoint is of another run: {}", differences.join("; ")),
            "put the spec and the data back as they were, or submit a new job",
        )));
    }
    let unfit = |why: Vec<String>| Refusal::Corrupt(format!("the model cannot be used: {}", why.join("; ")));
    let model = tensors::fit(model, layout).map_err(unfit)?;
    Ok(Restored { run, threads, model, optimizer })
}

/// An f64 as the text of its shortest exact form: numbers in JSON may be read back one digit off.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The same for a value that may be absent.
pub(super) mod exact_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "the signature serde calls")]
    pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|value| value.to_string()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// The same for values by name.
mod exact_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(values: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(values.iter().map(|(name, value)| (name, value.to_string())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        let parsed = texts.into_iter().map(|(name, text)| text.parse().map(|value| (name, value)));
        parsed.collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
