//! The promise of resume: a run that is stopped, killed or interrupted anywhere, any number of times, ends with the same bits, the
//! same metrics and the same evaluation as one that was never touched.

use super::common::{Memory, Problem, Recorder, bits, found};
use mlctl_protocol::{
    ExitClass,
    message::StopClass,
    spec::{
        Activation, CheckpointPolicy, DeadGradients, DetectSpec, Diverged, GroupSpec, ModelSpec, OptimizerSpec,
        ScheduleSpec, Select,
    },
};
use mlworker::{
    host::Order,
    rng::{Rng, Stream},
    train::session::Trained,
};

#[expect(clippy::disallowed_methods, reason = "a failed random test is repeated with SEED")]
pub fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_103);
    println!("SEED={seed}");
    seed
}

fn undisturbed(problem: &Problem) -> Trained {
    problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap()
}

fn assert_same(disturbed: &Trained, whole: &Trained, how: &str) {
    assert_eq!(bits(disturbed), bits(whole), "{how}");
    assert_eq!(disturbed.run, whole.run, "{how}");
    assert_eq!(disturbed.evaluation, whole.evaluation, "{how}");
}

#[test]
fn stopping_at_every_single_poll_changes_nothing() {
    for problem in [Problem::classes(), Problem::images()] {
        stopped_at_every_single_poll(&problem);
    }
    // In few steps, of which one costs as much as many of those above.
    let mut problem = Problem::letters(true);
    (problem.spec.batch_size, problem.spec.max_epochs, problem.spec.convergence) = (14, Some(7), None);
    stopped_at_every_single_poll(&problem);
}

fn stopped_at_every_single_poll(problem: &Problem) {
    let whole = undisturbed(problem);
    assert!(whole.run.step > 20, "the problem is too short to interrupt: {:?}", whole.run);
    let mut polls = 0;
    for at in 0.. {
        let (host, mut vault) = (Recorder::ordering(at, Order::Stop(StopClass::Preempted)), Memory::default());
        match problem.attempt(&host, &mut vault) {
            Ok(trained) => {
                // The order came after the end: every earlier place has been tried.
                assert_same(&trained, &whole, "never stopped");
                break;
            }
            Err(fault) => assert_eq!(fault.class, ExitClass::Preempted, "{}", fault.message),
        }
        let resumed = problem.attempt(&Recorder::default(), &mut vault).unwrap();
        assert_same(&resumed, &whole, &format!("stopped at poll {at}"));
        polls = at;
    }
    assert!(polls > whole.run.step, "validation and test must have been interrupted as well");
}

/// What stands around the optimizer, otherwise in each round.
fn vary(problem: &mut Problem, round: u32, rng: &mut Rng) {
    problem.spec.select = match round % 4 {
        1 => Select::Best,
        2 => Select::BestAccuracy,
        _ => Select::Last,
    };
    if round % 3 == 1 {
        // They are looked for, and what they remember is kept: no run here is that hopeless.
        problem.spec.detect = Some(DetectSpec {
            diverged: Some(Diverged { factor: 1e6, epochs: 2 }),
            plateau: None,
            dead_gradients: Some(DeadGradients { steps: 1000 }),
        });
    }
    problem.spec.accumulate = 1 + rng.below(3);
    problem.spec.ema = (round % 5 == 2).then_some(0.9);
    if round % 6 == 1 {
        let own = if problem.text.is_some() { "*.1.*" } else { "*.bias" };
        let group = GroupSpec { tensors: vec![own.into()], learning_rate_factor: 0.5, weight_decay: Some(0.0) };
        problem.spec.groups = vec![group];
    }
    if round % 7 == 3 {
        problem.spec.optimizer = OptimizerSpec::Lion { learning_rate: 0.002, betas: (0.9, 0.99), weight_decay: 0.1 };
        problem.spec.max_grad_value = Some(0.1);
    }
}

