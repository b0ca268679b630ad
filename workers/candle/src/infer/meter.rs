//! How good predictions were on the rows that have a label: the loss the model was trained on, and accuracy. Sums in f64, in the order
//! of the rows.

use mlctl_protocol::progress::Metrics;

use super::input::Expected;
use crate::loss::log_sum_exp;

/// Sums over the rows with a label.
#[derive(Debug, Default)]
pub(super) struct Meter {
    rows: u64,
    loss: f64,
    classes: bool,
    correct: u64,
}

impl Meter {
    /// Takes in a row's outputs, the class predicted where it is one, and the label.
    pub(super) fn take(&mut self, outputs: &[f32], predicted: Option<u32>, expected: &Expected) {
        self.rows += 1;
        match expected {
            Expected::Class(class) => {
                self.classes = true;
                self.correct += u64::from(predicted == Some(*class));
                let logit = outputs.get(*class as usize).copied().unwrap_or(f32::NEG_INFINITY);
                self.loss += log_sum_exp(outputs) - f64::from(logit);
            }
            Expected::Values(values) => {
                let sum: f64 = outputs.iter().zip(values).map(|(y, t)| (f64::from(*y) - f64::from(*t)).powi(2)).sum();
                self.loss += ratio(sum, values.len() as u64);
            }
        }
    }

    /// `loss`, and `accuracy` where there are classes; nothing without labels.
    pub(super) fn metrics(&self) -> Metrics {
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
