//! Every optimizer against PyTorch's formulas written out in f64, against its composed twin, and through its saved state.

use candle_core::{Device, Tensor, Var};
use mlctl_protocol::spec::OptimizerSpec;

use super::{
    Optimizer,
    rules::{Rule, Scaled},
    snapshot::Snapshot,
};
use crate::{
    bundle::tensors,
    nn::Tensors,
    rng::{Rng, Stream},
};

const STEPS: u64 = 25;
/// What gradients are multiplied by.
const FACTOR: f32 = 0.75;

fn specs() -> Vec<OptimizerSpec> {
    let betas = (0.9, 0.999);
    vec![
        OptimizerSpec::Sgd { learning_rate: 0.1, momentum: 0.0, weight_decay: 0.0, nesterov: false },
        OptimizerSpec::Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov: false },
        OptimizerSpec::Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov: true },
        OptimizerSpec::Adam { learning_rate: 1e-2, betas, eps: 1e-8, weight_decay: 0.0 },
        OptimizerSpec::Adam { learning_rate: 1e-2, betas: (0.8, 0.95), eps: 1e-6, weight_decay: 0.1 },
        OptimizerSpec::AdamW { learning_rate: 1e-2, betas, eps: 1e-8, weight_decay: 0.01 },
        OptimizerSpec::Lion { learning_rate: 1e-2, betas: (0.9, 0.99), weight_decay: 0.1 },
    ]
}

fn normal(n: usize, block: u64) -> Vec<f32> {
    let mut values = vec![0.0; n];
    Rng::new(4, Stream::Data { table: 0, block }).fill_normal(&mut values);
    values
}

