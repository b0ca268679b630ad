//! A model and its optimizer at one moment, as what a checkpoint writes: named tensors whose bytes nothing changes any more. Their memory is that in which training has
//! worked, or a copy; when the last of a tensor's bytes is let go, it is kept for the next snapshot, since memory that has been used is much faster to write to than fresh memory.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};
use safetensors::Dtype;

use super::{Parameter, ema};
use crate::bundle::tensors::Raw;

/// What training stood at after a step.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Weights; where an average of them is kept, that.
    pub model: Vec<Raw>,
    /// The optimizer's state: `step`, and the running averages as `<parameter>.<average>`, with PyTorch's names for them. Weights whose average is
    /// the model are here, as `<parameter>.weights`.
    pub optimizer: Vec<Raw>,
}

impl Snapshot {
    /// One after so many updates, of no parameter yet.
    pub(super) fn at(step: u64) -> Self {
        Self { model: Vec::new(), optimizer: vec![super::state::step_raw(step)] }
    }

    pub(super) fn add<'a>(
        &mut self,
        (name, var): &Parameter,
        weights: Bytes,
        averages: impl Iterator<Item = (&'a &'static str, Bytes)>,
    ) {
        let raw = |name: String, bytes| Raw { name, dtype: Dtype::F32, shape: var.dims().to_vec(), bytes };
        let mut model = weights;
        for (average, bytes) in averages {
            if *average == ema::NAME {
                let weights = std::mem::replace(&mut model, bytes);
                self.optimizer.push(raw(format!("{name}.{}", ema::WEIGHTS), weights));
            } else {
                self.optimizer.push(raw(format!("{name}.{average}"), bytes));
            }
        }
        self.model.push(raw(name.clone(), model));
    }
}

/// Buffers that no snapshot holds any more. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Spares(Arc<Mutex<Vec<Vec<f32>>>>);

impl Spares {
    /// A buffer of `len` values that mean nothing.
    pub(super) fn take(&self, len: usize) -> Vec<f32> {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spares.iter().position(|spare| spare.len() == len);
        found.map_or_else(|| vec![0.0; len], |place| spares.swap_remove(place))
    }

    /// A copy of some values.
    pub(super) fn copy(&self, values: &[f32]) -> Vec<f32> {
        let mut copy = self.take(values.len());
        crate::nn::blocks::copy(&mut copy, values);
        copy
    }

    /// The bytes of some values, which come back as a spare when nobody holds them any more.
    pub(super) fn lend(&self, values: Vec<f32>) -> Bytes {
        Bytes::from_owner(Lent { values, home: self.clone() })
    }
}

struct Lent {
    values: Vec<f32>,
    home: Spares,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.values)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(values);
    }
}

/// A tensor that nothing changes, as a file holds it.
///
/// # Errors
/// When the device fails.
pub fn fixed(name: &str, tensor: &Tensor) -> Result<Raw> {
    let bytes = copied(tensor, &Spares::default())?;
    Ok(Raw { name: name.to_owned(), dtype: Dtype::F32, shape: tensor.dims().to_vec(), bytes })
}

/// The bytes of a tensor's values as they are now, over a spare.
pub(super) fn copied(tensor: &Tensor, spares: &Spares) -> Result<Bytes> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Ok(spares.lend(spares.copy(&values[start..end])))
        }
        _ => bail!("parameters are not f32 values"),
    }
}
