//! When a training is given up as hopeless, and which of its weights are the model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Ends a hopeless training early, with its reason. A loss or weights that are no longer finite always end it; what is here is looked for only when it is asked for, since a healthy
/// training may look alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectSpec {
    /// The validation loss, or the train loss where nothing is validated on, is far above its best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<Diverged>,
    /// That loss has hardly fallen since the first epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plateau: Option<Plateau>,
    /// All gradients are exactly 0, so that nothing is learnt any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_gradients: Option<DeadGradients>,
}

/// How far above its best a loss may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Diverged {
    /// How many times the best loss it must be more than.
    pub factor: f64,
    /// Epochs in a row for which it is.
    #[serde(default = "default_epochs")]
    #[schemars(range(min = 1))]
    pub epochs: u64,
}

/// How far a loss must fall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plateau {
    /// Epochs within which it must have fallen.
    #[schemars(range(min = 2))]
    pub epochs: u64,
    /// The share of the first epoch's loss by which it must have fallen at its best.
    #[serde(default = "default_share")]
    pub share: f64,
}

/// How long gradients may be 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadGradients {
    /// Steps in a row for which all of them are.
    #[schemars(range(min = 1))]
    pub steps: u64,
}

/// Which weights of a training are its model, of those at the ends of its epochs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The last.
    #[default]
    Last,
    /// Those with the lowest validation loss; of equals the first.
    Best,
    /// Those with the highest validation accuracy; of equals the first.
    BestAccuracy,
}

impl Select {
    /// Whether it is what holds where nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

const fn default_epochs() -> u64 {
    3
}
const fn default_share() -> f64 {
    0.01
}
