//! What training minimises, as operations with a backward pass, and the accuracy that people read. Sums are taken in f64 over
//! fixed blocks; exponentials are taken of differences to the largest logit, so that no finite logit overflows.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};
use candle_nn::ops::log_softmax;
use mlctl_protocol::spec::Loss;

use crate::nn::{
    blocks::{BLOCK, for_blocks, sum_blocks, whole_rows},
    ops::f32s,
};

/// The loss of outputs (rows, columns), averaged over the batch, as a scalar to call `backward` on. Targets are f32 values of the same
/// shape for [`Loss::Mse`] and u32 class numbers (rows) for [`Loss::CrossEntropy`]; they get no gradient.
///
/// # Errors
/// On shapes that do not fit and on a class number that has no logit.
pub fn loss(kind: Loss, outputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let targets = &targets.detach();
    match (kind, outputs.device().is_cpu()) {
        (Loss::Mse, true) => outputs.apply_op2(targets, MeanSquaredError),
        (Loss::CrossEntropy, true) => outputs.apply_op2(targets, CrossEntropy),
        (Loss::Mse, false) => (outputs - targets)?.sqr()?.mean_all(),
        (Loss::CrossEntropy, false) => cross_entropy_composed(outputs, targets),
    }
}

/// [`Loss::CrossEntropy`] of candle's own operations, for devices without a fused one.
fn cross_entropy_composed(logits: &Tensor, classes: &Tensor) -> Result<Tensor> {
    log_softmax(logits, D::Minus1)?.gather(&classes.unsqueeze(1)?, 1)?.mean_all()?.neg()
}

/// The class with the largest logit of each row; the first of equals, and 0 where all are not-a-number.
///
/// # Errors
/// When the tensor is not a matrix of f32.
pub fn predicted_classes(logits: &Tensor) -> Result<Vec<u32>> {
    let columns = logits.dim(1)?;
    let values = logits.flatten_all()?.to_vec1::<f32>()?;
    let largest = |row: &[f32]| {
        let best = (0_u32..)
            .zip(row)
            .fold((0, f32::NEG_INFINITY), |best, (class, value)| if *value > best.1 { (class, *value) } else { best });
        best.0
    };
    Ok(values.chunks_exact(columns.max(1)).map(largest).collect())
}

struct MeanSquaredError;

impl CustomOp2 for MeanSquaredError {
    fn name(&self) -> &'static str {
        "mean-squared-error"
    }

    fn cpu_fwd(&self, y: &CpuStorage, yl: &Layout, t: &CpuStorage, tl: &Layout) -> Result<(CpuStorage, Shape)> {
        if yl.shape() != tl.shape() {
            bail!("mse: outputs {:?} do not fit targets {:?}", yl.shape(), tl.shape());
        }
        let (y, t) = (f32s(y, yl)?, f32s(t, tl)?);
        let total = sum_blocks(y, BLOCK, |start, block| {
            block.iter().zip(&t[start..]).map(|(y, t)| f64::from(y - t).powi(2)).sum()
        });
        Ok(scalar(mean(total, y.len())))
    }

    fn bwd(&self, y: &Tensor, t: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let factor = 2.0 * grad.to_scalar::<f32>()? * reciprocal(y.elem_count());
        Ok((Some(y.detach().apply_op2_no_bwd(&t.detach(), &ScaledDifference(factor))?), None))
    }
}

/// (y - t) times a constant.
struct ScaledDifference(f32);

impl CustomOp2 for ScaledDifference {
    fn name(&self) -> &'static str {
        "scaled-difference"
    }

    fn cpu_fwd(&self, y: &CpuStorage, yl: &Layout, t: &CpuStorage, tl: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = f32s(y, yl)?.to_vec();
        let t = f32s(t, tl)?;
        for_blocks(&mut out, BLOCK, |start, block| {
            for (value, t) in block.iter_mut().zip(&t[start..]) {
                *value = (*value - t) * self.0;
            }
        });
        Ok((CpuStorage::F32(out), yl.shape().clone()))
    }
}

