//! What learns: the model's tensors, the optimizer over them and where the run stands. Made fresh or from a checkpoint, and
//! turned into a checkpoint's content; the loop in `session` moves it forward.

use bytes::Bytes;
use candle_core::{Device, Tensor, Var};
use mlctl_artifacts::Body;
use mlctl_protocol::spec::{ModelSpec, TrainSpec};
use serde::Serialize;

use super::{
    best, freeze, groups,
    state::{self, Content, Identity, Refusal, Restored, RunState, Told},
};
use crate::{
    bundle::tensors::Raw,
    fault::Fault,
    nn::{self, Network, Tensors},
    optim::{
        Optimizer, Parameter, ema,
        snapshot::{self, Snapshot},
    },
};

/// A model and all that its next step depends on.
#[derive(Debug)]
pub struct Learner {
    /// The model over variables, to train.
    pub(super) model: Network,
    /// What is measured, outside any graph: over the same memory, or over the average of the weights as it was when [`Self::refresh`] was called.
    pub(super) frozen: Network,
    spec: ModelSpec,
    /// The optimizer, which owns the variables.
    pub(super) optimizer: Optimizer,
    /// What the training had made at its best epoch so far, where the model is to be that: `<parameter>.best`.
    pub(super) best: Vec<Raw>,
    /// The tensors that are not trained, and their files in every checkpoint.
    fixed: (Tensors, Vec<Body>),
    /// Where the run stands.
    pub(super) run: RunState,
}

impl Learner {
    /// The beginning of a run.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn fresh(spec: &TrainSpec, device: &Device) -> Result<Self, Fault> {
        Self::over(spec, nn::initial(&spec.model, spec.seed, device)?, device)
    }

    /// The beginning of a run from weights that are there already.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn from_weights(spec: &TrainSpec, weights: Tensors, device: &Device) -> Result<Self, Fault> {
        Self::over(spec, weights, device)
    }

    /// A run as of a checkpoint.
    ///
    /// # Errors
    /// Corrupt when the optimizer's state does not fit the model's tensors; foreign for faults of the device.
    pub fn resumed(spec: &TrainSpec, restored: Restored, device: &Device) -> Result<Self, Refusal> {
        let Restored { run, mut model, mut optimizer, .. } = restored;
        if spec.ema.is_some() {
            ema::to_training(&mut model, &mut optimizer).map_err(|problems| Refusal::Corrupt(problems.join("; ")))?;
        }
        let best = best::take(&run, &model, &mut optimizer).map_err(Refusal::Corrupt)?;
        let mut learner = Self::over(spec, model, device).map_err(Refusal::Foreign)?;
        learner.best = best;
        learner.optimizer.restore(optimizer).map_err(|problems| Refusal::Corrupt(problems.join("; ")))?;
        learner.run = run;
        Ok(learner)
    }

    fn over(spec: &TrainSpec, weights: Tensors, device: &Device) -> Result<Self, Fault> {
        let (trained, fixed) = freeze::divide(&spec.freeze, weights)?;
        let there = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(device)?));
        let fixed = fixed.into_iter().map(there).collect::<candle_core::Result<Tensors>>()?;
        let var = |(name, tensor): (String, Tensor)| Ok((name, Var::from_tensor(&tensor.to_device(device)?)?));
        let parameters = trained.into_iter().map(var).collect::<candle_core::Result<Vec<Parameter>>>()?;
        let tensors = |of: fn(&Var) -> Tensor| {
            let trained = parameters.iter().map(|(name, var)| (name.clone(), of(var)));
            trained.chain(fixed.clone()).collect()
        };
        let model = Network::new(&spec.model, &tensors(|var| var.as_tensor().clone()))?;
        let frozen = Network::new(&spec.model, &tensors(Var::as_detached_tensor))?;
        let names: Vec<_> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        let groups = groups::of(&spec.groups, &names)?;
        let optimizer = Optimizer::new(&spec.optimizer, parameters)?.with_groups(groups).with_ema(spec.ema)?;
        let raws = fixed.iter().map(|(name, tensor)| snapshot::fixed(name, tensor));
        let files = state::frozen_files(raws.collect::<candle_core::Result<_>>()?)?;
        let (spec, run) = (spec.model.clone(), RunState::default());
        Ok(Self { model, frozen, spec, optimizer, best: Vec::new(), fixed: (fixed, files), run })
    }

    /// Where the run stands.
    #[must_use]
    pub const fn run(&self) -> &RunState {
        &self.run
    }

    /// Has what is measured be what the training has made so far.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub(super) fn refresh(&mut self) -> Result<(), Fault> {
        if self.optimizer.has_ema() {
            self.measure_with(self.optimizer.product()?)?;
        }
        Ok(())
    }

    /// Has what is measured be made of these in place of what is trained.
    pub(super) fn measure_with(&mut self, made: Vec<(String, Tensor)>) -> Result<(), Fault> {
        let tensors = made.into_iter().chain(self.fixed.0.clone()).collect();
        self.frozen = Network::new(&self.spec, &tensors)?;
        Ok(())
    }

    /// A copy on the CPU of what the training has made, which stays as it is while it goes on: the weights, or their average where one is kept,
    /// or what was best where that is wanted.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn weights(&self) -> Result<Tensors, Fault> {
        let copy = |(name, tensor): (String, Tensor)| Ok((name, tensor.copy()?.to_device(&Device::Cpu)?));
        let made = if self.best.is_empty() { self.optimizer.product()? } else { best::tensors(&self.best)? };
        let mut weights = made.into_iter().map(copy).collect::<candle_core::Result<Tensors>>()?;
        for (name, tensor) in &self.fixed.0 {
            weights.insert(name.clone(), tensor.to_device(&Device::Cpu)?);
        }
        Ok(weights)
    }

    /// The content of a checkpoint of this moment, over a copy of the tensors.
    ///
    /// # Errors
    /// When the device fails.
    pub fn content(&self, identity: &Identity, threads: u32, config: &impl Serialize) -> Result<Content, Fault> {
        self.content_of(self.optimizer.copied()?, self.told(identity, threads, config)?)
    }

    /// The content of a checkpoint of what the optimizer has kept, and of what was told of that moment.
    ///
    /// # Errors
    /// When tensors are not what they say: a bug.
    pub fn content_of(&self, snapshot: Snapshot, told: Bytes) -> Result<Content, Fault> {
        let mut snapshot = snapshot;
        snapshot.optimizer.extend(self.best.iter().cloned());
        Content::new(snapshot, &self.fixed.1, told)
    }

    /// What a checkpoint of this moment tells beside the tensors.
    ///
    /// # Errors
    /// When it cannot be written: a bug.
    pub fn told(&self, identity: &Identity, threads: u32, config: &impl Serialize) -> Result<Bytes, Fault> {
        state::encode(&Told { run: &self.run, identity, threads, config })
    }
}
