//! The multi-layer perceptron: linear layers with an activation and dropout between them. Tensors are named and shaped as in PyTorch.

use candle_core::{Result, Tensor};
use mlctl_protocol::spec::Activation;

use super::{Dropping, Tensors, activation, bias_name, layer, ops, weight_name};

/// What the names of a perceptron's tensors begin with.
pub(super) const PREFIX: &str = "layer";

/// A multi-layer perceptron over tensors that are trained (variables) or not.
#[derive(Debug)]
pub struct Mlp {
    /// Weight (out, in) and bias (out) of each layer.
    layers: Vec<(Tensor, Tensor)>,
    activation: Activation,
    dropout: f64,
}

impl Mlp {
    /// So many layers over tensors whose names begin with `prefix`.
    ///
    /// # Errors
    /// When one is missing.
    pub fn new(
        prefix: &str,
        layers: usize,
        (activation, dropout): (Activation, f64),
        tensors: &Tensors,
    ) -> Result<Self> {
        let layers = (1..=layers).map(|number| layer(tensors, prefix, number)).collect::<Result<_>>()?;
        Ok(Self { layers, activation, dropout })
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
            if hidden {
                x = activation::behind(x, self.activation)?;
            }
            if let (true, Some(dropping)) = (hidden && self.dropout > 0.0, training) {
                x = ops::dropout(&x, self.dropout, dropping, layer)?;
            }
        }
        Ok(x)
    }
}

/// Names and shapes, weight before bias, layer by layer.
pub(super) fn layout(prefix: &str, widths: impl Iterator<Item = usize> + Clone) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    for (number, (inputs, outputs)) in (1..).zip(widths.clone().zip(widths.skip(1))) {
        tensors.push((weight_name(prefix, number), vec![outputs, inputs]));
        tensors.push((bias_name(prefix, number), vec![outputs]));
    }
    tensors
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn tensors_are_named_and_shaped_as_in_pytorch() {
        let names = layout(PREFIX, [4, 3, 2].into_iter());
        let expected = [
            ("layer1.weight", vec![3, 4]),
            ("layer1.bias", vec![3]),
            ("layer2.weight", vec![2, 3]),
            ("layer2.bias", vec![2]),
        ];
        assert_eq!(names, expected.map(|(name, shape)| (name.to_owned(), shape)));
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
        let model = Mlp::new(PREFIX, 2, (Activation::Relu, 0.5), &tensors).unwrap();
        let x = Tensor::new(&[[1f32, 2.0], [3.0, 1.0]], device).unwrap();
        // Hidden: relu(1-2)=0, relu(2+1+1)=4; relu(3-1)=2, relu(6+0.5+1)=7.5. Without `training` nothing is dropped.
        let y = model.forward(&x, None).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[3.0 * 0.0 - 8.0 + 0.25], [6.0 - 15.0 + 0.25]]);
        let dropped = model.forward(&x, Some(Dropping { seed: 1, step: 0, row: 0 })).unwrap();
        assert_ne!(dropped.to_vec2::<f32>().unwrap(), y.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let error = Mlp::new(PREFIX, 1, (Activation::Relu, 0.0), &Tensors::new()).unwrap_err();
        assert!(error.to_string().contains("layer1.weight"));
    }
}