struct CrossEntropy;

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, y: &CpuStorage, yl: &Layout, t: &CpuStorage, tl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, columns) = yl.shape().dims2()?;
        let classes = classes(t, tl, (rows, columns))?;
        let total = sum_blocks(f32s(y, yl)?, whole_rows(columns), |start, block| {
            let classes = &classes[start / columns..];
            let rows = block.chunks_exact(columns).zip(classes);
            rows.map(|(row, class)| log_sum_exp(row) - f64::from(row[*class as usize])).sum()
        });
        Ok(scalar(mean(total, rows)))
    }

    fn bwd(&self, y: &Tensor, t: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let factor = grad.to_scalar::<f32>()? * reciprocal(y.dim(0)?);
        Ok((Some(y.detach().apply_op2_no_bwd(&t.detach(), &SoftmaxMinusOneHot(factor))?), None))
    }
}

/// The softmax of a row less 1 at its class, times a constant.
struct SoftmaxMinusOneHot(f32);

impl CustomOp2 for SoftmaxMinusOneHot {
    fn name(&self) -> &'static str {
        "softmax-minus-one-hot"
    }

    fn cpu_fwd(&self, y: &CpuStorage, yl: &Layout, t: &CpuStorage, tl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, columns) = yl.shape().dims2()?;
        let classes = classes(t, tl, (rows, columns))?;
        let mut out = f32s(y, yl)?.to_vec();
        for_blocks(&mut out, whole_rows(columns), |start, block| {
            for (row, class) in block.chunks_exact_mut(columns).zip(&classes[start / columns..]) {
                let log_sum = log_sum_exp(row);
                for value in row.iter_mut() {
                    *value = round((f64::from(*value) - log_sum).exp());
                }
                row[*class as usize] -= 1.0;
                row.iter_mut().for_each(|value| *value *= self.0);
            }
        });
        Ok((CpuStorage::F32(out), yl.shape().clone()))
    }
}

/// ln(sum(exp(row))).
pub(crate) fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + row.iter().map(|value| (f64::from(*value) - largest).exp()).sum::<f64>().ln()
}

/// Class numbers, one a row and each with a logit.
fn classes<'a>(storage: &'a CpuStorage, layout: &Layout, (rows, columns): (usize, usize)) -> Result<&'a [u32]> {
    let (CpuStorage::U32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("cross-entropy: classes are not contiguous u32 values");
    };
    let classes = &values[start..end];
    if classes.len() != rows || columns == 0 {
        bail!("cross-entropy: {rows} rows of {columns} logits do not fit {} classes", classes.len());
    }
    match classes.iter().find(|class| **class as usize >= columns) {
        Some(class) => bail!("cross-entropy: class {class} has no logit among {columns}"),
        None => Ok(classes),
    }
}

fn scalar(value: f64) -> (CpuStorage, Shape) {
    (CpuStorage::F32(vec![round(value)]), ().into())
}

#[expect(clippy::cast_precision_loss, reason = "counts of values in memory are far below 2^52")]
fn mean(total: f64, count: usize) -> f64 {
    total / count as f64
}

