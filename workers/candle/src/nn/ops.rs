//! Differentiable operations with a backward pass of their own. On the CPU each is one pass over memory; elsewhere the same
//! value is composed of candle's operations, and a test holds the two against each other. Candle's fused softmax, norms and rope cut
//! gradients silently and must not be used here.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, backend::BackendStorage, bail,
};

use super::{
    Dropping,
    blocks::{BLOCK, for_blocks, whole_rows},
};
use crate::rng::{Rng, Stream};

/// `x` (rows, in) times `weight` (out, in) transposed, plus `bias` (out), cut at 0 when `relu`.
///
/// # Errors
/// On shapes that do not fit, and when the device refuses memory.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    if x.device().is_cpu() {
        let [wants_input, wants_weight, wants_bias] = [x, weight, bias].map(Tensor::track_op);
        return x.apply_op3(weight, bias, Linear { relu, wants_input, wants_weight, wants_bias });
    }
    linear_composed(x, weight, bias, relu)
}

/// [`linear`] of candle's own operations, for devices without a fused one.
fn linear_composed(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
    // Not candle's relu: its derivative at 0 is 1.
    if relu { y.le(0f32)?.where_cond(&y.zeros_like()?, &y) } else { Ok(y) }
}

/// Drops values of `x` with probability `p` and scales the rest by 1 / (1 - p), as `docs/rng.md` says.
///
/// # Errors
/// When the device refuses memory.
pub fn dropout(x: &Tensor, p: f64, dropping: Dropping, layer: u32) -> Result<Tensor> {
    let Dropping { seed, step, row } = dropping;
    #[expect(clippy::cast_possible_truncation, reason = "probabilities are compared in f32, as specified")]
    let (limit, scale) = (p as f32, (1.0 / (1.0 - p)) as f32);
    let mut mask = vec![0.0; x.elem_count()];
    let mut rng = Rng::new(seed, Stream::Dropout { step, layer });
    rng.seek(row.wrapping_mul((mask.len() / x.dim(0)?.max(1)) as u64));
    rng.fill_uniform(&mut mask);
    for value in &mut mask {
        *value = if *value >= limit { scale } else { 0.0 };
    }
    let mask = Tensor::from_vec(mask, x.shape(), x.device())?;
    if x.device().is_cpu() { x.apply_op1(Masked { mask }) } else { x.mul(&mask) }
}

/// The values of a contiguous f32 buffer.
///
/// # Errors
/// When it is neither.
pub(crate) fn f32s<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("expected contiguous f32 values"),
    }
}

/// Backward state of [`linear`]. A gradient is wanted of what is in the graph: not of the model's input, nor of weights that are frozen.
struct Linear {
    relu: bool,
    wants_input: bool,
    wants_weight: bool,
    wants_bias: bool,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, width), (outputs, inputs)) = (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        if width != inputs || bias_layout.shape().dims1()? != outputs {
            bail!("linear: {width} values a row do not fit a weight of ({outputs}, {inputs}) and its bias");
        }
        let mut y = x.matmul(weight, (1, rows, outputs, inputs), x_layout, &weight_layout.transpose(0, 1)?)?;
        let CpuStorage::F32(values) = &mut y else { bail!("linear: weights are not f32") };
        let bias = f32s(bias, bias_layout)?;
        for_blocks(values, whole_rows(outputs), |_, block| {
            for row in block.chunks_exact_mut(outputs) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    let sum = *value + bias;
                    // Not max(): a NaN must show.
                    *value = if self.relu && sum < 0.0 { 0.0 } else { sum };
                }
            }
        });
        Ok((y, (rows, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // Detached, so that the backward pass builds no graph of its own.
        let (x, weight, y) = (x.detach(), weight.detach(), y.detach());
        let grad = grad.contiguous()?;
        let grad = if self.relu { grad.apply_op2_no_bwd(&y, &WherePositive)? } else { grad };
        let to_input = if self.wants_input { Some(grad.matmul(&weight)?) } else { None };
        let to_weight = if self.wants_weight { Some(grad.t()?.matmul(&x)?) } else { None };
        let to_bias = if self.wants_bias { Some(grad.apply_op1_no_bwd(&SumOverRows)?) } else { None };
        Ok((to_input, to_weight, to_bias))
    }
}

/// The gradient behind a ReLU: the gradient before it where the output is above 0.
struct WherePositive;

impl CustomOp2 for WherePositive {
    fn name(&self) -> &'static str {
        "where-positive"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, gl: &Layout, y: &CpuStorage, yl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (grad, y) = (f32s(grad, gl)?, f32s(y, yl)?);
        let mut out = grad.to_vec();
        for_blocks(&mut out, BLOCK, |start, block| {
            for (value, y) in block.iter_mut().zip(&y[start..]) {
                *value = if *y <= 0.0 { 0.0 } else { *value };
            }
        });
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }
}

/// (rows, columns) to (columns), summed in f64 in the order of the rows.
struct SumOverRows;

