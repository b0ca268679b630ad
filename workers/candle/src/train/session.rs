//! The training loop. It reads no file and no clock: rows come in as `Examples`, checkpoints go out through a `Vault`, orders and time
//! come from the `Host`. Whatever the next step depends on is in `RunState`, the weights or the optimizer, so that a run stopped
//! after any step and resumed ends with the same bits. A checkpoint of a state is what the step after it leaves behind, and stops nothing.

use std::time::Duration;

use bytes::Bytes;
use candle_core::{Device, backprop::GradStore};
use mlctl_artifacts::spool::Away;
use mlctl_protocol::{
    ExitClass,
    message::ReportBody,
    progress::{Metrics, Progress},
    spec::{SplitPart, TrainSpec},
};
use serde::Serialize;

use super::{
    curve::{Curve, Rate},
    evaluate::{Evaluation, Measure, Score, put},
    learner::Learner,
    plan::Plan,
    saver::{self, Saver},
    state::{Content, Identity, RunState, Sums},
    step::{self, Passed},
};
use crate::{
    coverage,
    data::rows::Source,
    fault::Fault,
    host::Host,
    nn::{Network, Tensors},
    optim::clip,
    orders::Orders,
};

/// How long a run that was ordered to end waits for a store that does not answer: what waits for it is safe on this machine.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What a session works on, fixed for its length.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// What to do.
    pub spec: &'a TrainSpec,
    /// How long, and when to save.
    pub plan: &'a Plan,
    /// The rows.
    pub source: &'a dyn Source,
    /// What the run is made of, for its checkpoints.
    pub identity: &'a Identity,
    /// Threads of arithmetic, for its checkpoints.
    pub threads: u32,
    /// Where tensors live.
    pub device: &'a Device,
    /// The outside.
    pub host: &'a dyn Host,
    /// How long a run that is over waits for a store that does not answer.
    pub patience: Duration,
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("spec", self.spec).field("plan", self.plan).finish_non_exhaustive()
    }
}

/// The model's config as of a step and its metrics, in the form that goes into `state.json`.
pub type ConfigOf<'a, C> = &'a dyn Fn(u64, &Metrics) -> C;

/// What a finished run leaves to publish.
#[derive(Debug)]
pub struct Trained {
    /// The weights by name: the last step's, or those of the best epoch.
    pub model: Tensors,
    /// The step they are of.
    pub step: u64,
    /// Where the run ended; its metrics are the job's.
    pub run: RunState,
    /// How the model did on the test part, if there is one.
    pub evaluation: Option<Evaluation>,
}

/// How an epoch went.
struct Epoch {
    metrics: Metrics,
    /// The loss that convergence looks at.
    judged: f64,
    /// Rows trained on per second.
    rate: f64,
}

/// A run in progress.
pub struct Session<'a, C> {
    work: Work<'a>,
    config: ConfigOf<'a, C>,
    saver: Saver<'a>,
    learner: Learner,
    covered: bool,
    orders: Orders,
    curve: Curve,
    rate: Rate,
    last_loss: Option<f64>,
    /// The norm of the last step's gradients, where they are clipped.
    last_norm: Option<f64>,
    /// Since when this session works on the epoch, and the rows it has done of it.
    epoch_work: (Duration, u64),
    /// What the checkpoint tells that is taken of this state: the next update leaves its tensors.
    taken: Option<(RunState, Bytes)>,
}

impl<C> std::fmt::Debug for Session<'_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("learner", &self.learner).finish_non_exhaustive()
    }
}

