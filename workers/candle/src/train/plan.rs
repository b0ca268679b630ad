//! The arithmetic of a run: how many batches and steps, what rows a batch holds, when it is over, when a checkpoint or a point of
//! the curve is due. Pure: position and time come in.

use std::{ops::Range, time::Duration};

use mlctl_protocol::spec::{CheckpointPolicy, Convergence, TrainSpec};

use super::state::RunState;
use crate::{fault::Fault, optim::schedule::Schedule};

/// Points of the learning curve reported between epochs, over a whole run, at most.
const STEP_POINTS: u64 = 2000;

/// What a run will do, fixed before its first step.
#[derive(Debug, Clone)]
pub struct Plan {
    rows: u64,
    /// Rows of a step, and of what of them is in memory at once.
    step_size: u64,
    batch_size: u64,
    max_epochs: Option<u64>,
    max_steps: Option<u64>,
    convergence: Option<Convergence>,
    policy: CheckpointPolicy,
    schedule: Schedule,
}

impl Plan {
    /// The plan for a train part of `rows`.
    ///
    /// # Errors
    /// `spec` when there is nothing to train on, no end to it, or no room for the schedule's warm-up.
    pub fn new(spec: &TrainSpec, policy: &CheckpointPolicy, rows: u64) -> Result<Self, Fault> {
        if rows == 0 {
            return Err(Fault::spec(
                "no row is left to train on once validation and test have theirs",
                "lower split.validation and split.test, or bring more data",
            ));
        }
        if spec.max_epochs.is_none() && spec.max_steps.is_none() {
            return Err(Fault::spec("the training has no end", "set max_epochs, max_steps or both"));
        }
        let rate = spec.optimizer.learning_rate();
        let mut plan = Self {
            rows,
            step_size: spec.rows_per_step().max(1),
            batch_size: u64::from(spec.batch_size).max(1),
            max_epochs: spec.max_epochs,
            max_steps: spec.max_steps,
            convergence: spec.convergence.clone(),
            policy: policy.clone(),
            schedule: Schedule::constant(rate),
        };
        if let Some(schedule) = &spec.schedule {
            plan.schedule = Schedule::new(schedule, rate, plan.steps())?;
        }
        Ok(plan)
    }

    /// The learning rate of each step.
    #[must_use]
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Steps in an epoch; the last may be smaller.
    #[must_use]
    pub const fn steps_of_epoch(&self) -> u64 {
        self.rows.div_ceil(self.step_size)
    }

