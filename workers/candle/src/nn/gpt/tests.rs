//! The fused layers against candle's composition, and their gradients against differences of the loss. What transformers compute is in `tests/engine/gpt.rs`.

use candle_core::{Device, Tensor, Var};
use mlctl_protocol::spec::{FeedForward, GptSpec, Loss, ModelSpec, Norm, Positions};

use super::*;
use crate::{
    loss::loss,
    nn::{Network, initial, layout},
    rng::{Rng, Stream},
};

fn base() -> GptSpec {
    GptSpec {
        vocab: Some(7),
        context: 6,
        width: 12,
        depth: 2,
        heads: 3,
        kv_heads: None,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        positions: Positions::Learned,
        rope_base: 10_000.0,
        feed_forward: FeedForward::Gelu,
        hidden: None,
        bias: None,
        tied: true,
        dropout: 0.0,
    }
}

/// GPT-2's, Llama's, and some between; the third is longer than a block of queries, and its matrices are above the size from which blocks run in parallel.
fn shapes() -> [GptSpec; 5] {
    let llama = GptSpec {
        norm: Norm::Rms,
        positions: Positions::Rope,
        feed_forward: FeedForward::Swiglu,
        tied: false,
        ..base()
    };
    [
        base(),
        GptSpec { heads: 6, kv_heads: Some(2), hidden: Some(5), ..llama.clone() },
        GptSpec { context: 131, width: 64, heads: 4, kv_heads: Some(1), hidden: Some(200), ..llama.clone() },
        GptSpec { bias: Some(true), norm: Norm::Layer, positions: Positions::Learned, heads: 1, ..llama },
        GptSpec {
            feed_forward: FeedForward::GeluTanh,
            bias: Some(false),
            positions: Positions::Rope,
            tied: false,
            dropout: 0.3,
            ..base()
        },
    ]
}

