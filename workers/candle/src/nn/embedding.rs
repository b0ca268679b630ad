//! Vectors for tokens, and, where places are learnt, for places: looked up forward, added up backward in the order of the tokens. On the CPU one pass; elsewhere
//! candle's operations.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{
    blocks::{for_blocks, whole_rows},
    matrix::add_here,
    ops::f32s,
};

/// The vectors of tokens, `ids` (sequences, context), of `tokens` (vocabulary, width), with those of their places of `places` (context at least, width): (sequences x context, width).
///
/// # Errors
/// On a token that has no vector, on a sequence that is too long, and when the device refuses memory.
pub fn embed(ids: &Tensor, tokens: &Tensor, places: Option<&Tensor>) -> Result<Tensor> {
    let (_, context) = ids.dims2()?;
    if let Some(places) = places.filter(|places| places.dims().first().is_none_or(|most| context > *most)) {
        bail!("a sequence of {context} tokens, and the model has places for {:?}", places.dims());
    }
    if !ids.device().is_cpu() {
        return embed_composed(ids, tokens, places);
    }
    let (ids, wants) =
        (ids.flatten_all()?.to_vec1::<u32>()?, (tokens.track_op(), places.is_some_and(Tensor::track_op)));
    let lookup = Lookup { ids: Arc::new(ids), context, wants };
    match places {
        Some(places) => tokens.apply_op2(places, lookup),
        None => tokens.apply_op1(lookup),
    }
}

/// [`embed`] of candle's own operations, for devices without a fused one.
pub(super) fn embed_composed(ids: &Tensor, tokens: &Tensor, places: Option<&Tensor>) -> Result<Tensor> {
    let (sequences, context) = ids.dims2()?;
    let x = tokens.index_select(&ids.flatten_all()?, 0)?;
    let Some(places) = places else { return Ok(x) };
    let width = tokens.dim(1)?;
    x.reshape((sequences, context, width))?
        .broadcast_add(&places.narrow(0, 0, context)?)?
        .reshape((sequences * context, width))
}

/// Which vectors are looked up, and whether a gradient is wanted of those of tokens and of places.
struct Lookup {
    ids: Arc<Vec<u32>>,
    context: usize,
    wants: (bool, bool),
}

impl Lookup {
    fn forward(&self, tokens: (&[f32], (usize, usize)), places: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let (tokens, (vocabulary, width)) = tokens;
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= vocabulary) {
            bail!("token {id} is none of a vocabulary of {vocabulary}");
        }
        let mut out = vec![0.0; self.ids.len() * width];
        for_blocks(&mut out, whole_rows(width), |start, block| {
            let first = start / width;
            for ((row, id), at) in block.chunks_exact_mut(width).zip(&self.ids[first..]).zip(first..) {
                row.copy_from_slice(&tokens[*id as usize * width..][..width]);
                if let Some(places) = places {
                    add_here(row, &places[at % self.context * width..][..width]);
                }
            }
        });
        Ok((CpuStorage::F32(out), (self.ids.len(), width).into()))
    }

    /// The gradient of the vectors of `of`, to which a row's is added where `place` says.
    fn backward(of: &Tensor, grad: &Tensor, place: impl Fn(usize) -> usize) -> Result<Tensor> {
        let width = of.dim(1)?;
        let grad = grad.flatten_all()?.to_vec1::<f32>()?;
        let mut sums = vec![0.0; of.elem_count()];
        for (row, grad) in grad.chunks_exact(width).enumerate() {
            add_here(&mut sums[place(row) * width..][..width], grad);
        }
        Tensor::from_vec(sums, of.shape(), of.device())
    }

    fn to_tokens(&self, tokens: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let wanted = self.wants.0.then(|| Self::backward(tokens, grad, |row| self.ids[row] as usize));
        wanted.transpose()
    }
}

impl CustomOp1 for Lookup {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, tokens: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((f32s(tokens, layout)?, layout.shape().dims2()?), None)
    }

    fn bwd(&self, tokens: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.to_tokens(tokens, grad)
    }
}

impl CustomOp2 for Lookup {
    fn name(&self) -> &'static str {
        "embedding-with-places"
    }

    fn cpu_fwd(
        &self,
        tokens: &CpuStorage,
        layout: &Layout,
        places: &CpuStorage,
        places_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape @ (_, width) = layout.shape().dims2()?;
        if places_layout.shape().dims2()?.1 != width {
            bail!("vectors of tokens of {width} values, and of places of {:?}", places_layout.shape());
        }
        self.forward((f32s(tokens, layout)?, shape), Some(f32s(places, places_layout)?))
    }

    fn bwd(
        &self,
        tokens: &Tensor,
        places: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_places = self.wants.1.then(|| Self::backward(places, grad, |row| row % self.context));
        Ok((self.to_tokens(tokens, grad)?, to_places.transpose()?))
    }
}
