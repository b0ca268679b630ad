//! Gradient clipping by the norm of all gradients together, as PyTorch's `clip_grad_norm_` does it. The norm is summed in f64 over fixed blocks, so
//! that threads cannot change it.

use candle_core::{Result, Storage, backprop::GradStore, bail};

use super::Parameter;
use crate::nn::{
    blocks::{BLOCK, sum_blocks},
    ops::f32s,
};

/// Added to the norm before it divides.
const EPS: f64 = 1e-6;

/// The Euclidean norm of all gradients as one vector.
///
/// # Errors
/// When a gradient is missing, and when the device refuses memory.
pub fn norm(parameters: &[Parameter], gradients: &GradStore) -> Result<f64> {
    let mut sum = 0.0;
    for (name, var) in parameters {
        let Some(gradient) = gradients.get(var) else { bail!("no gradient reached {name:?}") };
        let gradient = gradient.contiguous()?;
        sum += match &*gradient.storage_and_layout().0 {
            Storage::Cpu(storage) => {
                let square = |_, block: &[f32]| block.iter().map(|value| f64::from(*value).powi(2)).sum();
                sum_blocks(f32s(storage, gradient.layout())?, BLOCK, square)
            }
            _ => f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?),
        };
    }
    Ok(sum.sqrt())
}

/// What gradients of a norm are multiplied by so that it is `max_norm` at most.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "scalars are rounded to f32 once, as PyTorch does")]
pub fn factor(norm: f64, max_norm: f64) -> f32 {
    // Not min(): a norm that is not a number must show in the weights.
    let factor = (max_norm / (norm + EPS)) as f32;
    if factor > 1.0 { 1.0 } else { factor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_below_the_limit_changes_nothing_and_none_hides() {
        assert_eq!(factor(0.5, 1.0), 1.0);
        assert_eq!(factor(0.0, 1.0), 1.0);
        assert!((factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(factor(f64::INFINITY, 1.0), 0.0);
        assert!(factor(f64::NAN, 1.0).is_nan());
    }
}
