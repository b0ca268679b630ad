//! A retraining in its stages: which jobs they are, and what it comes to. The jobs are submitted, and what they come to is carried out, by room `pipeline`. Pure.

use std::collections::BTreeMap;

use mlctl_protocol::{
    JobId, JobSpec,
    spec::{CheckpointPolicy, EvaluateSpec, ModelSource, RetrainSpec, SplitPart, TimePolicy, Work},
};
use serde::{Deserialize, Serialize};

use super::{promotion::Check, schedule::KEY_PREFIX};

/// The label of a stage's job that names the run.
pub const RUN_LABEL: &str = "retrain";

/// The longest name of a run, in characters: those of its stages' jobs have to fit.
pub const MAX_NAME: usize = 90;

/// A stage that is a job of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A challenger is trained.
    Train,
    /// It is compared with the champion.
    Evaluate,
}

impl Stage {
    /// In their order.
    pub const ALL: [Self; 2] = [Self::Train, Self::Evaluate];

    /// The name used in JSON, in names of jobs and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
        }
    }

    /// The idempotency key of its job, whoever submits it however often. What it begins with is the daemon's own.
    #[must_use]
    pub fn key(self, run: JobId) -> String {
        format!("{}{}", keys(run), self.name())
    }

    /// The run whose stage an idempotency key is of.
    #[must_use]
    pub fn run_of(key: &str) -> Option<JobId> {
        let (run, _) = key.strip_prefix(KEY_PREFIX)?.strip_prefix("retrain:")?.split_once(':')?;
        run.parse().ok()
    }
}

/// What the keys of a run's stages begin with.
#[must_use]
pub fn keys(run: JobId) -> String {
    format!("{KEY_PREFIX}retrain:{run}:")
}

/// The job that trains the challenger.
#[must_use]
pub fn training(run: JobId, spec: &JobSpec, retrain: &RetrainSpec) -> JobSpec {
    let train = Work::Train(Box::new(retrain.train.clone()));
    job(run, spec, (Stage::Train, train))
}

/// The job that compares models, the champion first where there is one: each by the folder that holds it.
#[must_use]
pub fn evaluation(run: JobId, spec: &JobSpec, retrain: &RetrainSpec, models: Vec<String>) -> JobSpec {
    let holdout = &retrain.holdout;
    let evaluate = EvaluateSpec {
        models: models.into_iter().map(|from| ModelSource { from, key: None, network: None }).collect(),
        data: holdout.data.clone().unwrap_or_else(|| retrain.train.data.clone()),
        part: holdout.data.is_none().then_some(SplitPart::Test),
        slice: holdout.slice.clone(),
        batch_size: holdout.batch_size,
        bootstrap: holdout.bootstrap.clone(),
    };
    let evaluation = job(run, spec, (Stage::Evaluate, Work::Evaluate(Box::new(evaluate))));
    JobSpec { checkpoint: CheckpointPolicy::default(), ..evaluation }
}

fn job(run: JobId, spec: &JobSpec, (stage, work): (Stage, Work)) -> JobSpec {
    let run_label = (RUN_LABEL.to_owned(), run.to_string());
    JobSpec {
        name: format!("{}.{}", spec.name, stage.name()),
        labels: spec.labels.clone().into_iter().chain([run_label]).collect::<BTreeMap<_, _>>(),
        time: TimePolicy { limit_seconds: spec.time.limit_seconds, ..TimePolicy::default() },
        after: Vec::new(),
        work,
        ..spec.clone()
    }
}

/// What a run that went well has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The challenger is the champion now.
    Promoted,
    /// The champion is what it was.
    Kept,
    /// There was nothing to train on that the newest version had not seen.
    NoNewData,
}

impl Outcome {
    /// The name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Kept => "kept",
            Self::NoNewData => "no_new_data",
        }
    }
}

/// What a run has come to, and why. Stored for ever; fields are only added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// What.
    pub outcome: Outcome,
    /// In a line, for a person.
    pub told: String,
    /// The version that was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The version that was the champion when they were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub champion: Option<u32>,
    /// What the gate asked, and the answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

impl Conclusion {
    /// Of a run that has nothing to train on: this version of the model has seen all of it.
    #[must_use]
    pub fn without_news(model: &str, version: u32) -> Self {
        Self {
            outcome: Outcome::NoNewData,
            told: format!("no new data: {model}/{version} was trained in the same way on the same version of the data"),
            version: None,
            champion: None,
            checks: Vec::new(),
        }
    }
}

/// What becomes of a challenger that was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has not passed every check.
    Refused,
    /// It has, and is to be promoted.
    Passed,
    /// It is the champion.
    Promoted,
    /// It has passed, and another is the champion than the one that it was compared with.
    Overtaken,
}

impl Fate {
    /// What the run has come to by it. `champion` is the version that was the champion before, or still is.
    #[must_use]
    pub fn conclusion(self, model: &str, version: u32, champion: Option<u32>, checks: Vec<Check>) -> Conclusion {
        let stays = match champion {
            Some(champion) => format!("{model}/{champion} stays the champion"),
            None => format!("{model} stays without a champion"),
        };
        let told = match self {
            Self::Promoted | Self::Passed => format!("{model}/{version} is the champion: {}", in_line(&checks)),
            Self::Refused => format!("{stays}: {model}/{version} did not pass: {}", in_line(&checks)),
            Self::Overtaken => format!("{stays}: it became that while {model}/{version} was compared with another"),
        };
        let outcome = if matches!(self, Self::Promoted | Self::Passed) { Outcome::Promoted } else { Outcome::Kept };
        Conclusion { outcome, told, version: Some(version), champion, checks }
    }
}

