//! The job spec: the same struct in the TOML file, the database row and the worker. Types, defaults and units; the rules that
//! need more than one field are in the daemon's `domain` room.

mod after;
mod command;
mod data;
mod detect;
mod evaluate;
mod gpt;
mod infer;
mod model;
mod policy;
mod retrain;
mod schedule;
mod train;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use after::{After, AfterFailed, Need};
pub use command::{CommandSpec, Param};
pub use data::{
    DataFormat, DataSource, PinnedData, Scaling, Split, SplitPart, StreamSpec, TextTokens, dataset_parts, file_set,
};
pub use detect::{DeadGradients, DetectSpec, Diverged, Plateau, Select};
pub use evaluate::{BootstrapSpec, EvaluateSpec, MAX_COMPARED};
pub use gpt::{FeedForward, GptSpec, Norm, Positions};
pub use infer::{InferSpec, InitSpec, ModelSource, OutputFormat, is_pytorch};
pub use model::{Activation, ConvolutionSpec, ImageShape, ModelSpec};
pub use policy::{
    BestGoal, CheckpointPolicy, Concurrency, KeepBest, MAX_MIB, Resources, RetryPolicy, TimePolicy, Wins,
};
pub use retrain::{GateMetric, GateSpec, HoldoutSpec, RetrainSpec};
pub use schedule::ScheduleSpec;
pub use train::{Convergence, GroupSpec, Loss, OptimizerSpec, TrainSpec};

/// The spec version this build reads and writes.
pub const SPEC_VERSION: u32 = 1;

/// The largest spec accepted, in bytes, as TOML or JSON.
pub const MAX_SPEC_BYTES: usize = 256 * 1024;

/// The queue of a job that names none. It is always there.
pub const DEFAULT_QUEUE: &str = "default";

/// A job: what to do, and how to treat it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "SpecDocument", into = "SpecDocument")]
#[schemars(with = "SpecDocument")]
pub struct JobSpec {
    /// A name for people and for `mlctl show NAME`.
    pub name: String,
    /// The queue it stands in.
    pub queue: String,
    /// 0 to 100, higher first.
    pub priority: u8,
    /// Free key-value pairs to find jobs by.
    pub labels: BTreeMap<String, String>,
    /// What the job occupies while it runs.
    pub resources: Resources,
    /// What happens when an attempt dies.
    pub retry: RetryPolicy,
    /// When checkpoints are taken and how many are kept.
    pub checkpoint: CheckpointPolicy,
    /// When it may run, and for how long.
    pub time: TimePolicy,
    /// Whether it may be asked to make way for a job that is more urgent.
    pub preemptible: bool,
    /// How many jobs of its kind run at once.
    pub concurrency: Option<Concurrency>,
    /// The jobs and arrays that it waits for.
    pub after: Vec<After>,
    /// What becomes of it when one of those can no longer come to what it waits for.
    pub after_failed: AfterFailed,
    /// What to do.
    pub work: Work,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Train a model.
    Train(Box<TrainSpec>),
    /// Predict a dataset with a model.
    Infer(Box<InferSpec>),
    /// Compare models.
    Evaluate(Box<EvaluateSpec>),
    /// Train, compare and promote.
    Retrain(Box<RetrainSpec>),
    /// Run a program of the user's own.
    Command(Box<CommandSpec>),
}

/// What a job reads, to be changed, each with the dotted path at which its spec says so.
pub struct Sources<'a> {
    /// Its data.
    pub data: Vec<(&'static str, &'a mut DataSource)>,
    /// Where the weights come from that it begins with or predicts with.
    pub weights: Vec<(String, &'a mut String)>,
}

impl Work {
    /// The data that it reads, where the spec says which; of a retraining first what it trains on.
    #[must_use]
    pub fn data(&self) -> Vec<&DataSource> {
        match self {
            Self::Train(train) => vec![&train.data],
            Self::Infer(infer) => vec![&infer.data],
            Self::Evaluate(evaluate) => vec![&evaluate.data],
            Self::Retrain(retrain) => [&retrain.train.data].into_iter().chain(&retrain.holdout.data).collect(),
            Self::Command(_) => Vec::new(),
        }
    }