impl<'a, C: Serialize> Session<'a, C> {
    /// A run from where its learner stands.
    pub fn new(work: Work<'a>, config: ConfigOf<'a, C>, saver: Saver<'a>, mut learner: Learner) -> Self {
        learner.optimizer.follow(work.plan.schedule().clone());
        Self {
            work,
            config,
            saver,
            learner,
            covered: false,
            orders: Orders::default(),
            curve: Curve::default(),
            rate: Rate::default(),
            last_loss: None,
            last_norm: None,
            epoch_work: (work.host.elapsed(), 0),
            taken: None,
        }
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// `spec` when the model cannot learn or has diverged, `preempted`, `cancelled` or `lost` when ordered to end, and what storage
    /// and the device fail with. A checkpoint of the last good state is durable before an ordered end.
    pub fn train(mut self) -> Result<Trained, Fault> {
        match self.steps() {
            Ok(()) => self.finish(),
            Err(fault) => {
                self.leave();
                Err(fault)
            }
        }
    }

    /// Trains until the run is over.
    fn steps(&mut self) -> Result<(), Fault> {
        let work = self.work;
        loop {
            if work.plan.epoch_is_full(&self.learner.run) {
                self.close_epoch()?;
            }
            self.obey()?;
            if work.plan.is_over(&self.learner.run) {
                return Ok(());
            }
            let Passed { mut gradients, loss, rows, correct } = step::passes(work, &self.learner)?;
            self.check_coverage(&gradients)?;
            self.update(&mut gradients)?;
            self.log(loss, rows, correct)?;
        }
    }

    /// Looks once per session, before its first update, whether every tensor can learn.
    fn check_coverage(&mut self, gradients: &GradStore) -> Result<(), Fault> {
        if std::mem::replace(&mut self.covered, true) {
            return Ok(());
        }
        match coverage::check(self.learner.optimizer.parameters(), gradients)? {
            Some(message) if self.learner.run.step == 0 => self.work.host.report(ReportBody::Warning { message }),
            _ => Ok(()),
        }
    }

    fn update(&mut self, gradients: &mut GradStore) -> Result<(), Fault> {
        if let Some(limit) = self.work.spec.max_grad_value {
            clip::values(self.learner.optimizer.parameters(), gradients, limit)?;
        }
        let mut factor = 1.0;
        if let Some(max_norm) = self.work.spec.max_grad_norm {
            let norm = clip::norm(self.learner.optimizer.parameters(), gradients)?;
            factor = clip::factor(norm, max_norm);
            self.last_norm = Some(norm);
        }
        if let Some(dead) = self.work.spec.detect.as_ref().and_then(|detect| detect.dead_gradients.as_ref()) {
            let norm = match self.last_norm {
                Some(norm) => norm,
                None => clip::norm(self.learner.optimizer.parameters(), gradients)?,
            };
            self.learner.run.watch.step(dead, norm)?;
        }
        let taken = self.taken.take();
        let diverged = self.learner.optimizer.update(gradients, factor)?;
        if let (Some((run, told)), Some(kept)) = (taken, self.learner.optimizer.take_kept()) {
            self.saver.begin(self.work.host, &run, self.learner.content_of(kept, told)?);
        }
        match diverged {
            Some(name) => Err(step::diverged(&self.learner, &format!("{name:?} is no longer finite"))),
            None => Ok(()),
        }
    }

    /// Ends with an error: checkpoints that were begun are waited for, unless this attempt is no longer valid. Why the run ends does not change.
    fn leave(&mut self) {
        if self.orders.ending().is_some_and(|ending| !ending.may_save) {
            return;
        }
        let Self { work, learner, saver, taken, .. } = self;
        let left = match taken.take() {
            Some((run, told)) => saver.save(work.host, &run, || learner.content_of(learner.optimizer.copied()?, told)),
            None => saver.land(work.host),
        };
        if let Err(fault) = left {
            tracing::warn!("the last checkpoint before the end failed: {fault}");
        }
    }

    /// Counts the step just done and tells of it.
    fn log(&mut self, loss: f64, rows: u64, correct: u64) -> Result<(), Fault> {
        let Work { plan, host, .. } = self.work;
        #[expect(clippy::cast_precision_loss, reason = "a step has far less than 2^52 rows")]
        let sum = loss * rows as f64;
        self.learner.run.step += 1;
        self.learner.run.batch += 1;
        self.learner.run.sums.rows += rows;
        self.learner.run.sums.loss += sum;
        self.learner.run.sums.correct += correct;
        let now = host.elapsed();
        self.rate.count(now, rows);
        self.epoch_work.1 += rows;
        if plan.is_point(self.learner.run.step) {
            let norm = self.last_norm.map(|norm| ("grad_norm", norm));
            let rate = self.work.spec.schedule.as_ref().map(|_| self.learner.optimizer.last_learning_rate());
            let rate = rate.map(|rate| ("learning_rate", rate));
            let values: Vec<_> = [("loss", loss)].into_iter().chain(norm).chain(rate).collect();
            self.curve.add(host, (self.learner.run.step, self.learner.run.epoch), &values)?;
        }
        self.last_loss = Some(loss);
        host.progress(self.progress());
        Ok(())
    }

    fn progress(&self) -> Progress {
        let plan = self.work.plan;
        Progress {
            step: Some(self.learner.run.step),
            steps: Some(plan.steps()),
            epoch: Some(self.learner.run.epoch),
            epochs: plan.epochs(),
            rows_per_second: self.rate.per_second(),
            loss: self.last_loss,
            ..Progress::default()
        }
    }

    /// Validates and reports the epoch, and begins the next. Changes nothing when an order came in between.
    fn close_epoch(&mut self) -> Result<(), Fault> {
        let Some(Epoch { metrics, judged, rate }) = self.measure_epoch()? else { return Ok(()) };
        self.learner.run.epoch += 1;
        self.learner.run.batch = 0;
        self.learner.run.sums = Sums::default();
        self.learner.run.stopping.observe(judged, self.work.plan.min_improvement());
        self.learner.consider(self.work.spec.select, judged, &metrics)?;
        self.report_epoch(metrics, Some(rate))?;
        if let Some(detect) = &self.work.spec.detect {
            let run = &mut self.learner.run;
            run.watch.epoch(detect, run.epoch, judged)?;
        }
        self.epoch_work = (self.work.host.elapsed(), 0);
        self.work.host.progress(self.progress());
        Ok(())
    }

    /// Measures the epoch so far. `None` when an order came in between.
    fn measure_epoch(&mut self) -> Result<Option<Epoch>, Fault> {
        let (since, rows) = self.epoch_work;
        let seconds = self.work.host.elapsed().saturating_sub(since).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate is read by people")]
        let rate = rows as f64 / seconds;
        let (sums, source) = (self.learner.run.sums.clone(), self.work.source);
        let correct = source.has_classes().then_some(sums.correct);
        let trained = Score { rows: sums.rows, loss: sums.loss, correct };
        let mut metrics = Metrics::new();
        trained.name("train", &mut metrics);
        let mut judged = trained.mean_loss();
        if source.count(SplitPart::Validation) > 0 {
            self.learner.refresh()?;
            let (measure, orders, host) = (measure(self.work, &self.learner.frozen), &mut self.orders, self.work.host);
            let Some(score) = measure.rows(SplitPart::Validation, || interrupts(orders, host), |_, _| {})? else {
                return Ok(None);
            };
            score.name("val", &mut metrics);
            judged = score.mean_loss();
        }
        Ok(Some(Epoch { metrics, judged, rate }))
    }

    /// Keeps and reports metrics. The rate is reported only: it is no property of the model.
    fn report_epoch(&mut self, mut metrics: Metrics, rate: Option<f64>) -> Result<(), Fault> {
        self.learner.run.metrics.extend(metrics.clone());
        put(&mut metrics, "learning_rate", self.learner.optimizer.last_learning_rate());
        if let Some(rate) = rate {
            put(&mut metrics, "rows_per_second", rate);
        }
        let values: Vec<_> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.curve.add(self.work.host, (self.learner.run.step, self.learner.run.epoch), &values)
    }

    /// Does what the daemon and the policy ask for between two steps.
    fn obey(&mut self) -> Result<(), Fault> {
        let Work { plan, host, .. } = self.work;
        self.saver.catch_up(host)?;
        self.orders.poll(host);
        if let Some(ending) = self.orders.ending().cloned() {
            if !ending.may_save {
                return Err(ending.fault);
            }
            self.curve.flush(host)?;
            return Err(self.save_for(ending.fault));
        }
        if self.orders.take_checkpoint() {
            self.saver.wish();
        }
        if !self.saver.is_due(plan, &self.learner.run, host.elapsed()) {
            return Ok(());
        }
        self.curve.flush(host)?;
        let Self { work, config, learner, taken, .. } = self;
        let run = learner.run.clone();
        let told = learner.told(work.identity, work.threads, &config(run.step, &run.metrics))?;
        learner.optimizer.keep()?;
        *taken = Some((run, told));
        Ok(())
    }

    /// Saves before an ordered end. A failure is told, but does not change why the run ended.
    fn save_for(&mut self, end: Fault) -> Fault {
        let Self { work, config, learner, saver, .. } = self;
        let step = learner.run.step;
        match saver.save(work.host, &learner.run, || content(*work, *config, learner)) {
            Ok(()) => match saver.flush(work.host, END_PATIENCE, || false) {
                Ok(Some(Away { since, checkpoints, .. })) => {
                    let message = format!(
                        "{}; what could not be sent ({}) waits on this machine for the object storage, which does not answer since {since}: the next attempt goes on from it",
                        end.message,
                        saver::count(checkpoints)
                    );
                    Fault { message, ..end }
                }
                _ => end,
            },
            Err(fault) => {
                let message = format!("{}; the checkpoint at step {step} failed: {}", end.message, fault.message);
                Fault { message, ..end }
            }
        }
    }

    /// Saves the last state, measures the model for good and hands it over.
    fn finish(mut self) -> Result<Trained, Fault> {
        let Work { host, source, .. } = self.work;
        self.saver.save(host, &self.learner.run, || content(self.work, self.config, &self.learner))?;
        if self.learner.run.batch > 0 {
            let measured = self.measure_epoch()?;
            self.ended()?;
            if let Some(Epoch { metrics, judged, rate }) = measured {
                self.learner.consider(self.work.spec.select, judged, &metrics)?;
                self.report_epoch(metrics, Some(rate))?;
            }
        }
        self.learner.refresh()?;
        let step = self.learner.settle()?;
        let mut evaluation = None;
        if source.count(SplitPart::Test) > 0 {
            let outputs = self.work.spec.model.outputs() as usize;
            let (measure, orders) = (measure(self.work, &self.learner.frozen), &mut self.orders);
            let measured = measure.in_full(SplitPart::Test, outputs, || interrupts(orders, host))?;
            self.ended()?;
            if let Some((score, full)) = measured {
                let mut metrics = Metrics::new();
                score.name("test", &mut metrics);
                self.report_epoch(metrics, None)?;
                evaluation = Some(full);
            }
        }
        self.curve.flush(host)?;
        self.wait_for_storage()?;
        Ok(Trained { model: self.learner.weights()?, step, run: self.learner.run, evaluation })
    }

    /// Waits until the store has all checkpoints: a run that is over has nothing better to do.
    fn wait_for_storage(&mut self) -> Result<(), Fault> {
        let Work { host, patience, .. } = self.work;
        let orders = &mut self.orders;
        let left = self.saver.flush(host, patience, || interrupts(orders, host))?;
        self.ended()?;
        match left {
            None => Ok(()),
            Some(Away { since, checkpoints, .. }) => Err(Fault::new(
                ExitClass::Storage,
                format!("training is over, and the object storage does not answer since {since}: what could not be sent ({}) waits on this machine", saver::count(checkpoints)),
            )
            .with_hint("the next attempt goes on from it; storage.outage_seconds in mld.toml says how long a job waits")),
        }
    }

    /// An order to end that came while the model was measured. The last state is saved already.
    fn ended(&self) -> Result<(), Fault> {
        self.orders.ending().map_or(Ok(()), |ending| Err(ending.fault.clone()))
    }
}

/// Whether a measurement should stop for an order.
fn interrupts(orders: &mut Orders, host: &dyn Host) -> bool {
    orders.poll(host);
    orders.ending().is_some()
}

fn measure<'a>(work: Work<'a>, model: &'a Network) -> Measure<'a> {
    Measure { model, loss: work.spec.loss, source: work.source, device: work.device }
}

/// The bytes of a checkpoint.
fn content<C: Serialize>(work: Work<'_>, config: ConfigOf<'_, C>, learner: &Learner) -> Result<Content, Fault> {
    let run = learner.run();
    learner.content(work.identity, work.threads, &config(run.step, &run.metrics))
}
