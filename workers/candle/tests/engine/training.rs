//! The training loop as its users see it: it learns, reports, ends when it should, and fails in words.

use super::common::{Memory, Problem, Recorder, found};
use mlctl_protocol::{
    ExitClass,
    message::{ReportBody, StopClass},
    spec::{Activation, Convergence, Loss, ModelSpec, OptimizerSpec},
};
use mlworker::{data::examples::Answers, host::Order};

#[test]
fn a_run_learns_and_reports_its_curve() {
    let mut problem = Problem::classes();
    problem.spec.max_epochs = Some(80);
    problem.spec.convergence = None;
    let host = Recorder::default();
    let trained = problem.attempt(&host, &mut Memory::default()).unwrap();
    assert_eq!((trained.run.step, trained.run.epoch, trained.run.batch), (400, 80, 0));
    assert!(trained.run.metrics["train_loss"] < 0.6, "{:?}", trained.run.metrics);
    let names: Vec<_> = trained.run.metrics.keys().map(String::as_str).collect();
    assert_eq!(names, ["test_accuracy", "test_loss", "train_accuracy", "train_loss", "val_accuracy", "val_loss"]);
    let points = host.points();
    assert_eq!(points.iter().filter(|point| point.values.contains_key("loss")).count(), 400);
    let epochs: Vec<_> = points.iter().filter(|point| point.values.contains_key("val_loss")).collect();
    assert_eq!(epochs.len(), 80);
    assert!(epochs.iter().all(|point| point.values.contains_key("learning_rate") && point.step == 5 * point.epoch));
    assert!(epochs.iter().all(|point| point.values["rows_per_second"] > 0.0));
    let evaluation = trained.evaluation.unwrap();
    assert_eq!((evaluation.rows, evaluation.confusion.len()), (12, 3));
    assert_eq!(evaluation.accuracy, trained.run.metrics.get("test_accuracy").copied());
    let progress = host.last.lock().unwrap().clone();
    assert_eq!(
        (progress.step, progress.steps, progress.epoch, progress.epochs),
        (Some(400), Some(400), Some(80), Some(80))
    );
    assert!(progress.rows_per_second.is_some());
}

#[test]
fn training_ends_when_the_loss_no_longer_improves() {
    let mut problem = Problem::classes();
    problem.spec.max_epochs = Some(1000);
    problem.spec.convergence = Some(Convergence { patience: 2, min_improvement: 1e6 });
    let trained = problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
    assert_eq!(trained.run.epoch, 3, "the first epoch is the best, and two without improvement follow");
}

#[test]
fn the_maximum_of_steps_may_cut_an_epoch() {
    let mut problem = Problem::classes();
    problem.spec.max_steps = Some(7);
    let (host, mut vault) = (Recorder::default(), Memory::default());
    let trained = problem.attempt(&host, &mut vault).unwrap();
    assert_eq!((trained.run.step, trained.run.epoch, trained.run.batch), (7, 1, 2));
    assert_eq!(vault.kept.keys().copied().collect::<Vec<_>>(), [4, 7]);
    assert!(host.points().iter().any(|point| point.step == 7 && point.values.contains_key("val_loss")));
}

#[test]
fn values_are_learnt_by_mean_squared_error() {
    let mut problem = Problem::classes();
    problem.spec.loss = Loss::Mse;
    problem.spec.max_epochs = Some(60);
    problem.spec.convergence = None;
    let sums = problem.examples.features.chunks(6).flat_map(|row| [row[0] + row[1], row[2], 0.5]).collect();
    problem.examples.answers = Answers::Values { values: sums, width: 3 };
    let trained = problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
    assert!(trained.run.metrics["train_loss"] < 0.4, "{:?}", trained.run.metrics);
    assert!(!trained.run.metrics.contains_key("test_accuracy"));
    assert!(trained.evaluation.unwrap().confusion.is_empty());
}