    /// Where the weights come from that it begins with or predicts with.
    #[must_use]
    pub fn weights(&self) -> Vec<&str> {
        match self {
            Self::Train(train) => train.init.iter().map(|init| init.from.as_str()).collect(),
            Self::Infer(infer) => vec![&infer.model.from],
            Self::Evaluate(evaluate) => evaluate.models.iter().map(|model| model.from.as_str()).collect(),
            Self::Retrain(retrain) => retrain.train.init.iter().map(|init| init.from.as_str()).collect(),
            Self::Command(_) => Vec::new(),
        }
    }

    /// What it reads, to be changed.
    pub fn sources_mut(&mut self) -> Sources<'_> {
        match self {
            Self::Train(train) => Sources {
                data: vec![("train.data", &mut train.data)],
                weights: train.init.iter_mut().map(|init| ("train.init.from".to_owned(), &mut init.from)).collect(),
            },
            Self::Infer(infer) => Sources {
                data: vec![("infer.data", &mut infer.data)],
                weights: vec![("infer.model.from".to_owned(), &mut infer.model.from)],
            },
            Self::Evaluate(evaluate) => {
                let models = evaluate.models.iter_mut().enumerate();
                let models = models.map(|(index, model)| (format!("evaluate.models[{index}].from"), &mut model.from));
                Sources { data: vec![("evaluate.data", &mut evaluate.data)], weights: models.collect() }
            }
            Self::Retrain(retrain) => {
                let RetrainSpec { train, holdout, .. } = &mut **retrain;
                let init = train.init.iter_mut().map(|init| ("retrain.train.init.from".to_owned(), &mut init.from));
                let holdout = holdout.data.iter_mut().map(|data| ("retrain.holdout.data", data));
                Sources {
                    data: [("retrain.train.data", &mut train.data)].into_iter().chain(holdout).collect(),
                    weights: init.collect(),
                }
            }
            Self::Command(_) => Sources { data: Vec::new(), weights: Vec::new() },
        }
    }

    /// Every kind of job.
    pub const KINDS: [&'static str; 5] = ["train", "infer", "evaluate", RetrainSpec::KIND, CommandSpec::KIND];

    /// The kind of job: one of [`KINDS`](Self::KINDS).
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Infer(_) => "infer",
            Self::Evaluate(_) => "evaluate",
            Self::Retrain(_) => RetrainSpec::KIND,
            Self::Command(_) => CommandSpec::KIND,
        }
    }
}

/// The written form of a [`JobSpec`]. Exactly one of `train`, `infer`, `evaluate`, `retrain` and `command` says what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "mlctl job spec", inline)]
pub struct SpecDocument {
    /// The version of this format: 1.
    #[schemars(range(min = 1, max = 1))]
    version: u32,
    /// A name for people and for `mlctl show NAME`: letters, digits, `.`, `_` and `-`, at most 100.
    #[schemars(length(min = 1, max = 100))]
    name: String,
    /// The queue it stands in, which `mlctl queue set` has made: limits on what runs at once are a queue's.
    #[serde(default = "default_queue", skip_serializing_if = "is_default_queue")]
    #[schemars(length(min = 1, max = 100))]
    queue: String,
    /// 0 to 100, higher first.
    #[serde(default = "default_priority")]
    #[schemars(range(max = 100))]
    priority: u8,
    /// Free key-value pairs to find jobs by.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// What the job occupies while it runs.
    #[serde(default)]
    resources: Resources,
    /// What happens when an attempt dies.
    #[serde(default)]
    retry: RetryPolicy,
    /// When checkpoints are taken and how many are kept.
    #[serde(default)]
    checkpoint: CheckpointPolicy,
    /// When it may run, and for how long.
    #[serde(default, skip_serializing_if = "TimePolicy::is_empty")]
    time: TimePolicy,
    /// Whether the job may be asked to make way for one that is more urgent. It then saves its work, waits for its turn again and goes on from there to the bit; no retry
    /// is used up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    preemptible: bool,
    /// How many jobs with the same key run at once; the others wait for a place, by priority and age, or are replaced by newer ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrency: Option<Concurrency>,
    /// The jobs and arrays that it waits for, each as `ok:JOB`, which must have succeeded, `any:JOB`, which must have ended in any way, or `notok:JOB`, which must have failed
    /// or been cancelled. JOB is an id, a member such as `17.3`, a name or `@last`, and alone means `ok:JOB`. A daemon keeps ids for names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    after: Vec<After>,
    /// What becomes of the job when one of those can no longer come to what it waits for: `cancel` ends it, `keep` holds it until a person releases it.
    #[serde(default, skip_serializing_if = "AfterFailed::is_default")]
    after_failed: AfterFailed,
    /// Train a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train: Option<Box<TrainSpec>>,
    /// Predict a dataset with a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    infer: Option<Box<InferSpec>>,
    /// Compare models on the same rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evaluate: Option<Box<EvaluateSpec>>,
    /// Train a challenger, compare it with the champion and promote it if it is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retrain: Option<Box<RetrainSpec>>,
    /// Run a program of one's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Box<CommandSpec>>,
}

