//! The rules of a training job.

use mlctl_protocol::spec::{DataSource, GroupSpec, Loss, OptimizerSpec, Scaling, Split, TrainSpec};

use super::{Problem, data, detect, infer, job, model, schedule};

pub(super) fn problems(train: &TrainSpec) -> Vec<Problem> {
    let plain = train.data.plain();
    let mut found = data::ends("train.model", &train.model, &plain, Some(train.loss));
    found.extend(model::problem("train.model", &train.model));
    found.extend(data::problems("train.data", &train.data));
    found.extend(targets(&plain, train.loss));
    found.extend(text(train, &plain));
    found.extend(
        train
            .register
            .as_deref()
            .and_then(job::name)
            .map(|problem| Problem { path: "train.register".into(), ..problem }),
    );
    found.extend(train.init.as_ref().and_then(|init| infer::weights("train.init", &init.from, init.key.as_deref())));
    found.extend(
        train
            .freeze
            .iter()
            .zip(0..)
            .filter_map(|(name, number)| pattern(name, &format!("train.freeze[{number}]"), "layer1.*")),
    );
    found.extend(split(&train.split));
    if train.stream.is_some() && matches!(train.data, DataSource::Randn { .. }) {
        let message = "generated data is not read from anywhere";
        found.push(Problem::new("train.stream", message, "leave it out, or train on files"));
    }
    found.extend(optimizer(&train.optimizer));
    found.extend(schedule::problems(train));
    for (path, limit) in [("train.max_grad_norm", train.max_grad_norm), ("train.max_grad_value", train.max_grad_value)]
    {
        if let Some(limit) = limit.filter(|limit| !positive(*limit)) {
            let message = format!("expected a positive number, found {limit:?}");
            found.push(Problem::new(path, message, "1.0 is usual; leave it out to clip nothing"));
        }
    }
    if let Some(ema) = train.ema.filter(|ema| !(0.5..1.0).contains(ema)) {
        let message = format!("expected a number from 0.5 to less than 1, found {ema:?}");
        found.push(Problem::new("train.ema", message, "0.999 is usual; leave it out to keep no average"));
    }
    found.extend(detect::problems(train));
    found.extend(train.groups.iter().enumerate().flat_map(|(number, own)| group(own, number)));
    if train.max_epochs.is_none() && train.max_steps.is_none() {
        let message = "the training has no end: there is neither max_epochs nor max_steps";
        found.push(Problem::new("train", message, "add max_epochs = 50, for example; convergence can end it earlier"));
    }
    if train.convergence.as_ref().is_some_and(|convergence| !convergence.min_improvement.is_finite()) {
        found.push(Problem::new("train.convergence.min_improvement", "expected a finite number", "for example 1e-4"));
    }
    found
}

/// What a training on text does not take.
fn text(train: &TrainSpec, data: &DataSource) -> Vec<Problem> {
    if !matches!(data, DataSource::Text { .. }) {
        return Vec::new();
    }
    let wrong = [
        (
            train.loss != Loss::CrossEntropy,
            "train.loss",
            "the next token is learnt by cross_entropy",
            "write loss = \"cross_entropy\"",
        ),
        (train.scaling != Scaling::None, "train.scaling", "tokens are not scaled", "leave it out"),
        (train.stream.is_some(), "train.stream", "text is read into memory, 4 bytes a token", "leave it out"),
    ];
    let found = wrong.into_iter().filter(|(is_wrong, ..)| *is_wrong);
    found.map(|(_, path, message, hint)| Problem::new(path, message, hint)).collect()
}

/// What is wrong with a pattern of names of tensors. Which tensors there are is known to the worker.
fn pattern(pattern: &str, path: &str, example: &str) -> Option<Problem> {
    let why = match pattern {
        "" => "it is empty".to_owned(),
        long if long.len() > MAX_PATTERN_BYTES => format!("it is longer than {MAX_PATTERN_BYTES} bytes"),
        pattern => mlctl_artifacts::shards::problem(pattern)?,
    };
    let message = format!("no pattern of names of tensors: {why}");
    Some(Problem::new(path, message, format!("for example {example:?}")))
}

/// What is wrong with a group of tensors.
fn group(group: &GroupSpec, number: usize) -> Vec<Problem> {
    let path = |key: &str| format!("train.groups[{number}].{key}");
    let patterns = group.tensors.iter().enumerate();
    let mut found: Vec<_> =
        patterns.filter_map(|(at, name)| pattern(name, &path(&format!("tensors[{at}]")), "*.bias")).collect();
    let GroupSpec { learning_rate_factor: factor, weight_decay, .. } = *group;
    if !positive(factor) {
        let message = format!("expected a positive number, found {factor:?}");
        found.push(Problem::new(path("learning_rate_factor"), message, "train.freeze keeps tensors as they are"));
    }
    if let Some(decay) = weight_decay.filter(|decay| *decay != 0.0 && !positive(*decay)) {
        let message = format!("expected 0 or a positive number, found {decay:?}");
        found.push(Problem::new(path("weight_decay"), message, "0 for no weight decay"));
    }
    if factor == 1.0 && weight_decay.is_none() {
        let message = "the group changes nothing: it has neither a learning_rate_factor nor a weight_decay";
        found.push(Problem::new(format!("train.groups[{number}]"), message, "weight_decay = 0.0 is usual for biases"));
    }
    found
}

