//! The update formulas, as in PyTorch's `torch.optim` 2.x: scalars computed in f64 and rounded once, values in f32. Element by
//! element, so that blocks and threads cannot change a result.

use candle_core::{Result, Tensor, Var, bail};
use mlctl_protocol::spec::OptimizerSpec;
use rayon::prelude::*;

use super::ema;
use crate::nn::blocks::{BLOCK, PARALLEL_FROM};

/// The formula of one update, its scalars filled in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// Stochastic gradient descent.
    Sgd { rate: f32, decay: f32 },
    /// The same with momentum.
    Momentum { rate: f32, momentum: f32, decay: f32, nesterov: bool },
    /// Adam and AdamW.
    Adam(Adam),
    /// Lion: `keep` is what weights are multiplied by first, `fresh` 1 less each beta.
    Lion { rate: f32, keep: f32, fresh: [f32; 2] },
}

/// What an update has left as it was: a parameter's weights and running averages.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) weights: Vec<f32>,
    pub(super) averages: Vec<Vec<f32>>,
}

/// Copies into block number `number` what stood there before, where that is elsewhere: the block is then in the cache when it is updated.
#[inline(always)]
fn begin(number: usize, block: &mut [f32], old: Option<&[f32]>) {
    if let Some(old) = old {
        block.copy_from_slice(&old[number * BLOCK..][..block.len()]);
    }
}

/// A rule whose gradients are multiplied by a factor first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scaled {
    pub(super) rule: Rule,
    pub(super) factor: f32,
    /// The share of new weights in their average, which is then the last of all.
    pub(super) ema: Option<f32>,
}

/// Adam's scalars at one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam {
    /// What weights are multiplied by first: 1 less the decoupled decay.
    keep: f32,
    /// L2 penalty added to the gradient.
    decay: f32,
    /// 1 less the first beta.
    fresh: f32,
    /// The second beta, and 1 less it.
    beta2: f32,
    fresh2: f32,
    /// The learning rate over the first bias correction.
    step_size: f32,
    /// The root of the second bias correction.
    root_correction: f32,
    eps: f32,
}

impl Rule {
    /// The running averages an optimizer keeps for each parameter, by PyTorch's names.
    pub(super) fn kept(spec: &OptimizerSpec) -> &'static [&'static str] {
        match spec {
            OptimizerSpec::Sgd { momentum, .. } if *momentum == 0.0 => &[],
            OptimizerSpec::Sgd { .. } => &["momentum_buffer"],
            OptimizerSpec::Adam { .. } | OptimizerSpec::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
            OptimizerSpec::Lion { .. } => &["exp_avg"],
        }
    }

    /// The formula of update number `step`, from 1, at a learning rate and with a weight decay.
    #[expect(clippy::cast_possible_truncation, reason = "scalars are rounded to f32 once, as PyTorch does")]
    pub(super) fn at(spec: &OptimizerSpec, (learning_rate, weight_decay): (f64, f64), step: u64) -> Self {
        let (rate, decay, keep) =
            (learning_rate as f32, weight_decay as f32, (1.0 - learning_rate * weight_decay) as f32);
        match *spec {
            OptimizerSpec::Sgd { momentum: 0.0, .. } => Self::Sgd { rate, decay },
            OptimizerSpec::Sgd { momentum, nesterov, .. } => {
                Self::Momentum { rate, momentum: momentum as f32, decay, nesterov }
            }
            OptimizerSpec::Adam { betas, eps, .. } => {
                Self::Adam(Adam { decay, ..Adam::at(step, learning_rate, betas, eps) })
            }
            OptimizerSpec::AdamW { betas, eps, .. } => {
                Self::Adam(Adam { keep, ..Adam::at(step, learning_rate, betas, eps) })
            }
            OptimizerSpec::Lion { betas: (first, second), .. } => {
                Self::Lion { rate, keep, fresh: [(1.0 - first) as f32, (1.0 - second) as f32] }
            }
        }
    }
}

