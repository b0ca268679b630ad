//! An exponential moving average of the weights, as PyTorch's `AveragedModel` with `get_ema_multi_avg_fn` keeps one: it begins as the weights after the first update. In a checkpoint
//! the average is the model, since it is what was measured, and the weights that training goes on with are of the optimizer's state.

use candle_core::{Result, Tensor};

use crate::nn::{
    Tensors,
    blocks::{BLOCK, for_blocks},
};

/// What the average is called among a parameter's running averages.
pub(super) const NAME: &str = "ema";

/// What the weights are called in the optimizer's state, where the average is the model.
pub(super) const WEIGHTS: &str = "weights";

/// The share of the weights after update number `step`, from 1, in their average, of which `decay` stays.
#[expect(clippy::cast_possible_truncation, reason = "scalars are rounded to f32 once, as PyTorch does")]
pub(super) fn fresh(decay: f64, step: u64) -> f32 {
    if step <= 1 { 1.0 } else { (1.0 - decay) as f32 }
}

/// Takes weights into their average, in place or from what it was before.
pub(super) fn update((average, was): (&mut [f32], Option<&[f32]>), weights: &[f32], fresh: f32) {
    for_blocks(average, BLOCK, |start, block| {
        let weights = &weights[start..start + block.len()];
        if fresh == 1.0 {
            block.copy_from_slice(weights);
            return;
        }
        if let Some(was) = was {
            block.copy_from_slice(&was[start..start + block.len()]);
        }
        for (average, weight) in block.iter_mut().zip(weights) {
            *average += fresh * (*weight - *average);
        }
    });
}

/// [`update`] of candle's own operations.
pub(super) fn composed(average: &Tensor, weights: &Tensor, fresh: f32) -> Result<Tensor> {
    if fresh == 1.0 {
        return weights.copy();
    }
    average + (weights - average)?.affine(f64::from(fresh), 0.0)?
}

/// Turns what a checkpoint has of a run with an average into what training goes on with: the weights to the model, and the average to the optimizer's state.
///
/// # Errors
/// A sentence for each tensor whose weights are of another shape or type.
pub fn to_training(model: &mut Tensors, optimizer: &mut Tensors) -> std::result::Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for (name, tensor) in model.iter_mut() {
        // Frozen tensors have none. One that is missing shows when the optimizer's state is taken over: its average is missing too.
        let Some(weights) = optimizer.remove(&format!("{name}.{WEIGHTS}")) else { continue };
        if weights.shape() != tensor.shape() || weights.dtype() != tensor.dtype() {
            let (found, wanted) = (weights.dims(), tensor.dims());
            problems
                .push(format!("the weights of {name:?} are of shape {found:?} where their average is of {wanted:?}"));
            continue;
        }
        optimizer.insert(format!("{name}.{NAME}"), std::mem::replace(tensor, weights));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
