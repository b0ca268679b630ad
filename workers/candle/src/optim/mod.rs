//! Optimizers with PyTorch's update formulas and defaults, and with their whole state open to checkpoints. On the CPU an update is
//! one pass over each tensor's buffers; elsewhere it is composed of candle's operations, and a test holds the two together.

pub mod clip;
mod rules;
mod state;

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var, backprop::GradStore, bail};
use mlctl_protocol::spec::OptimizerSpec;

use crate::nn::Tensors;
use rules::{Rule, Scaled};
use state::Moments;

/// A trainable tensor and its name.
pub type Parameter = (String, Var);

/// Updates a model's tensors from their gradients.
#[derive(Debug)]
pub struct Optimizer {
    spec: OptimizerSpec,
    parameters: Vec<Parameter>,
    /// Running averages, one entry a parameter.
    moments: Vec<Moments>,
    /// Updates done.
    step: u64,
}

impl Optimizer {
    /// An optimizer that has done nothing yet.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn new(spec: &OptimizerSpec, parameters: Vec<Parameter>) -> Result<Self> {
        let kept = Rule::kept(spec);
        let moments = parameters.iter().map(|(_, var)| Moments::zeros(kept, var)).collect::<Result<_>>()?;
        Ok(Self { spec: spec.clone(), parameters, moments, step: 0 })
    }

    /// The tensors it updates, in the order given.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The learning rate of the next update.
    #[must_use]
    pub const fn learning_rate(&self) -> f64 {
        match self.spec {
            OptimizerSpec::Sgd { learning_rate, .. }
            | OptimizerSpec::Adam { learning_rate, .. }
            | OptimizerSpec::AdamW { learning_rate, .. } => learning_rate,
        }
    }

    /// Updates every tensor, its gradient multiplied by `factor` first. Answers with the name of one whose new value or state is not finite: training has diverged and
    /// the state must not be saved.
    ///
    /// # Errors
    /// When a gradient is missing or of another shape, and when the device refuses memory.
    pub fn update(&mut self, gradients: &GradStore, factor: f32) -> Result<Option<String>> {
        self.step += 1;
        let rule = Scaled { rule: Rule::at(&self.spec, self.step), factor };
        let mut diverged = None;
        for ((name, var), moments) in self.parameters.iter().zip(&mut self.moments) {
            let Some(gradient) = gradients.get(var) else { bail!("no gradient reached {name:?}") };
            if !update_one(rule, var, gradient, moments)? {
                diverged.get_or_insert_with(|| name.clone());
            }
        }
        Ok(diverged)
    }

    /// The whole state as tensors: `step`, and the running averages under `<parameter>.<average>` with PyTorch's names for them.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn state(&self) -> Result<Tensors> {
        let mut tensors = Tensors::from([(state::STEP.to_owned(), state::step_tensor(self.step)?)]);
        for ((name, var), moments) in self.parameters.iter().zip(&self.moments) {
            for (average, tensor) in moments.tensors(Rule::kept(&self.spec), var)? {
                tensors.insert(format!("{name}.{average}"), tensor);
            }
        }
        Ok(tensors)
    }

    /// Takes over a state. Nothing is changed on an error.
    ///
    /// # Errors
    /// A sentence for each tensor that is missing, unexpected or of another shape or type.
    pub fn restore(&mut self, mut tensors: Tensors) -> std::result::Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let kept = Rule::kept(&self.spec);
        let step = state::take_step(&mut tensors, &mut problems);
        let moments: Vec<_> = self
            .parameters
            .iter()
            .map(|(name, var)| Moments::take(kept, (name, var), &mut tensors, &mut problems))
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

/// Whether everything is still finite.
fn update_one(rule: Scaled, var: &Var, gradient: &Tensor, moments: &mut Moments) -> Result<bool> {
    if var.shape() != gradient.shape() {
        bail!("a gradient of shape {:?} for a tensor of shape {:?}", gradient.shape(), var.shape());
    }
    match moments {
        Moments::Host(averages) => {
            let update = HostUpdate { rule, averages: Mutex::new((averages, true)) };
            var.inplace_op2(&gradient.contiguous()?, &update)?;
            let HostUpdate { averages, .. } = update;
            Ok(averages.into_inner().is_ok_and(|(_, finite)| finite))
        }
        Moments::Device(averages) => rule.apply_composed(var, gradient, averages),
    }
}

/// One pass over a parameter's buffers. The averages come through a lock, since candle hands an operation out shared.
struct HostUpdate<'a> {
    rule: Scaled,
    averages: Mutex<(&'a mut Vec<Vec<f32>>, bool)>,
}

impl InplaceOp2 for HostUpdate<'_> {
    fn name(&self) -> &'static str {
        "optimizer-update"
    }

    fn cpu_fwd(&self, w: &mut CpuStorage, wl: &Layout, g: &CpuStorage, gl: &Layout) -> Result<()> {
        let (CpuStorage::F32(weights), Some((start, end))) = (w, wl.contiguous_offsets()) else {
            bail!("parameters are not contiguous f32 values");
        };
        let gradient = crate::nn::ops::f32s(g, gl)?;
        let Ok(mut guard) = self.averages.lock() else { bail!("an earlier update panicked") };
        let (averages, finite) = &mut *guard;
        *finite = self.rule.apply(&mut weights[start..end], gradient, averages)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
