//! A training job: the data is prepared, the best checkpoint taken, the loop run, the model published. The loop itself is
//! `session`; everything around it is here or beside it.

mod best;
pub mod curve;
pub mod detect;
pub mod evaluate;
pub mod fit;
pub mod flight;
pub mod freeze;
mod groups;
pub mod learner;
mod patterns;
pub mod plan;
pub mod resume;
pub mod saved;
pub mod saver;
pub mod session;
pub mod state;
mod step;
pub mod vault;

use bytes::Bytes;
use mlctl_protocol::{
    ExitClass,
    message::ReportBody,
    progress::Metrics,
    spec::{Loss, ModelSpec, TrainSpec},
};

use self::{
    evaluate::EVALUATION_FILE,
    fit::{Prepared, fit},
    session::Trained,
};
use crate::{
    bundle::{self, ModelConfig},
    data::{
        self, Dataset, Rows, pinned,
        rows::{Shuffled, Source},
    },
    fault::Fault,
    host::Done,
    job::Job,
};

/// Classes without a row that are listed in a warning.
const LISTED: usize = 10;

/// Runs a training job from its data to its published model.
///
/// # Errors
/// Whatever a job can end with, see `Fault`.
pub fn run(job: Job<'_>, spec: &TrainSpec) -> Result<Done, Fault> {
    let (pinned, plain) = pinned::resolve(job, &spec.data)?;
    let job = Job { pinned: pinned.as_ref(), ..job };
    let spec = &TrainSpec { data: plain, ..spec.clone() };
    let known = || spec.init.as_ref().map_or(Ok(None), |init| bundle::read::tokenizer(job, init));
    let dataset = data::load(job, spec, || saved::index(job), known);
    let dataset = dataset.map_err(|fault| pinned::explained(job.pinned, fault))?;
    let spec = &whole(spec, &dataset);
    warn_of_missing_classes(job, &dataset)?;
    let config = |step, metrics: &Metrics| config_of(spec, &dataset, step, metrics);
    // Before anything is computed: a config that cannot be stored would end the job with its last step.
    config(0, &Metrics::new())
        .to_json()
        .map_err(|what| Fault::spec(what, "take fewer columns, or shorter names for them"))?;
    let shuffled;
    let source: &dyn Source = match &dataset.rows {
        Rows::Memory(examples) => {
            shuffled = Shuffled::new(examples, spec.seed);
            &shuffled
        }
        Rows::Streamed(streamed) => streamed,
        Rows::Text(sequences) => sequences,
    };
    let prepared = Prepared {
        source,
        index: dataset.index.as_deref(),
        dataset_digest: &dataset.identity.digest,
        dataset_version: dataset.identity.version.as_deref(),
        config: &config,
    };
    let Trained { model, run, step, evaluation } = fit(job, spec, &prepared)?;
    let mut beside = Vec::new();
    if let Some(evaluation) = evaluation {
        let json = serde_json::to_vec_pretty(&evaluation)
            .map_err(|error| Fault::new(ExitClass::Crash, format!("the evaluation cannot be written: {error}")))?;
        beside.push((EVALUATION_FILE.to_owned(), Bytes::from(json)));
    }
    let published = bundle::publish(job, config(step, &run.metrics), &model, beside)?;
    Ok(Done { metrics: run.metrics, model: Some(published), output: None })
}

/// The spec with what the data alone tells: the size of a vocabulary.
fn whole(spec: &TrainSpec, dataset: &Dataset) -> TrainSpec {
    let mut spec = spec.clone();
    if let (ModelSpec::Gpt(gpt), Some(tokenizer)) = (&mut spec.model, &dataset.tokenizer) {
        gpt.vocab.get_or_insert(u32::try_from(tokenizer.size()).unwrap_or(u32::MAX));
    }
    spec
}

fn config_of(spec: &TrainSpec, dataset: &Dataset, step: u64, metrics: &Metrics) -> ModelConfig {
    let (_, outputs) = bundle::config::shape(&spec.model);
    ModelConfig {
        format: bundle::config::FORMAT,
        network: spec.model.clone(),
        loss: spec.loss,
        features: dataset.features.clone(),
        targets: dataset.targets.clone(),
        classes: (spec.loss == Loss::CrossEntropy).then(|| u32::try_from(outputs).unwrap_or(u32::MAX)),
        scaling: dataset.scaler.clone(),
        split: spec.split.clone(),
        dataset: dataset.identity.clone(),
        tokenizer: dataset.tokenizer.clone(),
        step,
        metrics: metrics.clone(),
        weights_digest: None,
    }
}

/// A class that no train row belongs to cannot be learnt: most often the last layer is too wide.
fn warn_of_missing_classes(job: Job<'_>, dataset: &Dataset) -> Result<(), Fault> {
    let Some(seen) = &dataset.classes else { return Ok(()) };
    let missing: Vec<_> = (0..).zip(seen).filter(|(_, seen)| !**seen).map(|(class, _): (u32, _)| class).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let listed = missing.iter().take(LISTED).map(u32::to_string).collect::<Vec<_>>().join(", ");
    let more = if missing.len() > LISTED { ", …" } else { "" };
    let message = format!("no row to train on is of class {listed}{more}; the model has {} outputs", seen.len());
    job.host.report(ReportBody::Warning { message })
}
