//! A layer of the transformer as one operation with a backward pass of its own: normalised attention and a normalised feed-forward network, each added to what came in. Of
//! a forward pass four matrices are kept; what lies between them is made again, which costs less than memory.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use mlctl_protocol::spec::FeedForward;

use super::{
    super::{
        Dropping,
        attention::Heads,
        blocks::{BLOCK, for_blocks},
        feed_forward,
        ledger::Ledger,
        matrix::{add, into_values, storage, values, values_mut},
        ops::f32s,
        rope::Rope,
    },
    parts::{Held, Linear, Normalised},
};
use crate::rng::{Rng, Stream};

/// The tensors of a layer.
#[derive(Debug)]
pub(super) struct Layer {
    /// Its number from 0.
    pub(super) number: u32,
    pub(super) before_attention: Normalised,
    /// Queries, keys and values, side by side.
    pub(super) attend: Linear,
    pub(super) attended: Linear,
    pub(super) before_feed: Normalised,
    /// The first linear layer of the feed-forward network; of SwiGLU gate and values, side by side.
    pub(super) feed: Linear,
    pub(super) fed: Linear,
}

impl Layer {
    /// One that is trained, where there is one: the operation is in the graph by it.
    fn anchor(&self) -> &Tensor {
        let norms = [&self.before_attention, &self.before_feed];
        let linears = [&self.attend, &self.attended, &self.feed, &self.fed];
        let all = norms.into_iter().flat_map(Normalised::tensors).chain(linears.into_iter().flat_map(Linear::tensors));
        all.into_iter().find(|tensor| tensor.track_op()).unwrap_or(&self.before_attention.weight)
    }

    /// The dropout of what its attention adds (0) or its feed-forward network (1).
    pub(super) const fn dropout(&self, half: u32) -> u32 {
        1 + 2 * self.number + half
    }
}

/// What all layers have in common.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) heads: Heads,
    pub(super) rope: Option<Arc<Rope>>,
    pub(super) feed: FeedForward,
    pub(super) hidden: usize,
    pub(super) dropout: f64,
    pub(super) ledger: Ledger,
}

/// A layer over rows `x` (rows, width) of whole sequences.
pub(super) fn forward(layer: &Arc<Layer>, common: &Common, x: &Tensor, training: Option<Dropping>) -> Result<Tensor> {
    let anchor = layer.anchor();
    let wants_input = x.track_op();
    let operation = Operation {
        layer: Arc::clone(layer),
        common: common.clone(),
        dropping: training.filter(|_| common.dropout > 0.0),
        width: x.dim(1)? as u64,
        wants_input,
        keeps: wants_input || anchor.track_op(),
        kept: Mutex::new(None),
    };
    x.contiguous()?.apply_op2(anchor, operation)
}

struct Operation {
    layer: Arc<Layer>,
    common: Common,
    dropping: Option<Dropping>,
    width: u64,
    wants_input: bool,
    /// Whether there will be a backward pass.
    keeps: bool,
    kept: Mutex<Option<Kept>>,
}

/// What the backward pass needs of the forward pass.
struct Kept {
    /// Packed queries, keys and values.
    packed: Vec<f32>,
    /// What attention made of them.
    mixed: CpuStorage,
    /// The rows with what attention added.
    middle: Vec<f32>,
    /// What came out of the feed-forward network's first linear layer.
    fed: Vec<f32>,
}

impl Operation {
    /// Drops values of what a half of the layer adds, or of its gradient.
    fn drop_some(&self, half: u32, values: &mut [f32]) {
        let Some(Dropping { seed, step, row }) = self.dropping else { return };
        let stream = Stream::Dropout { step, layer: self.layer.dropout(half) };
        #[expect(clippy::cast_possible_truncation, reason = "probabilities are compared in f32, as specified")]
        let (limit, scale) = (self.common.dropout as f32, (1.0 / (1.0 - self.common.dropout)) as f32);
        for_blocks(values, BLOCK, |start, block| {
            let (mut rng, mut chances) = (Rng::new(seed, stream), vec![0.0; block.len()]);
            rng.seek(row.wrapping_mul(self.width).wrapping_add(start as u64));
            rng.fill_uniform(&mut chances);
            for (value, chance) in block.iter_mut().zip(chances) {
                *value *= if chance >= limit { scale } else { 0.0 };
            }
        });
    }

