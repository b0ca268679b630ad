//! Successive halving over an array: which members are worth going on with, decided one at a time as each comes to a rung. Called by the store, inside the transaction that keeps the
//! checkpoint. Pure.
//!
//! The asynchronous form by Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020, arXiv:1810.05934), stopping members instead of promoting them: rungs are at
//! `min_steps` times each power of `eta`; a member that comes to one is ranked among those that have come there before it, and goes on if it is one of the best of every `eta`. Nobody
//! waits for anybody. While fewer than `eta` have come, there is no best of them, and all go on.

use serde::{Deserialize, Serialize};

use super::Metric;

/// The greatest part of which one goes on.
const MAX_ETA: u32 = 100;

/// When members are compared, and how many of them go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halving {
    /// What they are compared by, as their checkpoints have it.
    pub metric: Metric,
    /// One of so many goes on.
    pub eta: u32,
    /// The steps after which they are compared for the first time; then after `eta` times as many, and so on.
    pub min_steps: u64,
}

/// Where a member stands that is not worth going on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// How many are better, and one more.
    pub rank: usize,
    /// How many have come that far, itself included.
    pub of: usize,
}

impl Halving {
    /// What is wrong with it.
    #[must_use]
    pub fn mistake(&self) -> Option<String> {
        let bounds =
            (!(2..=MAX_ETA).contains(&self.eta)).then(|| format!("eta is from 2 to {MAX_ETA}, found {}", self.eta));
        let steps = (self.min_steps == 0).then(|| "min_steps is at least 1".to_owned());
        self.metric.mistake().or(bounds).or(steps)
    }

    /// The highest rung that a number of steps reaches, from 0; none below the first.
    #[must_use]
    pub fn rung(&self, steps: u64) -> Option<u32> {
        let (mut rung, mut at) = (None, self.min_steps.max(1));
        while at <= steps {
            rung = Some(rung.map_or(0, |rung: u32| rung + 1));
            match at.checked_mul(self.eta.max(2).into()) {
                Some(next) => at = next,
                None => break,
            }
        }
        rung
    }

    /// The steps at which the first rungs are.
    #[must_use]
    pub fn steps(&self, rungs: usize) -> Vec<u64> {
        let next = |at: &u64| at.checked_mul(self.eta.max(2).into());
        std::iter::successors(Some(self.min_steps.max(1)), next).take(rungs).collect()
    }

    /// Whether a member ends here, by its value at a rung and those of the members that came there before it. Whoever is as good as one that goes on goes on too.
    #[must_use]
    pub fn judge(&self, earlier: impl IntoIterator<Item = f64>, value: f64) -> Option<Behind> {
        let (mut better, mut of) = (0, 1);
        for other in earlier {
            of += 1;
            better += usize::from(self.metric.goal.prefers(other, value));
        }
        let go_on = of / usize::try_from(self.eta.max(2)).unwrap_or(usize::MAX);
        (go_on > 0 && better >= go_on).then_some(Behind { rank: better + 1, of })
    }

    /// Why a member is stopped, in a line.
    #[must_use]
    pub fn reason(&self, behind: Behind, steps: u64) -> String {
        let Behind { rank, of } = behind;
        format!("stopped early: rank {rank} of {of} at {steps} steps by {}", self.metric.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::array::Goal;

    fn halving(goal: Goal, eta: u32, min_steps: u64) -> Halving {
        Halving { metric: Metric { name: "val_loss".into(), goal }, eta, min_steps }
    }

    #[test]
    fn rungs_are_at_powers() {
        let halving = halving(Goal::Min, 3, 100);
        let cases =
            [(0, None), (99, None), (100, Some(0)), (299, Some(0)), (300, Some(1)), (2699, Some(2)), (2700, Some(3))];
        for (steps, rung) in cases {
            assert_eq!(halving.rung(steps), rung, "{steps}");
        }
        assert_eq!(halving.steps(3), [100, 300, 900]);
        assert!(halving.rung(u64::MAX).is_some());
    }

    #[test]
    fn the_best_of_every_eta_goes_on() {
        let halving = halving(Goal::Min, 3, 1);
        // earlier values, its own -> rank of how many
        type Case<'a> = (&'a [f64], f64, Option<(usize, usize)>);
        let cases: [Case<'_>; 8] = [
            (&[], 9.0, None),
            (&[1.0], 9.0, None),
            (&[1.0, 2.0], 9.0, Some((3, 3))),
            (&[1.0, 2.0], 0.5, None),
            (&[1.0, 2.0], 1.0, None),
            (&[1.0, 2.0, 3.0, 4.0, 5.0], 1.5, None),
            (&[1.0, 2.0, 3.0, 4.0, 5.0], 2.5, Some((3, 6))),
            (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 9.0], 6.5, Some((7, 9))),
        ];
        for (earlier, value, behind) in cases {
            let found = halving.judge(earlier.iter().copied(), value);
            assert_eq!(found.map(|behind| (behind.rank, behind.of)), behind, "{value} after {earlier:?}");
        }
        let behind = Behind { rank: 7, of: 9 };
        assert_eq!(halving.reason(behind, 300), "stopped early: rank 7 of 9 at 300 steps by val_loss");
    }

    #[test]
    fn nonsense_is_refused() {
        for (eta, min_steps, fine) in [(3, 1, true), (1, 1, false), (101, 1, false), (2, 0, false)] {
            assert_eq!(halving(Goal::Min, eta, min_steps).mistake().is_none(), fine, "{eta} {min_steps}");
        }
    }

    proptest! {
        /// In whatever order they come: the best never ends, who is judged as the last of all is judged by the plain rule, and of all but the first few no more go on than may.
        #[test]
        fn the_best_goes_on_in_every_order(
            values in prop::collection::vec(0_u32..50, 1..60),
            eta in 2_u32..6,
            is_max in any::<bool>(),
        ) {
            let goal = if is_max { Goal::Max } else { Goal::Min };
            let halving = halving(goal, eta, 1);
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let verdicts: Vec<Option<Behind>> =
                (0..values.len()).map(|at| halving.judge(values[..at].iter().copied(), values[at])).collect();
            for (at, verdict) in verdicts.iter().enumerate() {
                let better = values[..at].iter().filter(|other| goal.prefers(**other, values[at])).count();
                let may = (at + 1) / eta as usize;
                prop_assert_eq!(verdict.is_some(), may > 0 && better >= may, "{} of {:?}", at, values);
                if let Some(Behind { rank, of }) = verdict {
                    prop_assert_eq!((*rank, *of), (better + 1, at + 1));
                    prop_assert!(*rank > may);
                }
            }
            let best = values.iter().copied().reduce(|one, other| if goal.prefers(other, one) { other } else { one }).unwrap();
            for (value, verdict) in values.iter().zip(&verdicts) {
                prop_assert!(*value != best || verdict.is_none(), "the best is stopped: {:?}", values);
            }
            // Who ends is worse than somebody who went on.
            for (at, verdict) in verdicts.iter().enumerate() {
                if verdict.is_some() {
                    let kept = (0..at).any(|other| verdicts[other].is_none() && goal.prefers(values[other], values[at]));
                    prop_assert!(kept, "{} ends and nobody better goes on: {:?}", at, values);
                }
            }
        }
    }
}
