//! The passes of one optimizer step: forward and backward over its rows, at once or in several batches whose gradients are added up, so that less of them is in memory at a
//! time. Changes nothing: `session` decides what becomes of the gradients.

use std::ops::Range;

use candle_core::{Tensor, backprop::GradStore};
use mlctl_protocol::ExitClass;

use super::{learner::Learner, session::Work};
use crate::{
    fault::Fault,
    loss::{loss, predicted_classes},
    nn::Dropping,
    optim::Parameter,
};

/// What rows have given.
#[derive(Debug)]
pub(super) struct Passed {
    /// The derivatives of the loss by each parameter.
    pub(super) gradients: GradStore,
    /// The loss, averaged over the rows.
    pub(super) loss: f64,
    /// Rows, or tokens of text.
    pub(super) rows: u64,
    /// Rows of which the class was predicted.
    pub(super) correct: u64,
}

/// Runs the rows of the learner's next step through its model. Loss and gradients are averages over all of them, however they are cut into batches: each counts by its rows.
///
/// # Errors
/// When the loss is not finite, rows cannot be read or the device fails.
pub(super) fn passes(work: Work<'_>, learner: &Learner) -> Result<Passed, Fault> {
    let (step, parameters) = (work.plan.step(learner.run.batch), learner.optimizer.parameters());
    let mut batches = work.plan.batches_of(&step);
    let first = batches.next().ok_or_else(|| Fault::new(ExitClass::Crash, "a step has no rows"))?;
    let mut all = pass(work, learner, &step, first)?;
    for batch in batches {
        let sums = parameters.iter().map(|(_, var)| all.gradients.remove(var)).collect::<Vec<_>>();
        let Passed { loss, rows, correct, .. } = all;
        all = pass(work, learner, &step, batch)?;
        add(sums, parameters, &mut all.gradients)?;
        all = Passed { loss: loss + all.loss, rows: rows + all.rows, correct: correct + all.correct, ..all };
    }
    Ok(all)
}

/// Runs some of a step's rows. Their loss and gradients are parts of the step's averages.
fn pass(work: Work<'_>, learner: &Learner, step: &Range<u64>, places: Range<u64>) -> Result<Passed, Fault> {
    let dropping = Dropping { seed: work.spec.seed, step: learner.run.step, row: places.start - step.start };
    let batch = work.source.batch(learner.run.epoch, places.clone(), work.device)?;
    let outputs = learner.model.forward(&batch.features, Some(dropping))?;
    let loss = loss(work.spec.loss, &outputs, &batch.targets)?;
    let value = loss.to_scalar::<f32>()?;
    if !value.is_finite() {
        return Err(diverged(learner, &format!("the loss is {value}")));
    }
    let (part, all) = (places.end - places.start, step.end - step.start);
    let (share, gradients) = if part == all {
        (1.0, learner.model.gradients(&loss)?)
    } else {
        #[expect(clippy::cast_precision_loss, reason = "a step has far less than 2^52 rows")]
        let share = part as f64 / all as f64;
        (share, learner.model.gradients(&loss.affine(share, 0.0)?)?)
    };
    let mut correct = 0;
    if !batch.classes.is_empty() {
        let predicted = predicted_classes(&outputs)?;
        correct = batch.classes.iter().zip(predicted).filter(|(class, predicted)| *class == predicted).count() as u64;
    }
    Ok(Passed { gradients, loss: share * f64::from(value), rows: batch.measured()?, correct })
}

/// Adds what was there of each parameter to its gradient.
fn add(sums: Vec<Option<Tensor>>, parameters: &[Parameter], gradients: &mut GradStore) -> Result<(), Fault> {
    for ((_, var), sum) in parameters.iter().zip(sums) {
        let Some(sum) = sum else { continue };
        let sum = match gradients.remove(var) {
            Some(fresh) => (sum + fresh)?,
            None => sum,
        };
        gradients.insert(var, sum);
    }
    Ok(())
}

/// What a training ends with whose numbers are no longer finite. The weights are those of the step before, or must not be saved.
pub(super) fn diverged(learner: &Learner, what: &str) -> Fault {
    let rate = learner.optimizer.last_learning_rate();
    Fault::spec(
        format!("training diverged at step {}: {what}", learner.run.step + 1),
        format!(
            "the likely cause is the learning rate of {rate}: lower it, or set scaling; the last checkpoint is kept"
        ),
    )
}
