//! The decoder-only transformer: vectors for tokens, layers of attention and feed-forward networks, and logits of the next token. Tensors are named and shaped as
//! Hugging Face's `GPT2LMHeadModel` and `LlamaForCausalLM`. On the CPU each layer is one operation; elsewhere it is composed of candle's.

mod composed;
mod end;
mod layer;
pub(super) mod layout;
mod parts;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{Error, Result, Tensor, backprop::GradStore, bail};
use mlctl_protocol::spec::{GptSpec, Positions};

use self::{
    end::End,
    layer::{Common, Layer},
    layout::{HEAD, Names},
    parts::{Linear, Normalised},
};
use super::{Dropping, Tensors, attention::Heads, embedding, ledger::Ledger, ops, rope::Rope};

/// A transformer over tensors that are trained (variables) or not.
#[derive(Debug)]
pub struct Gpt {
    tokens: Tensor,
    places: Option<Tensor>,
    layers: Vec<Arc<Layer>>,
    end: Arc<End>,
    common: Common,
    /// Tokens of a sequence at most.
    context: usize,
}

impl Gpt {
    /// The transformer over tensors of the names and shapes of [`super::layout`].
    ///
    /// # Errors
    /// When one is missing, and when its heads do not share its width.
    pub fn new(spec: &GptSpec, tensors: &Tensors) -> Result<Self> {
        let (names, take) = (Names::of(spec), Take { spec, tensors });
        let [heads, kv_heads, context, size] =
            [spec.heads, spec.kv_heads(), spec.context, spec.head_size()].map(|n| n as usize);
        let odd = spec.positions == Positions::Rope && !size.is_multiple_of(2);
        if size == 0 || size * heads != spec.width as usize || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || odd {
            bail!("a transformer of width {} cannot have {heads} heads and {kv_heads} of keys", spec.width);
        }
        let layer = |number| {
            let part = |part: &str| names.part(number, part);
            let side_by_side = |parts: &[&str]| take.linear(parts.iter().map(|name| part(name)));
            Ok(Arc::new(Layer {
                number,
                before_attention: take.norm(&part(names.before_attention))?,
                attend: side_by_side(names.attend)?,
                attended: side_by_side(&[names.attended])?,
                before_feed: take.norm(&part(names.before_feed))?,
                feed: side_by_side(names.feed)?,
                fed: side_by_side(&[names.fed])?,
            }))
        };
        let tokens = take.tensor(names.tokens, "weight")?;
        let head = if spec.tied { tokens.clone() } else { take.tensor(HEAD, "weight")? };
        let head = Linear { layers: vec![(head, None)], inputs_first: false };
        let learned = spec.positions == Positions::Learned;
        Ok(Self {
            places: learned.then(|| take.tensor(names.places, "weight")).transpose()?,
            layers: (0..spec.depth).map(layer).collect::<Result<_>>()?,
            end: Arc::new(End { norm: take.norm(names.end)?, head }),
            common: Common {
                heads: Heads { heads, kv_heads, size, context },
                rope: (!learned).then(|| Arc::new(Rope::new(spec.rope_base, size, context))),
                feed: spec.feed_forward,
                hidden: spec.hidden() as usize,
                dropout: spec.dropout,
                ledger: Ledger::default(),
            },
            tokens,
            context,
        })
    }

    /// Logits (sequences x context, vocabulary) of the tokens behind those of `ids` (sequences, context), which are u32.
    ///
    /// # Errors
    /// On a token that is none of the vocabulary, on sequences that are too long, and when the device refuses memory.
    pub fn forward(&self, ids: &Tensor, training: Option<Dropping>) -> Result<Tensor> {
        let common = self.common_of(ids)?;
        if !ids.device().is_cpu() {
            return self.forward_composed(ids, training);
        }
        let training = of_tokens(ids, training)?;
        let mut x = embedding::embed(ids, &self.tokens, self.places.as_ref())?;
        x = self.drop_some(x, training)?;
        for layer in &self.layers {
            x = layer::forward(layer, &common, &x, training)?;
        }
        end::forward(&self.end, &x, &common.ledger)
    }

    /// [`Self::forward`] of candle's own operations.
    fn forward_composed(&self, ids: &Tensor, training: Option<Dropping>) -> Result<Tensor> {
        let common = self.common_of(ids)?;
        let training = of_tokens(ids, training)?;
        let mut x = embedding::embed_composed(ids, &self.tokens, self.places.as_ref())?;
        x = self.drop_some(x, training)?;
        for layer in &self.layers {
            x = composed::layer(layer, &common, &x, training)?;
        }
        composed::end(&self.end, &x)
    }

    fn common_of(&self, ids: &Tensor) -> Result<Common> {
        let (_, context) = ids.dims2()?;
        if context == 0 || context > self.context {
            bail!("a sequence of {context} tokens, and the model sees {}", self.context);
        }
        let heads = Heads { context, ..self.common.heads };
        Ok(Common { heads, ..self.common.clone() })
    }

    fn drop_some(&self, x: Tensor, training: Option<Dropping>) -> Result<Tensor> {
        match training.filter(|_| self.common.dropout > 0.0) {
            Some(dropping) => ops::dropout(&x, self.common.dropout, dropping, 0),
            None => Ok(x),
        }
    }

    /// Puts what the layers have written down to the gradients of a walk back.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn gather(&self, gradients: &mut GradStore) -> Result<()> {
        self.common.ledger.gather(gradients)
    }
}

/// Values that the widest part of a pass makes of a sequence.
pub(super) fn widest(spec: &GptSpec) -> usize {
    let [width, hidden, vocab, context] =
        [spec.width, spec.hidden(), spec.vocab.unwrap_or(0), spec.context].map(|n| n as usize);
    context.saturating_mul(vocab.max(2 * hidden).max(3 * width))
}

/// Tensors by name.
struct Take<'a> {
    spec: &'a GptSpec,
    tensors: &'a Tensors,
}

impl Take<'_> {
    fn tensor(&self, of: &str, what: &str) -> Result<Tensor> {
        let name = format!("{of}.{what}");
        self.tensors.get(&name).cloned().ok_or_else(|| Error::Msg(format!("the model has no tensor {name:?}")))
    }

    fn norm(&self, of: &str) -> Result<Normalised> {
        let (kind, eps) = (self.spec.norm, self.spec.norm_eps);
        let has_bias = kind == mlctl_protocol::spec::Norm::Layer && self.spec.has_biases();
        let weight = self.tensor(of, "weight")?;
        let bias = has_bias.then(|| self.tensor(of, "bias")).transpose()?;
        Ok(Normalised { kind, eps, weight, bias })
    }

    fn linear(&self, all: impl Iterator<Item = String>) -> Result<Linear> {
        let of = |name: String| {
            let weight = self.tensor(&name, "weight")?;
            let bias = self.spec.has_biases().then(|| self.tensor(&name, "bias")).transpose()?;
            Ok((weight, bias))
        };
        let inputs_first = Names::of(self.spec).inputs_first;
        Ok(Linear { layers: all.map(of).collect::<Result<_>>()?, inputs_first })
    }
}

/// Where dropout begins among the rows that the layers work on, which are tokens and not sequences.
fn of_tokens(ids: &Tensor, training: Option<Dropping>) -> Result<Option<Dropping>> {
    let (_, context) = ids.dims2()?;
    Ok(training.map(|dropping| Dropping { row: dropping.row.wrapping_mul(context as u64), ..dropping }))
}
