//! Where the parameters of an array's members come from: a grid over lists of values, or draws from lists and ranges. The member of an index is made when it is asked for, so
//! that a grid of any size is known by its size alone.
//!
//! A draw depends on nothing but the seed, the member's index and the axis' key: the first 8 bytes of BLAKE3 in key derivation mode, context `mlctl array sample, version 1`, over
//! the seed and the index as 8 little-endian bytes each and the key in UTF-8, read as a little-endian number. Its upper 53 bits over 2^53 are a number in [0, 1). Drawn numbers are
//! rounded to 6 significant digits, so that the last bits of a machine's logarithm change none.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::Params;
use crate::domain::rules::Problem;

/// Axes of an array at most.
pub const MAX_AXES: usize = 32;

/// The longest key of an axis, in bytes.
const MAX_KEY_BYTES: usize = 200;

/// What a draw is derived with: another version is another sequence.
const CONTEXT: &str = "mlctl array sample, version 1";

/// What varies over an array.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sweep {
    /// What varies, each over its own values. In a grid the last one changes fastest.
    pub axes: Vec<Axis>,
    /// Draws instead of the grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
}

/// One key that varies: over a list or, where it is drawn, over a range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// The dotted path in the spec.
    pub key: String,
    /// The values, as they stand in the spec's JSON form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Value>,
    /// A range to draw from, instead of values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
}

/// Numbers from `low` to `high`, both included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
    /// How they are spread.
    pub scale: Scale,
    /// Whether only whole numbers are drawn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

/// How draws are spread over a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Every number is as likely.
    Uniform,
    /// Every order of magnitude is as likely.
    Log,
}

/// How many members are drawn, and from which sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Members.
    pub count: u32,
    /// The same seed draws the same members, everywhere.
    pub seed: u64,
}

impl Sweep {
    /// How many members there are; `u64::MAX` for more than can be counted.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.sample {
            Some(sample) => sample.count.into(),
            None => self.axes.iter().fold(1, |size: u64, axis| size.saturating_mul(axis.values.len() as u64)),
        }
    }

    /// What the member of an index has of its own; `index` is from 1 to [`size`](Self::size).
    #[must_use]
    pub fn params(&self, index: u32) -> Params {
        if let Some(Sample { seed, .. }) = self.sample {
            let drawn = self.axes.iter().map(|axis| (axis.key.clone(), axis.draw(seed, index)));
            return drawn.collect();
        }
        let mut left = u64::from(index.saturating_sub(1));
        let mut params = Params::new();
        for axis in self.axes.iter().rev() {
            let many = axis.values.len().max(1) as u64;
            // What is left of the division is below the number of values.
            let chosen = usize::try_from(left % many).unwrap_or(0);
            params.insert(axis.key.clone(), axis.values.get(chosen).cloned().unwrap_or(Value::Null));
            left /= many;
        }
        params
    }

    /// Everything that is wrong with it, by the key of the axis that is meant. How large it may be is not asked here.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        if self.axes.is_empty() {
            found.push(problem("", "an array varies over at least one key", "name one, with its values"));
        }
        if self.axes.len() > MAX_AXES {
            let message = format!("an array varies over {MAX_AXES} keys at most, found {}", self.axes.len());
            found.push(problem("", message, "keep the others the same for all members"));
        }
        if self.sample.is_some_and(|sample| sample.count == 0) {
            found.push(problem("", "a sample has at least one member", "draw one or more"));
        }
        let mut keys = BTreeSet::new();
        for axis in self.axes.iter().take(MAX_AXES) {
            found.extend(axis.problem(self.sample.is_some()));
            let lies_in =
                |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
            let clashes = |other: &&str| *other == axis.key || lies_in(other, &axis.key) || lies_in(&axis.key, other);
            if let Some(other) = keys.iter().copied().find(clashes) {
                let message = format!("{other:?} and {:?} set the same", axis.key);
                found.push(problem(&axis.key, message, "put all values of a key into one list"));
            }
            keys.insert(axis.key.as_str());
        }
        found
    }
}

