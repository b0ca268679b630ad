//! Learning rates against those of PyTorch's schedulers (`fixtures/schedules/make.py`), on the curve, over a resume, and where they do not fit the training.

use mlctl_protocol::{
    ExitClass,
    message::StopClass,
    spec::{OptimizerSpec, ScheduleSpec},
};
use mlworker::{host::Order, optim::schedule::Schedule};
use serde::Deserialize;

use super::common::{Memory, Problem, Recorder, bits};

#[derive(Deserialize)]
struct Expected {
    learning_rate: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    schedule: ScheduleSpec,
    rates: Vec<f64>,
}

#[test]
fn rates_are_pytorchs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schedules/pytorch.json");
    let Expected { learning_rate, cases } = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for Case { schedule, rates } in cases {
        let ours = Schedule::new(&schedule, learning_rate, rates.len() as u64).unwrap();
        for (step, theirs) in (0..).zip(&rates) {
            let ours = ours.rate(step);
            // PyTorch works some of them out from the rate before, which adds up rounding.
            assert!((ours - theirs).abs() <= 1e-13 * theirs.max(1e-3), "{schedule:?} at {step}: {ours}, not {theirs}");
        }
    }
}

fn problem(schedule: ScheduleSpec) -> Problem {
    let mut problem = Problem::classes();
    problem.spec.schedule = Some(schedule);
    problem.spec.convergence = None;
    problem.spec.max_epochs = Some(4);
    problem
}

fn cosine(warmup_steps: u64) -> ScheduleSpec {
    ScheduleSpec::Cosine { warmup_steps, min_learning_rate: 1e-3, steps: None }
}

#[test]
fn the_curve_shows_the_rate_that_each_step_was_done_with() {
    let problem = problem(cosine(3));
    let host = Recorder::default();
    problem.attempt(&host, &mut Memory::default()).unwrap();
    let schedule = Schedule::new(&cosine(3), 0.02, 20).unwrap();
    let points = host.points();
    let steps: Vec<_> = points.iter().filter(|point| point.values.contains_key("loss")).collect();
    assert_eq!(steps.len(), 20);
    for point in &points {
        assert_eq!(point.values["learning_rate"].to_bits(), schedule.rate(point.step - 1).to_bits(), "{point:?}");
    }
}

#[test]
fn a_step_at_a_scheduled_rate_is_one_at_that_rate() {
    // All steps of the schedule at half the rate: those of an optimizer with that rate.
    let mut halved = problem(ScheduleSpec::Constant { warmup_steps: 0 });
    let mut scheduled =
        problem(ScheduleSpec::Step { warmup_steps: 1, min_learning_rate: 0.0, step_size: 1000, gamma: 0.5 });
    for problem in [&mut halved, &mut scheduled] {
        problem.spec.max_steps = Some(2);
    }
    let rate = |learning_rate| OptimizerSpec::Sgd { learning_rate, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    (halved.spec.optimizer, scheduled.spec.optimizer) = (rate(0.1), rate(0.2));
    let (mut at_half, mut at_both) = (Memory::default(), Memory::default());
    for problem in [&mut halved, &mut scheduled] {
        problem.policy.every_steps = Some(1);
    }
    halved.attempt(&Recorder::default(), &mut at_half).unwrap();
    scheduled.attempt(&Recorder::default(), &mut at_both).unwrap();
    assert_eq!(at_half.kept[&1].model, at_both.kept[&1].model, "the warm-up of one step has half the rate");
    assert_ne!(at_half.kept[&2].model, at_both.kept[&2].model);
}

#[test]
fn a_schedule_that_follows_the_training_ties_a_run_to_its_length() {
    let mut longer = problem(cosine(0));
    let mut vault = Memory::default();
    longer.attempt(&Recorder::ordering(9, Order::Stop(StopClass::Preempted)), &mut vault).unwrap_err();
    longer.spec.max_epochs = Some(5);
    let fault = longer.attempt(&Recorder::default(), &mut vault).unwrap_err();
    assert!(fault.message.contains("max_epochs was 4 and is 5"), "{fault}");
    // One with a length of its own does not.
    let own = || ScheduleSpec::Cosine { warmup_steps: 0, min_learning_rate: 0.0, steps: Some(30) };
    let mut longer = problem(own());
    let mut vault = Memory::default();
    longer.attempt(&Recorder::ordering(9, Order::Stop(StopClass::Preempted)), &mut vault).unwrap_err();
    longer.spec.max_epochs = Some(5);
    let resumed = longer.attempt(&Recorder::default(), &mut vault).unwrap();
    assert_eq!(bits(&resumed), bits(&longer.attempt(&Recorder::default(), &mut Memory::default()).unwrap()));
    longer.spec.schedule = None;
    let other = bits(&longer.attempt(&Recorder::default(), &mut Memory::default()).unwrap());
    assert_ne!(bits(&resumed), other, "the control: without the schedule it is another run");
}

#[test]
fn a_warm_up_longer_than_the_epochs_is_told_before_the_first_step() {
    let fault = problem(cosine(20)).attempt(&Recorder::default(), &mut Memory::default()).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(fault.message.contains("the warm-up of 20 steps leaves nothing of the 20 that there are"), "{fault}");
}