/// The checks that were not passed in a line; where all were, the one that says most: by how much it is better, or without a champion how good it is.
#[must_use]
pub fn in_line(checks: &[Check]) -> String {
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed).map(|check| check.told.as_str()).collect();
    if !failed.is_empty() {
        return failed.join("; ");
    }
    let key = |key: &str| checks.iter().find(|check| check.key == key);
    let most = ["min_gain", "floor", "metric"].into_iter().find_map(key);
    most.map(|check| check.told.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::rules;

    fn spec() -> JobSpec {
        serde_json::from_value(json!({
            "version": 1, "name": "nightly", "queue": "nights", "priority": 7, "labels": {"team": "vision"}, "resources": {"cpus": 2},
            "time": {"limit_seconds": 60, "begin": "2026-06-01T00:00:00Z"}, "checkpoint": {"keep": 9},
            "retrain": {
                "model": "digits", "holdout": {"slice": "label"},
                "train": {
                    "model": {"type": "mlp", "layers": [64, 10]}, "loss": "cross_entropy", "batch_size": 8, "max_epochs": 1,
                    "data": {"format": "csv", "uri": "file:///d.csv", "targets": ["label"]}, "split": {"test": 0.2, "seed": 1},
                    "optimizer": {"type": "adam"}
                }
            }
        }))
        .unwrap()
    }

    #[test]
    fn the_jobs_of_stages_are_as_the_run_says_and_make_sense() {
        let spec = spec();
        assert_eq!(rules::problems(&spec), []);
        let Work::Retrain(retrain) = &spec.work else { panic!("it retrains") };
        let train = training(JobId(17), &spec, retrain);
        let models = vec!["file:///m/1".to_owned(), "file:///m/2".to_owned()];
        let evaluate = evaluation(JobId(17), &spec, retrain, models);
        for job in [&train, &evaluate] {
            assert_eq!(rules::problems(job), []);
            assert_eq!((job.queue.as_str(), job.priority, job.resources.cpus), ("nights", 7, 2));
            assert_eq!((job.labels["team"].as_str(), job.labels[RUN_LABEL].as_str()), ("vision", "17"));
            assert_eq!((job.time.limit_seconds, &job.time.begin), (Some(60), &None));
        }
        assert_eq!((train.name.as_str(), evaluate.name.as_str()), ("nightly.train", "nightly.evaluate"));
        assert_eq!((train.checkpoint.keep, evaluate.checkpoint), (9, CheckpointPolicy::default()));
        let Work::Evaluate(evaluate) = evaluate.work else { panic!("it evaluates") };
        assert_eq!((evaluate.part, &evaluate.data), (Some(SplitPart::Test), &retrain.train.data));
        let mut own = retrain.clone();
        own.holdout.data = Some(
            serde_json::from_value(json!({"format": "csv", "uri": "file:///h.csv", "targets": ["label"]})).unwrap(),
        );
        let Work::Evaluate(evaluate) = evaluation(JobId(17), &spec, &own, vec!["file:///m/2".into()]).work else {
            panic!("it evaluates")
        };
        assert_eq!((evaluate.part, Some(&evaluate.data)), (None, own.holdout.data.as_ref()));
    }

    #[test]
    fn a_run_says_what_it_has_come_to_and_why() {
        let check = |key: &str, passed| Check { key: key.into(), passed, told: format!("{key} is told") };
        let (good, bad) = (check("min_gain", true), check("floor", false));
        let told = |fate: Fate, champion, checks: &[Check]| {
            let conclusion = fate.conclusion("digits", 4, champion, checks.to_vec());
            (conclusion.outcome.name(), conclusion.told)
        };
        for (fate, champion, checks, outcome, expected) in [
            (Fate::Promoted, Some(3), vec![good.clone()], "promoted", "digits/4 is the champion: min_gain is told"),
            (
                Fate::Refused,
                Some(3),
                vec![good.clone(), bad.clone()],
                "kept",
                "digits/3 stays the champion: digits/4 did not pass: floor is told",
            ),
            (
                Fate::Refused,
                None,
                vec![bad],
                "kept",
                "digits stays without a champion: digits/4 did not pass: floor is told",
            ),
            (
                Fate::Overtaken,
                Some(5),
                vec![good],
                "kept",
                "digits/5 stays the champion: it became that while digits/4 was compared with another",
            ),
        ] {
            assert_eq!(told(fate, champion, &checks), (outcome, expected.to_owned()));
        }
        assert_eq!(Conclusion::without_news("digits", 3).outcome.name(), "no_new_data");
    }

    #[test]
    fn the_key_of_a_stage_names_its_run() {
        for stage in Stage::ALL {
            assert_eq!(Stage::run_of(&stage.key(JobId(17))), Some(JobId(17)));
        }
        for key in ["", "mlctl:schedule:3:x", "mlctl:retrain:17", "retrain:17:train"] {
            assert_eq!(Stage::run_of(key), None, "{key}");
        }
    }
}
