//! The multi-layer perceptron: linear layers with an activation and dropout between them. Tensors are named and shaped as in PyTorch.

use candle_core::{Device, Error, Result, Tensor};
use mlctl_protocol::spec::{Activation, ModelSpec};

use super::{Dropping, Tensors, activation, ops};
use crate::rng::{Rng, Stream};

/// A multi-layer perceptron over tensors that are trained (variables) or not.
#[derive(Debug)]
pub struct Mlp {
    /// Weight (out, in) and bias (out) of each layer.
    layers: Vec<(Tensor, Tensor)>,
    activation: Activation,
    dropout: f64,
}

impl Mlp {
    /// The model over tensors of the names and shapes of [`super::layout`]; others are ignored.
    ///
    /// # Errors
    /// When one is missing. Shapes are checked where files are read, and by the first forward pass.
    pub fn new(spec: &ModelSpec, tensors: &Tensors) -> Result<Self> {
        let ModelSpec::Mlp { layers, activation, dropout } = spec;
        let take = |name: String| {
            tensors.get(&name).cloned().ok_or_else(|| Error::Msg(format!("the model has no tensor {name:?}")))
        };
        let layers = (1..layers.len())
            .map(|number| Ok((take(weight_name(number))?, take(bias_name(number))?)))
            .collect::<Result<_>>()?;
        Ok(Self { layers, activation: *activation, dropout: *dropout })
    }

    /// Outputs (rows, outputs) of features (rows, features): logits where classes are learnt.
    ///
    /// # Errors
    /// On shapes that do not fit, and when the device refuses memory.
    pub fn forward(&self, features: &Tensor, training: Option<Dropping>) -> Result<Tensor> {
        let last = self.layers.len().saturating_sub(1);
        let mut x = features.clone();
        for (layer, (weight, bias)) in (0_u32..).zip(&self.layers) {
            let hidden = (layer as usize) < last;
            x = ops::linear(&x, weight, bias, hidden && self.activation == Activation::Relu)?;
            x = match self.activation {
                Activation::Gelu if hidden => activation::gelu(&x)?,
                Activation::Tanh if hidden => activation::tanh(&x)?,
                _ => x,
            };
            if let (true, Some(Dropping { seed, step })) = (hidden && self.dropout > 0.0, training) {
                x = ops::dropout(&x, self.dropout, seed, Stream::Dropout { step, layer })?;
            }
        }
        Ok(x)
    }
}

fn weight_name(layer: usize) -> String {
    format!("layer{layer}.weight")
}

fn bias_name(layer: usize) -> String {
    format!("layer{layer}.bias")
}

/// Names and shapes, weight before bias, layer by layer.
pub(super) fn layout(layers: &[u32]) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    for (number, pair) in (1..).zip(layers.windows(2)) {
        let (inputs, outputs) = (pair[0] as usize, pair[1] as usize);
        tensors.push((weight_name(number), vec![outputs, inputs]));
        tensors.push((bias_name(number), vec![outputs]));
    }
    tensors
}

/// PyTorch's initialisation of `nn.Linear`: weight and bias uniform in [-1/sqrt(in), 1/sqrt(in)).
pub(super) fn initial(layers: &[u32], seed: u64, device: &Device) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    let mut inputs = 1;
    for (number, (name, shape)) in (0_u32..).zip(layout(layers)) {
        // A bias follows the weight of its layer and has the same bound.
        inputs = shape.get(1).copied().unwrap_or(inputs);
        let mut values = vec![0.0; shape.iter().product()];
        Rng::new(seed, Stream::Init { tensor: number }).fill_uniform(&mut values);
        #[expect(clippy::cast_precision_loss, reason = "at most a million inputs")]
        let bound = 1.0 / (inputs as f32).sqrt();
        for value in &mut values {
            *value = (2.0 * *value - 1.0) * bound;
        }
        tensors.insert(name, Tensor::from_vec(values, shape, device)?);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(layers: &[u32], dropout: f64) -> ModelSpec {
        ModelSpec::Mlp { layers: layers.to_vec(), activation: Activation::Relu, dropout }
    }

    #[test]
    fn tensors_are_named_and_shaped_as_in_pytorch() {
        let names = layout(&[4, 3, 2]);
        let expected = [
            ("layer1.weight", vec![3, 4]),
            ("layer1.bias", vec![3]),
            ("layer2.weight", vec![2, 3]),
            ("layer2.bias", vec![2]),
        ];
        assert_eq!(names, expected.map(|(name, shape)| (name.to_owned(), shape)));
    }

    #[test]
    fn initial_values_fill_pytorchs_range_and_follow_the_seed() {
        let make = |seed| initial(&[100, 50, 10], seed, &Device::Cpu).unwrap();
        let values = |tensors: &Tensors, name: &str| tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let tensors = make(1);
        for (name, bound) in [("layer1.weight", 0.1), ("layer1.bias", 0.1), ("layer2.weight", 0.02_f32.sqrt())] {
            let values = values(&tensors, name);
            assert!(values.iter().all(|v| v.abs() <= bound), "{name}");
            assert!(values.iter().any(|v| *v > 0.8 * bound) && values.iter().any(|v| *v < -0.8 * bound), "{name}");
        }
        assert_eq!(values(&tensors, "layer1.bias"), values(&make(1), "layer1.bias"));
        assert_ne!(values(&tensors, "layer1.bias"), values(&make(2), "layer1.bias"));
    }

    #[test]
    fn forward_is_what_it_is_by_hand() {
        let device = &Device::Cpu;
        let tensors = Tensors::from([
            ("layer1.weight".into(), Tensor::new(&[[1f32, -1.0], [2.0, 0.5]], device).unwrap()),
            ("layer1.bias".into(), Tensor::new(&[0f32, 1.0], device).unwrap()),
            ("layer2.weight".into(), Tensor::new(&[[3f32, -2.0]], device).unwrap()),
            ("layer2.bias".into(), Tensor::new(&[0.25f32], device).unwrap()),
        ]);
        let model = Mlp::new(&spec(&[2, 2, 1], 0.5), &tensors).unwrap();
        let x = Tensor::new(&[[1f32, 2.0], [3.0, 1.0]], device).unwrap();
        // Hidden: relu(1-2)=0, relu(2+1+1)=4; relu(3-1)=2, relu(6+0.5+1)=7.5. Without `training` nothing is dropped.
        let y = model.forward(&x, None).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[3.0 * 0.0 - 8.0 + 0.25], [6.0 - 15.0 + 0.25]]);
        let dropped = model.forward(&x, Some(Dropping { seed: 1, step: 0 })).unwrap();
        assert_ne!(dropped.to_vec2::<f32>().unwrap(), y.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let error = Mlp::new(&spec(&[2, 1], 0.0), &Tensors::new()).unwrap_err();
        assert!(error.to_string().contains("layer1.weight"));
    }
}
