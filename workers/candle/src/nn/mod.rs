//! Models as structs over plain tensors, and the differentiable operations they are made of. `train` runs them over variables,
//! `infer` over frozen tensors: the same forward pass. No file, no loop, no optimizer here.

pub mod activation;
mod attention;
pub(crate) mod blocks;
pub mod cnn;
pub mod convolution;
mod embedding;
mod feed_forward;
pub mod gpt;
mod ledger;
mod math;
mod matrix;
pub mod mlp;
mod norm;
pub mod ops;
pub mod pooling;
mod rope;

pub use cnn::Cnn;
pub use gpt::Gpt;
pub use mlp::Mlp;

use std::collections::BTreeMap;

use candle_core::{Device, Error, Result, Tensor, backprop::GradStore};
use mlctl_protocol::spec::ModelSpec;

use self::gpt::layout::{Begin, plan};
use crate::rng::{Rng, Stream};

/// Values of the widest layer that a pass of rows which are not trained on may make; 256 MiB.
const MAX_PASS_VALUES: usize = 64 * 1024 * 1024;

/// Tensors by name, sorted: the order of everything that is written or hashed.
pub type Tensors = BTreeMap<String, Tensor>;

/// The seed and step that dropout draws from; a forward pass without it drops nothing.
#[derive(Debug, Clone, Copy)]
pub struct Dropping {
    /// The job's seed.
    pub seed: u64,
    /// Optimizer steps done so far.
    pub step: u64,
    /// The place in the step of the first row that is passed forward: units are dropped alike however a step's rows are cut.
    pub row: u64,
}

/// A model of any kind over tensors that are trained (variables) or not.
#[derive(Debug)]
pub struct Network {
    kind: Kind,
    widest: usize,
}

#[derive(Debug)]
enum Kind {
    Mlp(Mlp),
    Cnn(Cnn),
    Gpt(Gpt),
}

impl Network {
    /// The model over tensors of the names and shapes of [`layout`]; others are ignored.
    ///
    /// # Errors
    /// When one is missing. Shapes are checked where files are read, and by the first forward pass.
    pub fn new(spec: &ModelSpec, tensors: &Tensors) -> Result<Self> {
        let (kind, widest) = match spec {
            ModelSpec::Mlp { layers, activation, dropout } => {
                let mlp = Mlp::new(mlp::PREFIX, layers.len().saturating_sub(1), (*activation, *dropout), tensors)?;
                (Kind::Mlp(mlp), layers.iter().copied().max().unwrap_or(1) as usize)
            }
            ModelSpec::Cnn { image, convolutions, layers, activation, dropout } => {
                let cnn = Cnn::new((*image, convolutions), layers.len(), (*activation, *dropout), tensors)?;
                (Kind::Cnn(cnn), cnn::widest(*image, convolutions, layers))
            }
            ModelSpec::Gpt(spec) => (Kind::Gpt(Gpt::new(spec, tensors)?), gpt::widest(spec)),
        };
        Ok(Self { kind, widest: widest.max(1) })
    }

    /// Outputs (rows, outputs) of features (rows, features): logits where classes are learnt; of tokens (sequences, context) logits for each.
    ///
    /// # Errors
    /// On shapes that do not fit, and when the device refuses memory.
    pub fn forward(&self, features: &Tensor, training: Option<Dropping>) -> Result<Tensor> {
        match &self.kind {
            Kind::Mlp(mlp) => mlp.forward(features, training),
            Kind::Cnn(cnn) => cnn.forward(features, training),
            Kind::Gpt(gpt) => gpt.forward(features, training),
        }
    }

    /// The gradients of a loss of its outputs, by the tensors it is made of.
    ///
    /// # Errors
    /// When an operation has no backward pass, and when the device refuses memory.
    pub fn gradients(&self, loss: &Tensor) -> Result<GradStore> {
        let mut gradients = loss.backward()?;
        if let Kind::Gpt(gpt) = &self.kind {
            gpt.gather(&mut gradients)?;
        }
        Ok(gradients)
    }

    /// How many of so many rows go through it at once without taking too much memory, where none of them is trained on.
    #[must_use]
    pub fn rows_at_once(&self, wanted: usize) -> usize {
        wanted.min(MAX_PASS_VALUES / self.widest).max(1)
    }
}

/// The name and shape of every tensor of a model, in the order of its layers. All are f32.
#[must_use]
pub fn layout(spec: &ModelSpec) -> Vec<(String, Vec<usize>)> {
    match spec {
        ModelSpec::Mlp { layers, .. } => mlp::layout(mlp::PREFIX, layers.iter().map(|width| *width as usize)),
        ModelSpec::Cnn { image, convolutions, layers, .. } => cnn::layout(*image, convolutions, layers),
        ModelSpec::Gpt(spec) => plan(spec).into_iter().map(|(name, shape, _)| (name, shape)).collect(),
    }
}