/// Weights that are not small, so that nothing is near to linear.
fn variables(spec: &GptSpec) -> Vec<(String, Var)> {
    let make = |(number, (name, shape)): (u64, (String, Vec<usize>))| {
        let mut values = vec![0.0; shape.iter().product()];
        Rng::new(2, Stream::Data { table: 0, block: number }).fill_normal(&mut values);
        let scale = 0.3;
        values.iter_mut().for_each(|value| *value *= scale);
        (name, Var::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    (0..).zip(layout(&ModelSpec::Gpt(spec.clone()))).map(make).collect()
}

fn model(spec: &GptSpec, variables: &[(String, Var)]) -> Gpt {
    let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    Gpt::new(spec, &tensors).unwrap()
}

fn tokens(table: u32, shape: (usize, usize), vocab: u32) -> Tensor {
    let mut rng = Rng::new(3, Stream::Data { table, block: 0 });
    let ids = (0..shape.0 * shape.1).map(|_| rng.below(vocab)).collect();
    Tensor::from_vec(ids, shape, &Device::Cpu).unwrap()
}

fn of_tokens(logits: &Tensor, context: usize) -> Tensor {
    let rows = logits.dim(0).unwrap();
    let next = tokens(2, (rows / context, context), 7).flatten_all().unwrap();
    loss(Loss::CrossEntropy, logits, &next).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(ours: &Tensor, theirs: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let (ours, theirs) = (flat(ours), flat(theirs));
    let scale = theirs.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert!((ours - theirs).abs() <= tolerance * scale, "{what} {at}: {ours}, not {theirs}");
    }
}

#[test]
fn fused_layers_agree_with_candles_composition_forward_and_backward() {
    for spec in shapes() {
        let variables = variables(&spec);
        let model = model(&spec, &variables);
        for (sequences, context) in [(2, spec.context as usize), (3, 1), (1, spec.context as usize - 1)] {
            let (ids, what) = (tokens(1, (sequences, context), 7), format!("{spec:?} {sequences} x {context}"));
            let training = Some(Dropping { seed: 4, step: 9, row: 2 });
            let fused = model.forward(&ids, training).unwrap();
            let composed = model.forward_composed(&ids, training).unwrap();
            assert_near(&fused, &composed, 2e-5, &what);
            let mut ours = of_tokens(&fused, context).backward().unwrap();
            model.gather(&mut ours).unwrap();
            let theirs = of_tokens(&composed, context).backward().unwrap();
            for (name, var) in &variables {
                let (Some(ours), Some(theirs)) = (ours.get(var), theirs.get(var)) else {
                    panic!("{what}: no gradient of {name}");
                };
                assert_near(ours, theirs, 1e-4, &format!("{name} of {what}"));
            }
        }
    }
}

#[test]
fn gradients_are_the_differences_of_the_loss() {
    for spec in shapes().into_iter().filter(|spec| spec.context < 50 && spec.dropout == 0.0) {
        let variables = variables(&spec);
        let model = model(&spec, &variables);
        let ids = tokens(1, (2, spec.context as usize), 7);
        let value = || {
            let logits = model.forward(&ids.clone(), None).unwrap();
            f64::from(of_tokens(&logits, spec.context as usize).to_scalar::<f32>().unwrap())
        };
        let mut gradients = of_tokens(&model.forward(&ids, None).unwrap(), spec.context as usize).backward().unwrap();
        model.gather(&mut gradients).unwrap();
        for (name, var) in &variables {
            let (gradient, begun) = (flat(gradients.get(var).unwrap()), flat(var));
            // A direction with all values in it: along the gradient itself the difference is the largest.
            let length = gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            if length < 1e-3 {
                continue;
            }
            let moved = |by: f64| {
                #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
                let step = |(value, slope): (&f32, &f32)| value + (by / length * f64::from(*slope)) as f32;
                let values: Vec<f32> = begun.iter().zip(&gradient).map(step).collect();
                var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
                value()
            };
            let by = 1e-2;
            let slope = (moved(by) - moved(-by)) / (2.0 * by);
            moved(0.0);
            assert!((slope / length - 1.0).abs() < 2e-2, "{name} of {spec:?}: {slope}, not {length}");
        }
    }
}

#[test]
fn what_is_frozen_gets_no_gradient_and_the_rest_the_same() {
    let spec = base();
    let variables = variables(&spec);
    let ids = tokens(1, (2, 6), 7);
    let whole = model(&spec, &variables);
    let mut all = of_tokens(&whole.forward(&ids, None).unwrap(), 6).backward().unwrap();
    whole.gather(&mut all).unwrap();
    for trained in [
        "transformer.ln_f.bias",
        "transformer.h.1.attn.c_attn.weight",
        "transformer.h.0.mlp.c_fc.bias",
        "transformer.wpe.weight",
    ] {
        let tensors = variables.iter().map(|(name, var)| {
            let tensor = if name == trained { var.as_tensor().clone() } else { var.as_detached_tensor() };
            (name.clone(), tensor)
        });
        let part = Gpt::new(&spec, &tensors.collect()).unwrap();
        let mut gradients = of_tokens(&part.forward(&ids, None).unwrap(), 6).backward().unwrap();
        part.gather(&mut gradients).unwrap();
        for (name, var) in &variables {
            assert_eq!(gradients.get(var).map(flat), (name == trained).then(|| flat(all.get(var).unwrap())), "{name}");
        }
    }
}

#[test]
fn fresh_weights_are_nanogpts_and_what_cannot_be_is_refused() {
    let spec = GptSpec { width: 64, heads: 4, vocab: Some(100), ..base() };
    let tensors = initial(&ModelSpec::Gpt(spec.clone()), 1, &Device::Cpu).unwrap();
    let deviation = |name: &str| {
        let values = flat(&tensors[name]);
        (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
    };
    for (name, expected) in [
        ("transformer.wte.weight", 0.02),
        ("transformer.h.0.attn.c_attn.weight", 0.02),
        ("transformer.h.1.mlp.c_proj.weight", 0.01),
        ("transformer.h.1.ln_1.weight", 1.0),
        ("transformer.h.0.mlp.c_fc.bias", 0.0),
    ] {
        assert!((deviation(name) - expected).abs() <= 0.05 * expected, "{name}: {}", deviation(name));
    }
    let network = Network::new(&ModelSpec::Gpt(spec.clone()), &tensors).unwrap();
    let error = |ids: Tensor| network.forward(&ids, None).unwrap_err().to_string();
    assert!(error(tokens(1, (1, 7), 7)).contains("a sequence of 7 tokens, and the model sees 6"));
    assert!(
        error(Tensor::new(&[[100_u32]], &Device::Cpu).unwrap()).contains("token 100 is none of a vocabulary of 100")
    );
    let bad = GptSpec { heads: 5, ..spec.clone() };
    assert!(Gpt::new(&bad, &tensors).unwrap_err().to_string().contains("5 heads"));
    let missing = Gpt::new(&GptSpec { depth: 3, ..spec }, &tensors).unwrap_err();
    assert!(missing.to_string().contains("transformer.h.2.ln_1.weight"));
}

#[test]
fn a_value_that_is_no_number_shows() {
    let spec = base();
    let variables = variables(&spec);
    let mut values = flat(&variables[2].1);
    values[0] = f32::NAN;
    variables[2].1.set(&Tensor::from_vec(values, variables[2].1.shape(), &Device::Cpu).unwrap()).unwrap();
    let logits = model(&spec, &variables).forward(&tokens(1, (1, 6), 7), None).unwrap();
    assert!(flat(&logits).iter().all(|value| value.is_nan()));
}
