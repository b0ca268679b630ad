//! Convolution of images (rows, channels, height, width) with a border of zeros, so that what comes out is as large, as PyTorch's
//! `conv2d(…, padding="same")`. On the CPU the pixels under the kernel become columns of a matrix, some images at a time, so that they stay in the cache and
//! matrix products do the work; candle's own backward pass takes many times as long. Elsewhere it is candle's convolution.
//!
//! How a batch is cut depends on sizes alone, and sums go in the order of the images: the number of threads changes no bit.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, backend::BackendStorage, bail};
use rayon::prelude::*;

use super::ops::f32s;

/// Values that the columns of a matrix product should have: half a megabyte.
const COLUMN_VALUES: usize = 1 << 17;

/// Parts that a batch is cut into at least, where it has as many images, so that every thread has work.
const PARTS: usize = 8;

/// The most values that sums of gradients, one for each group of parts, should take together.
const SUM_VALUES: usize = 1 << 24;

/// Convolves `x` (rows, in, height, width) with `weight` (out, in, kernel, kernel), adds `bias` (out), and cuts at 0 when `relu`.
///
/// # Errors
/// On shapes that do not fit, and when the device refuses memory.
pub fn convolve(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    if x.device().is_cpu() {
        let [wants_input, wants_weight, wants_bias] = [x, weight, bias].map(Tensor::track_op);
        let convolution = Convolution { relu, wants_input, wants_weight, wants_bias };
        return x.contiguous()?.apply_op3(weight, bias, convolution);
    }
    convolve_composed(x, weight, bias, relu)
}

/// [`convolve`] of candle's own operations, for devices without a fused one.
fn convolve_composed(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    let kernel = weight.dim(3)?;
    let (before, after) = ((kernel - 1) / 2, kernel / 2);
    let (x, padding) = match kernel % 2 {
        0 => (x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?, 0),
        _ => (x.clone(), before),
    };
    let y = x.conv2d(weight, padding, 1, 1, 1)?.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    // Not candle's relu: its derivative at 0 is 1.
    if relu { y.le(0f32)?.where_cond(&y.zeros_like()?, &y) } else { Ok(y) }
}

/// Backward state of [`convolve`]. A gradient is wanted of what is in the graph: not of the image, nor of weights that are frozen.
struct Convolution {
    relu: bool,
    wants_input: bool,
    wants_weight: bool,
    wants_bias: bool,
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
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
        let sizes = Sizes::of(x_layout.shape(), weight_layout.shape(), bias_layout.shape())?;
        let weight = Weight::of(weight, weight_layout, sizes)?;
        let y = forward(sizes, f32s(x, x_layout)?, &weight, (f32s(bias, bias_layout)?, self.relu))?;
        Ok((CpuStorage::F32(y), (sizes.images, sizes.outputs, sizes.height, sizes.width).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::of(x.shape(), weight.shape(), bias.shape())?;
        let grad = grad.contiguous()?;
        let (values, weights, outputs, slopes) =
            (x.storage_and_layout(), weight.storage_and_layout(), y.storage_and_layout(), grad.storage_and_layout());
        let known = Known {
            x: f32s(cpu(&values.0)?, values.1)?,
            weight: Weight::of(cpu(&weights.0)?, weights.1, sizes)?,
            y: self.relu.then(|| f32s(cpu(&outputs.0)?, outputs.1)).transpose()?,
            grad: f32s(cpu(&slopes.0)?, slopes.1)?,
        };
        let found = backward(sizes, &known, (self.wants_input, self.wants_weight))?;
        let tensor = |values: Option<Vec<f32>>, shape: &Shape| {
            values.map(|values| Tensor::from_vec(values, shape, x.device())).transpose()
        };
        let to_bias = self.wants_bias.then_some(found.bias);
        Ok((tensor(found.input, x.shape())?, tensor(found.weight, weight.shape())?, tensor(to_bias, bias.shape())?))
    }
}

fn cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => bail!("convolution: a tensor is on another device"),
    }
}

/// The sizes of a convolution.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    images: usize,
    channels: usize,
    height: usize,
    width: usize,
    outputs: usize,
    kernel: usize,
}

impl Sizes {
    fn of(x: &Shape, weight: &Shape, bias: &Shape) -> Result<Self> {
        let (images, channels, height, width) = x.dims4()?;
        let (outputs, inputs, kernel, across) = weight.dims4()?;
        if inputs != channels || kernel != across || bias.dims1()? != outputs {
            bail!("convolution: images of {x:?} do not fit a weight of {weight:?} and a bias of {bias:?}");
        }
        if channels == 0 || height == 0 || width == 0 || outputs == 0 || kernel == 0 {
            bail!("convolution: images of {x:?} or a weight of {weight:?} have no values");
        }
        Ok(Self { images, channels, height, width, outputs, kernel })
    }

