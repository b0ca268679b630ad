//! The rules of a retraining: its own, and those of the jobs that its stages are.

use mlctl_protocol::{
    JobId, JobSpec,
    spec::{GateMetric, Loss, RetrainSpec},
};

use super::{Problem, job};
use crate::domain::retrain;

pub(super) fn problems(spec: &JobSpec, retrain: &RetrainSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    if spec.name.chars().count() > retrain::MAX_NAME {
        let message = format!("a retraining's name has {} characters at most", retrain::MAX_NAME);
        found.push(Problem::new("name", message, "the jobs of its stages bear it, too"));
    }
    if spec.concurrency.is_some() {
        let message = "a retraining waits for no place: its stages run one after the other";
        found.push(Problem::new(
            "concurrency",
            message,
            "leave it out; a schedule's overlap policy says what two runs do",
        ));
    }
    found.extend(job::name(&retrain.model).map(|problem| Problem { path: "retrain.model".into(), ..problem }));
    if retrain.train.register.is_some() {
        let message = "a retraining registers what it trains as a version of its own model";
        found.push(Problem::new("retrain.train.register", message, "leave it out"));
    }
    if retrain.holdout.data.is_none() && retrain.train.split.test <= 0.0 {
        let message = "there are no rows to compare models on";
        let hint = "name data with retrain.holdout.data, or set retrain.train.split.test";
        found.push(Problem::new("retrain.holdout", message, hint));
    }
    if retrain.holdout.data.is_none() && retrain.train.stream.is_none() && retrain.train.data.newest_of().is_some() {
        let message =
            "each version of the data would be divided anew, and champions be tested on rows that they were trained on";
        let hint = "add [retrain.train.stream], which divides rows by their numbers, or name other data with retrain.holdout.data";
        found.push(Problem::new("retrain.holdout", message, hint));
    }
    found.extend(gate(retrain));
    found.extend(of_stages(spec, retrain));
    found
}

/// There is no accuracy where there are no classes.
fn gate(retrain: &RetrainSpec) -> Option<Problem> {
    let (metric, has_classes) = (retrain.gate.metric, retrain.train.loss == Loss::CrossEntropy);
    let path = match metric {
        GateMetric::Accuracy => "retrain.gate.metric",
        GateMetric::Loss => "retrain.gate.max_other_loss",
    };
    let asks = metric == GateMetric::Accuracy || retrain.gate.max_other_loss.is_some();
    let message = "a model that is trained with this loss has no accuracy";
    (asks && !has_classes).then(|| Problem::new(path, message, "decide by the loss alone"))
}

/// What is wrong with the jobs of its stages, where it stands in this spec.
fn of_stages(spec: &JobSpec, retrain: &RetrainSpec) -> Vec<Problem> {
    // Which run it will be, and where models will be, is no matter of rules.
    let models = vec!["file:///champion".to_owned(), "file:///challenger".to_owned()];
    let run = JobId(1);
    let training = super::misfits(&retrain::training(run, spec, retrain)).into_iter();
    let mut found: Vec<_> = training.filter_map(|problem| placed(problem, "train.", "retrain.train.")).collect();
    let data = if retrain.holdout.data.is_some() { "retrain.holdout.data" } else { "retrain.train.data" };
    for problem in super::misfits(&retrain::evaluation(run, spec, retrain, models)) {
        let placed =
            placed(problem.clone(), "evaluate.data", data).or_else(|| placed(problem, "evaluate.", "retrain.holdout."));
        found.extend(placed.filter(|new| found.iter().all(|known| known.path != new.path)));
    }
    found
}

/// A problem of a stage's job at its place in the retraining; nothing for what they have in common.
fn placed(problem: Problem, from: &str, to: &str) -> Option<Problem> {
    let rest = problem.path.strip_prefix(from)?;
    Some(Problem { path: format!("{to}{rest}"), ..problem })
}