impl Scaled {
    /// Updates a tensor, and its averages with it, in place or from what was there before. Answers whether all of them are finite.
    ///
    /// # Errors
    /// When the averages are not those of [`Rule::kept`].
    pub(super) fn apply(
        self,
        weights: &mut [f32],
        gradient: &[f32],
        averages: &mut [Vec<f32>],
        old: Option<&Old>,
    ) -> Result<bool> {
        let Self { rule, factor, ema } = self;
        if let Some(fresh) = ema {
            let (own, average) = averages.split_at_mut(averages.len().saturating_sub(1));
            let [average] = average else { bail!("there is no average of the weights") };
            let was = old.and_then(|old| old.averages.get(own.len())).map(Vec::as_slice);
            let finite = Self { ema: None, ..self }.apply(weights, gradient, own, old)?;
            ema::update((average, was), weights, fresh);
            return Ok(finite);
        }
        let before = old.map(|old| old.weights.as_slice());
        let average = |place: usize| old.and_then(|old| old.averages.get(place)).map(Vec::as_slice);
        let blown = match (rule, averages) {
            (Rule::Sgd { rate, decay }, []) => {
                let update = |w: &mut f32, g: f32| {
                    *w -= rate * (factor * g + decay * *w);
                    blown(*w)
                };
                let blocks = |(i, (w, g)): (usize, (&mut [f32], &[f32]))| {
                    begin(i, w, before);
                    any(w.iter_mut().zip(g).map(|(w, g)| update(w, *g)))
                };
                if weights.len() < PARALLEL_FROM {
                    any(weights.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK)).enumerate().map(blocks))
                } else {
                    let items = weights.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK));
                    items.enumerate().map(blocks).reduce(|| 0, |a, b| a | b)
                }
            }
            (Rule::Momentum { rate, momentum, decay, nesterov }, [buffer]) => {
                with_one_average((weights, before), gradient, (buffer, average(0)), |w, g, b| {
                    let g = factor * g + decay * *w;
                    *b = momentum * *b + g;
                    *w -= rate * if nesterov { g + momentum * *b } else { *b };
                })
            }
            (Rule::Lion { rate, keep, fresh: [first, second] }, [kept]) => {
                with_one_average((weights, before), gradient, (kept, average(0)), |w, g, b| {
                    let g = factor * g;
                    *w = keep * *w - rate * sign(*b + first * (g - *b));
                    *b += second * (g - *b);
                })
            }
            (Rule::Adam(adam), [first, second]) => {
                let old = [before, average(0), average(1)];
                adam.apply(weights, (gradient, factor), [first, second], old)
            }
            _ => bail!("the optimizer's state is that of another one"),
        };
        Ok(blown == 0)
    }

    /// [`Self::apply`] of candle's own operations, for devices without a fused one.
    pub(super) fn apply_composed(self, var: &Var, gradient: &Tensor, averages: &mut [Tensor]) -> Result<bool> {
        let old = var.as_detached_tensor();
        let Self { rule, factor, ema } = self;
        if let Some(fresh) = ema {
            let (own, average) = averages.split_at_mut(averages.len().saturating_sub(1));
            let [average] = average else { bail!("there is no average of the weights") };
            let finite = Self { ema: None, ..self }.apply_composed(var, gradient, own)?;
            *average = ema::composed(average, &var.as_detached_tensor(), fresh)?;
            return Ok(finite);
        }
        let gradient = if factor == 1.0 { gradient.clone() } else { scaled(gradient, factor)? };
        let decayed = |decay: f32| if decay == 0.0 { Ok(gradient.clone()) } else { &gradient + scaled(&old, decay)? };
        let new = match (rule, &mut *averages) {
            (Rule::Sgd { rate, decay }, []) => (&old - scaled(&decayed(decay)?, rate)?)?,
            (Rule::Momentum { rate, momentum, decay, nesterov }, [buffer]) => {
                let g = decayed(decay)?;
                *buffer = (scaled(buffer, momentum)? + &g)?;
                let step = if nesterov { (g + scaled(buffer, momentum)?)? } else { buffer.clone() };
                (&old - scaled(&step, rate)?)?
            }
            (Rule::Adam(adam), [first, second]) => {
                let g = decayed(adam.decay)?;
                *first = (&*first + scaled(&(&g - &*first)?, adam.fresh)?)?;
                *second = (scaled(second, adam.beta2)? + scaled(&g.sqr()?, adam.fresh2)?)?;
                let root = scaled(&second.sqrt()?, 1.0 / adam.root_correction)?;
                let step = (&*first / (root + f64::from(adam.eps))?)?;
                (scaled(&old, adam.keep)? - scaled(&step, adam.step_size)?)?
            }
            (Rule::Lion { rate, keep, fresh }, [average]) => {
                let behind = (&gradient - &*average)?;
                let step = (&*average + scaled(&behind, fresh[0])?)?.sign()?;
                *average = (&*average + scaled(&behind, fresh[1])?)?;
                (scaled(&old, keep)? - scaled(&step, rate)?)?
            }
            _ => bail!("the optimizer's state is that of another one"),
        };
        var.set(&new)?;
        let mut finite = true;
        for tensor in averages.iter().chain([&new]) {
            finite &= tensor.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite();
        }
        Ok(finite)
    }
}

