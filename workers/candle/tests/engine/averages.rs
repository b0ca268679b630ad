//! The average of the weights: what is measured, published and the model of a checkpoint, while training goes on without it.

use std::collections::BTreeMap;

use candle_core::DType;
use mlctl_protocol::message::StopClass;
use mlworker::{host::Order, nn::Tensors};

use super::common::{Memory, Problem, Recorder, bits, found};

fn problem(images: bool, ema: Option<f64>) -> Problem {
    let mut problem = if images { Problem::images() } else { Problem::classes() };
    (problem.spec.ema, problem.spec.convergence, problem.spec.max_epochs) = (ema, None, Some(4));
    problem.spec.freeze = vec!["layer1.bias".into(), "conv1.bias".into()];
    problem.spec.freeze.retain(|name| name.starts_with("conv") == images);
    problem.policy.every_steps = Some(1);
    problem
}

fn values(tensors: &Tensors) -> BTreeMap<String, Vec<f32>> {
    let floats = tensors.iter().filter(|(_, tensor)| tensor.dtype() == DType::F32);
    floats.map(|(name, t)| (name.clone(), t.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

#[test]
fn a_checkpoint_has_the_average_as_its_model_and_the_weights_beside_it() {
    for images in [false, true] {
        let (mut plain, mut averaged) = (Memory::default(), Memory::default());
        let free = problem(images, None).attempt(&Recorder::default(), &mut plain).unwrap();
        let with = problem(images, Some(0.75)).attempt(&Recorder::default(), &mut averaged).unwrap();
        assert_eq!(plain.kept.len(), 20);
        let mut expected = BTreeMap::new();
        for (step, content) in &averaged.kept {
            let (ours, theirs) = (found(content), found(&plain.kept[step]));
            for (name, weights) in values(&theirs.model) {
                let is_frozen = !theirs.optimizer.contains_key(&format!("{name}.exp_avg"));
                if !is_frozen {
                    let beside = values(&ours.optimizer)[&format!("{name}.weights")].clone();
                    assert_eq!(beside, weights, "{name}: the average changes nothing of the training");
                }
                let average: &mut Vec<f32> = expected.entry(name.clone()).or_insert_with(|| weights.clone());
                for (average, weight) in average.iter_mut().zip(&weights) {
                    *average += 0.25 * (weight - *average);
                }
                assert_eq!(values(&ours.model)[&name], *average, "{name} at step {step}");
                assert_eq!(*average == weights, is_frozen || *step == 1, "{name} at step {step}");
            }
        }
        assert_eq!(values(&with.model), expected, "what is published is the average");
        assert_eq!(free.run.metrics["train_loss"], with.run.metrics["train_loss"]);
        assert_ne!(free.run.metrics["val_loss"], with.run.metrics["val_loss"], "what is validated is the average");
        assert_ne!(free.run.metrics["test_loss"], with.run.metrics["test_loss"]);
    }
}

#[test]
fn a_run_with_an_average_that_is_stopped_anywhere_ends_with_the_same_bits() {
    for images in [false, true] {
        let problem = problem(images, Some(0.9));
        let whole = problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
        for at in 0.. {
            let (host, mut vault) = (Recorder::ordering(at, Order::Stop(StopClass::Preempted)), Memory::default());
            if problem.attempt(&host, &mut vault).is_ok() {
                assert!(at > 20);
                break;
            }
            let resumed = problem.attempt(&Recorder::default(), &mut vault).unwrap();
            assert_eq!((bits(&resumed), &resumed.run), (bits(&whole), &whole.run), "stopped at poll {at}");
        }
    }
}

#[test]
fn a_checkpoint_without_the_weights_is_passed_over() {
    let problem = problem(false, Some(0.9));
    let mut vault = Memory::default();
    problem.attempt(&Recorder::ordering(9, Order::Stop(StopClass::Preempted)), &mut vault).unwrap_err();
    let last = *vault.kept.last_key_value().unwrap().0;
    let candidates = [super::common::reference(last), super::common::reference(last - 1)];
    let host = Recorder::default();
    let resumed = problem.attempt_from(&host, &mut Memory::default(), &candidates, |candidate| {
        let mut found = found(&vault.kept[&candidate.step]);
        if candidate.step == last {
            found.optimizer.retain(|name, _| !name.ends_with("weight.weights"));
        }
        Ok(found)
    });
    let whole = problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
    assert_eq!(bits(&resumed.unwrap()), bits(&whole));
}
