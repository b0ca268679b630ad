//! The transformer's layer and its end of candle's own operations, for devices without fused ones; a test holds the two against each other. Here the weights of all places for all
//! places are in memory.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::{sigmoid, softmax};
use mlctl_protocol::spec::{FeedForward, Norm};

use super::{
    super::{Dropping, attention::Heads, ops},
    end::End,
    layer::{Common, Layer},
    parts::{Linear, Normalised},
};

/// See [`super::layer::forward`].
pub(super) fn layer(layer: &Layer, common: &Common, x: &Tensor, training: Option<Dropping>) -> Result<Tensor> {
    let added = |half, values: Tensor| match training.filter(|_| common.dropout > 0.0) {
        Some(dropping) => ops::dropout(&values, common.dropout, dropping, layer.dropout(half)),
        None => Ok(values),
    };
    let mixed = attention(&linear(&layer.attend, &norm(&layer.before_attention, x)?)?, common)?;
    let x = (x + added(0, linear(&layer.attended, &mixed)?)?)?;
    let fed = linear(&layer.feed, &norm(&layer.before_feed, &x)?)?;
    let hidden = match common.feed {
        FeedForward::Gelu => fed.gelu_erf()?,
        FeedForward::GeluTanh => fed.gelu()?,
        FeedForward::Swiglu => {
            let (gate, up) = (fed.narrow(1, 0, common.hidden)?, fed.narrow(1, common.hidden, common.hidden)?);
            let share = sigmoid(&gate)?;
            ((gate * share)? * up)?
        }
    };
    x + added(1, linear(&layer.fed, &hidden)?)?
}

/// See [`super::end::forward`].
pub(super) fn end(end: &End, x: &Tensor) -> Result<Tensor> {
    linear(&end.head, &norm(&end.norm, x)?)
}

fn norm(norm: &Normalised, x: &Tensor) -> Result<Tensor> {
    let x = match norm.kind {
        Norm::Layer => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
        Norm::Rms => x.clone(),
    };
    let spread = (x.sqr()?.mean_keepdim(D::Minus1)? + norm.eps)?.sqrt()?;
    let y = x.broadcast_div(&spread)?.broadcast_mul(&norm.weight)?;
    norm.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
}

fn linear(linear: &Linear, x: &Tensor) -> Result<Tensor> {
    let of = |(weight, bias): &(Tensor, Option<Tensor>)| {
        let y = if linear.inputs_first { x.matmul(weight)? } else { x.matmul(&weight.t()?)? };
        bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
    };
    let all = linear.layers.iter().map(of).collect::<Result<Vec<_>>>()?;
    if let [one] = all.as_slice() { Ok(one.clone()) } else { Tensor::cat(&all, 1) }
}

fn attention(packed: &Tensor, common: &Common) -> Result<Tensor> {
    let Heads { heads, kv_heads, size, context } = common.heads;
    let sequences = packed.dim(0)? / context;
    // (sequences, heads, context, size), of keys and values each head for its group of queries.
    let part = |first: usize, count: usize| {
        let part = packed.narrow(1, first * size, count * size)?.reshape((sequences, context, count, size))?;
        part.transpose(1, 2)?.contiguous()
    };
    let group = heads / kv_heads;
    let for_group = |part: Tensor| {
        let wide = part.unsqueeze(2)?.expand((sequences, kv_heads, group, context, size))?;
        wide.reshape((sequences, heads, context, size))
    };
    let (query, key) = (turned(part(0, heads)?, common)?, turned(part(heads, kv_heads)?, common)?);
    let (key, value) = (for_group(key)?, for_group(part(heads + kv_heads, kv_heads)?)?);
    #[expect(clippy::cast_precision_loss, reason = "a head has some hundred values")]
    let scale = 1.0 / (size as f64).sqrt();
    let scores = (query.matmul(&key.t()?.contiguous()?)? * scale)?;
    let weights = softmax(&scores.broadcast_add(&behind(context, packed.device())?)?, D::Minus1)?;
    let mixed = weights.matmul(&value.contiguous()?)?.transpose(1, 2)?;
    mixed.reshape((sequences * context, heads * size))
}

/// 0 for places up to a token's own, and minus infinity for those behind.
fn behind(context: usize, device: &Device) -> Result<Tensor> {
    let of = |place| (0..context).map(move |other| if other > place { f32::NEG_INFINITY } else { 0.0 });
    Tensor::from_vec((0..context).flat_map(of).collect(), (context, context), device)
}

fn turned(x: Tensor, common: &Common) -> Result<Tensor> {
    let Some(rope) = &common.rope else { return Ok(x) };
    let Heads { size, context, .. } = common.heads;
    let (cos, sin) = rope.tables(context);
    let table = |values: &[f32]| Tensor::from_slice(values, (context, size / 2), x.device());
    let (cos, sin) = (table(cos)?, table(sin)?);
    let (first, second) = (x.narrow(3, 0, size / 2)?, x.narrow(3, size / 2, size / 2)?);
    let to_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let to_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[to_first, to_second], 3)
}
