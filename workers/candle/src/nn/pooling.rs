//! Max-pooling: of each square of an image the largest value, as PyTorch's `nn.MaxPool2d(size)`. What is left over at the right and at the bottom is
//! dropped. Candle's own backward pass divides a gradient by the square's size, and must not be used.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{
    blocks::{for_blocks, whole_rows},
    ops::f32s,
};

/// The largest value of each square of `size` x `size` pixels of `x` (rows, channels, height, width).
///
/// # Errors
/// On images that are smaller than a square, and when the device refuses memory.
pub fn max(x: &Tensor, size: usize) -> Result<Tensor> {
    match (size, x.device().is_cpu()) {
        (0 | 1, _) => Ok(x.clone()),
        (_, true) => x.contiguous()?.apply_op1(Max { size }),
        (_, false) => max_composed(x, size),
    }
}

/// [`max`] of candle's own operations, for devices without a fused one. Where several values are the largest, each gets the gradient.
fn max_composed(x: &Tensor, size: usize) -> Result<Tensor> {
    let (images, channels, height, width) = x.dims4()?;
    let (height, width) = (height / size, width / size);
    let x = x.narrow(2, 0, height * size)?.narrow(3, 0, width * size)?.contiguous()?;
    x.reshape((images * channels, height, size, width, size))?
        .max(4)?
        .max(2)?
        .reshape((images, channels, height, width))
}

/// The squares of a batch.
#[derive(Debug, Clone, Copy)]
struct Squares {
    size: usize,
    /// Of an image that comes in.
    width: usize,
    pixels: usize,
    /// Of an image that goes out.
    columns: usize,
    rows: usize,
}

impl Squares {
    fn of(shape: &Shape, size: usize) -> Result<(Self, Shape)> {
        let (images, channels, height, width) = shape.dims4()?;
        let (rows, columns) = (height / size, width / size);
        if rows == 0 || columns == 0 {
            bail!("max-pooling: images of {height} x {width} have no square of {size}");
        }
        Ok((Self { size, width, pixels: height * width, columns, rows }, (images, channels, rows, columns).into()))
    }

    /// The lines of an image that the squares of a row cover, without what is left over.
    fn lines(self, row: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let of = move |line: usize| (row * self.size + line) * self.width;
        (0..self.size).map(move |line| of(line)..of(line) + self.columns * self.size)
    }
}

struct Max {
    size: usize,
}

impl CustomOp1 for Max {
    fn name(&self) -> &'static str {
        "max-pooling"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (squares, shape) = Squares::of(layout.shape(), self.size)?;
        let x = f32s(storage, layout)?;
        let mut out = vec![f32::NEG_INFINITY; shape.elem_count()];
        let outward = squares.rows * squares.columns;
        for_blocks(&mut out, whole_rows(outward), |start, block| {
            let images = x[start / outward * squares.pixels..].chunks_exact(squares.pixels);
            for (out, image) in block.chunks_exact_mut(outward).zip(images) {
                for (row, out) in out.chunks_exact_mut(squares.columns).enumerate() {
                    for line in squares.lines(row) {
                        for (largest, values) in out.iter_mut().zip(image[line].chunks_exact(squares.size)) {
                            for value in values {
                                // Not max(): a NaN must show.
                                if *value > *largest || value.is_nan() {
                                    *largest = *value;
                                }
                            }
                        }
                    }
                }
            }
        });
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        // Detached, so that the backward pass builds no graph of its own.
        let back = ToLargest { size: self.size };
        x.detach().apply_op3_no_bwd(&y.detach(), &grad.contiguous()?.detach(), &back).map(Some)
    }
}

/// The gradient of each square at the first of its largest values, and 0 elsewhere.
struct ToLargest {
    size: usize,
}

impl CustomOp3 for ToLargest {
    fn name(&self) -> &'static str {
        "max-pooling-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (squares, _) = Squares::of(x_layout.shape(), self.size)?;
        let (x, y, grad) = (f32s(x, x_layout)?, f32s(y, y_layout)?, f32s(grad, grad_layout)?);
        let mut out = vec![0.0; x.len()];
        let outward = squares.rows * squares.columns;
        for_blocks(&mut out, whole_rows(squares.pixels), |start, block| {
            let mut wanted = vec![0.0; squares.columns];
            for (number, image) in (start / squares.pixels..).zip(block.chunks_exact_mut(squares.pixels)) {
                let from = &x[number * squares.pixels..][..squares.pixels];
                for row in 0..squares.rows {
                    let at = number * outward + row * squares.columns;
                    wanted.copy_from_slice(&grad[at..][..squares.columns]);
                    for line in squares.lines(row) {
                        let places = image[line.clone()].chunks_exact_mut(squares.size);
                        let values = from[line].chunks_exact(squares.size);
                        for (((to, values), largest), grad) in places.zip(values).zip(&y[at..]).zip(&mut wanted) {
                            if let Some(first) = values.iter().position(|value| value == largest || value.is_nan()) {
                                // Taken once; a gradient of 0 may be taken again.
                                to[first] = std::mem::take(grad);
                            }
                        }
                    }
                }
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::rng::{Rng, Stream};

    #[test]
    fn one_pass_agrees_with_the_composition_forward_and_backward() {
        // The last has a rest both ways, and is above the size from which blocks run in parallel.
        for (shape, size) in [([2, 3, 4, 6], 2), ([1, 2, 7, 5], 3), ([3, 1, 2, 9], 2), ([30, 20, 13, 15], 2)] {
            let mut values = vec![0.0; shape.iter().product()];
            Rng::new(4, Stream::Data { table: 0, block: 0 }).fill_normal(&mut values);
            let x = Var::from_vec(values, &shape, &Device::Cpu).unwrap();
            let gradient =
                |y: &Tensor| y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
            let (ours, theirs) = (max(&x, size).unwrap(), max_composed(&x, size).unwrap());
            let bits = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(&ours), bits(&theirs), "{shape:?}");
            assert_eq!(bits(&gradient(&ours)), bits(&gradient(&theirs)), "{shape:?}");
        }
    }

    #[test]
    fn of_equal_values_the_first_gets_the_gradient_and_nan_passes() {
        let x = Var::new(&[[[[1f32, 1.0, 9.0], [1.0, 0.0, 9.0], [9.0, 9.0, 9.0]]]], &Device::Cpu).unwrap();
        let y = max(&x, 2).unwrap();
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [1.0]);
        let grads = y.backward().unwrap();
        let grad = grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(grad, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let x = Tensor::new(&[[[[1f32, f32::NAN], [3.0, 4.0]]]], &Device::Cpu).unwrap();
        assert!(max(&x, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
    }

    #[test]
    fn candles_own_backward_pass_is_still_not_to_be_used() {
        let x = Var::new(&[[[[1f32, 2.0], [3.0, 4.0]]]], &Device::Cpu).unwrap();
        let grads = x.max_pool2d(2).unwrap().backward().unwrap();
        let grad = grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(grad, [0.0, 0.0, 0.0, 0.25], "it is 1, and once candle says so its pooling will do elsewhere");
    }

    #[test]
    fn a_size_of_1_changes_nothing_and_one_that_is_too_large_is_an_error() {
        let x = Tensor::new(&[[[[1f32, 2.0]]]], &Device::Cpu).unwrap();
        assert_eq!(max(&x, 1).unwrap().dims(), x.dims());
        assert!(max(&x, 2).is_err());
    }
}
