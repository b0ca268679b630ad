//! Normalisation over the values of each token: LayerNorm (Ba, Kiros, Hinton 2016) and RMSNorm (Zhang, Sennrich 2019), as PyTorch's `nn.LayerNorm` and
//! `nn.RMSNorm`. What is known of a row is computed again in the backward pass, which costs less than to keep it.

use mlctl_protocol::spec::Norm;

use super::{
    blocks::{for_blocks, whole_rows},
    math::{dot, sum, sum_of},
    matrix::sum_rows,
};

/// A normalisation and what is learnt of it.
#[derive(Clone, Copy)]
pub(super) struct Normal<'a> {
    pub(super) kind: Norm,
    pub(super) eps: f32,
    /// (width): what each value is multiplied with.
    pub(super) weight: &'a [f32],
    /// (width): what is added then.
    pub(super) bias: Option<&'a [f32]>,
}

impl Normal<'_> {
    /// Rows that are normalised, scaled and moved: (rows, width) from (rows, width).
    pub(super) fn forward(self, x: &[f32]) -> Vec<f32> {
        let width = self.weight.len();
        let mut out = x.to_vec();
        for_blocks(&mut out, whole_rows(width), |_, block| {
            for row in block.chunks_exact_mut(width) {
                let (mean, factor) = self.known(row);
                match self.bias {
                    Some(bias) => {
                        for ((value, weight), bias) in row.iter_mut().zip(self.weight).zip(bias) {
                            *value = (*value - mean) * factor * weight + bias;
                        }
                    }
                    None => {
                        for (value, weight) in row.iter_mut().zip(self.weight) {
                            *value = (*value - mean) * factor * weight;
                        }
                    }
                }
            }
        });
        out
    }

    /// Adds the gradient of what came in, `x`, to `to`, where `grad` is that of what came out.
    pub(super) fn backward(self, x: &[f32], grad: &[f32], to: &mut [f32]) {
        let width = self.weight.len();
        let count = length(width);
        for_blocks(to, whole_rows(width), |start, block| {
            let rows = x[start..].chunks_exact(width).zip(grad[start..].chunks_exact(width));
            let mut normed = vec![0.0; width];
            let mut slope = vec![0.0; width];
            for (to, (x, grad)) in block.chunks_exact_mut(width).zip(rows) {
                let (mean, factor) = self.known(x);
                for (normed, x) in normed.iter_mut().zip(x) {
                    *normed = (x - mean) * factor;
                }
                for ((slope, grad), weight) in slope.iter_mut().zip(grad).zip(self.weight) {
                    *slope = grad * weight;
                }
                let along = dot(&slope, &normed) / count;
                let level = if self.kind == Norm::Layer { sum(&slope) / count } else { 0.0 };
                for ((to, slope), normed) in to.iter_mut().zip(&slope).zip(&normed) {
                    *to += factor * (slope - level - normed * along);
                }
            }
        });
    }

    /// The gradient of the weight.
    pub(super) fn to_weight(self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        let width = self.weight.len();
        sum_rows(x.len() / width, width, |row, sums| {
            let (x, grad) = (&x[row * width..][..width], &grad[row * width..][..width]);
            let (mean, factor) = self.known(x);
            for ((sum, x), grad) in sums.iter_mut().zip(x).zip(grad) {
                *sum += (x - mean) * factor * grad;
            }
        })
    }

    /// What is taken away of a row's values, and what they are multiplied with then.
    fn known(self, row: &[f32]) -> (f32, f32) {
        let count = length(row.len());
        let mean = if self.kind == Norm::Layer { sum(row) / count } else { 0.0 };
        let squares = sum_of(row, row, |value, _| (value - mean) * (value - mean));
        (mean, 1.0 / (squares / count + self.eps).sqrt())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a row has some thousand values")]
fn length(width: usize) -> f32 {
    width as f32
}
