//! Against numbers that PyTorch computed (`fixtures/training/make.py`): activations, convolutions and their derivatives, and whole short trainings with all that is
//! around an optimizer, from the same weights over the same rows.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use mlworker::{
    nn::{activation, convolution::convolve, pooling},
    rng::{Rng, Stream},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{common::Recorder, jobs::Bench};

#[derive(Deserialize)]
struct Expected {
    activations: Activations,
    convolutions: Vec<Convolution>,
    runs: BTreeMap<String, Run>,
}

#[derive(Deserialize)]
struct Activations {
    points: Vec<f32>,
    gelu: Pointwise,
    tanh: Pointwise,
}

#[derive(Deserialize)]
struct Pointwise {
    values: Vec<f32>,
    derivatives: Vec<f32>,
}

#[derive(Deserialize)]
struct Convolution {
    shape: [usize; 4],
    channels: usize,
    kernel: usize,
    pool: usize,
    relu: bool,
    values: Vec<f32>,
    /// Of the images, the weight and the bias.
    gradients: [Vec<f32>; 3],
}

#[derive(Deserialize)]
struct Run {
    losses: Vec<f64>,
    norms: Vec<f64>,
    weights: BTreeMap<String, Vec<f32>>,
}

fn expected() -> Expected {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/training/pytorch.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// `scale` is what a difference may be small beside, where the value itself is near 0.
#[track_caller]
fn assert_close(what: &str, ours: &[f64], theirs: &[f64], tolerance: f64, scale: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!((ours - theirs).abs() <= tolerance * theirs.abs().max(scale), "{what} {at}: {ours}, not {theirs}");
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

#[test]
fn activations_and_their_derivatives_are_pytorchs() {
    type Function = fn(&Tensor) -> candle_core::Result<Tensor>;
    let Activations { points, gelu, tanh } = expected().activations;
    let cases: [(&str, Function, Pointwise); 2] = [("gelu", activation::gelu, gelu), ("tanh", activation::tanh, tanh)];
    for (name, function, theirs) in cases {
        let x = Var::from_slice(&points, points.len(), &Device::Cpu).unwrap();
        let y = function(&x).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        let slopes: Vec<f32> = gradients.get(&x).unwrap().to_vec1().unwrap();
        assert_close(name, &wide(&y.to_vec1().unwrap()), &wide(&theirs.values), 1e-6, 1.0);
        assert_close(name, &wide(&slopes), &wide(&theirs.derivatives), 2e-6, 1.0);
    }
}

#[test]
fn convolutions_and_their_gradients_are_pytorchs() {
    for (block, case) in (0..).zip(expected().convolutions) {
        let draw = |table, shape: &[usize]| {
            let mut values = vec![0.0; shape.iter().product()];
            Rng::new(8, Stream::Data { table, block }).fill_normal(&mut values);
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let Convolution { shape, channels, kernel, pool, relu, values, gradients } = case;
        let shapes: [&[usize]; 3] = [&shape, &[channels, shape[1], kernel, kernel], &[channels]];
        let [x, weight, bias] = [0, 1, 2].map(|table| Var::from_tensor(&draw(table, shapes[table as usize])).unwrap());
        let y = pooling::max(&convolve(&x, &weight, &bias, relu).unwrap(), pool).unwrap();
        let flat = |tensor: &Tensor| wide(&tensor.flatten_all().unwrap().to_vec1().unwrap());
        assert_close(&format!("{shape:?}"), &flat(&y), &wide(&values), 1e-5, 1.0);
        let ours = (&y * draw(3, y.dims())).unwrap().sum_all().unwrap().backward().unwrap();
        for (of, theirs) in [&x, &weight, &bias].into_iter().zip(&gradients) {
            assert_close(&format!("{shape:?}"), &flat(ours.get(of).unwrap()), &wide(theirs), 1e-5, 1.0);
        }
    }
}

fn spec(activation: &str, optimizer: Value, max_grad_norm: Option<f64>) -> Value {
    json!({"version": 1, "name": "twin", "train": {
        "seed": 11, "loss": "mse", "batch_size": 4, "max_steps": 20, "max_grad_norm": max_grad_norm,
        "model": {"type": "mlp", "layers": [5, 7, 6, 3], "activation": activation},
        "data": {"format": "randn", "rows": 12, "features": 5, "targets": 3, "seed": 11},
        "optimizer": optimizer}})
}

fn images(activation: &str, optimizer: Value, max_grad_norm: Option<f64>) -> Value {
    let mut spec = spec(activation, optimizer, max_grad_norm);
    spec["train"]["model"] = json!({
        "type": "cnn", "image": {"channels": 2, "height": 5, "width": 6}, "layers": [8, 3], "activation": activation,
        "convolutions": [{"channels": 4}, {"channels": 6, "kernel": 2, "pool": 1}]});
    spec["train"]["data"]["features"] = json!(60);
    spec
}

#[test]
fn short_trainings_go_as_in_pytorch() {
    let sgd = |nesterov, decay| json!({"type": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": nesterov, "weight_decay": decay});
    let adam = json!({"type": "adam", "learning_rate": 0.02});
    let runs = expected().runs;
    let with = |mut spec: Value, changes: Value| {
        for (key, value) in changes.as_object().unwrap() {
            spec["train"][key] = value.clone();
        }
        spec
    };
    let lion = json!({"type": "lion", "learning_rate": 0.003, "weight_decay": 0.1});
    let adamw = json!({"type": "adamw", "learning_rate": 0.02, "weight_decay": 0.1});
    let groups = json!([
        {"tensors": ["*.bias"], "weight_decay": 0.0},
        {"tensors": ["layer3.*"], "learning_rate_factor": 0.1, "weight_decay": 0.3}]);
    let own = json!({"groups": groups, "max_grad_value": 0.05});
    let averaged = with(spec("relu", adam.clone(), None), json!({"ema": 0.9}));
    let schedule = json!({"type": "cosine", "warmup_steps": 3, "min_learning_rate": 0.001});
    let scheduled = with(spec("tanh", sgd(false, 0.0), None), json!({"ema": 0.8, "schedule": schedule}));
    let specs = [
        ("averaged_adam", averaged),
        ("averaged_cosine_momentum", scheduled),
        ("lion", spec("relu", lion, None)),
        ("adamw_groups_value_clipped", with(spec("tanh", adamw, Some(0.5)), own)),
        ("momentum_groups", with(spec("relu", sgd(false, 0.01), None), json!({"groups": groups}))),
        ("accumulated_adam", with(spec("tanh", adam.clone(), None), json!({"batch_size": 5, "accumulate": 2}))),
        (
            "accumulated_images",
            with(images("relu", sgd(false, 0.0), Some(0.5)), json!({"batch_size": 3, "accumulate": 3})),
        ),
        ("relu_momentum", spec("relu", sgd(false, 0.0), None)),
        ("relu_nesterov", spec("relu", sgd(true, 0.0), None)),
        ("gelu_nesterov_decay_clipped", spec("gelu", sgd(true, 0.01), Some(0.25))),
        ("tanh_adam_clipped", spec("tanh", adam.clone(), Some(0.5))),
        ("gelu_adam", spec("gelu", adam.clone(), None)),
        ("cnn_relu_adam", images("relu", adam, None)),
        ("cnn_gelu_nesterov_clipped", images("gelu", sgd(true, 0.0), Some(0.5))),
    ];
    assert_eq!(runs.len(), specs.len());
    for (name, spec) in specs {
        let Run { losses, norms, weights } = &runs[name];
        let (bench, host) = (Bench::new(), Recorder::default());
        let model = bench.run(&spec, &host, (1, 1), &[]).unwrap().model.unwrap().uri;
        let points = host.points();
        let curve = |metric| points.iter().filter_map(|point| point.values.get(metric).copied()).collect::<Vec<_>>();
        assert_close(name, &curve("loss"), losses, 1e-5, 1e-3);
        assert_close(name, &curve("grad_norm"), norms, 1e-4, 1e-3);
        let file = format!("{}/model.safetensors", model.strip_prefix("file://").unwrap());
        let ours = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        assert_eq!(ours.len(), weights.len());
        for (tensor, theirs) in weights {
            let ours: Vec<f32> = ours[tensor].flatten_all().unwrap().to_vec1().unwrap();
            assert_close(&format!("{name} {tensor}"), &wide(&ours), &wide(theirs), 1e-4, 1e-1);
        }
    }
}