    /// Pixels of a channel.
    const fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Values of an image that comes in, and of one that goes out.
    const fn image(self) -> (usize, usize) {
        (self.channels * self.pixels(), self.outputs * self.pixels())
    }

    /// Pixels of a row with its border.
    const fn wide(self) -> usize {
        self.width + self.kernel - 1
    }

    /// Pixels of a channel with its border.
    const fn bordered(self) -> usize {
        self.wide() * (self.height + self.kernel - 1)
    }

    /// Where the first pixel of a row lies in the bordered channel.
    const fn row(self, y: usize) -> usize {
        let before = (self.kernel - 1) / 2;
        (y + before) * self.wide() + before
    }

    /// Columns of an image: places of the kernel from the first to the last, with those between the rows that reach over the edge. So each tap of the kernel sees one run of the bordered
    /// channel.
    const fn columns(self) -> usize {
        (self.height - 1) * self.wide() + self.width
    }

    /// Values under the kernel.
    const fn taps(self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    /// The first value under each tap, in a bordered image.
    fn starts(self) -> impl Iterator<Item = usize> {
        let at = move |channel: usize, y: usize, x: usize| channel * self.bordered() + y * self.wide() + x;
        let kernel = self.kernel;
        (0..self.channels)
            .flat_map(move |channel| (0..kernel).flat_map(move |y| (0..kernel).map(move |x| at(channel, y, x))))
    }

    /// Images of a matrix product, and of a group that is one thread's.
    fn cut(self) -> (usize, usize) {
        let fitting = COLUMN_VALUES / (self.taps().max(self.outputs) * self.columns());
        let part = fitting.min(self.images.div_ceil(PARTS)).max(1);
        let groups = (SUM_VALUES / (self.outputs * self.taps())).clamp(4, 64);
        (part, part * self.images.div_ceil(part).div_ceil(groups).max(1))
    }
}

/// The kernels as a matrix (out, taps).
struct Weight<'a> {
    storage: &'a CpuStorage,
    layout: Layout,
}

impl<'a> Weight<'a> {
    fn of(storage: &'a CpuStorage, layout: &Layout, sizes: Sizes) -> Result<Self> {
        f32s(storage, layout)?;
        let layout = Layout::contiguous_with_offset((sizes.outputs, sizes.taps()), layout.start_offset());
        Ok(Self { storage, layout })
    }
}

/// A matrix whose rows have room for the columns of all images of a part, side by side.
struct Matrix {
    values: CpuStorage,
    rows: usize,
    room: usize,
}

impl Matrix {
    fn new(rows: usize, room: usize) -> Self {
        Self { values: CpuStorage::F32(vec![0.0; rows * room]), rows, room }
    }

    /// Its first columns.
    fn layout(&self, columns: usize) -> Layout {
        Layout::new((self.rows, columns).into(), vec![self.room, 1], 0)
    }

    fn values(&mut self) -> Result<&mut [f32]> {
        match &mut self.values {
            CpuStorage::F32(values) => Ok(values),
            _ => bail!("convolution: a matrix is not f32"),
        }
    }
}

/// What a thread works in, from one part to the next.
struct Bench {
    sizes: Sizes,
    /// An image with its border.
    bordered: Vec<f32>,
    /// (taps, columns).
    columns: Matrix,
}

impl Bench {
    fn new(sizes: Sizes, images: usize) -> Self {
        let bordered = vec![0.0; sizes.channels * sizes.bordered()];
        Self { sizes, bordered, columns: Matrix::new(sizes.taps(), images * sizes.columns()) }
    }

    /// Lays out what lies under each tap; the number of columns.
    fn lay_out(&mut self, x: &[f32]) -> Result<usize> {
        let (sizes, room) = (self.sizes, self.columns.room);
        let columns = self.columns.values()?;
        let images = x.chunks_exact(sizes.image().0);
        let count = images.len() * sizes.columns();
        for (number, image) in images.enumerate() {
            for (channel, bordered) in
                image.chunks_exact(sizes.pixels()).zip(self.bordered.chunks_exact_mut(sizes.bordered()))
            {
                for (y, row) in channel.chunks_exact(sizes.width).enumerate() {
                    bordered[sizes.row(y)..][..sizes.width].copy_from_slice(row);
                }
            }
            for (row, start) in columns.chunks_exact_mut(room).zip(sizes.starts()) {
                row[number * sizes.columns()..][..sizes.columns()]
                    .copy_from_slice(&self.bordered[start..][..sizes.columns()]);
            }
        }
        Ok(count)
    }