    /// Steps at most.
    #[must_use]
    pub fn steps(&self) -> u64 {
        let by_epochs = self.max_epochs.map(|epochs| epochs.saturating_mul(self.steps_of_epoch()));
        [self.max_steps, by_epochs].into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// Epochs at most, where the spec bounds them.
    #[must_use]
    pub const fn epochs(&self) -> Option<u64> {
        self.max_epochs
    }

    /// The places of a step's rows in the epoch's order.
    #[must_use]
    pub fn step(&self, number: u64) -> Range<u64> {
        let start = number.saturating_mul(self.step_size);
        start.min(self.rows)..start.saturating_add(self.step_size).min(self.rows)
    }

    /// The batches that a step's rows are run through the model in, one after the other; the last may be smaller.
    pub fn batches_of(&self, step: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let (size, end) = (self.batch_size, step.end);
        let starts = std::iter::successors(Some(step.start), move |start| start.checked_add(size));
        starts.take_while(move |start| *start < end).map(move |start| start..start.saturating_add(size).min(end))
    }

    /// Whether every step of the epoch is done and the epoch is to be closed.
    #[must_use]
    pub const fn epoch_is_full(&self, state: &RunState) -> bool {
        state.batch >= self.steps_of_epoch()
    }

    /// Whether the run is at its end: by its maximum, or converged.
    #[must_use]
    pub fn is_over(&self, state: &RunState) -> bool {
        state.step >= self.max_steps.unwrap_or(u64::MAX)
            || state.epoch >= self.max_epochs.unwrap_or(u64::MAX)
            || self.has_converged(state)
    }

    /// Whether the loss has not improved for as many epochs as the spec has patience.
    #[must_use]
    pub fn has_converged(&self, state: &RunState) -> bool {
        self.convergence.as_ref().is_some_and(|c| state.stopping.stale >= c.patience.max(1))
    }

    /// How much smaller a loss must be to count as an improvement.
    #[must_use]
    pub fn min_improvement(&self) -> f64 {
        self.convergence.as_ref().map_or(0.0, |c| c.min_improvement)
    }

    /// Whether the loss of the step just done is a point of the curve.
    #[must_use]
    pub fn is_point(&self, step: u64) -> bool {
        step.is_multiple_of(self.steps().div_ceil(STEP_POINTS).max(1))
    }

    /// Whether the policy asks for a checkpoint in this state, `since` after the last.
    #[must_use]
    pub fn wants_checkpoint(&self, state: &RunState, since: Duration) -> bool {
        let CheckpointPolicy { every_steps, every_epochs, .. } = self.policy;
        every_steps.is_some_and(|n| state.step.is_multiple_of(n.max(1)))
            || every_epochs.is_some_and(|n| state.batch == 0 && state.epoch.is_multiple_of(n.max(1)))
            || self.policy.effective_seconds().is_some_and(|n| since >= Duration::from_secs(n))
    }
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::spec::{Activation, DataSource, Loss, ModelSpec, OptimizerSpec, Scaling, Select, Split};

    use super::*;

    fn plan(rows: u64, batch_size: u32, max_epochs: Option<u64>, max_steps: Option<u64>) -> Result<Plan, Fault> {
        accumulating(rows, (batch_size, 1), max_epochs, max_steps)
    }

    fn accumulating(
        rows: u64,
        (batch_size, accumulate): (u32, u32),
        max_epochs: Option<u64>,
        max_steps: Option<u64>,
    ) -> Result<Plan, Fault> {
        let spec = TrainSpec {
            seed: 0,
            model: ModelSpec::Mlp { layers: vec![1, 1], activation: Activation::Relu, dropout: 0.0 },
            register: None,
            init: None,
            data: DataSource::Randn { rows: 1, features: 1, targets: 1, seed: 0 },
            stream: None,
            split: Split::default(),
            scaling: Scaling::None,
            loss: Loss::Mse,
            optimizer: OptimizerSpec::Sgd { learning_rate: 0.1, momentum: 0.0, weight_decay: 0.0, nesterov: false },
            schedule: None,
            groups: Vec::new(),
            ema: None,
            max_grad_value: None,
            max_grad_norm: None,
            freeze: Vec::new(),
            accumulate,
            batch_size,
            max_epochs,
            max_steps,
            convergence: Some(Convergence { patience: 2, min_improvement: 0.0 }),
            select: Select::Last,
            detect: None,
        };
        let policy = CheckpointPolicy {
            every_steps: Some(10),
            every_seconds: Some(60),
            every_epochs: Some(2),
            ..CheckpointPolicy::default()
        };
        Plan::new(&spec, &policy, rows)
    }

    #[test]
    fn batches_cover_every_row_once_and_the_last_is_smaller() {
        for (rows, size, last) in [(10, 3, 9..10), (10, 5, 5..10), (10, 100, 0..10), (1, 1, 0..1)] {
            let plan = plan(rows, size, Some(1), None).unwrap();
            let covered: Vec<u64> = (0..plan.steps_of_epoch()).flat_map(|b| plan.step(b)).collect();
            assert_eq!(covered, (0..rows).collect::<Vec<_>>());
            assert_eq!(plan.step(plan.steps_of_epoch() - 1), last);
            assert!(plan.step(plan.steps_of_epoch()).is_empty());
        }
    }

    #[test]
    fn accumulated_batches_are_the_rows_of_a_large_one() {
        for (rows, size, times, steps) in [(10, 3, 2, 2), (10, 2, 2, 3), (10, 100, 7, 1), (12, 3, 2, 2), (1, 1, 5, 1)] {
            let plan = accumulating(rows, (size, times), Some(1), None).unwrap();
            assert_eq!(plan.steps(), steps);
            for number in 0..steps {
                let step = plan.step(number);
                let batches: Vec<_> = plan.batches_of(&step).collect();
                assert!(batches.len() <= times as usize && batches.iter().all(|batch| !batch.is_empty()));
                assert!(batches.iter().all(|batch| batch.end - batch.start <= u64::from(size)));
                assert_eq!(batches.into_iter().flatten().collect::<Vec<_>>(), step.collect::<Vec<_>>());
            }
            assert_eq!(plan.batches_of(&plan.step(steps)).count(), 0);
        }
    }

    #[test]
    fn the_first_maximum_reached_or_convergence_ends_a_run() {
        let at = |step, epoch, stale| {
            let mut state = RunState { step, epoch, ..RunState::default() };
            state.stopping.stale = stale;
            state
        };
        let plan = plan(10, 5, Some(4), Some(7)).unwrap();
        assert_eq!((plan.steps_of_epoch(), plan.steps()), (2, 7));
        for (state, over) in
            [(at(6, 3, 0), false), (at(7, 3, 0), true), (at(6, 4, 0), true), (at(4, 2, 1), false), (at(4, 2, 2), true)]
        {
            assert_eq!(plan.is_over(&state), over, "{state:?}");
        }
    }

    #[test]
    fn a_run_without_rows_or_end_is_the_users_error() {
        for fault in [plan(0, 5, Some(1), None), plan(5, 5, None, None)] {
            assert_eq!(fault.unwrap_err().class, mlctl_protocol::ExitClass::Spec);
        }
    }

    #[test]
    fn the_curve_stays_within_its_number_of_points() {
        for steps in [1, 1999, 2000, 2001, 1_000_000] {
            let plan = plan(10, 5, None, Some(steps)).unwrap();
            let points = (1..=steps).filter(|step| plan.is_point(*step)).count() as u64;
            assert!(points <= STEP_POINTS && points >= steps.min(STEP_POINTS) / 2, "{points} points in {steps} steps");
        }
    }

    #[test]
    fn any_condition_of_the_policy_asks_for_a_checkpoint() {
        let plan = plan(50, 5, Some(9), None).unwrap();
        let state = |step, epoch, batch| RunState { step, epoch, batch, ..RunState::default() };
        for (state, seconds, wanted) in [
            (state(9, 0, 9), 59, false),
            (state(9, 0, 9), 60, true),
            (state(30, 2, 10), 0, true),
            (state(21, 2, 1), 0, false),
            (state(15, 2, 0), 0, true),
            (state(15, 3, 0), 0, false),
        ] {
            assert_eq!(plan.wants_checkpoint(&state, Duration::from_secs(seconds)), wanted, "{state:?}");
        }
    }
}
