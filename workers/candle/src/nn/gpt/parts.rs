//! What a layer is made of, over tensors that are trained or not: normalisations and linear layers, with their passes on the CPU.

use std::ops::Deref;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use mlctl_protocol::spec::Norm;

use super::super::{
    blocks::{for_blocks, whole_rows},
    ledger::Ledger,
    matrix::{View, add_here, into_values, storage, sum_rows, values, values_mut},
    norm::Normal,
    ops::f32s,
};

/// A tensor's memory, for as long as it is looked at: candle's guard is of a type that has no name outside.
pub(super) struct Held<'a>(Box<dyn Deref<Target = Storage> + 'a>, &'a Layout);

impl<'a> Held<'a> {
    pub(super) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self(Box::new(storage), layout)
    }

    fn storage(&self) -> Result<&CpuStorage> {
        match &**self.0 {
            Storage::Cpu(storage) => Ok(storage),
            _ => bail!("a tensor is on another device"),
        }
    }

    pub(super) fn values(&self) -> Result<&[f32]> {
        f32s(self.storage()?, self.1)
    }
}

/// A normalisation.
#[derive(Debug)]
pub(super) struct Normalised {
    pub(super) kind: Norm,
    pub(super) eps: f64,
    /// (width) each.
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl Normalised {
    /// Rows from rows, (rows, width).
    pub(super) fn forward(&self, x: &[f32]) -> Result<CpuStorage> {
        self.with(|normal| storage(normal.forward(x)))
    }

    /// Adds the gradient of the rows that came in to `to`, and writes down those of what is learnt.
    pub(super) fn backward(&self, x: &[f32], grad: &[f32], ledger: &Ledger, to: Option<&mut [f32]>) -> Result<()> {
        let width = self.weight.elem_count();
        if let Some(to) = to {
            self.with(|normal| normal.backward(x, grad, to))?;
        }
        if self.weight.track_op() {
            ledger.add(&self.weight, self.with(|normal| normal.to_weight(x, grad))?)?;
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.track_op()) {
            ledger.add(bias, sum_of_rows(grad, width))?;
        }
        Ok(())
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.weight).chain(&self.bias)
    }

    fn with<T>(&self, work: impl FnOnce(Normal<'_>) -> T) -> Result<T> {
        let (weight, bias) = (Held::new(&self.weight), self.bias.as_ref().map(Held::new));
        let bias = bias.as_ref().map(Held::values).transpose()?;
        #[expect(clippy::cast_possible_truncation, reason = "arithmetic is in f32")]
        let eps = self.eps as f32;
        Ok(work(Normal { kind: self.kind, eps, weight: weight.values()?, bias }))
    }
}

/// One or more linear layers of the same inputs, whose outputs stand side by side.
#[derive(Debug)]
pub(super) struct Linear {
    /// Weight and bias of each.
    pub(super) layers: Vec<(Tensor, Option<Tensor>)>,
    /// Whether weights are (in, out), as GPT-2 has them, and not (out, in).
    pub(super) inputs_first: bool,
}

/// A linear layer's weights as one matrix.
enum Weights<'a> {
    Held(Held<'a>),
    Joined(CpuStorage),
}

impl Linear {
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.layers.iter().flat_map(|(weight, bias)| std::iter::once(weight).chain(bias))
    }

    /// Inputs, and outputs of all.
    pub(super) fn sizes(&self) -> Result<(usize, usize)> {
        let mut sizes = (0, 0);
        for (weight, _) in &self.layers {
            let (first, second) = weight.dims2()?;
            let (inputs, outputs) = if self.inputs_first { (first, second) } else { (second, first) };
            sizes = (inputs, sizes.1 + outputs);
        }
        Ok(sizes)
    }

