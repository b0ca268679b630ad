//! State through bytes and back, and what must be refused.

use candle_core::{Device, Tensor};
use mlctl_protocol::spec::{Activation, DataSource, Loss, ModelSpec, OptimizerSpec, Scaling, Select, Split};
use proptest::prelude::*;

use super::*;

fn spec(learning_rate: f64) -> TrainSpec {
    TrainSpec {
        seed: 1,
        model: ModelSpec::Mlp { layers: vec![2, 1], activation: Activation::Relu, dropout: 0.1 },
        register: None,
        init: None,
        data: DataSource::Randn { rows: 1, features: 1, targets: 1, seed: 0 },
        stream: None,
        split: Split::default(),
        scaling: Scaling::None,
        loss: Loss::Mse,
        optimizer: OptimizerSpec::Sgd { learning_rate, momentum: 0.0, weight_decay: 0.0, nesterov: false },
        schedule: None,
        groups: Vec::new(),
        ema: None,
        max_grad_value: None,
        max_grad_norm: None,
        freeze: Vec::new(),
        accumulate: 1,
        batch_size: 5,
        max_epochs: Some(1),
        max_steps: None,
        convergence: None,
        select: Select::Last,
        detect: None,
    }
}

fn layout() -> Vec<(String, Vec<usize>)> {
    vec![("layer1.weight".into(), vec![1, 2]), ("layer1.bias".into(), vec![1])]
}

fn tensors() -> Tensors {
    Tensors::from([
        ("layer1.weight".into(), Tensor::new(&[[1f32, -0.0]], &Device::Cpu).unwrap()),
        ("layer1.bias".into(), Tensor::new(&[0.5f32], &Device::Cpu).unwrap()),
    ])
}

fn content(run: &RunState, model: &Tensors) -> Found {
    let identity = Identity::new(&spec(0.1), "d1").unwrap();
    let optimizer = Tensors::from([("step".into(), Tensor::new(7i64, &Device::Cpu).unwrap())]);
    let state = encode(&Told { run, identity: &identity, threads: 2, config: &"any" }).unwrap();
    Found { state, model: model.clone(), optimizer }
}

fn decode_as(found: &Found, spec: &TrainSpec, dataset: &str) -> Result<Restored, Refusal> {
    decode(found.clone(), &Identity::new(spec, dataset).unwrap(), &layout())
}

#[test]
fn equal_states_give_equal_bytes_and_come_back() {
    let run = RunState { step: 9, epoch: 1, batch: 4, ..RunState::default() };
    let bytes = content(&run, &tensors());
    assert_eq!(bytes.state, content(&run, &tensors()).state);
    let restored = decode_as(&bytes, &spec(0.1), "d1").unwrap();
    assert_eq!((restored.run, restored.threads), (run, 2));
    assert_eq!(restored.model["layer1.weight"].to_vec2::<f32>().unwrap(), [[1.0, -0.0]]);
    assert_eq!(restored.optimizer["step"].to_scalar::<i64>().unwrap(), 7);
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_the_difference() {
    let bytes = content(&RunState::default(), &tensors());
    for (spec, dataset, part) in
        [(spec(0.2), "d1", "\"learning_rate\":0.1"), (spec(0.1), "d2", "dataset was \"d1\" and is \"d2\"")]
    {
        match decode_as(&bytes, &spec, dataset) {
            Err(Refusal::Foreign(fault)) => assert!(fault.message.contains(part), "{}", fault.message),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_later_format_is_refused_as_such() {
    let mut bytes = content(&RunState::default(), &tensors());
    bytes.state = String::from_utf8(bytes.state.to_vec()).unwrap().replace("\"format\": 1", "\"format\": 2").into();
    match decode_as(&bytes, &spec(0.1), "d1") {
        Err(Refusal::Foreign(fault)) => assert!(fault.message.contains("format 2"), "{}", fault.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_is_found_and_named() {
    let whole = content(&RunState::default(), &tensors());
    let mut missing = tensors();
    missing.remove("layer1.bias");
    missing.insert("layer2.bias".into(), Tensor::new(&[0.5f32], &Device::Cpu).unwrap());
    missing.insert("layer1.weight".into(), Tensor::new(&[1f32], &Device::Cpu).unwrap());
    let cases = [
        (Found { state: whole.state.slice(..20), ..whole.clone() }, "state.json"),
        (content(&RunState::default(), &missing), "\"layer1.bias\" is missing"),
        (content(&RunState::default(), &missing), "\"layer2.bias\" is not one"),
        (content(&RunState::default(), &missing), "shape [1] where"),
    ];
    for (bytes, part) in cases {
        match decode_as(&bytes, &spec(0.1), "d1") {
            Err(Refusal::Corrupt(why)) => assert!(why.contains(part), "{part:?} is not in {why:?}"),
            other => panic!("{part}: {other:?}"),
        }
    }
}

#[test]
fn patience_counts_epochs_without_improvement() {
    let mut stopping = Stopping::default();
    let mut seen = Vec::new();
    for loss in [1.0, 0.95, 0.85, f64::NAN, 0.9, 0.5] {
        stopping.observe(loss, 0.1);
        seen.push(stopping.stale);
    }
    assert_eq!(seen, [0, 1, 0, 1, 2, 0]);
    let mut never = Stopping::default();
    never.observe(f64::NAN, 0.0);
    assert_eq!(never, Stopping { best: None, stale: 1 });
}

proptest! {
    #[test]
    fn every_sum_comes_back_to_the_bit(bits in any::<u64>(), best in any::<Option<u64>>()) {
        let (loss, best) = (f64::from_bits(bits), best.map(f64::from_bits));
        prop_assume!(!loss.is_nan() && best.is_none_or(|best| !best.is_nan()));
        let run = RunState {
            sums: Sums { loss, ..Sums::default() },
            stopping: Stopping { best, stale: 3 },
            metrics: best.map(|best| ("val_loss".to_owned(), best)).into_iter().collect(),
            ..RunState::default()
        };
        let back: RunState = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
        prop_assert_eq!(back.sums.loss.to_bits(), loss.to_bits());
        prop_assert_eq!(back.stopping.best.map(f64::to_bits), best.map(f64::to_bits));
        prop_assert_eq!(back.metrics.get("val_loss").map(|v| v.to_bits()), best.map(f64::to_bits));
    }
}