fn default_queue() -> String {
    DEFAULT_QUEUE.to_owned()
}

fn is_default_queue(queue: &str) -> bool {
    queue == DEFAULT_QUEUE
}

const fn default_priority() -> u8 {
    50
}

/// One from the other: what both have is moved, what one alone has is given. A field that is in neither does not compile.
macro_rules! converted {
    ($from:ident, $($own:ident: $value:expr),+) => {
        Self {
            name: $from.name,
            queue: $from.queue,
            priority: $from.priority,
            labels: $from.labels,
            resources: $from.resources,
            retry: $from.retry,
            checkpoint: $from.checkpoint,
            time: $from.time,
            preemptible: $from.preemptible,
            concurrency: $from.concurrency,
            after: $from.after,
            after_failed: $from.after_failed,
            $($own: $value),+
        }
    };
}

impl TryFrom<SpecDocument> for JobSpec {
    type Error = String;

    fn try_from(document: SpecDocument) -> Result<Self, Self::Error> {
        let version = document.version;
        if version != SPEC_VERSION {
            return Err(format!("spec version {version} is not supported; this build reads version {SPEC_VERSION}"));
        }
        let (train, infer) = (document.train.map(Work::Train), document.infer.map(Work::Infer));
        let (evaluate, retrain) = (document.evaluate.map(Work::Evaluate), document.retrain.map(Work::Retrain));
        let works = [train, infer, evaluate, retrain, document.command.map(Work::Command)];
        let mut works = works.into_iter().flatten();
        let nothing =
            "the job has nothing to do: add a [train], an [infer], an [evaluate], a [retrain] or a [command] table";
        let work = works.next().ok_or(nothing)?;
        if works.next().is_some() {
            return Err(
                "a job does one thing: keep one of [train], [infer], [evaluate], [retrain] and [command]".into()
            );
        }
        Ok(converted!(document, work: work))
    }
}

impl From<JobSpec> for SpecDocument {
    fn from(spec: JobSpec) -> Self {
        let (mut train, mut infer, mut evaluate, mut retrain, mut command) = (None, None, None, None, None);
        match spec.work {
            Work::Train(work) => train = Some(work),
            Work::Infer(work) => infer = Some(work),
            Work::Evaluate(work) => evaluate = Some(work),
            Work::Retrain(work) => retrain = Some(work),
            Work::Command(work) => command = Some(work),
        }
        converted!(
            spec,
            version: SPEC_VERSION,
            train: train,
            infer: infer,
            evaluate: evaluate,
            retrain: retrain,
            command: command
        )
    }
}

/// The JSON Schema (2020-12) of a job spec.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(JobSpec)
}
