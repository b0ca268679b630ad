//! The rules of an inference job.

use mlctl_protocol::spec::{DataSource, InferSpec, ModelSource, ModelSpec, is_pytorch};

use super::{Problem, data, model};
use crate::domain::alias::{MODEL_SCHEME, Reference};

/// What stands in front of the job whose model is meant.
const JOB_SCHEME: &str = "job:";

/// The longest name or id of a job, in bytes.
const MAX_REFERENCE_BYTES: usize = 200;

pub(super) fn problems(infer: &InferSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(source("infer.model", &infer.model));
    let plain = infer.data.plain();
    if let Some(problem) = text(infer, &plain) {
        found.push(problem);
    } else if let Some(network) = &infer.model.network {
        found.extend(data::ends("infer.model.network", network, &plain, None));
        found.extend(model::problem("infer.model.network", network));
    }
    found.extend(data::problems("infer.data", &infer.data));
    match (&*plain, &infer.id_column) {
        (_, None) => {}
        (_, Some(column)) if column.is_empty() => {
            found.push(Problem::new("infer.id_column", "a column must have a name", "leave it out to number the rows"));
        }
        (DataSource::Npy { .. } | DataSource::Randn { .. }, Some(_)) => {
            let message = "neither generated data nor an array has a column that names its rows";
            found.push(Problem::new("infer.id_column", message, "leave it out: rows are numbered from 0"));
        }
        (
            DataSource::Csv { .. }
            | DataSource::Jsonl { .. }
            | DataSource::Parquet { .. }
            | DataSource::Text { .. }
            | DataSource::Dataset { .. },
            Some(_),
        ) => {}
    }
    found
}

/// An inference job predicts rows of numbers.
fn text(infer: &InferSpec, data: &DataSource) -> Option<Problem> {
    let path = match (data, &infer.model.network) {
        (DataSource::Text { .. }, _) => "infer.data.format",
        (_, Some(ModelSpec::Gpt(_))) => "infer.model.network.type",
        _ => return None,
    };
    let message = "an inference job predicts rows of numbers: it does not write text yet";
    Some(Problem::new(
        path,
        message,
        "load the model's files with Hugging Face's transformers: its tensors have their names",
    ))
}

/// What is wrong with a model to predict with, which stands at `path`.
pub(super) fn source(path: &str, model: &ModelSource) -> Option<Problem> {
    let ModelSource { from, network, key } = model;
    let problem = weights(path, from, key.as_deref());
    if problem.is_some() {
        return problem;
    }
    match network {
        None if is_pytorch(from) => {
            let message = "a PyTorch file holds weights and no network";
            Some(Problem::new(path, message, format!("describe it in {path}.network, as in train.model")))
        }
        Some(_) if !is_pytorch(from) && !from.ends_with(".safetensors") => {
            let message = "the shape of the network is given for a .pth or .safetensors file only";
            Some(Problem::new(
                format!("{path}.network"),
                message,
                "leave it out: a model's folder has its own config.json",
            ))
        }
        _ => None,
    }
}

/// What is wrong with where weights come from. `path` is that of the table with `from` and `key`.
pub(super) fn weights(path: &str, from: &str, key: Option<&str>) -> Option<Problem> {
    let at = format!("{path}.from");
    if let Some(job) = from.strip_prefix(JOB_SCHEME) {
        if job.is_empty() || job.len() > MAX_REFERENCE_BYTES || job.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            let message = "expected the name or the id of a job after `job:`";
            return Some(Problem::new(at, message, "for example \"job:digits\", or \"job:17\""));
        }
    } else if let Some(version) = from.strip_prefix(MODEL_SCHEME) {
        if let Err(why) = Reference::parse(version) {
            return Some(Problem::new(at, why, "for example \"model:digits@champion\", or \"model:digits/3\""));
        }
    } else if let Some(problem) = data::uri(&at, from) {
        let hint = problem.hint.unwrap_or_default()
            + "; or job:NAME for the final model of a job, model:NAME/VERSION or model:NAME@ALIAS for a version of a model";
        return Some(Problem::new(at, problem.message, hint));
    }
    (key.is_some() && !is_pytorch(from)).then(|| {
        let message = "a key is given for a .pth file only, in which several things lie";
        Problem::new(format!("{path}.key"), message, "leave it out")
    })
}