    /// Adds up what each tap gives to the pixels under it.
    fn take_back(&mut self, columns: &[f32], dx: &mut [f32]) {
        let sizes = self.sizes;
        let room = columns.len() / sizes.taps();
        for (number, image) in dx.chunks_exact_mut(sizes.image().0).enumerate() {
            self.bordered.fill(0.0);
            for (row, start) in columns.chunks_exact(room).zip(sizes.starts()) {
                let run = &row[number * sizes.columns()..][..sizes.columns()];
                for (sum, value) in self.bordered[start..].iter_mut().zip(run) {
                    *sum += value;
                }
            }
            for (channel, bordered) in
                image.chunks_exact_mut(sizes.pixels()).zip(self.bordered.chunks_exact(sizes.bordered()))
            {
                for (y, row) in channel.chunks_exact_mut(sizes.width).enumerate() {
                    row.copy_from_slice(&bordered[sizes.row(y)..][..sizes.width]);
                }
            }
        }
    }
}

/// The part of a product's row that is row `y` of image `number`.
const fn place(sizes: Sizes, number: usize, y: usize) -> usize {
    number * sizes.columns() + y * sizes.wide()
}

fn forward(sizes: Sizes, x: &[f32], weight: &Weight<'_>, (bias, relu): (&[f32], bool)) -> Result<Vec<f32>> {
    let (part, group) = sizes.cut();
    let (inward, outward) = sizes.image();
    let mut y = vec![0.0; sizes.images * outward];
    y.par_chunks_mut(group * outward).zip(x.par_chunks(group * inward)).try_for_each(|(y, x)| {
        let mut bench = Bench::new(sizes, part);
        for (y, x) in y.chunks_mut(part * outward).zip(x.chunks(part * inward)) {
            let count = bench.lay_out(x)?;
            let size = (1, sizes.outputs, count, sizes.taps());
            let product =
                weight.storage.matmul(&bench.columns.values, size, &weight.layout, &bench.columns.layout(count))?;
            let CpuStorage::F32(product) = &product else { bail!("convolution: weights are not f32") };
            for (number, image) in y.chunks_exact_mut(outward).enumerate() {
                for ((channel, from), bias) in
                    image.chunks_exact_mut(sizes.pixels()).zip(product.chunks_exact(count)).zip(bias)
                {
                    for (y, row) in channel.chunks_exact_mut(sizes.width).enumerate() {
                        for (value, sum) in row.iter_mut().zip(&from[place(sizes, number, y)..]) {
                            let sum = sum + bias;
                            // Not max(): a NaN must show.
                            *value = if relu && sum < 0.0 { 0.0 } else { sum };
                        }
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(y)
}

/// What the backward pass begins with.
struct Known<'a> {
    x: &'a [f32],
    weight: Weight<'a>,
    /// What came out, where it was cut at 0.
    y: Option<&'a [f32]>,
    grad: &'a [f32],
}

/// What it ends with.
struct Gradients {
    input: Option<Vec<f32>>,
    weight: Option<Vec<f32>>,
    /// Comes with laying out what is needed for the others.
    bias: Vec<f32>,
}

fn backward(sizes: Sizes, known: &Known<'_>, (wants_input, wants_weight): (bool, bool)) -> Result<Gradients> {
    let (_, group) = sizes.cut();
    let (inward, outward) = sizes.image();
    let mut input = wants_input.then(|| vec![0.0; sizes.images * inward]);
    let groups = sizes.images.div_ceil(group);
    let into: Vec<Option<&mut [f32]>> = match &mut input {
        Some(input) => input.chunks_mut(group * inward).map(Some).collect(),
        None => (0..groups).map(|_| None).collect(),
    };
    let of = |(number, dx): (usize, Option<&mut [f32]>)| {
        let images = number * group..sizes.images.min((number + 1) * group);
        let outs = images.start * outward..images.end * outward;
        let known = Known {
            x: &known.x[images.start * inward..images.end * inward],
            weight: Weight { storage: known.weight.storage, layout: known.weight.layout.clone() },
            y: known.y.map(|y| &y[outs.clone()]),
            grad: &known.grad[outs],
        };
        backward_of_group(sizes, &known, (dx, wants_weight))
    };
    let sums = into.into_par_iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
    let (mut weight, mut bias) = (vec![0.0; sizes.outputs * sizes.taps()], vec![0.0; sizes.outputs]);
    for (to_weight, to_bias) in sums {
        add(&mut weight, &to_weight);
        bias.iter_mut().zip(to_bias).for_each(|(sum, value): (&mut f64, f64)| *sum += value);
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    let bias = bias.into_iter().map(|sum| sum as f32).collect();
    Ok(Gradients { input, weight: wants_weight.then_some(weight), bias })
}

/// Sums of the weight's gradient, where it is wanted, and of the bias' over some images, and the gradient of each image.
fn backward_of_group(
    sizes: Sizes,
    known: &Known<'_>,
    (mut dx, wants_weight): (Option<&mut [f32]>, bool),
) -> Result<(Vec<f32>, Vec<f64>)> {
    let (part, _) = sizes.cut();
    let (inward, outward) = sizes.image();
    let (mut to_weight, mut to_bias) = (vec![0.0; sizes.outputs * sizes.taps()], vec![0.0; sizes.outputs]);
    let mut bench = Bench::new(sizes, part);
    let mut returned = dx.as_ref().map(|_| Bench::new(sizes, 0));
    // Places between the rows stay 0.
    let mut grads = Matrix::new(sizes.outputs, part * sizes.columns());
    for (number, x) in known.x.chunks(part * inward).enumerate() {
        let count = bench.lay_out(x)?;
        let outs = number * part * outward..(number * part * outward + x.len() / inward * outward);
        fill(sizes, &mut grads, &mut to_bias, (&known.grad[outs.clone()], known.y.map(|y| &y[outs])))?;
        let (narrow, columns) = (grads.layout(count), bench.columns.layout(count).transpose(0, 1)?);
        let size = (1, sizes.outputs, sizes.taps(), count);
        if wants_weight
            && let CpuStorage::F32(product) = grads.values.matmul(&bench.columns.values, size, &narrow, &columns)?
        {
            add(&mut to_weight, &product);
        }
        if let (Some(dx), Some(returned)) = (&mut dx, &mut returned) {
            let size = (1, sizes.taps(), count, sizes.outputs);
            let weight = known.weight.layout.transpose(0, 1)?;
            let product = known.weight.storage.matmul(&grads.values, size, &weight, &narrow)?;
            if let CpuStorage::F32(product) = &product {
                returned.take_back(product, &mut dx[number * part * inward..][..x.len()]);
            }
        }
    }
    Ok((to_weight, to_bias))
}

/// Lays out the gradients of some images, 0 where they were cut, and adds them up by channel.
fn fill(sizes: Sizes, grads: &mut Matrix, sums: &mut [f64], (grad, y): (&[f32], Option<&[f32]>)) -> Result<()> {
    let room = grads.room;
    let values = grads.values()?;
    let (_, outward) = sizes.image();
    for (number, image) in grad.chunks_exact(outward).enumerate() {
        let channels = image.chunks_exact(sizes.pixels()).zip(values.chunks_exact_mut(room)).zip(sums.iter_mut());
        for (channel, ((grad, row), sum)) in channels.enumerate() {
            for (line, from) in grad.chunks_exact(sizes.width).enumerate() {
                let to = &mut row[place(sizes, number, line)..][..sizes.width];
                to.copy_from_slice(from);
                if let Some(y) = y {
                    let at = number * outward + channel * sizes.pixels() + line * sizes.width;
                    for (value, y) in to.iter_mut().zip(&y[at..]) {
                        *value = if *y <= 0.0 { 0.0 } else { *value };
                    }
                }
                *sum += to.iter().map(|value| f64::from(*value)).sum::<f64>();
            }
        }
    }
    Ok(())
}

fn add(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::rng::{Rng, Stream};

    fn random(shape: &[usize], block: u64) -> Tensor {
        let mut values = vec![0.0; shape.iter().product()];
        Rng::new(2, Stream::Data { table: 0, block }).fill_normal(&mut values);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    /// (rows, in, height, width), out, kernel: odd, even, a kernel larger than the image, and enough rows for several groups with a rest.
    const CASES: [([usize; 4], usize, usize); 6] = [
        ([3, 2, 5, 7], 4, 3),
        ([2, 3, 6, 4], 2, 4),
        ([1, 1, 1, 1], 1, 1),
        ([2, 2, 2, 3], 3, 5),
        ([131, 3, 9, 8], 7, 3),
        ([5, 40, 30, 31], 9, 3),
    ];

    fn vars(([rows, inputs, height, width], outputs, kernel): ([usize; 4], usize, usize)) -> [Var; 3] {
        let shapes: [&[usize]; 3] = [&[rows, inputs, height, width], &[outputs, inputs, kernel, kernel], &[outputs]];
        [0, 1, 2].map(|at| Var::from_tensor(&random(shapes[at], at as u64)).unwrap())
    }

    #[test]
    fn it_agrees_with_candles_convolution_forward_and_backward() {
        for (case, relu) in CASES.into_iter().flat_map(|case| [(case, true), (case, false)]) {
            let [x, weight, bias] = &vars(case);
            let ours = convolve(x, weight, bias, relu).unwrap();
            let theirs = convolve_composed(x, weight, bias, relu).unwrap();
            assert!(largest_difference(&ours, &theirs) < 1e-4, "{case:?}");
            let upstream = random(ours.dims(), 9);
            let gradients = |y: &Tensor| (y * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
            let (ours, theirs) = (gradients(&ours), gradients(&theirs));
            for var in [x, weight, bias] {
                let (ours, theirs) = (ours.get(var).unwrap(), theirs.get(var).unwrap());
                let scale = theirs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(largest_difference(ours, theirs) < 1e-5 * scale.max(1.0), "{case:?} {:?}", var.shape());
            }
        }
    }

    #[test]
    fn gradients_are_the_slopes_of_finite_differences() {
        for case in &CASES[..4] {
            let [x, weight, bias] = vars(*case);
            let upstream = random(convolve(&x, &weight, &bias, false).unwrap().dims(), 9);
            let value = |[x, weight, bias]: [&Tensor; 3]| {
                let y = (convolve(x, weight, bias, false).unwrap() * &upstream).unwrap();
                y.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).sum::<f64>()
            };
            let loss = (convolve(&x, &weight, &bias, false).unwrap() * &upstream).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let vars = [&x, &weight, &bias];
            for (at, var) in vars.iter().enumerate() {
                let slopes: Vec<f32> = gradients.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                for (place, slope) in slopes.into_iter().enumerate() {
                    let moved = |by: f32| {
                        let mut values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
                        values[place] += by;
                        let moved = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
                        let mut tensors = vars.map(|var| var.as_tensor());
                        tensors[at] = &moved;
                        value(tensors)
                    };
                    // It is linear in each of them, so that a long step is exact.
                    let difference = moved(0.5) - moved(-0.5);
                    assert!((difference - f64::from(slope)).abs() < 1e-4, "{case:?}: {difference}, not {slope}");
                }
            }
        }
    }

    #[test]
    fn what_is_outside_the_graph_gets_no_gradient_and_changes_none() {
        let vars = vars(CASES[0]);
        let gradients = |[x, weight, bias]: &[Tensor; 3]| {
            let grads = convolve(x, weight, bias, true).unwrap().sum_all().unwrap().backward().unwrap();
            [x, weight, bias].map(|of| grads.get(of).map(|grad| grad.flatten_all().unwrap().to_vec1::<f32>().unwrap()))
        };
        let whole = gradients(&[0, 1, 2].map(|place| vars[place].as_tensor().clone()));
        assert!(whole.iter().all(Option::is_some));
        for frozen in 0..3 {
            let tensors = [0, 1, 2].map(|place| match place == frozen {
                true => vars[place].as_detached_tensor(),
                false => vars[place].as_tensor().clone(),
            });
            for (place, found) in gradients(&tensors).into_iter().enumerate() {
                assert_eq!(found, whole[place].clone().filter(|_| place != frozen), "{frozen}: {place}");
            }
        }
    }

    #[test]
    fn no_image_is_no_image_and_what_is_not_a_number_stays_one() {
        let [_, weight, bias] = vars(CASES[0]);
        let none = Tensor::zeros((0, 2, 5, 7), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(convolve(&none, &weight, &bias, true).unwrap().dims(), [0, 4, 5, 7]);
        let x = Tensor::full(f32::NAN, (1, 2, 5, 7), &Device::Cpu).unwrap();
        let y = convolve(&x, &weight, &bias, true).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(y.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn shapes_that_do_not_fit_are_an_error() {
        let [x, weight, bias] = vars(CASES[0]);
        assert!(convolve(&random(&[3, 3, 5, 7], 0), &weight, &bias, false).is_err());
        assert!(convolve(&x, &random(&[4, 2, 3, 2], 0), &bias, false).is_err());
        assert!(convolve(&x, &weight, &random(&[3], 0), false).is_err());
        assert!(convolve(&random(&[3, 2, 0, 7], 0), &weight, &bias, false).is_err());
    }
}
