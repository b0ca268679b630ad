//! Optimizers with PyTorch's update formulas and defaults, and with their whole state open to checkpoints. On the CPU an update is
//! one pass over each tensor's buffers; elsewhere it is composed of candle's operations, and a test holds the two together. A checkpoint stops nobody: the update after it writes to other
//! buffers, and the old ones are the checkpoint's.

pub mod clip;
pub mod ema;
pub mod groups;
mod rules;
pub mod schedule;
pub mod snapshot;
mod state;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var, backprop::GradStore, bail};
use mlctl_protocol::spec::OptimizerSpec;

use crate::nn::Tensors;
use groups::Groups;
use rules::{Old, Rule, Scaled};
use schedule::Schedule;
use snapshot::{Snapshot, Spares};
use state::Moments;

/// A trainable tensor and its name.
pub type Parameter = (String, Var);

/// Updates a model's tensors from their gradients.
#[derive(Debug)]
pub struct Optimizer {
    spec: OptimizerSpec,
    schedule: Schedule,
    parameters: Vec<Parameter>,
    groups: Groups,
    /// How much of the average of weights stays at each update, where one is kept.
    ema: Option<f64>,
    /// Running averages, one entry a parameter; the one of weights is the last.
    moments: Vec<Moments>,
    /// Updates done.
    step: u64,
    spares: Spares,
    /// Whether the next update is to leave what is there as it is.
    keeping: bool,
    kept: Option<Snapshot>,
}

impl Optimizer {
    /// An optimizer that has done nothing yet.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn new(spec: &OptimizerSpec, parameters: Vec<Parameter>) -> Result<Self> {
        let kept = Rule::kept(spec);
        let moments = parameters.iter().map(|(_, var)| Moments::zeros(kept, var)).collect::<Result<_>>()?;
        let (spares, spec) = (Spares::default(), spec.clone());
        let (schedule, groups) = (Schedule::constant(spec.learning_rate()), Groups::default());
        let ema = None;
        Ok(Self { spec, schedule, parameters, groups, ema, moments, step: 0, spares, keeping: false, kept: None })
    }

    /// The same with groups of parameters that have options of their own.
    #[must_use]
    pub fn with_groups(self, groups: Groups) -> Self {
        Self { groups, ..self }
    }

    /// The same with an average of the weights, of which so much stays at each update. It begins as the weights after the first one.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn with_ema(mut self, ema: Option<f64>) -> Result<Self> {
        self.ema = ema;
        if ema.is_some() {
            for ((_, var), moments) in self.parameters.iter().zip(&mut self.moments) {
                moments.push(var)?;
            }
        }
        Ok(self)
    }

    /// Whether it keeps an average of the weights.
    #[must_use]
    pub const fn has_ema(&self) -> bool {
        self.ema.is_some()
    }

    /// The names of the averages that are kept of each parameter.
    fn kept_averages(&self) -> Vec<&'static str> {
        let ema = self.ema.map(|_| ema::NAME);
        Rule::kept(&self.spec).iter().copied().chain(ema).collect()
    }

    /// What the training has made of a parameter: the average of its weights where one is kept, otherwise they themselves, over the same memory.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn product(&self) -> Result<Vec<(String, Tensor)>> {
        let one = |((name, var), moments): (&Parameter, &Moments)| {
            let tensor = if self.ema.is_some() { moments.last(var)? } else { var.as_detached_tensor() };
            Ok((name.clone(), tensor))
        };
        self.parameters.iter().zip(&self.moments).map(one).collect()
    }

    /// The tensors it updates, in the order given.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Has the learning rate follow a schedule from now on, by the updates that were done.
    pub fn follow(&mut self, schedule: Schedule) {
        self.schedule = schedule;
    }

    /// The learning rate of the next update.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.schedule.rate(self.step)
    }

    /// The learning rate of the last update; of the first where there was none.
    #[must_use]
    pub fn last_learning_rate(&self) -> f64 {
        self.schedule.rate(self.step.saturating_sub(1))
    }

    /// Updates every tensor, its gradient multiplied by `factor` first. Answers with the name of one whose new value or state is not finite: training has diverged and
    /// the state must not be saved.
    ///
    /// # Errors
    /// When a gradient is missing or of another shape, and when the device refuses memory.
    pub fn update(&mut self, gradients: &GradStore, factor: f32) -> Result<Option<String>> {
        let mut kept = std::mem::take(&mut self.keeping).then(|| Snapshot::at(self.step));
        let rate = self.learning_rate();
        self.step += 1;
        let ema = self.ema.map(|ema| ema::fresh(ema, self.step));
        let rules = self.groups.map(|own| {
            let decay = own.weight_decay.unwrap_or(self.spec.weight_decay());
            Scaled { rule: Rule::at(&self.spec, (rate * own.rate_factor, decay), self.step), factor, ema }
        });
        let averages = self.kept_averages();
        let mut diverged = None;
        for (place, (parameter @ (name, var), moments)) in self.parameters.iter().zip(&mut self.moments).enumerate() {
            let Some(rule) = self.groups.of(&rules, place).copied() else {
                bail!("{name:?} is of a group that is not there")
            };
            let Some(gradient) = gradients.get(var) else { bail!("no gradient reached {name:?}") };
            let (finite, old) = update_one(rule, var, gradient, moments, kept.is_some().then_some(&self.spares))?;
            if !finite {
                diverged.get_or_insert_with(|| name.clone());
            }
            if let (Some(kept), Some(Old { weights, averages: old })) = (&mut kept, old) {
                let old = old.into_iter().map(|values| self.spares.lend(values));
                kept.add(parameter, self.spares.lend(weights), averages.iter().zip(old));
            }
        }
        if kept.is_some() {
            self.kept = kept;
        }
        Ok(diverged)
    }

    /// Has the next update leave what is there now as it is, for [`Self::take_kept`]: it works in other buffers, and costs a third of a copy more. Where memory is not the process's own,
    /// it is copied at once.
    ///
    /// # Errors
    /// When the device fails.
    pub fn keep(&mut self) -> Result<()> {
        self.kept = None;
        self.keeping = self.parameters.iter().all(|(_, var)| var.device().is_cpu());
        if !self.keeping {
            self.kept = Some(self.copied()?);
        }
        Ok(())
    }

    /// What stood there when [`Self::keep`] was called; `None` before the update that has left it.
    pub const fn take_kept(&mut self) -> Option<Snapshot> {
        self.kept.take()
    }

    /// A copy of what is there now.
    ///
    /// # Errors
    /// When the device fails.
    pub fn copied(&self) -> Result<Snapshot> {
        let averages = self.kept_averages();
        let mut copy = Snapshot::at(self.step);
        for (parameter @ (_, var), moments) in self.parameters.iter().zip(&self.moments) {
            let values = moments.copied(&self.spares)?;
            copy.add(parameter, snapshot::copied(var, &self.spares)?, averages.iter().zip(values));
        }
        Ok(copy)
    }

    /// Takes over a state. Nothing is changed on an error.
    ///
    /// # Errors
    /// A sentence for each tensor that is missing, unexpected or of another shape or type.
    pub fn restore(&mut self, mut tensors: Tensors) -> std::result::Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let kept = self.kept_averages();
        let step = state::take_step(&mut tensors, &mut problems);
        let moments: Vec<_> = self
            .parameters
            .iter()
            .map(|(name, var)| Moments::take(&kept, (name, var), &mut tensors, &mut problems))
            .collect();
        problems.extend(tensors.keys().map(|name| format!("the optimizer has no tensor {name:?}")));
        match (step, moments.into_iter().collect::<Option<Vec<_>>>()) {
            (Some(step), Some(moments)) if problems.is_empty() => {
                (self.step, self.moments) = (step, moments);
                Ok(())
            }
            _ => Err(problems),
        }
    }
}

