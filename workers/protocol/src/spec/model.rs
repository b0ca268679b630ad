//! The shape of a network: what a training learns, and what weights alone do not tell.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gpt::GptSpec;

/// The shape of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelSpec {
    /// A multi-layer perceptron: linear layers with an activation and dropout between them. Tensors are named as in PyTorch: `layer1.weight`
    /// of shape (out, in), `layer1.bias` of shape (out), and so on.
    Mlp {
        /// Widths from the features to the outputs, `[64, 128, 10]` for 64 features, one hidden layer of 128, and 10 outputs.
        #[schemars(length(min = 2, max = 1000), inner(range(min = 1, max = 1_000_000)))]
        layers: Vec<u32>,
        /// What stands between the layers.
        #[serde(default)]
        activation: Activation,
        /// The probability with which a hidden unit is dropped while training.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 0.99))]
        dropout: f64,
    },
    /// A convolutional network for small images: convolutions, each followed by the activation and max-pooling, then linear layers with an activation and dropout between
    /// them. Tensors are named as in PyTorch: `conv1.weight` of shape (out, in, kernel, kernel), `conv1.bias` of shape (out), …, `fc1.weight` of shape (out, in), `fc1.bias`.
    Cnn {
        /// The image that a row's features are, channel by channel and in each row by row.
        image: ImageShape,
        /// The convolutions, in order.
        #[schemars(length(min = 1, max = 100))]
        convolutions: Vec<ConvolutionSpec>,
        /// Widths of the linear layers behind them, `[128, 10]` for a hidden one of 128, and 10 outputs.
        #[schemars(length(min = 1, max = 1000), inner(range(min = 1, max = 1_000_000)))]
        layers: Vec<u32>,
        /// What stands behind each convolution and between the linear layers.
        #[serde(default)]
        activation: Activation,
        /// The probability with which a unit between two linear layers is dropped while training.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 0.99))]
        dropout: f64,
    },
    /// A decoder-only transformer, which learns from text what the next token is. With `swiglu`, tensors have the names and shapes of Hugging Face's `LlamaForCausalLM`, without it those of
    /// `GPT2LMHeadModel`.
    Gpt(GptSpec),
}

impl ModelSpec {
    /// Features of a row; 0 where it takes no table.
    #[must_use]
    pub fn inputs(&self) -> u64 {
        match self {
            Self::Mlp { layers, .. } => layers.first().copied().unwrap_or(0).into(),
            Self::Cnn { image, .. } => image.values(),
            Self::Gpt(_) => 0,
        }
    }

    /// Outputs of a row, or of a token.
    #[must_use]
    pub fn outputs(&self) -> u32 {
        match self {
            Self::Mlp { layers, .. } | Self::Cnn { layers, .. } => layers.last().copied().unwrap_or(0),
            Self::Gpt(gpt) => gpt.vocab.unwrap_or(0),
        }
    }

    /// Widths of the linear layers, the last of them the outputs; those of a perceptron begin with the features. None of a transformer.
    #[must_use]
    pub fn layers(&self) -> &[u32] {
        match self {
            Self::Mlp { layers, .. } | Self::Cnn { layers, .. } => layers,
            Self::Gpt(_) => &[],
        }
    }
}

/// The size of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageShape {
    /// Values of a pixel: 1 for grey, 3 for colours.
    #[schemars(range(min = 1, max = 10_000))]
    pub channels: u32,
    /// Rows of pixels.
    #[schemars(range(min = 1, max = 10_000))]
    pub height: u32,
    /// Pixels of a row.
    #[schemars(range(min = 1, max = 10_000))]
    pub width: u32,
}

impl ImageShape {
    /// Numbers of an image.
    #[must_use]
    pub fn values(self) -> u64 {
        [self.height, self.width].into_iter().fold(self.channels.into(), |all: u64, n| all.saturating_mul(n.into()))
    }

    /// What a convolution with its pooling makes of it. Its height or width is 0 where it is too small to be pooled.
    #[must_use]
    pub fn behind(self, convolution: &ConvolutionSpec) -> Self {
        let pool = convolution.pool.max(1);
        Self { channels: convolution.channels, height: self.height / pool, width: self.width / pool }
    }
}

/// A convolution over an image with a border of zeros, so that what comes out is as large, and the pooling behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvolutionSpec {
    /// Channels that come out.
    #[schemars(range(min = 1, max = 10_000))]
    pub channels: u32,
    /// Height and width of the kernel, as PyTorch's `nn.Conv2d(…, kernel, padding="same")`.
    #[serde(default = "default_kernel")]
    #[schemars(range(min = 1, max = 31))]
    pub kernel: u32,
    /// Height and width of the squares of which the largest value is kept, as PyTorch's `nn.MaxPool2d(pool)`; 1 keeps all.
    #[serde(default = "default_pool")]
    #[schemars(range(min = 1, max = 31))]
    pub pool: u32,
}

const fn default_kernel() -> u32 {
    3
}
const fn default_pool() -> u32 {
    2
}

/// A non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(0, x); its derivative at 0 is 0, as in PyTorch.
    #[default]
    Relu,
    /// x times the share of the standard normal distribution below x, as PyTorch's `nn.GELU()`.
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
}
