//! A convolutional network for small images: convolutions with an activation and max-pooling behind each, then a perceptron. Tensors are named and
//! shaped as in PyTorch.

use candle_core::{Result, Tensor};
use mlctl_protocol::spec::{Activation, ConvolutionSpec, ImageShape};

use super::{Dropping, Mlp, Tensors, activation, bias_name, convolution::convolve, layer, mlp, pooling, weight_name};

/// What the names of its tensors begin with.
const CONVOLUTION: &str = "conv";
const LINEAR: &str = "fc";

/// A convolutional network over tensors that are trained (variables) or not.
#[derive(Debug)]
pub struct Cnn {
    image: ImageShape,
    convolutions: Vec<Convolution>,
    activation: Activation,
    linear: Mlp,
}

#[derive(Debug)]
struct Convolution {
    /// (out, in, kernel, kernel).
    weight: Tensor,
    /// (out).
    bias: Tensor,
    pool: usize,
}

impl Cnn {
    /// The convolutions of images of a shape, and so many linear layers, over tensors of the names and shapes of [`super::layout`].
    ///
    /// # Errors
    /// When a tensor is missing.
    pub fn new(
        (image, convolutions): (ImageShape, &[ConvolutionSpec]),
        layers: usize,
        (activation, dropout): (Activation, f64),
        tensors: &Tensors,
    ) -> Result<Self> {
        let convolution = |(number, spec): (usize, &ConvolutionSpec)| {
            let (weight, bias) = layer(tensors, CONVOLUTION, number)?;
            Ok(Convolution { weight, bias, pool: spec.pool as usize })
        };
        let convolutions = (1..).zip(convolutions).map(convolution).collect::<Result<_>>()?;
        let linear = Mlp::new(LINEAR, layers, (activation, dropout), tensors)?;
        Ok(Self { image, convolutions, activation, linear })
    }

    /// Outputs (rows, outputs) of features (rows, channels x height x width): logits where classes are learnt.
    ///
    /// # Errors
    /// On shapes that do not fit, and when the device refuses memory.
    pub fn forward(&self, features: &Tensor, training: Option<Dropping>) -> Result<Tensor> {
        let ImageShape { channels, height, width } = self.image;
        let mut x = features.reshape((features.dim(0)?, channels as usize, height as usize, width as usize))?;
        for Convolution { weight, bias, pool } in &self.convolutions {
            x = convolve(&x, weight, bias, self.activation == Activation::Relu)?;
            x = activation::behind(x, self.activation)?;
            x = pooling::max(&x, *pool)?;
        }
        self.linear.forward(&x.flatten_from(1)?, training)
    }
}

/// Names and shapes, weight before bias, layer by layer.
pub(super) fn layout(
    mut image: ImageShape,
    convolutions: &[ConvolutionSpec],
    layers: &[u32],
) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    for (number, convolution) in (1..).zip(convolutions) {
        let [outputs, inputs, kernel] = [convolution.channels, image.channels, convolution.kernel].map(|n| n as usize);
        tensors.push((weight_name(CONVOLUTION, number), vec![outputs, inputs, kernel, kernel]));
        tensors.push((bias_name(CONVOLUTION, number), vec![outputs]));
        image = image.behind(convolution);
    }
    let widths = std::iter::once(values(image)).chain(layers.iter().map(|width| *width as usize));
    tensors.extend(mlp::layout(LINEAR, widths));
    tensors
}

/// Values of the widest layer.
pub(super) fn widest(mut image: ImageShape, convolutions: &[ConvolutionSpec], layers: &[u32]) -> usize {
    let mut widest = layers.iter().map(|width| *width as usize).max().unwrap_or(0).max(values(image));
    for convolution in convolutions {
        widest = widest.max(values(ImageShape { channels: convolution.channels, ..image }));
        image = image.behind(convolution);
    }
    widest
}

fn values(image: ImageShape) -> usize {
    usize::try_from(image.values()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: ImageShape = ImageShape { channels: 3, height: 5, width: 7 };

    fn convolutions() -> [ConvolutionSpec; 2] {
        [ConvolutionSpec { channels: 4, kernel: 3, pool: 2 }, ConvolutionSpec { channels: 6, kernel: 2, pool: 1 }]
    }

    #[test]
    fn tensors_are_named_and_shaped_as_in_pytorch() {
        let expected = [
            ("conv1.weight", vec![4, 3, 3, 3]),
            ("conv1.bias", vec![4]),
            ("conv2.weight", vec![6, 4, 2, 2]),
            ("conv2.bias", vec![6]),
            ("fc1.weight", vec![8, 6 * 2 * 3]),
            ("fc1.bias", vec![8]),
            ("fc2.weight", vec![2, 8]),
            ("fc2.bias", vec![2]),
        ];
        assert_eq!(layout(IMAGE, &convolutions(), &[8, 2]), expected.map(|(name, shape)| (name.to_owned(), shape)));
    }

    #[test]
    fn the_widest_layer_is_what_a_convolution_makes_before_it_is_pooled() {
        assert_eq!(widest(IMAGE, &convolutions(), &[8, 2]), 4 * 5 * 7);
        assert_eq!(widest(IMAGE, &convolutions(), &[999, 2]), 999);
        let narrow = [ConvolutionSpec { channels: 1, kernel: 1, pool: 1 }];
        assert_eq!(widest(IMAGE, &narrow, &[2]), 3 * 5 * 7, "the image itself");
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let error = Cnn::new((IMAGE, &convolutions()), 2, (Activation::Relu, 0.0), &Tensors::new()).unwrap_err();
        assert!(error.to_string().contains("conv1.weight"));
    }
}