/// Whether everything is still finite; and, where there are spares to go on in, what was there before.
fn update_one(
    rule: Scaled,
    var: &Var,
    gradient: &Tensor,
    moments: &mut Moments,
    spares: Option<&Spares>,
) -> Result<(bool, Option<Old>)> {
    if var.shape() != gradient.shape() {
        bail!("a gradient of shape {:?} for a tensor of shape {:?}", gradient.shape(), var.shape());
    }
    match moments {
        Moments::Host(averages) => {
            let work = Mutex::new(HostWork { averages, spares, old: None, finite: false });
            let update = HostUpdate { rule, work };
            var.inplace_op2(&gradient.contiguous()?, &update)?;
            let HostUpdate { work, .. } = update;
            let HostWork { old, finite, .. } = work.into_inner().unwrap_or_else(PoisonError::into_inner);
            Ok((finite, old))
        }
        Moments::Device(averages) => Ok((rule.apply_composed(var, gradient, averages)?, None)),
    }
}

/// One pass over a parameter's buffers. What changes comes through a lock, since candle hands an operation out shared.
struct HostUpdate<'a> {
    rule: Scaled,
    work: Mutex<HostWork<'a>>,
}

struct HostWork<'a> {
    averages: &'a mut Vec<Vec<f32>>,
    spares: Option<&'a Spares>,
    old: Option<Old>,
    finite: bool,
}

impl InplaceOp2 for HostUpdate<'_> {
    fn name(&self) -> &'static str {
        "optimizer-update"
    }

    fn cpu_fwd(&self, w: &mut CpuStorage, wl: &Layout, g: &CpuStorage, gl: &Layout) -> Result<()> {
        let (CpuStorage::F32(weights), Some((0, end))) = (w, wl.contiguous_offsets()) else {
            bail!("parameters are not contiguous f32 values");
        };
        if end != weights.len() {
            bail!("parameters share their memory");
        }
        let gradient = crate::nn::ops::f32s(g, gl)?;
        let Ok(mut guard) = self.work.lock() else { bail!("an earlier update panicked") };
        let work = &mut *guard;
        work.old = work.spares.map(|spares| {
            let other = |values: &mut Vec<f32>| {
                let spare = spares.take(values.len());
                std::mem::replace(values, spare)
            };
            Old { weights: other(weights), averages: work.averages.iter_mut().map(other).collect() }
        });
        work.finite = self.rule.apply(weights, gradient, work.averages, work.old.as_ref())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
