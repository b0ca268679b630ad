//! The best epoch so far: when one is, and what is kept of it. Beside the optimizer's state in a checkpoint, as `<parameter>.best`, so that a resumed run publishes the same.

use candle_core::{DType, Device, Tensor};
use mlctl_protocol::{progress::Metrics, spec::Select};

use super::{
    evaluate::put,
    learner::Learner,
    state::{Best, RunState},
};
use crate::{bundle::tensors::Raw, fault::Fault, nn::Tensors, optim::snapshot};

/// What the names of its tensors end with.
const SUFFIX: &str = ".best";

impl Learner {
    /// Takes in how an epoch went, of which the loss and the metrics are: keeps what the training has made by then when that is the best so far.
    pub(super) fn consider(&mut self, select: Select, loss: f64, metrics: &Metrics) -> Result<(), Fault> {
        let value = match select {
            Select::Last => return Ok(()),
            Select::Best => Some(loss),
            Select::BestAccuracy => metrics.get("val_accuracy").map(|accuracy| -accuracy),
        };
        let Some(value) =
            value.filter(|value| self.run.best.as_ref().map_or(!value.is_nan(), |best| *value < best.value))
        else {
            return Ok(());
        };
        let keep = |(name, tensor): (String, Tensor)| snapshot::fixed(&format!("{name}{SUFFIX}"), &tensor);
        self.best = self.optimizer.product()?.into_iter().map(keep).collect::<candle_core::Result<_>>()?;
        let (step, epoch, metrics) = (self.run.step, self.run.epoch, metrics.clone());
        self.run.best = Some(Best { value, step, epoch, metrics });
        Ok(())
    }

    /// Has the best epoch be what is measured and handed over from now on, and its metrics the run's. Answers with the step of what that is.
    pub(super) fn settle(&mut self) -> Result<u64, Fault> {
        let Some(best) = self.run.best.clone() else { return Ok(self.run.step) };
        self.run.metrics.extend(best.metrics);
        #[expect(clippy::cast_precision_loss, reason = "epochs are far below 2^52")]
        put(&mut self.run.metrics, "best_epoch", best.epoch as f64);
        let device = self.optimizer.parameters().first().map_or(Device::Cpu, |(_, var)| var.device().clone());
        let there = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(&device)?));
        let made = tensors(&self.best)?.into_iter().map(there).collect::<candle_core::Result<_>>()?;
        self.measure_with(made)?;
        Ok(best.step)
    }
}

/// What was kept, as tensors by the names of their parameters, on the CPU.
///
/// # Errors
/// When they are not what they say: a bug.
pub(super) fn tensors(kept: &[Raw]) -> candle_core::Result<Vec<(String, Tensor)>> {
    let one = |Raw { name, shape, bytes, .. }: &Raw| {
        let tensor = Tensor::from_raw_buffer(bytes, DType::F32, shape, &Device::Cpu)?;
        Ok((name.strip_suffix(SUFFIX).unwrap_or(name).to_owned(), tensor))
    };
    kept.iter().map(one).collect()
}

/// Takes what was kept out of a checkpoint's optimizer state.
///
/// # Errors
/// A sentence when a run with a best epoch lacks a tensor of it, or has one of another shape or type.
pub(super) fn take(run: &RunState, model: &Tensors, optimizer: &mut Tensors) -> Result<Vec<Raw>, String> {
    if run.best.is_none() {
        return Ok(Vec::new());
    }
    let mut kept = Vec::new();
    for (name, tensor) in model {
        let name = format!("{name}{SUFFIX}");
        // Frozen tensors have none.
        let Some(best) = optimizer.remove(&name) else { continue };
        if best.shape() != tensor.shape() || best.dtype() != tensor.dtype() {
            return Err(format!("{name:?} is of shape {:?} where {:?} is needed", best.dims(), tensor.dims()));
        }
        kept.push(snapshot::fixed(&name, &best).map_err(|error| error.to_string())?);
    }
    if kept.is_empty() { Err("the weights of the best epoch are missing".into()) } else { Ok(kept) }
}