impl Axis {
    fn problem(&self, is_drawn: bool) -> Option<Problem> {
        let steps: Vec<&str> = self.key.split('.').collect();
        if self.key.len() > MAX_KEY_BYTES || steps.iter().any(|step| step.is_empty() || step.contains('[')) {
            let shown: String = self.key.chars().take(40).collect();
            let message = format!("{shown:?} is no path of a key");
            return Some(problem("", message, "write it with dots, as in train.optimizer.learning_rate"));
        }
        if matches!(steps[0], "name" | "version") {
            let message = format!("{} is the same for all members", steps[0]);
            return Some(problem(&self.key, message, "members are named NAME.INDEX by themselves"));
        }
        match (&self.range, self.values.is_empty()) {
            (None, false) => None,
            (None, true) => Some(problem(&self.key, "there are no values for it", "name at least one")),
            (Some(_), false) => Some(problem(&self.key, "it has values and a range", "keep one of them")),
            (Some(_), true) if !is_drawn => Some(problem(
                &self.key,
                "a range has no end of values",
                "say how many are drawn with --sample N, or list the values",
            )),
            (Some(range), true) => range.problem(&self.key),
        }
    }

    fn draw(&self, seed: u64, index: u32) -> Value {
        let number = unit(seed, index, &self.key);
        match &self.range {
            Some(range) => range.at(number),
            None => {
                #[expect(clippy::cast_precision_loss, reason = "lists are far shorter than 2^52")]
                let place = number * self.values.len() as f64;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it is from 0 to the list's length"
                )]
                let chosen = (place as usize).min(self.values.len().saturating_sub(1));
                self.values.get(chosen).cloned().unwrap_or(Value::Null)
            }
        }
    }
}

impl Range {
    /// The largest whole number that a float counts to without a gap.
    const MOST_WHOLE: f64 = 9_007_199_254_740_992.0;

    fn problem(&self, key: &str) -> Option<Problem> {
        let Self { low, high, scale, whole } = *self;
        if !low.is_finite() || !high.is_finite() || low >= high {
            let message = format!("{low}..{high} is no range from a number to a greater one");
            return Some(problem(key, message, "write the lesser number first"));
        }
        if scale == Scale::Log && low <= 0.0 {
            let message = format!("{low}..{high} has no logarithm at its lower end");
            return Some(problem(key, message, format!("begin above 0, or write uniform:{low}..{high}")));
        }
        if whole && (low.fract() != 0.0 || high.fract() != 0.0 || low.abs().max(high.abs()) > Self::MOST_WHOLE) {
            return Some(problem(key, format!("{low}..{high} is no range of whole numbers"), "use smaller ones"));
        }
        None
    }

    /// The number at a place from 0 to 1.
    fn at(&self, place: f64) -> Value {
        let Self { low, high, scale, whole } = *self;
        // Of whole numbers the greatest is as likely as the others.
        let end = if whole { high + 1.0 } else { high };
        let found = match scale {
            Scale::Uniform => low + place * (end - low),
            Scale::Log => (low.ln() + place * (end.ln() - low.ln())).exp(),
        };
        if whole {
            #[expect(clippy::cast_possible_truncation, reason = "the bounds are within 2^53")]
            let number = found.floor().clamp(low, high) as i64;
            return number.into();
        }
        Number::from_f64(rounded(found).clamp(low, high)).map_or(Value::Null, Value::Number)
    }
}

/// To 6 significant digits.
fn rounded(number: f64) -> f64 {
    format!("{number:.5e}").parse().unwrap_or(number)
}

/// A number in [0, 1) that depends on these three alone.
fn unit(seed: u64, index: u32, key: &str) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&seed.to_le_bytes());
    hasher.update(&u64::from(index).to_le_bytes());
    hasher.update(key.as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    let number = (u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 11) as f64;
    number / Range::MOST_WHOLE
}

fn problem(path: &str, message: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem { path: path.to_owned(), message: message.into(), hint: Some(hint.into()) }
}