#[test]
fn divergence_is_the_users_error_names_the_step_and_spares_the_checkpoints() {
    let mut problem = Problem::classes();
    problem.spec.optimizer =
        OptimizerSpec::Sgd { learning_rate: 1e30, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    problem.policy.every_steps = Some(1);
    let mut vault = Memory::default();
    let fault = problem.attempt(&Recorder::default(), &mut vault).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(fault.message.contains("diverged at step"), "{}", fault.message);
    assert!(fault.hint.unwrap().contains("learning rate of 1000000000000000000000000000000"));
    let step: u64 = fault.message.split_whitespace().find_map(|word| word.trim_end_matches(':').parse().ok()).unwrap();
    assert_eq!(vault.kept.keys().copied().collect::<Vec<_>>(), (1..step).collect::<Vec<_>>(), "{}", fault.message);
    for content in vault.kept.values() {
        for tensor in found(content).model.values() {
            assert!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|value| value.is_finite()));
        }
    }
}

#[test]
fn a_dead_layer_is_a_warning_before_the_first_step() {
    let mut problem = Problem::classes();
    problem.examples.features.fill(0.0);
    problem.spec.max_steps = Some(2);
    let host = Recorder::default();
    problem.attempt(&host, &mut Memory::default()).unwrap();
    let warnings = host.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("\"layer1.weight\""), "{warnings:?}");
}

#[test]
fn a_store_that_fails_for_a_while_costs_nothing() {
    let problem = Problem::classes();
    let (host, mut vault) = (Recorder::default(), Memory { failing: 1, ..Memory::default() });
    problem.attempt(&host, &mut vault).unwrap();
    assert!(host.warnings()[0].contains("the checkpoint at step 4 failed and is tried again: the store is down"));
    let mut down = Memory { failing: u32::MAX, ..Memory::default() };
    assert_eq!(problem.attempt(&Recorder::default(), &mut down).unwrap_err().class, ExitClass::Storage);
    let mut stale = Memory { failing: 1, class: Some(ExitClass::Lost), ..Memory::default() };
    assert_eq!(problem.attempt(&Recorder::default(), &mut stale).unwrap_err().class, ExitClass::Lost);
}

#[test]
fn a_stop_saves_first_and_a_refusal_does_not() {
    let mut problem = Problem::classes();
    problem.policy.every_steps = Some(1000);
    for (order, class, saved) in [
        (Order::Stop(StopClass::Preempted), ExitClass::Preempted, 1),
        (Order::Stop(StopClass::Cancelled), ExitClass::Cancelled, 1),
        (Order::Stop(StopClass::Timeout), ExitClass::Timeout, 1),
        (Order::LeaseLost, ExitClass::Preempted, 1),
        (Order::Refused("another attempt runs".into()), ExitClass::Lost, 0),
    ] {
        let (host, mut vault) = (Recorder::ordering(3, order), Memory::default());
        let fault = problem.attempt(&host, &mut vault).unwrap_err();
        assert_eq!((fault.class, vault.kept.len()), (class, saved));
        let reported =
            host.reports.lock().unwrap().iter().filter(|r| matches!(r, ReportBody::Checkpoint { .. })).count();
        assert_eq!(reported, saved);
    }
    let (host, mut vault) =
        (Recorder::ordering(3, Order::Stop(StopClass::Cancelled)), Memory { failing: 1, ..Memory::default() });
    let fault = problem.attempt(&host, &mut vault).unwrap_err();
    assert_eq!(fault.class, ExitClass::Cancelled, "why it ended does not change");
    assert!(fault.message.contains("the checkpoint at step 3 failed: the store is down"), "{}", fault.message);
}

#[test]
fn one_linear_layer_is_a_model_too() {
    let mut problem = Problem::classes();
    problem.spec.model = ModelSpec::Mlp { layers: vec![6, 3], activation: Activation::Relu, dropout: 0.0 };
    problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
}