impl CustomOp1 for SumOverRows {
    fn name(&self) -> &'static str {
        "sum-over-rows"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, columns) = layout.shape().dims2()?;
        let mut sums = vec![0.0_f64; columns];
        for row in f32s(storage, layout)?.chunks_exact(columns.max(1)) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
        let sums = sums.into_iter().map(|sum| sum as f32).collect();
        Ok((CpuStorage::F32(sums), columns.into()))
    }
}

/// Multiplication by a constant of the same shape, which gets no gradient.
struct Masked {
    mask: Tensor,
}

impl CustomOp1 for Masked {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (mask, mask_layout) = self.mask.storage_and_layout();
        let candle_core::Storage::Cpu(mask) = &*mask else { bail!("dropout: the mask is on another device") };
        let mask = f32s(mask, mask_layout)?;
        let mut out = f32s(storage, layout)?.to_vec();
        for_blocks(&mut out, BLOCK, |start, block| {
            for (value, mask) in block.iter_mut().zip(&mask[start..]) {
                *value *= mask;
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.mul(&self.mask).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn random(shape: (usize, usize), block: u64) -> Tensor {
        let mut values = vec![0.0; shape.0 * shape.1];
        Rng::new(1, Stream::Data { table: 0, block }).fill_normal(&mut values);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn the_fused_linear_layer_agrees_with_the_composed_one_forward_and_backward() {
        // The second case is above the size from which blocks run in parallel.
        for ((rows, inputs, outputs), relu) in [((7, 5, 3), true), ((300, 20, 301), true), ((7, 5, 3), false)] {
            let x = Var::from_tensor(&random((rows, inputs), 0)).unwrap();
            let w = Var::from_tensor(&random((outputs, inputs), 1)).unwrap();
            let b = Var::from_tensor(&random((1, outputs), 2).flatten_all().unwrap()).unwrap();
            let upstream = random((rows, outputs), 3);
            let fused = linear(&x, &w, &b, relu).unwrap();
            let composed = linear_composed(&x, &w, &b, relu).unwrap();
            assert!(largest_difference(&fused, &composed) < 1e-5);
            let gradients = |y: &Tensor| (y * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
            let (fused, composed) = (gradients(&fused), gradients(&composed));
            for var in [&x, &w, &b] {
                assert!(largest_difference(fused.get(var).unwrap(), composed.get(var).unwrap()) < 1e-4);
            }
        }
    }

    #[test]
    fn the_derivative_of_relu_at_0_is_0_and_nan_passes() {
        let w = Tensor::new(&[[1f32]], &Device::Cpu).unwrap();
        let b = Tensor::new(&[0f32], &Device::Cpu).unwrap();
        for layer in [linear, linear_composed] {
            let x = Var::new(&[[0f32], [-1.0], [2.0], [f32::NAN]], &Device::Cpu).unwrap();
            let y = layer(&x, &w, &b, true).unwrap();
            let values = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values[..3], [0.0, 0.0, 2.0]);
            assert!(values[3].is_nan());
            let grads = y.backward().unwrap();
            let grad = grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(grad[..3], [0.0, 0.0, 1.0]);
        }
    }

    #[test]
    fn an_input_outside_the_graph_gets_no_gradient() {
        let x = random((4, 3), 0);
        let w = Var::from_tensor(&random((2, 3), 1)).unwrap();
        let b = Var::zeros(2, candle_core::DType::F32, &Device::Cpu).unwrap();
        let grads = linear(&x, &w, &b, true).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&x).is_none());
        assert!(grads.get(&w).is_some() && grads.get(&b).is_some());
    }

    #[test]
    fn shapes_that_do_not_fit_are_an_error() {
        let b = Tensor::new(&[0f32, 0.0], &Device::Cpu).unwrap();
        assert!(linear(&random((4, 3), 0), &random((2, 4), 1), &b, false).is_err());
        assert!(linear(&random((4, 3), 0), &random((3, 3), 1), &b, false).is_err());
    }

    #[test]
    fn dropout_keeps_the_mean_and_masks_the_gradient_alike() {
        let x = Var::ones((100, 300), candle_core::DType::F32, &Device::Cpu).unwrap();
        let at = |step, row| Dropping { seed: 9, step, row };
        let y = dropout(&x, 0.25, at(3, 0), 1).unwrap();
        let mean: f32 = y.mean_all().unwrap().to_scalar().unwrap();
        // Four standard errors of a mean of 30,000 values that are 0 or 4/3.
        assert!((mean - 1.0).abs() < 4.0 * (1.0_f32 / 3.0 / 3e4).sqrt(), "{mean}");
        let grads = y.backward().unwrap();
        assert!(largest_difference(grads.get(&x).unwrap(), &y) == 0.0);
        assert!(largest_difference(&dropout(&x, 0.25, at(3, 0), 1).unwrap(), &y) == 0.0);
        let other = dropout(&x, 0.25, at(4, 0), 1).unwrap();
        assert!(largest_difference(&other, &y) > 0.0);
        // Rows are masked alike wherever their batch begins.
        let last = dropout(&x.narrow(0, 63, 37).unwrap(), 0.25, at(3, 63), 1).unwrap();
        assert!(largest_difference(&last, &y.narrow(0, 63, 37).unwrap()) == 0.0);
    }
}
