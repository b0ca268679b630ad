//! Models as structs over plain tensors, and the differentiable operations they are made of. `train` runs them over variables,
//! `infer` over frozen tensors: the same forward pass. No file, no loop, no optimizer here.

pub mod activation;
pub(crate) mod blocks;
pub mod mlp;
pub mod ops;

pub use mlp::Mlp;

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use mlctl_protocol::spec::ModelSpec;

/// Tensors by name, sorted: the order of everything that is written or hashed.
pub type Tensors = BTreeMap<String, Tensor>;

/// The seed and step that dropout draws from; a forward pass without it drops nothing.
#[derive(Debug, Clone, Copy)]
pub struct Dropping {
    /// The job's seed.
    pub seed: u64,
    /// Optimizer steps done so far.
    pub step: u64,
}

/// The name and shape of every tensor of a model, in the order of its layers. All are f32.
#[must_use]
pub fn layout(spec: &ModelSpec) -> Vec<(String, Vec<usize>)> {
    match spec {
        ModelSpec::Mlp { layers, .. } => mlp::layout(layers),
    }
}

/// Numbers in all tensors of a layout.
#[must_use]
pub fn values(layout: &[(String, Vec<usize>)]) -> u64 {
    let of = |shape: &[usize]| shape.iter().fold(1, |product: u64, n| product.saturating_mul(*n as u64));
    layout.iter().fold(0, |sum, (_, shape)| sum.saturating_add(of(shape)))
}

/// Fresh weights of a model.
///
/// # Errors
/// When the device refuses memory.
pub fn initial(spec: &ModelSpec, seed: u64, device: &Device) -> Result<Tensors> {
    match spec {
        ModelSpec::Mlp { layers, .. } => mlp::initial(layers, seed, device),
    }
}
