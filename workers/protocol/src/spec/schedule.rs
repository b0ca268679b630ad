//! How the learning rate goes over a training. The rate is a function of the schedule and the step alone, worked out by the worker.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The learning rate of each step, from the optimizer's `learning_rate`. A warm-up of `warmup_steps` comes first, in which it rises linearly: step `s`, from 1, has the share
/// `s / (warmup_steps + 1)` of it. Values are those of `torch.optim.lr_scheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleSpec {
    /// The same after the warm-up.
    Constant {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// Down to `min_learning_rate` in a straight line.
    Linear {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// What it comes down to.
        #[serde(default)]
        min_learning_rate: f64,
        /// Steps, the warm-up among them, after which it is there and stays; the whole training when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        steps: Option<u64>,
    },
    /// Down to `min_learning_rate` along half a cosine, <https://arxiv.org/abs/1608.03983>.
    Cosine {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// What it comes down to.
        #[serde(default)]
        min_learning_rate: f64,
        /// Steps, the warm-up among them, after which it is there and stays; the whole training when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        steps: Option<u64>,
    },
    /// Times `gamma` after every `step_size` steps.
    Step {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// It never falls below.
        #[serde(default)]
        min_learning_rate: f64,
        /// Steps between two falls.
        #[schemars(range(min = 1))]
        step_size: u64,
        /// What it is multiplied by.
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// Up to `learning_rate` and down again, each along half a cosine, <https://arxiv.org/abs/1708.07120>.
    OneCycle {
        /// Steps on the way up, in place of the linear warm-up; three tenths of all when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        warmup_steps: Option<u64>,
        /// It never falls below on the way down.
        #[serde(default)]
        min_learning_rate: f64,
        /// Steps of the cycle; the whole training when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        steps: Option<u64>,
        /// It begins at `learning_rate` over this.
        #[serde(default = "default_div_factor")]
        div_factor: f64,
        /// It ends at what it began at over this.
        #[serde(default = "default_final_div_factor")]
        final_div_factor: f64,
    },
    /// With the inverse square root of the steps, <https://arxiv.org/abs/1706.03762>: `t` steps after the warm-up it is divided by `sqrt(1 + t / timescale)`.
    InverseSqrt {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// It never falls below.
        #[serde(default)]
        min_learning_rate: f64,
        /// How slowly it falls, in steps; the warm-up's when absent, or 10,000 without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        timescale: Option<u64>,
    },
}

impl ScheduleSpec {
    /// Steps of the warm-up; `None` where they are a part of all.
    #[must_use]
    pub const fn warmup_steps(&self) -> Option<u64> {
        match self {
            Self::Constant { warmup_steps }
            | Self::Linear { warmup_steps, .. }
            | Self::Cosine { warmup_steps, .. }
            | Self::Step { warmup_steps, .. }
            | Self::InverseSqrt { warmup_steps, .. } => Some(*warmup_steps),
            Self::OneCycle { warmup_steps, .. } => *warmup_steps,
        }
    }

    /// What the rate does not fall below.
    #[must_use]
    pub const fn min_learning_rate(&self) -> f64 {
        match self {
            Self::Constant { .. } => 0.0,
            Self::Linear { min_learning_rate, .. }
            | Self::Cosine { min_learning_rate, .. }
            | Self::Step { min_learning_rate, .. }
            | Self::OneCycle { min_learning_rate, .. }
            | Self::InverseSqrt { min_learning_rate, .. } => *min_learning_rate,
        }
    }

    /// Its own length in steps, where it has one.
    #[must_use]
    pub const fn steps(&self) -> Option<u64> {
        match self {
            Self::Linear { steps, .. } | Self::Cosine { steps, .. } | Self::OneCycle { steps, .. } => *steps,
            Self::Constant { .. } | Self::Step { .. } | Self::InverseSqrt { .. } => None,
        }
    }

    /// Whether it is as long as the training, so that another length makes other rates.
    #[must_use]
    pub const fn follows_the_training(&self) -> bool {
        matches!(
            self,
            Self::Linear { steps: None, .. } | Self::Cosine { steps: None, .. } | Self::OneCycle { steps: None, .. }
        )
    }
}

const fn default_gamma() -> f64 {
    0.1
}
const fn default_div_factor() -> f64 {
    25.0
}
const fn default_final_div_factor() -> f64 {
    1e4
}
