//! The end of the transformer as one operation: the last normalisation, and the logits of each token.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{
    super::{
        ledger::Ledger,
        matrix::{storage, values},
        ops::f32s,
    },
    parts::{Held, Linear, Normalised},
};

/// The tensors of the end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) norm: Normalised,
    pub(super) head: Linear,
}

/// Logits (rows, vocabulary) of rows (rows, width).
pub(super) fn forward(end: &Arc<End>, x: &Tensor, ledger: &Ledger) -> Result<Tensor> {
    let mut all = end.norm.tensors().chain(end.head.tensors());
    let anchor = all.find(|tensor| tensor.track_op()).unwrap_or(&end.norm.weight);
    let operation = Operation { end: Arc::clone(end), wants_input: x.track_op(), ledger: ledger.clone() };
    x.contiguous()?.apply_op2(anchor, operation)
}

struct Operation {
    end: Arc<End>,
    wants_input: bool,
    ledger: Ledger,
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        "logits"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = x_layout.shape().dims2()?;
        let normed = self.end.norm.forward(f32s(x, x_layout)?)?;
        let (_, outputs) = self.end.head.sizes()?;
        Ok((self.end.head.forward(&normed, rows)?, (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Self { end, wants_input, ledger } = self;
        let (grad, rows) = (grad.contiguous()?, Held::new(x));
        let rows = rows.values()?;
        let grad = storage(Held::new(&grad).values()?.to_vec());
        end.head.learn(&end.norm.forward(rows)?, &grad, ledger)?;
        let to_normed = end.head.to_input(&grad)?;
        let mut to = wants_input.then(|| vec![0.0; rows.len()]);
        end.norm.backward(rows, values(&to_normed)?, ledger, to.as_deref_mut())?;
        let to_input = to.map(|values| Tensor::from_vec(values, x.shape(), x.device())).transpose()?;
        Ok((to_input, None))
    }
}