    /// Rows of outputs from rows of inputs.
    pub(super) fn forward(&self, x: &CpuStorage, rows: usize) -> Result<CpuStorage> {
        let (inputs, outputs) = self.sizes()?;
        let weights = self.weights()?;
        let mut y = View::new(x, 0, rows, inputs).times(self.view(&weights)?)?;
        if self.layers.iter().any(|(_, bias)| bias.is_some()) {
            let mut all = Vec::with_capacity(outputs);
            for (weight, bias) in &self.layers {
                match bias {
                    Some(bias) => all.extend_from_slice(Held::new(bias).values()?),
                    None => all.resize(all.len() + self.outputs(weight)?, 0.0),
                }
            }
            for_blocks(values_mut(&mut y)?, whole_rows(outputs), |_, block| {
                block.chunks_exact_mut(outputs).for_each(|row| add_here(row, &all));
            });
        }
        Ok(y)
    }

    /// The gradient of the rows that came in, by that of the rows that came out.
    pub(super) fn to_input(&self, grad: &CpuStorage) -> Result<CpuStorage> {
        let (_, outputs) = self.sizes()?;
        let rows = values(grad)?.len() / outputs;
        let weights = self.weights()?;
        View::new(grad, 0, rows, outputs).times(self.view(&weights)?.t())
    }

    /// Writes the gradients of what is learnt down.
    pub(super) fn learn(&self, x: &CpuStorage, grad: &CpuStorage, ledger: &Ledger) -> Result<()> {
        let (inputs, outputs) = self.sizes()?;
        let rows = values(grad)?.len() / outputs;
        if self.layers.iter().any(|(weight, _)| weight.track_op()) {
            let (x, grad) = (View::new(x, 0, rows, inputs), View::new(grad, 0, rows, outputs));
            let product = if self.inputs_first { x.t().times(grad)? } else { grad.t().times(x)? };
            self.write_down(into_values(product)?, ledger)?;
        }
        if self.layers.iter().any(|(_, bias)| bias.as_ref().is_some_and(Tensor::track_op)) {
            let (sums, mut start) = (sum_of_rows(values(grad)?, outputs), 0);
            for (weight, bias) in &self.layers {
                let end = start + self.outputs(weight)?;
                if let Some(bias) = bias.as_ref().filter(|bias| bias.track_op()) {
                    ledger.add(bias, sums[start..end].to_vec())?;
                }
                start = end;
            }
        }
        Ok(())
    }

    /// Writes the gradient of all weights down, to each its own.
    fn write_down(&self, product: Vec<f32>, ledger: &Ledger) -> Result<()> {
        if let [(weight, _)] = self.layers.as_slice() {
            return ledger.add(weight, product);
        }
        let mut rest = product.as_slice();
        for (weight, _) in &self.layers {
            let (own, others) = rest.split_at(weight.elem_count());
            if weight.track_op() {
                ledger.add(weight, own.to_vec())?;
            }
            rest = others;
        }
        Ok(())
    }

    fn outputs(&self, weight: &Tensor) -> Result<usize> {
        weight.dim(usize::from(self.inputs_first))
    }

    fn weights(&self) -> Result<Weights<'_>> {
        if let [(weight, _)] = self.layers.as_slice() {
            return Ok(Weights::Held(Held::new(weight)));
        }
        let mut joined = Vec::new();
        for (weight, _) in &self.layers {
            joined.extend_from_slice(Held::new(weight).values()?);
        }
        Ok(Weights::Joined(storage(joined)))
    }

    /// (in, out).
    fn view<'a>(&self, weights: &'a Weights<'_>) -> Result<View<'a>> {
        let (inputs, outputs) = self.sizes()?;
        let (storage, start) = match weights {
            Weights::Held(held) => (held.storage()?, held.1.start_offset()),
            Weights::Joined(joined) => (joined, 0),
        };
        Ok(if self.inputs_first {
            View::new(storage, start, inputs, outputs)
        } else {
            View::new(storage, start, outputs, inputs).t()
        })
    }
}

/// The sum of each column.
fn sum_of_rows(values: &[f32], columns: usize) -> Vec<f32> {
    sum_rows(values.len() / columns.max(1), columns, |row, sums| add_here(sums, &values[row * columns..]))
}
