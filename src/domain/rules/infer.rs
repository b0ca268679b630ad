//! The rules of an inference job.

use mlctl_protocol::spec::{DataSource, InferSpec, ModelSource};

use super::{Problem, data};

/// What stands in front of the job whose model is meant.
const JOB_SCHEME: &str = "job:";

/// The longest name or id of a job, in bytes.
const MAX_REFERENCE_BYTES: usize = 200;

pub(super) fn problems(infer: &InferSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(source(&infer.model));
    if let Some(network) = &infer.model.network {
        found.extend(data::ends("infer.model.network", network, &infer.data, None));
    }
    found.extend(data::problems("infer.data", &infer.data));
    match (&infer.data, &infer.id_column) {
        (_, None) => {}
        (_, Some(column)) if column.is_empty() => {
            found.push(Problem::new("infer.id_column", "a column must have a name", "leave it out to number the rows"));
        }
        (DataSource::Randn { .. }, Some(_)) => {
            let message = "generated data has no column that names its rows";
            found.push(Problem::new("infer.id_column", message, "leave it out: rows are numbered from 0"));
        }
        (DataSource::Csv { .. }, Some(_)) => {}
    }
    found
}

fn source(model: &ModelSource) -> Option<Problem> {
    let path = "infer.model.from";
    let ModelSource { from, network } = model;
    if let Some(job) = from.strip_prefix(JOB_SCHEME) {
        if job.is_empty() || job.len() > MAX_REFERENCE_BYTES || job.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            let message = "expected the name or the id of a job after `job:`";
            return Some(Problem::new(path, message, "for example \"job:digits\", or \"job:17\""));
        }
    } else if let Some(problem) = data::uri(path, from) {
        let hint = problem.hint.unwrap_or_default() + "; or job:NAME for the final model of a job";
        return Some(Problem::new(path, problem.message, hint));
    }
    (network.is_some() && !from.ends_with(".safetensors")).then(|| {
        let message = "the shape of the network is given for a .safetensors file only";
        Problem::new("infer.model.network", message, "leave it out: a model's folder has its own config.json")
    })
}
