//! Whether a training is hopeless, from what was seen of it so far. Pure; what is remembered is part of `RunState`, so that a resumed run is given up at the same step.

use mlctl_protocol::spec::{DeadGradients, DetectSpec, Diverged, Plateau};
use serde::{Deserialize, Serialize};

use super::state::exact_option;
use crate::fault::Fault;

/// What the detectors remember.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// The loss of the first epoch.
    #[serde(with = "exact_option")]
    first: Option<f64>,
    /// The best loss of an epoch, and which.
    #[serde(with = "exact_option")]
    best: Option<f64>,
    best_epoch: u64,
    /// Epochs in a row that were far above it.
    above: u64,
    /// Steps in a row without a gradient.
    dead: u64,
}

impl Watch {
    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in the loss of an epoch, counted from 1.
    ///
    /// # Errors
    /// `spec` when the training is hopeless.
    pub fn epoch(&mut self, spec: &DetectSpec, epoch: u64, loss: f64) -> Result<(), Fault> {
        let first = *self.first.get_or_insert(loss);
        if loss < self.best.unwrap_or(f64::INFINITY) {
            (self.best, self.best_epoch) = (Some(loss), epoch);
        }
        let best = self.best.unwrap_or(first);
        if let Some(Diverged { factor, epochs }) = spec.diverged {
            // Nothing is many times 0, and a training that was there once is not hopeless.
            let is_above = best > 0.0 && (loss > factor * best || loss.is_nan());
            self.above = if is_above { self.above + 1 } else { 0 };
            if self.above >= epochs {
                let at = self.best_epoch;
                return Err(hopeless(
                    &format!(
                        "the loss is {loss}, more than {factor} times its best of {best} at epoch {at}, for {} epochs in a row",
                        self.above
                    ),
                    "lower the learning rate or clip gradients; train.detect.diverged says when a training is given up",
                ));
            }
        }
        match spec.plateau {
            Some(Plateau { epochs, share }) if epoch == epochs && (best.is_nan() || best > first * (1.0 - share)) => {
                Err(hopeless(
                    &format!(
                        "within {epochs} epochs the loss has come from {first} to {best} at its best, and should have fallen by {share} of it"
                    ),
                    "look whether the features say anything of what is to be learnt, and at the learning rate; train.detect.plateau says when a training is given up",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Takes in the norm of a step's gradients.
    ///
    /// # Errors
    /// `spec` when the training is hopeless.
    pub fn step(&mut self, spec: &DeadGradients, norm: f64) -> Result<(), Fault> {
        self.dead = if norm == 0.0 { self.dead + 1 } else { 0 };
        if self.dead < spec.steps {
            return Ok(());
        }
        Err(hopeless(
            &format!("all gradients were exactly 0 for {} steps in a row", self.dead),
            "units that a ReLU has cut off learn no more: lower the learning rate, use another activation, or scale the features",
        ))
    }
}

fn hopeless(why: &str, hint: &str) -> Fault {
    Fault::spec(
        format!("the training is hopeless and was given up: {why}"),
        format!("{hint}; the last checkpoint is kept"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(spec: &DetectSpec, losses: &[f64]) -> Option<(u64, String)> {
        let mut watch = Watch::default();
        (1..).zip(losses).find_map(|(epoch, loss)| Some((epoch, watch.epoch(spec, epoch, *loss).err()?.message)))
    }

    #[test]
    fn a_loss_far_above_its_best_is_given_up_after_some_epochs() {
        let spec = DetectSpec { diverged: Some(Diverged { factor: 4.0, epochs: 2 }), ..DetectSpec::default() };
        let (epoch, why) = seen(&spec, &[2.0, 1.0, 4.5, 3.0, 4.5, f64::NAN, 1.0]).unwrap();
        assert_eq!(epoch, 6);
        assert!(why.contains("more than 4 times its best of 1 at epoch 2, for 2 epochs in a row"), "{why}");
        assert_eq!(seen(&spec, &[2.0, 1.0, 4.0, 4.5, 3.9, 4.5, 0.5, 1.9]), None);
        assert_eq!(seen(&spec, &[1.0, 0.0, 5.0, 5.0, 5.0]), None, "who was at 0 has learnt it");
    }

    #[test]
    fn a_loss_that_never_fell_is_given_up_and_one_that_did_is_not() {
        let spec = DetectSpec { plateau: Some(Plateau { epochs: 3, share: 0.1 }), ..DetectSpec::default() };
        let (epoch, why) = seen(&spec, &[1.0, 0.95, 0.97]).unwrap();
        assert_eq!(epoch, 3);
        assert!(why.contains("within 3 epochs the loss has come from 1 to 0.95"), "{why}");
        assert!(seen(&spec, &[f64::NAN; 3]).is_some());
        assert_eq!(seen(&spec, &[1.0, 0.9, 2.0, 2.0]), None);
        assert_eq!(seen(&spec, &[1.0, 1.0]), None);
    }

    #[test]
    fn gradients_of_nothing_are_given_up_when_none_comes_between() {
        let (spec, mut watch) = (DeadGradients { steps: 2 }, Watch::default());
        for norm in [0.0, 1e-30, 0.0] {
            watch.step(&spec, norm).unwrap();
        }
        let fault = watch.step(&spec, 0.0).unwrap_err();
        assert!(fault.message.contains("exactly 0 for 2 steps in a row"), "{fault}");
    }
}