    /// The gradient of what a half of the layer adds, by that of the sum; nothing where it is the same.
    fn dropped(&self, half: u32, grad: &CpuStorage) -> Result<Option<CpuStorage>> {
        if self.dropping.is_none() {
            return Ok(None);
        }
        let mut dropped = values(grad)?.to_vec();
        self.drop_some(half, &mut dropped);
        Ok(Some(storage(dropped)))
    }

    fn rope(&self) -> Option<&Rope> {
        self.common.rope.as_deref()
    }

    /// The gradient of what came in, where it is wanted.
    fn backward(&self, x: &[f32], grad: &[f32], kept: Kept) -> Result<Option<Vec<f32>>> {
        let Self { layer, common: Common { heads, feed, hidden, ledger, .. }, .. } = self;
        let Kept { packed, mixed, middle, fed } = kept;
        let mut sum = storage(grad.to_vec());
        let dropped = self.dropped(1, &sum)?;
        let added = dropped.as_ref().unwrap_or(&sum);
        let to_hidden = into_values(layer.fed.to_input(added)?)?;
        let (again, to_fed) = feed_forward::backward(*feed, &fed, *hidden, to_hidden);
        drop(fed);
        layer.fed.learn(&storage(again), added, ledger)?;
        let to_fed = storage(to_fed);
        layer.feed.learn(&layer.before_feed.forward(&middle)?, &to_fed, ledger)?;
        let to_normed = layer.feed.to_input(&to_fed)?;
        layer.before_feed.backward(&middle, values(&to_normed)?, ledger, Some(values_mut(&mut sum)?))?;
        drop((to_fed, to_normed, middle));
        let dropped = self.dropped(0, &sum)?;
        let added = dropped.as_ref().unwrap_or(&sum);
        layer.attended.learn(&mixed, added, ledger)?;
        let to_mixed = layer.attended.to_input(added)?;
        drop(mixed);
        let to_packed = storage(heads.backward(&packed, values(&to_mixed)?, self.rope())?);
        drop((packed, to_mixed));
        layer.attend.learn(&layer.before_attention.forward(x)?, &to_packed, ledger)?;
        let to_normed = layer.attend.to_input(&to_packed)?;
        let to = if self.wants_input { Some(values_mut(&mut sum)?) } else { None };
        layer.before_attention.backward(x, values(&to_normed)?, ledger, to)?;
        self.wants_input.then(|| into_values(sum)).transpose()
    }
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        "transformer-layer"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self { layer, common, .. } = self;
        let (rows, width) = x_layout.shape().dims2()?;
        let sequence = common.heads.context;
        if width != common.heads.width() || !rows.is_multiple_of(sequence) || rows == 0 {
            bail!("a transformer's layer: rows of {x_layout:?} are no sequences of {sequence}");
        }
        let x = f32s(x, x_layout)?;
        let packed = into_values(layer.attend.forward(&layer.before_attention.forward(x)?, rows)?)?;
        let mixed = storage(common.heads.forward(&packed, self.rope())?);
        let mut middle = layer.attended.forward(&mixed, rows)?;
        self.drop_some(0, values_mut(&mut middle)?);
        add(values_mut(&mut middle)?, x);
        let middle = into_values(middle)?;
        let fed = into_values(layer.feed.forward(&layer.before_feed.forward(&middle)?, rows)?)?;
        let hidden = storage(feed_forward::forward(common.feed, &fed, common.hidden));
        let mut y = layer.fed.forward(&hidden, rows)?;
        self.drop_some(1, values_mut(&mut y)?);
        add(values_mut(&mut y)?, &middle);
        if self.keeps {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(Kept { packed, mixed, middle, fed });
        }
        Ok((y, x_layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            bail!("a transformer's layer: there is one backward pass for a forward pass");
        };
        let grad = grad.contiguous()?;
        let found = self.backward(Held::new(x).values()?, Held::new(&grad).values()?, kept)?;
        let to_input = found.map(|values| Tensor::from_vec(values, x.shape(), x.device())).transpose()?;
        Ok((to_input, None))
    }
}
