//! The best epoch as the model, and runs that are given up as hopeless.

use mlctl_protocol::{
    ExitClass,
    message::StopClass,
    spec::{DeadGradients, DetectSpec, Diverged, Loss, ModelSpec, OptimizerSpec, Plateau, Select},
};
use mlworker::{data::examples::Answers, host::Order};

use super::common::{Memory, Problem, Recorder, bits, found};

/// A run that gets worse again: half of what it is validated on is of another class than it looks like.
fn problem(select: Select) -> Problem {
    let mut problem = Problem::classes();
    problem.spec.optimizer =
        OptimizerSpec::Adam { learning_rate: 0.08, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 };
    (problem.spec.select, problem.spec.convergence, problem.spec.max_epochs) = (select, None, Some(14));
    if let Answers::Classes(classes) = &mut problem.examples.answers {
        classes[46..52].iter_mut().for_each(|class| *class = (*class + 1) % 3);
    }
    problem.policy.every_steps = None;
    problem.policy.every_epochs = Some(1);
    problem
}

#[test]
fn the_best_epoch_is_tested_and_published() {
    for (select, metric, sign) in [(Select::Best, "val_loss", 1.0), (Select::BestAccuracy, "val_accuracy", -1.0)] {
        for ema in [None, Some(0.6)] {
            let (host, mut vault) = (Recorder::default(), Memory::default());
            let mut problem = problem(select);
            problem.spec.ema = ema;
            let trained = problem.attempt(&host, &mut vault).unwrap();
            let points = host.points();
            let epochs: Vec<_> =
                points.iter().filter_map(|p| Some((p.step, p.epoch, *p.values.get(metric)?))).collect();
            let mut best = epochs[0];
            for epoch in &epochs {
                if sign * epoch.2 < sign * best.2 {
                    best = *epoch;
                }
            }
            assert!(best.1 < 14, "the problem ends with its best epoch: {epochs:?}");
            assert_eq!((trained.step, trained.run.step), (best.0, 70));
            let metrics = &trained.run.metrics;
            assert_eq!((metrics[metric], metrics["best_epoch"].to_string()), (best.2, best.1.to_string()));
            let then = found(&vault.kept[&best.0]).model;
            let then = then.iter().map(|(name, t)| (name.clone(), t.flatten_all().unwrap().to_vec1::<f32>().unwrap()));
            let ours = trained.model.iter();
            let ours = ours.map(|(name, t)| (name.clone(), t.flatten_all().unwrap().to_vec1::<f32>().unwrap()));
            assert!(ours.eq(then), "the model is not that of epoch {}", best.1);
            problem.spec.select = Select::Last;
            problem.spec.max_epochs = Some(best.1);
            let ended = problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
            assert_eq!(ended.evaluation, trained.evaluation, "what is tested is the best epoch");
        }
    }
}

#[test]
fn a_run_that_keeps_its_best_and_is_stopped_anywhere_ends_with_the_same_bits() {
    let mut problem = problem(Select::Best);
    // The last epoch is cut short, and is measured when the run is over.
    problem.spec.max_steps = Some(33);
    let whole = problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
    for at in 0.. {
        let (host, mut vault) = (Recorder::ordering(at, Order::Stop(StopClass::Preempted)), Memory::default());
        if problem.attempt(&host, &mut vault).is_ok() {
            assert!(at > 33);
            break;
        }
        let resumed = problem.attempt(&Recorder::default(), &mut vault).unwrap();
        assert_eq!(
            (bits(&resumed), &resumed.run, resumed.step),
            (bits(&whole), &whole.run, whole.step),
            "at poll {at}"
        );
        assert_eq!(resumed.evaluation, whole.evaluation);
    }
}

#[test]
fn hopeless_runs_are_given_up_with_their_reason() {
    let detect = DetectSpec::default();
    let mut diverging = problem(Select::Last);
    diverging.spec.detect = Some(DetectSpec { diverged: Some(Diverged { factor: 1.01, epochs: 1 }), ..detect.clone() });
    let mut flat = problem(Select::Last);
    flat.spec.optimizer = OptimizerSpec::Sgd { learning_rate: 1e-9, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    flat.spec.detect = Some(DetectSpec { plateau: Some(Plateau { epochs: 3, share: 0.01 }), ..detect.clone() });
    let mut dead = problem(Select::Last);
    dead.spec.model =
        ModelSpec::Mlp { layers: vec![6, 3], activation: mlctl_protocol::spec::Activation::Relu, dropout: 0.0 };
    dead.spec.freeze = vec!["*.bias".into()];
    dead.spec.loss = Loss::Mse;
    dead.examples.answers = Answers::Values { values: vec![1.0; 64 * 3], width: 3 };
    dead.examples.features.fill(0.0);
    dead.spec.detect = Some(DetectSpec { dead_gradients: Some(DeadGradients { steps: 7 }), ..detect });
    for (mut problem, why) in [
        (diverging, "more than 1.01 times its best of"),
        (flat, "within 3 epochs the loss has come from"),
        (dead, "all gradients were exactly 0 for 7 steps in a row"),
    ] {
        problem.policy.every_steps = Some(1);
        let mut vault = Memory::default();
        let whole = problem.attempt(&Recorder::default(), &mut vault).unwrap_err();
        assert_eq!(whole.class, ExitClass::Spec, "{whole}");
        assert!(whole.message.contains(why), "{whole}");
        // A run that is resumed is given up for the same reason, and one that looks for nothing goes on.
        for at in [3, 4, 9] {
            let mut vault = Memory::default();
            let Err(fault) = problem.attempt(&Recorder::ordering(at, Order::Stop(StopClass::Preempted)), &mut vault)
            else {
                panic!("the run is over before poll {at}");
            };
            if fault.class == ExitClass::Preempted {
                let fault = problem.attempt(&Recorder::default(), &mut vault).unwrap_err();
                assert_eq!(fault.message, whole.message);
            }
        }
        problem.spec.detect = None;
        problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
    }
}