/// The longest pattern of names, in bytes.
const MAX_PATTERN_BYTES: usize = 200;

/// Whether there is something to learn, of the kind that the loss takes.
fn targets(data: &DataSource, loss: Loss) -> Option<Problem> {
    let (path, count) = match data {
        DataSource::Csv { targets, .. } | DataSource::Jsonl { targets, .. } | DataSource::Parquet { targets, .. } => {
            ("train.data.targets", targets.len())
        }
        DataSource::Npy { targets_uri: Some(_), .. } | DataSource::Text { .. } | DataSource::Dataset { .. } => {
            return None;
        }
        DataSource::Npy { targets_uri: None, .. } => {
            let hint = "name its file, for example targets_uri = \"y.npy\"";
            return Some(Problem::new("train.data", "there is no array to learn", hint));
        }
        DataSource::Randn { .. } if loss == Loss::CrossEntropy => {
            let message = "cross_entropy needs class numbers, and randn draws numbers of any size";
            return Some(Problem::new("train.loss", message, "use loss = \"mse\", or data from a file"));
        }
        DataSource::Randn { .. } => return None,
    };
    match (loss, count) {
        (_, 0) => {
            let hint = "name the columns to learn, for example targets = [\"label\"]";
            Some(Problem::new("train.data", "there are no target columns to learn", hint))
        }
        (Loss::CrossEntropy, 2..) => {
            let message = format!("cross_entropy takes one target column, found {count}");
            Some(Problem::new(path, message, "keep the column of class numbers, or use loss = \"mse\""))
        }
        _ => None,
    }
}

fn split(split: &Split) -> Option<Problem> {
    let Split { validation, test, seed: _ } = split;
    let sum = validation + test;
    // Shares such as 0.1 + 0.2 are no exact binary numbers.
    let rest = (1.0 - sum).max(0.0);
    (!sum.is_finite() || rest < 1e-9).then(|| {
        let message = format!("validation and test take everything: {validation} + {test} leave nothing to train on");
        Problem::new("train.split", message, "keep their sum below 1, for example 0.1 and 0.2")
    })
}

#[expect(clippy::cast_possible_truncation, reason = "what the arithmetic makes of the number is the question")]
pub(super) fn positive(value: f64) -> bool {
    (value as f32) > 0.0 && (value as f32).is_finite()
}

/// Numbers that make an optimizer do nothing, go uphill or divide by zero. Arithmetic is in 32 bits, so what is 0 or infinite there is so here.
fn optimizer(optimizer: &OptimizerSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut require = |is_right: bool, key: &str, value: f64, expected: &str, hint: &str| {
        if !is_right {
            let message = format!("expected {expected}, found {value:?}");
            found.push(Problem::new(format!("train.optimizer.{key}"), message, hint));
        }
    };
    let (rate, decay, averages) = match optimizer {
        OptimizerSpec::Sgd { learning_rate, momentum, weight_decay, nesterov } => {
            let is_right = (0.0..1.0).contains(momentum);
            require(is_right, "momentum", *momentum, "a number from 0 to less than 1", "0.9 is usual");
            let is_right = !nesterov || *momentum != 0.0;
            require(is_right, "momentum", *momentum, "a momentum for Nesterov's to look ahead with", "0.9 is usual");
            (learning_rate, weight_decay, None)
        }
        OptimizerSpec::Adam { learning_rate, betas, eps, weight_decay }
        | OptimizerSpec::AdamW { learning_rate, betas, eps, weight_decay } => {
            (learning_rate, weight_decay, Some((betas, Some(eps))))
        }
        OptimizerSpec::Lion { learning_rate, betas, weight_decay } => {
            (learning_rate, weight_decay, Some((betas, None)))
        }
    };
    require(positive(*rate), "learning_rate", *rate, "a positive number", "0.001 is usual");
    let is_right = *decay == 0.0 || positive(*decay);
    require(is_right, "weight_decay", *decay, "0 or a positive number", "0.01 is usual with adamw");
    if let Some((betas, eps)) = averages {
        for (key, beta) in [("betas[0]", betas.0), ("betas[1]", betas.1)] {
            require((0.0..1.0).contains(&beta), key, beta, "a number from 0 to less than 1", "[0.9, 0.999] is usual");
        }
        if let Some(eps) = eps {
            require(positive(*eps), "eps", *eps, "a positive number", "1e-8 is usual; without it 0 is divided by 0");
        }
    }
    found
}