impl Adam {
    /// The scalars of update number `step`, without any decay.
    #[expect(clippy::cast_possible_truncation, reason = "scalars are rounded to f32 once, as PyTorch does")]
    #[expect(clippy::cast_precision_loss, reason = "a power of beta is 0 long before 2^53 steps")]
    fn at(step: u64, rate: f64, (beta1, beta2): (f64, f64), eps: f64) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Self {
            keep: 1.0,
            decay: 0.0,
            fresh: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            fresh2: (1.0 - beta2) as f32,
            step_size: (rate / correction(beta1)) as f32,
            root_correction: correction(beta2).sqrt() as f32,
            eps: eps as f32,
        }
    }

    /// Updates one weight from its gradient.
    #[inline(always)]
    fn one(self, weight: &mut f32, gradient: f32, first: &mut f32, second: &mut f32) -> u32 {
        let gradient = gradient + self.decay * *weight;
        *first += self.fresh * (gradient - *first);
        *second = self.beta2 * *second + self.fresh2 * gradient * gradient;
        let denominator = second.sqrt() / self.root_correction + self.eps;
        *weight = self.keep * *weight - self.step_size * *first / denominator;
        blown(*weight) | blown(*second)
    }

    fn apply(
        self,
        weights: &mut [f32],
        (gradient, factor): (&[f32], f32),
        [first, second]: [&mut [f32]; 2],
        old: [Option<&[f32]>; 3],
    ) -> u32 {
        type Item<'a> = (usize, (((&'a mut [f32], &'a [f32]), &'a mut [f32]), &'a mut [f32]));
        let blocks = |(i, (((w, g), m), v)): Item<'_>| {
            begin(i, w, old[0]);
            begin(i, m, old[1]);
            begin(i, v, old[2]);
            let values = w.iter_mut().zip(g).zip(m).zip(v);
            any(values.map(|(((w, g), m), v)| self.one(w, factor * g, m, v)))
        };
        if weights.len() < PARALLEL_FROM {
            let pairs = weights.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
            let items = pairs.zip(first.chunks_mut(BLOCK)).zip(second.chunks_mut(BLOCK));
            return any(items.enumerate().map(blocks));
        }
        let pairs = weights.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK));
        let items = pairs.zip(first.par_chunks_mut(BLOCK)).zip(second.par_chunks_mut(BLOCK));
        items.enumerate().map(blocks).reduce(|| 0, |a, b| a | b)
    }
}

/// One pass of a rule with one average over a tensor, in place or from what was there before. Not 0 when something in it is no longer finite.
fn with_one_average(
    (weights, before): (&mut [f32], Option<&[f32]>),
    gradient: &[f32],
    (average, old): (&mut [f32], Option<&[f32]>),
    update: impl Fn(&mut f32, f32, &mut f32) + Sync,
) -> u32 {
    type Item<'a> = (usize, ((&'a mut [f32], &'a [f32]), &'a mut [f32]));
    let blocks = |(i, ((w, g), b)): Item<'_>| {
        begin(i, w, before);
        begin(i, b, old);
        any(w.iter_mut().zip(g).zip(b).map(|((w, g), b)| {
            update(w, *g, b);
            blown(*w) | blown(*b)
        }))
    };
    if weights.len() < PARALLEL_FROM {
        let items = weights.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK)).zip(average.chunks_mut(BLOCK));
        return any(items.enumerate().map(blocks));
    }
    let items = weights.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK)).zip(average.par_chunks_mut(BLOCK));
    items.enumerate().map(blocks).reduce(|| 0, |a, b| a | b)
}

/// 1, 0 or -1, as PyTorch's `sign`; 0 of what is not a number, which its average shows.
#[inline(always)]
fn sign(value: f32) -> f32 {
    f32::from(u8::from(value > 0.0)) - f32::from(u8::from(value < 0.0))
}

/// Not 0 when a value is infinite or not a number. Without a branch, so that loops over it stay vectors.
#[inline(always)]
const fn blown(value: f32) -> u32 {
    const EXPONENT: u32 = 0x7f80_0000;
    (value.to_bits() & EXPONENT == EXPONENT) as u32
}

/// Not 0 when any is not.
#[inline(always)]
fn any(flags: impl Iterator<Item = u32>) -> u32 {
    flags.fold(0, |a, b| a | b)
}

fn scaled(tensor: &Tensor, factor: f32) -> Result<Tensor> {
    tensor.affine(f64::from(factor), 0.0)
}
