//! What stands between the layers when it is not ReLU, which `ops::linear` and `convolution` do in their own pass: GELU and tanh, as in PyTorch. On the CPU one pass over
//! memory forward and one backward; elsewhere candle's operations, whose backward passes are whole.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, cpu::erf::erf_f32};
use mlctl_protocol::spec::Activation;

use super::{
    blocks::{BLOCK, for_blocks},
    ops::f32s,
};

/// What follows a layer that has done ReLU itself where that is the activation.
///
/// # Errors
/// When the device refuses memory.
pub fn behind(x: Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Relu => Ok(x),
        Activation::Gelu => gelu(&x),
        Activation::Tanh => tanh(&x),
    }
}

/// `x` times the share of the standard normal distribution below `x`: PyTorch's default, not its approximation by tanh.
///
/// # Errors
/// When the device refuses memory.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.apply_op1(Pointwise { name: "gelu", value: gelu_of, slope: gelu_slope })
    } else {
        x.gelu_erf()
    }
}

/// The hyperbolic tangent.
///
/// # Errors
/// When the device refuses memory.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.apply_op1(Pointwise { name: "tanh", value: f32::tanh, slope: |_, y| 1.0 - y * y })
    } else {
        x.tanh()
    }
}

/// The share of the standard normal distribution below `x`.
fn below(x: f32) -> f32 {
    0.5 * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn gelu_of(x: f32) -> f32 {
    x * below(x)
}

fn gelu_slope(x: f32, _: f32) -> f32 {
    const DENSITY_AT_0: f32 = 0.398_942_3;
    below(x) + x * DENSITY_AT_0 * (-0.5 * x * x).exp()
}

/// A function of each value by itself, and its derivative by the value and what the function made of it.
struct Pointwise {
    name: &'static str,
    value: fn(f32) -> f32,
    slope: fn(f32, f32) -> f32,
}

impl CustomOp1 for Pointwise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = f32s(storage, layout)?.to_vec();
        for_blocks(&mut out, BLOCK, |_, block| block.iter_mut().for_each(|value| *value = (self.value)(*value)));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        // Detached, so that the backward pass builds no graph of its own.
        let slope = TimesSlope { slope: self.slope };
        grad.contiguous()?.detach().apply_op3_no_bwd(&x.detach(), &y.detach(), &slope).map(Some)
    }
}

/// A gradient times the derivative at each place.
struct TimesSlope {
    slope: fn(f32, f32) -> f32,
}

impl CustomOp3 for TimesSlope {
    fn name(&self) -> &'static str {
        "times-slope"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (f32s(x, x_layout)?, f32s(y, y_layout)?);
        let mut out = f32s(grad, grad_layout)?.to_vec();
        for_blocks(&mut out, BLOCK, |start, block| {
            for ((value, x), y) in block.iter_mut().zip(&x[start..]).zip(&y[start..]) {
                *value *= (self.slope)(*x, *y);
            }
        });
        Ok((CpuStorage::F32(out), grad_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::rng::{Rng, Stream};

    fn close(a: &Tensor, b: &Tensor) -> bool {
        let largest: f32 = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap();
        largest < 2e-6
    }

    #[test]
    fn one_pass_agrees_with_candles_composition_forward_and_backward() {
        // The second size is above the one from which blocks run in parallel.
        for n in [33, 70_001] {
            let mut values = vec![0.0; n];
            Rng::new(6, Stream::Data { table: 0, block: 0 }).fill_normal(&mut values);
            let x = Var::from_vec(values, n, &Device::Cpu).unwrap();
            for (ours, theirs) in
                [(gelu(&x).unwrap(), x.gelu_erf().unwrap()), (tanh(&x).unwrap(), x.as_tensor().tanh().unwrap())]
            {
                assert!(close(&ours, &theirs));
                let gradient =
                    |y: &Tensor| y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
                assert!(close(&gradient(&ours), &gradient(&theirs)));
            }
        }
    }

    #[test]
    fn a_value_that_is_no_number_stays_one() {
        let x = Tensor::new(&[f32::NAN, f32::INFINITY], &Device::Cpu).unwrap();
        for f in [gelu, tanh] {
            assert!(f(&x).unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
        }
        assert_eq!(gelu(&x).unwrap().to_vec1::<f32>().unwrap()[1], f32::INFINITY);
    }
}