/// Numbers in all tensors of a layout.
#[must_use]
pub fn values(layout: &[(String, Vec<usize>)]) -> u64 {
    let of = |shape: &[usize]| shape.iter().fold(1, |product: u64, n| product.saturating_mul(*n as u64));
    layout.iter().fold(0, |sum, (_, shape)| sum.saturating_add(of(shape)))
}

/// Fresh weights of a model, as PyTorch's `nn.Linear` and `nn.Conv2d` begin: weight and bias uniform in [-1/sqrt(in), 1/sqrt(in)), `in` being the values that an output is made of. Those
/// of a transformer begin as nanoGPT's.
///
/// # Errors
/// When the device refuses memory.
pub fn initial(spec: &ModelSpec, seed: u64, device: &Device) -> Result<Tensors> {
    if let ModelSpec::Gpt(spec) = spec {
        return normal((0_u32..).zip(plan(spec)), seed, device);
    }
    let mut tensors = Tensors::new();
    let mut inputs = 1;
    for (number, (name, shape)) in (0_u32..).zip(layout(spec)) {
        // A bias follows the weight of its layer and has the same bound.
        if let [_, of_an_output @ ..] = shape.as_slice()
            && !of_an_output.is_empty()
        {
            inputs = of_an_output.iter().product();
        }
        let mut values = vec![0.0; shape.iter().product()];
        Rng::new(seed, Stream::Init { tensor: number }).fill_uniform(&mut values);
        #[expect(clippy::cast_precision_loss, reason = "at most some million inputs")]
        let bound = 1.0 / (inputs as f32).sqrt();
        for value in &mut values {
            *value = (2.0 * *value - 1.0) * bound;
        }
        tensors.insert(name, Tensor::from_vec(values, shape, device)?);
    }
    Ok(tensors)
}

/// Tensors by their numbers, each with what it begins with.
fn normal(plan: impl Iterator<Item = (u32, gpt::layout::Planned)>, seed: u64, device: &Device) -> Result<Tensors> {
    let make = |(number, (name, shape, begin)): (u32, gpt::layout::Planned)| {
        let mut values = vec![0.0; shape.iter().product()];
        match begin {
            Begin::Zero => {}
            Begin::One => values.fill(1.0),
            Begin::Normal(deviation) => {
                Rng::new(seed, Stream::Init { tensor: number }).fill_normal(&mut values);
                values.iter_mut().for_each(|value| *value *= deviation);
            }
        }
        Ok((name, Tensor::from_vec(values, shape, device)?))
    };
    plan.map(make).collect()
}

/// Weight and bias of layer `number`, from 1.
fn layer(tensors: &Tensors, prefix: &str, number: usize) -> Result<(Tensor, Tensor)> {
    let take = |name: String| {
        tensors.get(&name).cloned().ok_or_else(|| Error::Msg(format!("the model has no tensor {name:?}")))
    };
    Ok((take(weight_name(prefix, number))?, take(bias_name(prefix, number))?))
}

fn weight_name(prefix: &str, number: usize) -> String {
    format!("{prefix}{number}.weight")
}

fn bias_name(prefix: &str, number: usize) -> String {
    format!("{prefix}{number}.bias")
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::spec::{Activation, ConvolutionSpec, ImageShape};

    use super::*;

    #[test]
    fn initial_values_fill_pytorchs_range_and_follow_the_seed() {
        let convolutions = vec![ConvolutionSpec { channels: 20, kernel: 5, pool: 2 }];
        let image = ImageShape { channels: 4, height: 4, width: 6 };
        let (activation, dropout) = (Activation::Relu, 0.0);
        let mlp = ModelSpec::Mlp { layers: vec![100, 50, 10], activation, dropout };
        let cnn = ModelSpec::Cnn { image, convolutions, layers: vec![30], activation, dropout };
        let make = |spec, seed| initial(spec, seed, &Device::Cpu).unwrap();
        let values = |tensors: &Tensors, name: &str| tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (spec, name, bound) in [
            (&mlp, "layer1.weight", 0.1),
            (&mlp, "layer1.bias", 0.1),
            (&mlp, "layer2.weight", 0.02_f32.sqrt()),
            (&cnn, "conv1.weight", 0.1),
            (&cnn, "conv1.bias", 0.1),
            (&cnn, "fc1.weight", 120_f32.sqrt().recip()),
        ] {
            let values = values(&make(spec, 1), name);
            assert!(values.iter().all(|v| v.abs() <= bound), "{name}");
            assert!(values.iter().any(|v| *v > 0.8 * bound) && values.iter().any(|v| *v < -0.8 * bound), "{name}");
        }
        assert_eq!(values(&make(&mlp, 1), "layer1.bias"), values(&make(&mlp, 1), "layer1.bias"));
        assert_ne!(values(&make(&mlp, 1), "layer1.bias"), values(&make(&mlp, 2), "layer1.bias"));
    }
}
