//! An optimizer's running averages, and their form in a checkpoint: named tensors.

use bytes::Bytes;
use candle_core::{DType, Result, Tensor, Var};
use safetensors::Dtype;

use super::snapshot::{self, Spares};
use crate::{bundle::tensors::Raw, nn::Tensors};

/// The tensor that counts updates.
pub(super) const STEP: &str = "step";

/// The running averages of one parameter, each as long as it.
#[derive(Debug)]
pub(super) enum Moments {
    /// In the process's memory, updated in one pass.
    Host(Vec<Vec<f32>>),
    /// On an accelerator.
    Device(Vec<Tensor>),
}

impl Moments {
    /// Averages of nothing.
    pub(super) fn zeros(kept: &[&str], var: &Var) -> Result<Self> {
        if var.device().is_cpu() {
            return Ok(Self::Host(kept.iter().map(|_| vec![0.0; var.elem_count()]).collect()));
        }
        kept.iter().map(|_| var.zeros_like()).collect::<Result<_>>().map(Self::Device)
    }

    /// Adds an average that begins as what a parameter is now.
    pub(super) fn push(&mut self, var: &Var) -> Result<()> {
        match self {
            Self::Host(averages) => averages.push(var.flatten_all()?.to_vec1()?),
            Self::Device(averages) => averages.push(var.as_detached_tensor().copy()?),
        }
        Ok(())
    }

    /// The last average, of its own memory and of its parameter's shape.
    pub(super) fn last(&self, var: &Var) -> Result<Tensor> {
        match self {
            Self::Host(averages) => {
                let values = averages.last().map(Vec::as_slice).unwrap_or_default();
                Tensor::from_slice(values, var.shape(), var.device())
            }
            Self::Device(averages) => {
                averages.last().map_or_else(|| candle_core::bail!("there is no average"), Tensor::copy)
            }
        }
    }

    /// The bytes of a copy of each.
    pub(super) fn copied(&self, spares: &Spares) -> Result<Vec<Bytes>> {
        match self {
            Self::Host(averages) => Ok(averages.iter().map(|values| spares.lend(spares.copy(values))).collect()),
            Self::Device(averages) => averages.iter().map(|tensor| snapshot::copied(tensor, spares)).collect(),
        }
    }

    /// Takes a parameter's averages out of a state; `None`, with a sentence each in `problems`, when they are not there or not fit.
    pub(super) fn take(
        kept: &[&str],
        (name, var): (&str, &Var),
        tensors: &mut Tensors,
        problems: &mut Vec<String>,
    ) -> Option<Self> {
        let mut averages = Vec::new();
        for average in kept {
            let name = format!("{name}.{average}");
            match tensors.remove(&name) {
                None => problems.push(format!("the optimizer's tensor {name:?} is missing")),
                Some(tensor) if tensor.shape() != var.shape() || tensor.dtype() != DType::F32 => {
                    let (found, shape) = (tensor.dtype(), tensor.dims());
                    let wanted = var.dims();
                    problems.push(format!(
                        "the optimizer's tensor {name:?} is {found:?} of shape {shape:?} where f32 of shape {wanted:?} is needed"
                    ));
                }
                Some(tensor) => averages.push(tensor),
            }
        }
        if averages.len() < kept.len() {
            return None;
        }
        let moments = if var.device().is_cpu() {
            averages.iter().map(|t| t.flatten_all()?.to_vec1()).collect::<Result<_>>().map(Self::Host)
        } else {
            averages.iter().map(|t| t.to_device(var.device())).collect::<Result<_>>().map(Self::Device)
        };
        moments.map_err(|e| problems.push(format!("the optimizer's state of {name:?} cannot be loaded: {e}"))).ok()
    }
}

/// The count as a tensor.
pub(super) fn step_raw(step: u64) -> Raw {
    let bytes = i64::try_from(step).unwrap_or(i64::MAX).to_le_bytes().to_vec().into();
    Raw { name: STEP.to_owned(), dtype: Dtype::I64, shape: Vec::new(), bytes }
}

/// Takes the count out of a state.
pub(super) fn take_step(tensors: &mut Tensors, problems: &mut Vec<String>) -> Option<u64> {
    let step = tensors.remove(STEP).and_then(|t| t.to_scalar::<i64>().ok()).and_then(|step| u64::try_from(step).ok());
    if step.is_none() {
        problems.push(format!("the optimizer's tensor {STEP:?} is missing or not a count"));
    }
    step
}
