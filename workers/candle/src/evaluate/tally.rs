//! What is known of models over rows: each by itself, and the difference of each from the first; of all rows, and of those of each slice. Pure.

use mlctl_protocol::{
    evaluation::{self, Difference, Interval},
    spec::BootstrapSpec,
};

use super::paired::{Paired, Weights};
use crate::infer::{Meter, Score};

/// Slices that are told apart, at most.
const MAX_SLICES: usize = 100;

/// Bytes of a slice's name that are kept.
const MAX_NAME_BYTES: usize = 200;

/// The rows of some kind.
#[derive(Debug)]
struct Group {
    name: String,
    meters: Vec<Meter>,
    /// Of each model but the first: the differences in loss, and in accuracy where there are classes.
    loss: Vec<Paired>,
    accuracy: Vec<Paired>,
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Tally {
    weights: Weights,
    replicates: u32,
    confidence: f64,
    all: Group,
    slices: Vec<Group>,
    /// Rows of slices beyond those that are told apart.
    others: Option<Group>,
}

impl Group {
    fn new(name: String, models: usize, replicates: u32) -> Self {
        let others = models.saturating_sub(1);
        let paired = || (0..others).map(|_| Paired::new(replicates)).collect();
        Self { name, meters: (0..models).map(|_| Meter::default()).collect(), loss: paired(), accuracy: paired() }
    }

    fn take(&mut self, scores: &[Score], weights: &[u8]) {
        self.meters.iter_mut().zip(scores).for_each(|(meter, score)| meter.add(*score));
        let Some((first, others)) = scores.split_first() else { return };
        for (paired, score) in self.loss.iter_mut().zip(others) {
            paired.take(weights, score.loss - first.loss);
        }
        for (paired, score) in self.accuracy.iter_mut().zip(others) {
            if let (Some(one), Some(other)) = (first.correct, score.correct) {
                paired.take(weights, f64::from(u8::from(other)) - f64::from(u8::from(one)));
            }
        }
    }

    fn account(&self, slice: Option<String>, confidence: f64) -> evaluation::Group {
        let told = |paired: &Paired| paired.interval(confidence).filter(Interval::is_finite);
        let differences = self.loss.iter().zip(&self.accuracy).enumerate().map(|(index, (loss, accuracy))| {
            Difference { model: index + 1, loss: told(loss), accuracy: told(accuracy) }
        });
        evaluation::Group {
            slice,
            rows: self.meters.first().map_or(0, Meter::rows),
            models: self.meters.iter().map(Meter::metrics).collect(),
            differences: differences.collect(),
        }
    }
}

impl Tally {
    pub(super) fn new(models: usize, spec: &BootstrapSpec) -> Self {
        let BootstrapSpec { replicates, confidence, seed } = *spec;
        let weights = Weights::new(seed, replicates);
        let all = Group::new(String::new(), models, replicates);
        Self { weights, replicates, confidence, all, slices: Vec::new(), others: None }
    }

    /// Takes in a row: its number, its slice where there are such, and how each of the models did.
    pub(super) fn take(&mut self, row: u64, slice: Option<&str>, scores: &[Score]) {
        let weights = self.weights.draw(row);
        self.all.take(scores, weights);
        let Some(slice) = slice else { return };
        let name = &slice[..slice.floor_char_boundary(MAX_NAME_BYTES)];
        let known = self.slices.iter().position(|group| group.name == name);
        let group = match known {
            Some(index) => self.slices.get_mut(index),
            None if self.slices.len() < MAX_SLICES => {
                self.slices.push(Group::new(name.to_owned(), scores.len(), self.replicates));
                self.slices.last_mut()
            }
            None => Some(self.others.get_or_insert_with(|| Group::new(String::new(), scores.len(), self.replicates))),
        };
        if let Some(group) = group {
            group.take(scores, weights);
        }
    }

    /// All rows, then each slice in the order in which they came, then what is left as `None`.
    pub(super) fn account(&self) -> (evaluation::Group, Vec<evaluation::Group>, Option<evaluation::Group>) {
        let of = |group: &Group| group.account(Some(group.name.clone()), self.confidence);
        let others = self.others.as_ref().map(|group| group.account(None, self.confidence));
        (self.all.account(None, self.confidence), self.slices.iter().map(of).collect(), others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_their_rows_and_differences_are_from_the_first() {
        let mut tally = Tally::new(2, &BootstrapSpec { replicates: 200, ..BootstrapSpec::default() });
        let score = |loss, correct| Score { loss, correct: Some(correct) };
        for row in 0..120 {
            // The second is better in slice a, and worse in b.
            let (slice, good) = if row % 3 == 0 { ("b", false) } else { ("a", true) };
            tally.take(row, Some(slice), &[score(1.0, !good), score(if good { 0.5 } else { 2.0 }, good)]);
        }
        let (all, slices, others) = tally.account();
        assert!(others.is_none());
        assert_eq!((all.rows, slices[0].rows, slices[1].rows), (120, 40, 80));
        assert_eq!((slices[0].slice.as_deref(), slices[1].slice.as_deref()), (Some("b"), Some("a")));
        let of = |group: &evaluation::Group| group.differences[0].loss.as_ref().unwrap().mean;
        assert_eq!((of(&slices[0]), of(&slices[1])), (1.0, -0.5));
        assert_eq!(of(&all), 0.0);
        let accuracy = slices[1].differences[0].accuracy.as_ref().unwrap();
        assert_eq!((accuracy.mean, accuracy.low, accuracy.above), (1.0, 1.0, 1.0));
        assert_eq!(all.models[1]["accuracy"], 80.0 / 120.0);
    }

    #[test]
    fn slices_are_bounded() {
        let mut tally = Tally::new(1, &BootstrapSpec { replicates: 100, ..BootstrapSpec::default() });
        for row in 0..150 {
            tally.take(row, Some(&format!("slice {row}")), &[Score { loss: 1.0, correct: None }]);
        }
        let (all, slices, others) = tally.account();
        assert_eq!((all.rows, slices.len(), others.unwrap().rows), (150, 100, 50));
        assert!(all.differences.is_empty());
    }
}
