//! The shape of a decoder-only transformer: GPT-2's, Llama's, or one between them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A decoder-only transformer. Its defaults are the shape of GPT-2; `norm = "rms"`, `positions = "rope"`, `feed_forward = "swiglu"` make it that of Llama.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct GptSpec {
    /// Tokens that are told apart; as many as the tokenizer of the data has when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 1_000_000))]
    pub vocab: Option<u32>,
    /// Tokens that are seen at once: the length of a sequence.
    #[schemars(range(min = 1, max = Self::MAX_CONTEXT))]
    pub context: u32,
    /// Values that stand for a token between the layers.
    #[schemars(range(min = 1, max = 65_536))]
    pub width: u32,
    /// Layers, each attention and a feed-forward network.
    #[schemars(range(min = 1, max = Self::MAX_DEPTH))]
    pub depth: u32,
    /// Heads of the attention, which share the width evenly.
    #[schemars(range(min = 1, max = 1024))]
    pub heads: u32,
    /// Heads of keys and values, each for as many heads of queries; as many as `heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub kv_heads: Option<u32>,
    /// How values are normalised before each half of a layer and at the end.
    #[serde(default)]
    pub norm: Norm,
    /// Added to the variance or the mean square before its root is taken.
    #[serde(default = "default_norm_eps")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub norm_eps: f64,
    /// How a token's place is told.
    #[serde(default)]
    pub positions: Positions,
    /// The base of the angles of `positions = "rope"`.
    #[serde(default = "default_rope_base")]
    #[schemars(range(min = 1.0, max = 1e9))]
    pub rope_base: f64,
    /// The second half of a layer.
    #[serde(default)]
    pub feed_forward: FeedForward,
    /// Values within the feed-forward network; four times the width when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 262_144))]
    pub hidden: Option<u32>,
    /// Whether linear layers and layer norms have biases; as GPT-2 has and, with `swiglu`, Llama has not, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<bool>,
    /// Whether the logits are made by the weights of the embedding, instead of others.
    #[serde(default = "default_tied")]
    pub tied: bool,
    /// The probability with which, while training, a value of the embedding or of what a half of a layer adds is dropped.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
}

const fn default_norm_eps() -> f64 {
    1e-5
}
const fn default_rope_base() -> f64 {
    10_000.0
}
const fn default_tied() -> bool {
    true
}

impl GptSpec {
    /// The most layers.
    pub const MAX_DEPTH: u32 = 1000;

    /// The longest sequence, in tokens.
    pub const MAX_CONTEXT: u32 = 131_072;

    /// Heads of keys and values.
    #[must_use]
    pub fn kv_heads(&self) -> u32 {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Values within the feed-forward network.
    #[must_use]
    pub fn hidden(&self) -> u32 {
        self.hidden.unwrap_or_else(|| self.width.saturating_mul(4))
    }

    /// Values of a head.
    #[must_use]
    pub fn head_size(&self) -> u32 {
        self.width / self.heads.max(1)
    }

    /// Whether linear layers and layer norms have biases.
    #[must_use]
    pub fn has_biases(&self) -> bool {
        self.bias.unwrap_or(self.feed_forward != FeedForward::Swiglu)
    }
}

/// A normalisation over the values of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// To mean 0 and variance 1, <https://arxiv.org/abs/1607.06450>.
    #[default]
    Layer,
    /// To a mean square of 1, <https://arxiv.org/abs/1910.07467>.
    Rms,
}

/// How a token's place is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// A vector for each place, which is learnt and added to the token's.
    #[default]
    Learned,
    /// Queries and keys are turned by angles that grow with the place, <https://arxiv.org/abs/2104.09864>, in halves as Llama does.
    Rope,
}

/// The second half of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeedForward {
    /// Two linear layers with GELU between them, as PyTorch's `nn.GELU()`.
    #[default]
    Gelu,
    /// The same with GELU's approximation by tanh: what GPT-2 was trained with.
    GeluTanh,
    /// Two linear layers, one through SiLU, multiplied and followed by a third, <https://arxiv.org/abs/2002.05202>.
    Swiglu,
}