/// A loss whose gradient of `var` is exactly `gradient`.
fn gradients(var: &Var, gradient: &[f32]) -> candle_core::backprop::GradStore {
    let gradient = Tensor::from_slice(gradient, var.shape(), &Device::Cpu).unwrap();
    var.as_tensor().mul(&gradient).unwrap().sum_all().unwrap().backward().unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn optimizer(spec: &OptimizerSpec, n: usize) -> Optimizer {
    let var = Var::from_vec(normal(n, 1000), n, &Device::Cpu).unwrap();
    Optimizer::new(spec, vec![("w".into(), var)]).unwrap()
}

fn run(optimizer: &mut Optimizer, steps: std::ops::Range<u64>) {
    let var = optimizer.parameters()[0].1.clone();
    for step in steps {
        assert_eq!(optimizer.update(&gradients(&var, &normal(var.elem_count(), step)), FACTOR).unwrap(), None);
    }
}

/// What a checkpoint has of an optimizer's state.
fn state(optimizer: &Optimizer) -> Tensors {
    tensors::decode(&tensors::file(optimizer.copied().unwrap().optimizer).unwrap().whole()).unwrap()
}

/// A snapshot's bytes by name.
fn bytes(snapshot: &Snapshot) -> Vec<(String, Vec<u8>)> {
    let all = snapshot.model.iter().chain(&snapshot.optimizer);
    all.map(|raw| (raw.name.clone(), raw.bytes.to_vec())).collect()
}

/// PyTorch's documented algorithms, <https://docs.pytorch.org/docs/stable/optim.html>, for one weight in f64.
fn reference(spec: &OptimizerSpec, mut w: f64, gradient: impl Fn(u64) -> f64) -> f64 {
    let (mut first, mut second, mut buffer) = (0.0, 0.0, None);
    for t in 1..=STEPS {
        let g = f64::from(FACTOR) * gradient(t - 1);
        let (lr, (beta1, beta2), eps, g) = match *spec {
            OptimizerSpec::Sgd { learning_rate, momentum, weight_decay, nesterov } => {
                let g = g + weight_decay * w;
                let kept = buffer.map_or(g, |b| momentum * b + g);
                buffer = Some(kept);
                let step = if nesterov { g + momentum * kept } else { kept };
                w -= learning_rate * if momentum == 0.0 { g } else { step };
                continue;
            }
            OptimizerSpec::Adam { learning_rate, betas, eps, weight_decay } => {
                (learning_rate, betas, eps, g + weight_decay * w)
            }
            OptimizerSpec::AdamW { learning_rate, betas, eps, weight_decay } => {
                w -= learning_rate * weight_decay * w;
                (learning_rate, betas, eps, g)
            }
            OptimizerSpec::Lion { learning_rate, betas: (beta1, beta2), weight_decay } => {
                let mixed: f64 = beta1 * first + (1.0 - beta1) * g;
                first = beta2 * first + (1.0 - beta2) * g;
                w -= learning_rate * (weight_decay * w + mixed.signum());
                continue;
            }
        };
        first = beta1 * first + (1.0 - beta1) * g;
        second = beta2 * second + (1.0 - beta2) * g * g;
        let exponent = i32::try_from(t).unwrap();
        let first_hat: f64 = first / (1.0 - beta1.powi(exponent));
        let second_hat: f64 = second / (1.0 - beta2.powi(exponent));
        w -= lr * first_hat / (second_hat.sqrt() + eps);
    }
    w
}

#[test]
fn updates_are_pytorchs() {
    let n = 64;
    for spec in specs() {
        let mut optimizer = optimizer(&spec, n);
        run(&mut optimizer, 0..STEPS);
        for (i, value) in values(&optimizer.parameters()[0].1).into_iter().enumerate() {
            let expected = reference(&spec, f64::from(normal(n, 1000)[i]), |t| f64::from(normal(n, t)[i]));
            assert!(
                (f64::from(value) - expected).abs() < 2e-6 * (1.0 + expected.abs()),
                "{spec:?}: {value}, not {expected}"
            );
        }
    }
}

#[test]
fn one_pass_over_blocks_agrees_with_the_composed_update() {
    // Above the size from which blocks run in parallel, with a block that is not full.
    let n = 70_001;
    for spec in specs() {
        let mut fused = optimizer(&spec, n);
        run(&mut fused, 0..3);
        let var = Var::from_vec(normal(n, 1000), n, &Device::Cpu).unwrap();
        let mut averages: Vec<_> = Rule::kept(&spec).iter().map(|_| var.zeros_like().unwrap()).collect();
        let ema = None;
        for step in 0..3 {
            let gradient = Tensor::from_vec(normal(n, step), n, &Device::Cpu).unwrap();
            let rule = Scaled {
                rule: Rule::at(&spec, (spec.learning_rate(), spec.weight_decay()), step + 1),
                factor: FACTOR,
                ema,
            };
            assert!(rule.apply_composed(&var, &gradient, &mut averages).unwrap());
        }
        for (a, b) in values(&fused.parameters()[0].1).into_iter().zip(values(&var)) {
            assert!((a - b).abs() <= 2e-6 * (1.0 + b.abs()), "{spec:?}: {a} is not {b}");
        }
    }
}

#[test]
fn a_restored_state_goes_on_to_the_same_bits() {
    for spec in specs() {
        let mut whole = optimizer(&spec, 33);
        run(&mut whole, 0..STEPS);
        let mut first = optimizer(&spec, 33);
        run(&mut first, 0..10);
        let state = state(&first);
        let mut second = Optimizer::new(&spec, first.parameters().to_vec()).unwrap();
        second.restore(state).unwrap();
        run(&mut second, 10..STEPS);
        assert_eq!(values(&second.parameters()[0].1), values(&whole.parameters()[0].1), "{spec:?}");
    }
}

#[test]
fn what_is_kept_is_the_state_before_the_update_and_stays_so() {
    // Above and below the size from which blocks run in parallel.
    for (spec, n) in specs().into_iter().flat_map(|spec| [(spec.clone(), 33), (spec, 70_001)]) {
        let (mut kept, mut plain) = (optimizer(&spec, n), optimizer(&spec, n));
        run(&mut plain, 0..9);
        let mut held = Vec::new();
        for step in 0..9 {
            let before = bytes(&kept.copied().unwrap());
            // The control: a tensor that shares the memory sees what the next update does.
            let shared = kept.parameters()[0].1.as_detached_tensor();
            let seen = values(&shared);
            if step % 2 == 0 {
                kept.keep().unwrap();
                assert!(kept.take_kept().is_none(), "nothing is left behind before the update");
            }
            run(&mut kept, step..step + 1);
            assert_ne!(values(&shared), seen);
            if step % 2 == 0 {
                held.push((kept.take_kept().unwrap(), before));
            }
            if step == 4 {
                // What is let go is worked in again.
                held.drain(..2);
            }
            for (snapshot, before) in &held {
                assert_eq!(bytes(snapshot), *before, "{spec:?}");
            }
        }
        assert_eq!(held.len(), 3);
        assert_eq!(
            bytes(&kept.copied().unwrap()),
            bytes(&plain.copied().unwrap()),
            "{spec:?}: keeping changes nothing"
        );
    }
}

#[test]
fn an_update_that_failed_leaves_nothing_that_could_be_saved() {
    let mut optimizer = optimizer(&specs()[3], 3);
    let other = Var::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap();
    optimizer.keep().unwrap();
    assert!(optimizer.update(&gradients(&other, &[0.0; 3]), 1.0).is_err());
    assert!(optimizer.take_kept().is_none());
    run(&mut optimizer, 0..1);
    assert!(optimizer.take_kept().is_none());
}

#[test]
fn a_state_that_does_not_fit_is_refused_whole_and_in_words() {
    let adam = &specs()[3];
    let mut state = state(&optimizer(adam, 4));
    state.remove("w.exp_avg");
    state.insert("w.exp_avg_sq".into(), Tensor::zeros(5, candle_core::DType::F32, &Device::Cpu).unwrap());
    state.insert("v.exp_avg".into(), Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).unwrap());
    state.remove("step");
    let problems = optimizer(adam, 4).restore(state).unwrap_err().join("\n");
    for part in ["\"w.exp_avg\" is missing", "shape [5]", "no tensor \"v.exp_avg\"", "\"step\""] {
        assert!(problems.contains(part), "{part} is not in {problems}");
    }
}

#[test]
fn divergence_names_the_tensor() {
    for spec in specs() {
        // Of a gradient Lion takes the sign, and its average of it is no larger.
        let bounded = matches!(spec, OptimizerSpec::Lion { .. });
        for blow in [f32::NAN, f32::INFINITY, f32::MAX].into_iter().take(if bounded { 2 } else { 3 }) {
            let mut optimizer = optimizer(&spec, 3);
            let var = optimizer.parameters()[0].1.clone();
            let mut diverged = None;
            for _ in 0..12 {
                diverged = optimizer.update(&gradients(&var, &[0.0, blow, 0.0]), 1.0).unwrap();
            }
            assert_eq!(diverged.as_deref(), Some("w"), "{spec:?} {blow}");
        }
    }
}

#[test]
fn a_gradient_that_is_missing_is_an_error() {
    let mut optimizer = optimizer(&specs()[0], 3);
    let other = Var::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(optimizer.update(&gradients(&other, &[0.0; 3]), 1.0).unwrap_err().to_string().contains("\"w\""));
}
