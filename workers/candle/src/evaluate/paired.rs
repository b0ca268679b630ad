//! How sure it is that one model is better than another, by the paired bootstrap: rows are drawn again and again with replacement, and each time the mean difference of the two on the same rows
//! is taken. A row's weight in a replicate is Poisson(1) of its number alone (Hanley and MacGibbon 2006; Chamandy, Muralidharan, Najmi and Naidu, "Estimating uncertainty for massive data streams",
//! 2012), so that one pass in fixed memory is enough and the same rows give the same bits. Pure.

use mlctl_protocol::evaluation::Interval;

use crate::rng::{Rng, Stream};

/// The weights of a row in all replicates.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    seed: u64,
    of_row: Vec<u8>,
}

impl Weights {
    pub(super) fn new(seed: u64, replicates: u32) -> Self {
        Self { seed, of_row: vec![0; replicates as usize] }
    }

    /// Goes to a row.
    pub(super) fn draw(&mut self, row: u64) -> &[u8] {
        let mut words = Rng::new(self.seed, Stream::Bootstrap { row });
        for weight in &mut self.of_row {
            *weight = poisson(words.next_u32());
        }
        &self.of_row
    }
}

/// The thresholds of Poisson(1), in words: the chance of k or fewer is sum 1/(e i!) for i up to k, times 2^32. Beyond the last the chance is below 2^-32.
const THRESHOLDS: [u32; 12] = thresholds();

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "chances between 0 and 1, rounded down")]
const fn thresholds() -> [u32; 12] {
    let mut found = [0; 12];
    let (mut term, mut sum, mut k) = (1.0 / std::f64::consts::E, 0.0, 0);
    while k < found.len() {
        sum += term;
        k += 1;
        term /= k as f64;
        found[k - 1] = (sum * 4_294_967_296.0) as u32;
    }
    found
}

/// A draw of Poisson(1) by inversion.
fn poisson(word: u32) -> u8 {
    let mut count = 0;
    for threshold in THRESHOLDS {
        if word < threshold {
            break;
        }
        count += 1;
    }
    count
}

/// The differences of two models over rows.
#[derive(Debug, Clone)]
pub(super) struct Paired {
    rows: u64,
    sum: f64,
    /// By replicate: the weighted sum, and the sum of weights.
    replicates: Vec<(f64, u64)>,
}

impl Paired {
    pub(super) fn new(replicates: u32) -> Self {
        Self { rows: 0, sum: 0.0, replicates: vec![(0.0, 0); replicates as usize] }
    }

    /// Takes in a row's difference, under its weights.
    pub(super) fn take(&mut self, weights: &[u8], difference: f64) {
        self.rows += 1;
        self.sum += difference;
        for ((sum, all), weight) in self.replicates.iter_mut().zip(weights) {
            *sum += f64::from(*weight) * difference;
            *all += u64::from(*weight);
        }
    }

    /// What is known with this confidence, between 0 and 1; nothing of no rows.
    #[expect(clippy::cast_precision_loss, reason = "counts of rows are far below 2^53")]
    pub(super) fn interval(&self, confidence: f64) -> Option<Interval> {
        if self.rows == 0 {
            return None;
        }
        let drawn = self.replicates.iter().filter(|(_, all)| *all > 0);
        let mut means: Vec<f64> = drawn.map(|(sum, all)| sum / *all as f64).collect();
        means.sort_by(f64::total_cmp);
        let tail = (1.0 - confidence) / 2.0;
        let above = means.iter().filter(|mean| **mean > 0.0).count() as f64;
        let level = means.iter().filter(|mean| **mean == 0.0).count() as f64;
        Some(Interval {
            mean: self.sum / self.rows as f64,
            low: quantile(&means, tail)?,
            high: quantile(&means, 1.0 - tail)?,
            above: (above + level / 2.0) / means.len() as f64,
        })
    }
}

/// A quantile of sorted values, between neighbours in proportion (type 7 of Hyndman and Fan 1996).
#[expect(clippy::cast_precision_loss, reason = "counts of replicates are small")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place within the values")]
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * (sorted.len().checked_sub(1)? as f64);
    let (below, part) = (at.floor() as usize, at - at.floor());
    let low = *sorted.get(below)?;
    let high = sorted.get(below + 1).copied().unwrap_or(low);
    Some(low + (high - low) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_poisson_and_of_the_row_alone() {
        let mut weights = Weights::new(7, 1000);
        let mut counts = [0_u64; 16];
        for row in 0..200 {
            weights.draw(row).iter().for_each(|weight| counts[usize::from(*weight)] += 1);
        }
        for (k, expected) in [0.367_879, 0.367_879, 0.183_940, 0.061_313].into_iter().enumerate() {
            let share = counts[k] as f64 / 200_000.0;
            assert!((share - expected).abs() < 0.005, "{k}: {share}");
        }
        let again = weights.draw(5).to_vec();
        weights.draw(6);
        assert_eq!(weights.draw(5), again);
        assert_ne!(weights.draw(6), again);
    }

    /// The interval of a mean is about what the normal distribution says, and holds nothing that it should not.
    #[test]
    fn intervals_are_as_wide_as_theory_says() {
        let mut weights = Weights::new(1, 2000);
        let mut paired = Paired::new(2000);
        // Mean 0.1, variance 1.
        let mut noise = vec![0.0_f32; 2000];
        Rng::new(3, Stream::Split).fill_normal(&mut noise);
        for (row, noise) in noise.iter().enumerate() {
            paired.take(weights.draw(row as u64), 0.1 + f64::from(*noise));
        }
        let found = paired.interval(0.95).unwrap();
        let half = 1.96 / 2000_f64.sqrt();
        assert!((found.high - found.low - 2.0 * half).abs() < 0.15 * half, "{found:?}");
        assert!(found.low < found.mean && found.mean < found.high);
        assert!((found.mean - 0.1).abs() < 3.0 * half, "{found:?}");
    }

    #[test]
    fn the_same_is_neither_better_nor_worse_and_nothing_is_unknown() {
        assert_eq!(Paired::new(10).interval(0.95), None);
        let (mut weights, mut paired) = (Weights::new(1, 100), Paired::new(100));
        for row in 0..50 {
            paired.take(weights.draw(row), 0.0);
        }
        assert_eq!(paired.interval(0.95), Some(Interval { mean: 0.0, low: 0.0, high: 0.0, above: 0.5 }));
        let mut better = Paired::new(100);
        for row in 0..50 {
            better.take(weights.draw(row), 1.0);
        }
        assert_eq!(better.interval(0.95), Some(Interval { mean: 1.0, low: 1.0, high: 1.0, above: 1.0 }));
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let sorted = [0.0, 1.0, 2.0, 3.0];
        for (share, expected) in [(0.0, 0.0), (0.5, 1.5), (1.0, 3.0), (0.25, 0.75)] {
            assert_eq!(quantile(&sorted, share), Some(expected));
        }
        assert_eq!(quantile(&[], 0.5), None);
    }
}
