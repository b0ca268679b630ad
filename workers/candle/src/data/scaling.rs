//! Feature scaling: fitted on the train part alone, kept with the model, applied to every row that the model sees. All in f64, one
//! rounding to f32 at the end, in the order of the rows, so that equal data gives equal bits.

use mlctl_protocol::spec::Scaling;
use serde::{Deserialize, Serialize};

/// A column's scaled value is `(value - offset) * factor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scaler {
    /// How it was fitted.
    pub kind: Scaling,
    /// Per feature column; empty for [`Scaling::None`].
    pub offset: Vec<f64>,
    /// Per feature column, 0 for a column that was constant; empty for [`Scaling::None`].
    pub factor: Vec<f64>,
}

impl Scaler {
    /// The scaling that changes nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { kind: Scaling::None, offset: Vec::new(), factor: Vec::new() }
    }

    /// Fits to some rows of a row-major table.
    #[must_use]
    pub fn fit(kind: Scaling, features: &[f32], width: usize, rows: &[u32]) -> Self {
        let row = |number: &u32| {
            let start = *number as usize * width;
            &features[start..start + width]
        };
        let (offset, factor) = match kind {
            Scaling::None => return Self::none(),
            Scaling::Standard => standard(rows.iter().map(row), width),
            Scaling::MinMax => min_max(rows.iter().map(row), width),
        };
        Self { kind, offset, factor }
    }

    /// Scales a row in place; the number of the column whose value left the range of f32, if one did.
    pub fn apply(&self, row: &mut [f32]) -> Option<usize> {
        let mut lost = None;
        for (column, (value, (offset, factor))) in row.iter_mut().zip(self.offset.iter().zip(&self.factor)).enumerate()
        {
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
            let scaled = ((f64::from(*value) - offset) * factor) as f32;
            *value = scaled;
            if !scaled.is_finite() {
                lost = lost.or(Some(column));
            }
        }
        lost
    }

    /// Whether it fits rows of `width` features.
    #[must_use]
    pub fn fits(&self, width: usize) -> bool {
        let expected = if self.kind == Scaling::None { 0 } else { width };
        let finite = |values: &[f64]| values.len() == expected && values.iter().all(|value| value.is_finite());
        finite(&self.offset) && finite(&self.factor)
    }
}

/// Means, and the reciprocals of the population's standard deviations.
fn standard<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]> + Clone, width: usize) -> (Vec<f64>, Vec<f64>) {
    #[expect(clippy::cast_precision_loss, reason = "rows are counted in u32")]
    let count = rows.len().max(1) as f64;
    let mut mean = vec![0.0; width];
    for row in rows.clone() {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    mean.iter_mut().for_each(|sum| *sum /= count);
    let mut factor = vec![0.0; width];
    for row in rows {
        for ((sum, value), mean) in factor.iter_mut().zip(row).zip(&mean) {
            *sum += (f64::from(*value) - mean).powi(2);
        }
    }
    factor.iter_mut().for_each(|sum| *sum = reciprocal((*sum / count).sqrt()));
    (mean, factor)
}

/// Smallest values, and the reciprocals of the ranges.
fn min_max<'a>(rows: impl Iterator<Item = &'a [f32]>, width: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut least, mut most) = (vec![f32::INFINITY; width], vec![f32::NEG_INFINITY; width]);
    for row in rows {
        least.iter_mut().zip(row).for_each(|(least, value)| *least = least.min(*value));
        most.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(*value));
    }
    let factor = least.iter().zip(&most).map(|(least, most)| reciprocal(f64::from(*most) - f64::from(*least)));
    let factor = factor.collect();
    (least.into_iter().map(f64::from).collect(), factor)
}

/// 0 where there is nothing to divide by: a constant column becomes 0.
pub(super) fn reciprocal(spread: f64) -> f64 {
    let factor = 1.0 / spread;
    if factor.is_finite() { factor } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [f32; 8] = [1.0, 5.0, 3.0, 5.0, 1e6, -1e6, 5.0, 5.0];

    fn scaled(kind: Scaling, rows: &[u32]) -> Vec<f32> {
        let scaler = Scaler::fit(kind, &TABLE, 2, rows);
        assert!(scaler.fits(2));
        let mut table = TABLE.to_vec();
        table.chunks_mut(2).for_each(|row| assert_eq!(scaler.apply(row), None));
        table
    }

    #[test]
    fn only_the_train_rows_are_looked_at_and_a_constant_column_becomes_0() {
        let train = [0, 1, 3];
        // Column 0 holds 1, 3 and 5: mean 3, population deviation sqrt(8/3).
        let unit = (3.0_f64 / 8.0).sqrt();
        let expected = [-2.0 * unit, 0.0, (1e6 - 3.0) * unit, 2.0 * unit];
        let standard = scaled(Scaling::Standard, &train);
        for (value, expected) in standard.chunks(2).zip(expected) {
            assert!((f64::from(value[0]) - expected).abs() <= 1e-6 * expected.abs(), "{value:?}");
            assert_eq!(value[1], 0.0);
        }
        let min_max: Vec<f32> = scaled(Scaling::MinMax, &train).chunks(2).map(|row| row[0]).collect();
        assert_eq!(min_max, [0.0, 0.5, 249_999.75, 1.0]);
        assert_eq!(scaled(Scaling::None, &train), TABLE);
    }

    #[test]
    fn a_value_that_leaves_f32_is_told() {
        let scaler = Scaler { kind: Scaling::Standard, offset: vec![0.0, 0.0], factor: vec![1.0, 1e30] };
        assert_eq!(scaler.apply(&mut [1.0, 1e30]), Some(1));
        assert!(!scaler.fits(3));
    }

    #[test]
    fn it_comes_back_from_json_to_the_bit() {
        let features: Vec<f32> = (0..300_u16).map(|i| (f32::from(i) * 0.37).sin()).collect();
        let rows: Vec<u32> = (0..100).collect();
        let scaler = Scaler::fit(Scaling::Standard, &features, 3, &rows);
        let back: Scaler = serde_json::from_str(&serde_json::to_string(&scaler).unwrap()).unwrap();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&back.offset), bits(&back.factor)), (bits(&scaler.offset), bits(&scaler.factor)));
    }
}
