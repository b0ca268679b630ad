//! Gradient clipping by value, and by the norm of all gradients together, as PyTorch's `clip_grad_value_` and `clip_grad_norm_` do it. The norm is summed in f64 over fixed blocks, so
//! that threads cannot change it.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, backprop::GradStore, bail};

use super::Parameter;
use crate::nn::{
    blocks::{BLOCK, for_blocks, sum_blocks},
    ops::f32s,
};

/// Added to the norm before it divides.
const EPS: f64 = 1e-6;

/// Cuts every value of the gradients to between `-limit` and `limit`. What is not a number stays so.
///
/// # Errors
/// When a gradient is missing, and when the device refuses memory.
#[expect(clippy::cast_possible_truncation, reason = "scalars are rounded to f32 once, as PyTorch does")]
pub fn values(parameters: &[Parameter], gradients: &mut GradStore, limit: f64) -> Result<()> {
    for (name, var) in parameters {
        let Some(gradient) = gradients.get(var) else { bail!("no gradient reached {name:?}") };
        let cut = if gradient.device().is_cpu() {
            let gradient = gradient.contiguous()?;
            gradient.inplace_op1(&Clamp(limit as f32))?;
            gradient
        } else {
            gradient.clamp(-limit, limit)?
        };
        gradients.insert(var, cut);
    }
    Ok(())
}

/// Cuts values in place: where a gradient shares its memory with another's, it is cut twice to the same.
struct Clamp(f32);

impl InplaceOp1 for Clamp {
    fn name(&self) -> &'static str {
        "clip-values"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("gradients are not contiguous f32 values");
        };
        let limit = self.0;
        for_blocks(&mut values[start..end], BLOCK, |_, block| {
            block.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
        });
        Ok(())
    }
}

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
    fn values_are_cut_and_what_is_no_number_shows() {
        let var = candle_core::Var::zeros(5, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let slopes = candle_core::Tensor::new(&[-3f32, -0.5, 0.25, f32::INFINITY, f32::NAN], var.device()).unwrap();
        let mut gradients = (var.as_tensor() * slopes).unwrap().sum_all().unwrap().backward().unwrap();
        let parameters = [("w".to_owned(), var)];
        values(&parameters, &mut gradients, 0.5).unwrap();
        let cut: Vec<f32> = gradients.get(&parameters[0].1).unwrap().to_vec1().unwrap();
        assert!(cut[..4] == [-0.5, -0.5, 0.25, 0.5] && cut[4].is_nan(), "{cut:?}");
    }

    #[test]
    fn a_norm_below_the_limit_changes_nothing_and_none_hides() {
        assert_eq!(factor(0.5, 1.0), 1.0);
        assert_eq!(factor(0.0, 1.0), 1.0);
        assert!((factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(factor(f64::INFINITY, 1.0), 0.0);
        assert!(factor(f64::NAN, 1.0).is_nan());
    }
}