#[test]
fn random_kills_and_stops_in_a_row_change_nothing() {
    let mut rng = Rng::new(seed(), Stream::Data { table: 9, block: 0 });
    let sgd = OptimizerSpec::Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 0.001, nesterov: false };
    let nesterov = OptimizerSpec::Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 0.0, nesterov: true };
    let adamw = OptimizerSpec::AdamW { learning_rate: 0.01, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 };
    for round in 0..60 {
        let mut problem = match round % 6 {
            0 | 3 => Problem::images(),
            1 => Problem::letters(round % 12 == 1),
            _ => Problem::classes(),
        };
        match round % 4 {
            0 => {}
            1 => problem.spec.optimizer = sgd.clone(),
            2 => {
                if let ModelSpec::Mlp { activation, .. } | ModelSpec::Cnn { activation, .. } = &mut problem.spec.model {
                    *activation = if round % 8 == 2 { Activation::Gelu } else { Activation::Tanh };
                }
                problem.spec.optimizer = nesterov.clone();
                problem.spec.max_grad_norm = Some(0.5);
            }
            _ => problem.spec.optimizer = adamw.clone(),
        }
        if round % 5 == 0 {
            problem.spec.freeze = vec![if problem.text.is_some() { "*.0.*" } else { "*1.*" }.into()];
        }
        problem.spec.schedule = match rng.below(4) {
            0 => Some(ScheduleSpec::Cosine { warmup_steps: 0, min_learning_rate: 1e-3, steps: None }),
            1 => Some(ScheduleSpec::InverseSqrt { warmup_steps: 0, min_learning_rate: 0.0, timescale: Some(3) }),
            2 => Some(ScheduleSpec::Step { warmup_steps: 0, min_learning_rate: 0.0, step_size: 2, gamma: 0.8 }),
            _ => None,
        };
        vary(&mut problem, round, &mut rng);
        problem.spec.batch_size = 1 + rng.below(45);
        problem.spec.max_steps = (rng.below(2) == 0).then(|| 1 + u64::from(rng.below(40)));
        problem.policy.every_steps = Some(1 + u64::from(rng.below(9)));
        let whole = undisturbed(&problem);
        let mut vault = Memory::default();
        let mut attempts = 0;
        let resumed = loop {
            attempts += 1;
            // Refused is what a kill -9 looks like from here: the attempt ends at once and saves nothing.
            let order = match rng.below(3) {
                0 => Order::Stop(StopClass::Cancelled),
                1 => Order::LeaseLost,
                _ => Order::Refused("stale".into()),
            };
            let host = Recorder::ordering(u64::from(rng.below(30)) + attempts / 8, order);
            match problem.attempt(&host, &mut vault) {
                Ok(trained) => break trained,
                Err(fault) => assert!(
                    matches!(fault.class, ExitClass::Cancelled | ExitClass::Preempted | ExitClass::Lost),
                    "{}",
                    fault.message
                ),
            }
            assert!(attempts < 10_000, "the run makes no progress");
        };
        assert_same(&resumed, &whole, &format!("round {round}, {attempts} attempts"));
    }
}

#[test]
fn frozen_tensors_stay_and_the_others_learn_the_same() {
    let mut problem = Problem::classes();
    problem.spec.optimizer =
        OptimizerSpec::Sgd { learning_rate: 0.05, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    (problem.spec.max_steps, problem.policy.every_steps) = (Some(1), Some(1));
    let free = bits(&undisturbed(&problem));
    problem.spec.freeze = vec!["layer1.*".into(), "layer2.bias".into()];
    let begun = mlworker::nn::initial(&problem.spec.model, problem.spec.seed, &candle_core::Device::Cpu).unwrap();
    let is_frozen = |name: &str| name.starts_with("layer1.") || name == "layer2.bias";
    let frozen = bits(&undisturbed(&problem));
    for (name, values) in &frozen {
        let begun: Vec<f32> = begun[name].flatten_all().unwrap().to_vec1().unwrap();
        let begun: Vec<u32> = begun.into_iter().map(f32::to_bits).collect();
        assert_eq!(*values == begun, is_frozen(name), "{name}");
        assert_eq!(*values == free[name], !is_frozen(name), "{name}: the first step of the others is the same");
    }
    // Of each checkpoint the first file is that of the frozen tensors, and the optimizer knows nothing of them.
    problem.spec.max_steps = Some(6);
    let mut vault = Memory::default();
    problem.attempt(&Recorder::default(), &mut vault).unwrap();
    let files: Vec<_> = vault.kept.values().map(|content| content.model[0].whole()).collect();
    assert!(files.len() == 6 && files.iter().all(|file| *file == files[0]));
    assert!(vault.kept.values().all(|content| found(content).optimizer.keys().all(|name| !is_frozen(name))));
}

#[test]
fn taking_checkpoints_changes_nothing() {
    let mut problem = Problem::classes();
    let whole = undisturbed(&problem);
    for policy in [
        CheckpointPolicy { every_steps: Some(1), keep: 1, ..CheckpointPolicy::default() },
        CheckpointPolicy { every_epochs: Some(1), keep: 1, ..CheckpointPolicy::default() },
        CheckpointPolicy { every_seconds: Some(1), keep: 1, ..CheckpointPolicy::default() },
        CheckpointPolicy::default(),
    ] {
        problem.policy = policy;
        assert_same(&undisturbed(&problem), &whole, &format!("{:?}", problem.policy));
    }
    let (host, mut vault) = (Recorder::ordering(7, Order::Checkpoint), Memory::default());
    problem.policy = CheckpointPolicy { every_steps: Some(1000), ..CheckpointPolicy::default() };
    assert_same(&problem.attempt(&host, &mut vault).unwrap(), &whole, "a checkpoint on demand");
    assert_eq!(vault.kept.len(), 2, "the one wished for and the last: {:?}", vault.kept.keys());
}

#[test]
fn equal_states_are_equal_bytes_in_the_store() {
    let problem = Problem::classes();
    let (mut one, mut two) = (Memory::default(), Memory::default());
    problem.attempt(&Recorder::default(), &mut one).unwrap();
    let _ = problem.attempt(&Recorder::ordering(13, Order::Refused(String::new())), &mut two).unwrap_err();
    problem.attempt(&Recorder::default(), &mut two).unwrap();
    assert_eq!(one.kept, two.kept);
}
