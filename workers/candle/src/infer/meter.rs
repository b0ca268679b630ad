//! How good predictions were on the rows that have a label: the loss the model was trained on, and accuracy. Sums in f64, in the order
//! of the rows.

use mlctl_protocol::progress::Metrics;

use super::{input::Expected, lines::greatest};
use crate::loss::log_sum_exp;

/// How good a prediction was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    /// The loss of the row.
    pub(crate) loss: f64,
    /// Whether the class predicted is the label's, where there are classes.
    pub(crate) correct: Option<bool>,
}

impl Score {
    /// The score of outputs by the class predicted, where it is one.
    fn by(outputs: &[f32], predicted: Option<u32>, expected: &Expected) -> Self {
        match expected {
            Expected::Class(class) => {
                let logit = outputs.get(*class as usize).copied().unwrap_or(f32::NEG_INFINITY);
                let loss = log_sum_exp(outputs) - f64::from(logit);
                Self { loss, correct: Some(predicted == Some(*class)) }
            }
            Expected::Values(values) => {
                let sum: f64 = outputs.iter().zip(values).map(|(y, t)| (f64::from(*y) - f64::from(*t)).powi(2)).sum();
                Self { loss: ratio(sum, values.len() as u64), correct: None }
            }
        }
    }

    /// The score of outputs of which the greatest is the class predicted; none where they are not finite.
    pub(crate) fn of(outputs: &[f32], expected: &Expected) -> Option<Self> {
        outputs.iter().all(|output| output.is_finite()).then(|| Self::by(outputs, Some(greatest(outputs)), expected))
    }
}

/// Sums over the rows with a label.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    rows: u64,
    loss: f64,
    classes: bool,
    correct: u64,
}

impl Meter {
    /// Takes in a row's outputs, the class predicted where it is one, and the label.
    pub(crate) fn take(&mut self, outputs: &[f32], predicted: Option<u32>, expected: &Expected) {
        self.add(Score::by(outputs, predicted, expected));
    }

    /// Takes in a row.
    pub(crate) fn add(&mut self, Score { loss, correct }: Score) {
        self.rows += 1;
        self.loss += loss;
        if let Some(correct) = correct {
            self.classes = true;
            self.correct += u64::from(correct);
        }
    }

    /// Rows taken in.
    pub(crate) const fn rows(&self) -> u64 {
        self.rows
    }

    /// `loss`, and `accuracy` where there are classes; nothing without labels.
    pub(crate) fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new();
        if self.rows == 0 {
            return metrics;
        }
        let loss = ratio(self.loss, self.rows);
        if loss.is_finite() {
            metrics.insert("loss".into(), loss);
        }
        if self.classes {
            #[expect(clippy::cast_precision_loss, reason = "a share is read by people")]
            metrics.insert("accuracy".into(), ratio(self.correct as f64, self.rows));
        }
        metrics
    }
}

#[expect(clippy::cast_precision_loss, reason = "a mean is read by people")]
fn ratio(sum: f64, count: u64) -> f64 {
    sum / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_the_rows_with_a_label() {
        let mut meter = Meter::default();
        assert!(meter.metrics().is_empty());
        meter.take(&[0.0, 0.0], Some(0), &Expected::Class(0));
        meter.take(&[0.0, 0.0], Some(0), &Expected::Class(1));
        let metrics = meter.metrics();
        assert!((metrics["loss"] - 2_f64.ln()).abs() < 1e-12);
        assert_eq!(metrics["accuracy"], 0.5);
        let mut meter = Meter::default();
        meter.take(&[1.0, 3.0], None, &Expected::Values(vec![0.0, 0.0]));
        assert_eq!(meter.metrics(), [("loss".to_owned(), 5.0)].into());
    }
}