#[expect(clippy::cast_precision_loss, reason = "rounded to f32 in any case")]
fn reciprocal(count: usize) -> f32 {
    round(1.0 / count as f64)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
const fn round(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::rng::{Rng, Stream};

    const CPU: Device = Device::Cpu;

    fn random(shape: (usize, usize), scale: f32) -> Var {
        let mut values = vec![0.0; shape.0 * shape.1];
        Rng::new(3, Stream::Data { table: 0, block: 0 }).fill_normal(&mut values);
        values.iter_mut().for_each(|v| *v *= scale);
        Var::from_vec(values, shape, &CPU).unwrap()
    }

    fn value(loss: &Tensor) -> f32 {
        loss.to_scalar().unwrap()
    }

    fn gradient(loss: &Tensor, of: &Var) -> Vec<f32> {
        loss.backward().unwrap().get(of).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-6 + 1e-5 * b.abs(), "{a} is not {b}");
        }
    }

    #[test]
    fn fused_losses_agree_with_candles_composition() {
        // The second shape is above the size from which blocks run in parallel.
        for (rows, columns) in [(5, 3), (700, 130)] {
            let y = random((rows, columns), 3.0);
            let t = random((rows, columns), 1.0).affine(0.5, 0.25).unwrap().detach();
            let (ours, theirs) =
                (loss(Loss::Mse, &y, &t).unwrap(), (y.as_tensor() - &t).unwrap().sqr().unwrap().mean_all().unwrap());
            assert_close(&[value(&ours)], &[value(&theirs)]);
            assert_close(&gradient(&ours, &y), &gradient(&theirs, &y));

            let classes: Vec<u32> = (0..rows).map(|row| u32::try_from(row * 7 % columns).unwrap()).collect();
            let classes = Tensor::from_vec(classes, rows, &CPU).unwrap();
            let ours = loss(Loss::CrossEntropy, &y, &classes).unwrap();
            let theirs = cross_entropy_composed(&y, &classes).unwrap();
            assert_close(&[value(&ours)], &[value(&theirs)]);
            assert_close(&gradient(&ours, &y), &gradient(&theirs, &y));
        }
    }

    #[test]
    fn values_are_what_they_are_by_hand() {
        let y = Var::new(&[[1f32, 2.0], [3.0, 4.0]], &CPU).unwrap();
        let t = Tensor::new(&[[0f32, 2.0], [3.0, 0.0]], &CPU).unwrap();
        let mse = loss(Loss::Mse, &y, &t).unwrap();
        assert_eq!(value(&mse), 17.0 / 4.0);
        assert_eq!(gradient(&mse, &y), [0.5, 0.0, 0.0, 2.0]);
        let uniform = Var::new(&[[0f32; 4]], &CPU).unwrap();
        let ce = loss(Loss::CrossEntropy, &uniform, &Tensor::new(&[1u32], &CPU).unwrap()).unwrap();
        assert_close(&[value(&ce)], &[4f32.ln()]);
        assert_close(&gradient(&ce, &uniform), &[0.25, -0.75, 0.25, 0.25]);
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        for (logits, expected) in [([200f32, -200.0], 0.0), ([-200.0, 200.0], 400.0), ([1e30, 0.0], 0.0)] {
            let y = Var::new(&[logits], &CPU).unwrap();
            let ce = loss(Loss::CrossEntropy, &y, &Tensor::new(&[0u32], &CPU).unwrap()).unwrap();
            assert_eq!(value(&ce), expected);
            assert!(gradient(&ce, &y).iter().all(|g| g.is_finite()));
        }
        let y = Var::new(&[[f32::NAN, 0.0]], &CPU).unwrap();
        let ce = loss(Loss::CrossEntropy, &y, &Tensor::new(&[0u32], &CPU).unwrap()).unwrap();
        assert!(value(&ce).is_nan(), "a not-a-number must show");
    }

    #[test]
    fn targets_that_do_not_fit_are_an_error() {
        let y = random((2, 3), 1.0);
        for classes in [vec![0u32], vec![0, 3]] {
            let rows = classes.len();
            let classes = Tensor::from_vec(classes, rows, &CPU).unwrap();
            assert!(loss(Loss::CrossEntropy, &y, &classes).is_err());
        }
        assert!(loss(Loss::Mse, &y, &random((3, 2), 1.0)).is_err());
    }

    #[test]
    fn the_first_of_equal_logits_wins() {
        let logits =
            Tensor::new(&[[1f32, 3.0, 3.0], [f32::NAN, f32::NAN, f32::NAN], [-2.0, -3.0, -1.0]], &CPU).unwrap();
        assert_eq!(predicted_classes(&logits).unwrap(), [1, 0, 2]);
    }
}
