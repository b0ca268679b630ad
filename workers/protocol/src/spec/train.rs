//! What a training job does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    data::{DataSource, Scaling, Split, StreamSpec},
    detect::{DetectSpec, Select},
    infer::InitSpec,
    model::ModelSpec,
    schedule::ScheduleSpec,
};

/// Train a model by gradient descent: initialise, then batch, forward, loss, backward, update, until convergence or the
/// maximum. At least one of `max_epochs` and `max_steps` bounds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// Seeds initialisation, shuffle and dropout.
    #[serde(default)]
    pub seed: u64,
    /// What to train.
    pub model: ModelSpec,
    /// The model, by its name in the registry, of which the trained weights become a new version when the job has succeeded: `mlctl model ls`. None when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub register: Option<String>,
    /// What its weights are at the beginning; fresh ones, drawn by the seed, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitSpec>,
    /// Tensors that stay as they are, by their names in the model: `layer1.*`, where `*` stands for any text. Checkpoints store them once. None when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub freeze: Vec<String>,
    /// What to train on.
    pub data: DataSource,
    /// Reads the rows while training, for data that is larger than memory; all are in memory when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamSpec>,
    /// How rows are divided.
    #[serde(default)]
    pub split: Split,
    /// How features are scaled.
    #[serde(default)]
    pub scaling: Scaling,
    /// What is minimised.
    pub loss: Loss,
    /// How weights are updated.
    pub optimizer: OptimizerSpec,
    /// How the learning rate goes over the steps; always the optimizer's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSpec>,
    /// Tensors with a learning rate or a weight decay of their own, the others having the optimizer's. Of several groups that fit a tensor it is of the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub groups: Vec<GroupSpec>,
    /// Keeps an average of the weights over the steps, which is what is validated, tested and published: of the average so much stays at each step, as 0.999. The weights
    /// themselves go on without it, and a checkpoint has both. No average when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// The largest value of a gradient; larger ones are cut to it before each update, and smaller ones than its negative, as by PyTorch's `clip_grad_value_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_grad_value: Option<f64>,
    /// The largest norm of all gradients together; larger ones are scaled down to it before each update, as by PyTorch's `clip_grad_norm_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// Rows per batch. A step is one batch, unless `accumulate` makes it several; the last of an epoch may be smaller.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub batch_size: u32,
    /// Batches whose gradients are added up for one step: the step of one batch so many times as large, in the memory of one. Each counts by its rows.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub accumulate: u32,
    /// Passes over the train part at most.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_epochs: Option<u64>,
    /// Optimizer steps at most.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_steps: Option<u64>,
    /// Ends training when the loss no longer improves.
    #[serde(default)]
    pub convergence: Option<Convergence>,
    /// Which weights are tested and published: `last`, or, of those at the ends of the epochs, `best` by the validation loss or `best_accuracy` by the validation accuracy. Checkpoints
    /// then hold the best so far beside the last.
    #[serde(default, skip_serializing_if = "Select::is_default")]
    pub select: Select,
    /// Ends a hopeless training early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect: Option<DetectSpec>,
}

impl TrainSpec {
    /// Rows of a step; the last of an epoch may have fewer.
    #[must_use]
    pub const fn rows_per_step(&self) -> u64 {
        self.batch_size as u64 * self.accumulate as u64
    }

    /// What a step is measured by: its rows, or the tokens of its sequences.
    #[must_use]
    pub const fn measured_per_step(&self) -> u64 {
        match &self.model {
            ModelSpec::Gpt(gpt) => self.rows_per_step().saturating_mul(gpt.context as u64),
            ModelSpec::Mlp { .. } | ModelSpec::Cnn { .. } => self.rows_per_step(),
        }
    }
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde calls")]
const fn is_one(times: &u32) -> bool {
    *times == 1
}

/// Tensors that are trained with options of their own, as PyTorch's parameter groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Which, by their names in the model: `["*.bias"]`, where `*` stands for any text.
    #[schemars(length(min = 1, max = 100))]
    pub tensors: Vec<String>,
    /// What the learning rate is multiplied by.
    #[serde(default = "default_factor")]
    pub learning_rate_factor: f64,
    /// The weight decay, in place of the optimizer's: 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

const fn default_factor() -> f64 {
    1.0
}

/// What training minimises, averaged over a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Mean squared error over all outputs.
    Mse,
    /// Cross-entropy of the logits against one column of class numbers from 0.
    CrossEntropy,
}

/// How weights are updated. Defaults are PyTorch's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerSpec {
    /// Stochastic gradient descent.
    Sgd {
        /// The learning rate.
        #[serde(default = "default_lr")]
        learning_rate: f64,
        /// The momentum.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        momentum: f64,
        /// L2 penalty added to the gradient.
        #[serde(default)]
        weight_decay: f64,
        /// Nesterov's momentum: steps look ahead.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        nesterov: bool,
    },
    /// Adam, <https://arxiv.org/abs/1412.6980>.
    Adam {
        /// The learning rate.
        #[serde(default = "default_lr")]
        learning_rate: f64,
        /// Decay of the running averages of gradient and square.
        #[serde(default = "default_betas")]
        betas: (f64, f64),
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        eps: f64,
        /// L2 penalty added to the gradient.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay, <https://arxiv.org/abs/1711.05101>.
    #[serde(rename = "adamw")]
    AdamW {
        /// The learning rate.
        #[serde(default = "default_lr")]
        learning_rate: f64,
        /// Decay of the running averages of gradient and square.
        #[serde(default = "default_betas")]
        betas: (f64, f64),
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        eps: f64,
        /// Share of a weight taken away per step, times the learning rate.
        #[serde(default = "default_adamw_decay")]
        weight_decay: f64,
    },
    /// Lion, <https://arxiv.org/abs/2302.06675>: steps of the sign of a running average, which wants a rate three to ten times smaller than Adam's.
    Lion {
        /// The learning rate.
        #[serde(default = "default_lion_lr")]
        learning_rate: f64,
        /// Decay of the average that the sign is taken of, and of the one that is kept.
        #[serde(default = "default_lion_betas")]
        betas: (f64, f64),
        /// Share of a weight taken away per step, times the learning rate.
        #[serde(default)]
        weight_decay: f64,
    },
}

impl OptimizerSpec {
    /// The learning rate, before any schedule.
    #[must_use]
    pub const fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd { learning_rate, .. }
            | Self::Adam { learning_rate, .. }
            | Self::AdamW { learning_rate, .. }
            | Self::Lion { learning_rate, .. } => *learning_rate,
        }
    }

    /// The weight decay of tensors that are of no group.
    #[must_use]
    pub const fn weight_decay(&self) -> f64 {
        match self {
            Self::Sgd { weight_decay, .. }
            | Self::Adam { weight_decay, .. }
            | Self::AdamW { weight_decay, .. }
            | Self::Lion { weight_decay, .. } => *weight_decay,
        }
    }
}

const fn default_lr() -> f64 {
    1e-3
}
const fn default_lion_lr() -> f64 {
    1e-4
}
const fn default_lion_betas() -> (f64, f64) {
    (0.9, 0.99)
}
const fn default_betas() -> (f64, f64) {
    (0.9, 0.999)
}
const fn default_eps() -> f64 {
    1e-8
}
const fn default_adamw_decay() -> f64 {
    0.01
}

/// Ends training when the validation loss, or the train loss where nothing is validated on, has not improved for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Convergence {
    /// Epochs without improvement after which training ends.
    #[schemars(range(min = 1))]
    pub patience: u64,
    /// How much smaller the loss must be than the best so far to count as an improvement.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub min_improvement: f64,
}
