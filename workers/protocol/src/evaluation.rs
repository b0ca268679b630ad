//! What an evaluation found: the object that its worker publishes, from which the daemon decides whether a model is promoted.

use serde::{Deserialize, Serialize};

use crate::{progress::Metrics, spec::BootstrapSpec};

/// The object's name.
pub const FILE: &str = "evaluation.json";

/// The largest that is read, in bytes: more than 101 groups of rows and eight models take.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The version of this form.
pub const SCHEMA: u32 = 1;

/// Models side by side on the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The version of this form: [`SCHEMA`].
    pub schema: u32,
    /// Where each model came from.
    pub models: Vec<String>,
    /// What the intervals are by.
    pub bootstrap: BootstrapSpec,
    /// Rows that some model could not read or predict, or that have no label.
    pub left_out: u64,
    /// All rows that were compared.
    pub all: Group,
    /// The column by whose values rows are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// The rows of each value, in the order in which they came.
    #[serde(default)]
    pub slices: Vec<Group>,
    /// Rows of further values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<Group>,
}

/// Rows that every model predicted and that have a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The value of the slice's column; none for all rows, and for those of further values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// How many.
    pub rows: u64,
    /// What each model did, by metric: `loss`, and `accuracy` where there are classes.
    pub models: Vec<Metrics>,
    /// By how much each model but the first is above the first.
    pub differences: Vec<Difference>,
}

/// By how much a model is above the first, by metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Its place among the models, from 0.
    pub model: usize,
    /// In mean loss: below 0 is better. None where it is not finite.
    pub loss: Option<Interval>,
    /// In accuracy: above 0 is better. None where there are no classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Interval>,
}

/// What is known of a mean difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean over the rows as they are.
    pub mean: f64,
    /// The lower end of the percentile interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The share of replicates in which the mean is above 0; half of those in which it is 0 counts.
    pub above: f64,
}

impl Interval {
    /// Whether JSON can hold it.
    #[must_use]
    pub const fn is_finite(&self) -> bool {
        self.mean.is_finite() && self.low.is_finite() && self.high.is_finite() && self.above.is_finite()
    }
}
