//! What stands between the linear layers of a feed-forward network: GELU, its approximation by tanh, or SwiGLU (Shazeer 2020). One pass over memory forward; the
//! backward pass makes the values again beside their gradients, so that they need not be kept.

use mlctl_protocol::spec::FeedForward;
use rayon::prelude::*;

use super::{
    blocks::whole_rows,
    math::{gelu, gelu_tanh, silu},
};

/// Rows of `hidden` values from the rows before.
pub(super) fn forward(kind: FeedForward, x: &[f32], hidden: usize) -> Vec<f32> {
    match kind {
        FeedForward::Gelu => each(x, hidden, |x| gelu(x).0),
        FeedForward::GeluTanh => each(x, hidden, |x| gelu_tanh(x).0),
        FeedForward::Swiglu => {
            let mut out = vec![0.0; x.len() / 2];
            let block = whole_rows(hidden);
            out.par_chunks_mut(block).zip(x.par_chunks(2 * block)).for_each(|(out, x)| {
                for (out, x) in out.chunks_exact_mut(hidden).zip(x.chunks_exact(2 * hidden)) {
                    let (gate, up) = x.split_at(hidden);
                    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                        *out = silu(*gate).0 * up;
                    }
                }
            });
            out
        }
    }
}

/// The same rows again, and the gradient of the rows before, where `grad` is theirs.
pub(super) fn backward(kind: FeedForward, x: &[f32], hidden: usize, grad: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
    match kind {
        FeedForward::Gelu => each_back(x, hidden, grad, gelu),
        FeedForward::GeluTanh => each_back(x, hidden, grad, gelu_tanh),
        FeedForward::Swiglu => {
            let (mut out, mut to) = (vec![0.0; grad.len()], vec![0.0; x.len()]);
            let block = whole_rows(hidden);
            let parts = out.par_chunks_mut(block).zip(to.par_chunks_mut(2 * block));
            parts.zip(x.par_chunks(2 * block)).zip(grad.par_chunks(block)).for_each(|(((out, to), x), grad)| {
                let rows = out.chunks_exact_mut(hidden).zip(to.chunks_exact_mut(2 * hidden));
                for (((out, to), x), grad) in rows.zip(x.chunks_exact(2 * hidden)).zip(grad.chunks_exact(hidden)) {
                    let ((gate, up), (to_gate, to_up)) = (x.split_at(hidden), to.split_at_mut(hidden));
                    let given = gate.iter().zip(up).zip(grad);
                    for (((out, to_gate), to_up), ((gate, up), grad)) in
                        out.iter_mut().zip(to_gate).zip(to_up).zip(given)
                    {
                        let (value, slope) = silu(*gate);
                        *out = value * up;
                        *to_gate = grad * up * slope;
                        *to_up = grad * value;
                    }
                }
            });
            (out, to)
        }
    }
}

fn each(x: &[f32], hidden: usize, of: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let (mut out, block) = (vec![0.0; x.len()], whole_rows(hidden));
    out.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = of(*x));
    });
    out
}

fn each_back(
    x: &[f32],
    hidden: usize,
    mut grad: Vec<f32>,
    of: impl Fn(f32) -> (f32, f32) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let (mut out, block) = (vec![0.0; x.len()], whole_rows(hidden));
    out.par_chunks_mut(block).zip(grad.par_chunks_mut(block)).zip(x.par_chunks(block)).for_each(|((out, grad), x)| {
        for ((out, grad), x) in out.iter_mut().zip(grad).zip(x) {
            let (value, slope) = of(*x);
            *out = value;
            *grad *= slope;
        }
    });
    (out, grad)
}
