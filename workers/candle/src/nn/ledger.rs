//! Gradients that come about beside candle's graph. An operation of candle has three inputs at most, and the walk back costs two passes over memory for each; a
//! whole layer as one operation has its weights to itself, writes their gradients down here, and they are put to the others after the walk.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor, backprop::GradStore};

/// What was written down since the last walk. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Vec<(Tensor, Tensor)>>>);

impl Ledger {
    /// Writes a gradient down.
    pub(super) fn add(&self, of: &Tensor, values: Vec<f32>) -> Result<()> {
        let gradient = Tensor::from_vec(values, of.shape(), of.device())?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((of.clone(), gradient));
        Ok(())
    }

    /// Puts everything to the gradients of a walk, added where there is one already.
    pub(super) fn gather(&self, store: &mut GradStore) -> Result<()> {
        for (of, gradient) in std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            let sum = match store.remove(&of) {
                Some(other) => (other + gradient)?,
                None => gradient,
            };
            store.insert(&of, sum);
        }
        Ok(())
    }
}
