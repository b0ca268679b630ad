//! Files written by real PyTorch (`fixtures/pth/make.py`): outputs agree, and what cannot be loaded is refused with the way out.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};
use mlctl_protocol::{
    ExitClass,
    spec::{Activation, ConvolutionSpec, ImageShape, ModelSpec},
};
use mlworker::{
    fault::Fault,
    nn::{self, Network, Tensors},
    pth,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    inputs: Vec<Vec<f32>>,
    outputs: BTreeMap<String, Vec<Vec<f32>>>,
    cnn: Cnn,
}

#[derive(Deserialize)]
struct Cnn {
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
}

fn network() -> ModelSpec {
    ModelSpec::Mlp { layers: vec![5, 7, 3], activation: Activation::Relu, dropout: 0.0 }
}

fn read(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth");
    std::fs::read(folder.join(name)).unwrap()
}

fn load(name: &str, key: Option<&str>) -> Result<Tensors, Fault> {
    pth::load(&read(&format!("{name}.pth")), &nn::layout(&network()), key)
}

/// The message and the hint of a refusal.
fn refusal(name: &str, key: Option<&str>) -> String {
    let fault = load(name, key).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec, "{name}");
    format!("{} / {}", fault.message, fault.hint.unwrap())
}

#[test]
fn outputs_agree_with_pytorchs() {
    let expected: Expected = serde_json::from_slice(&read("expected.json")).unwrap();
    let inputs = Tensor::new(expected.inputs, &Device::Cpu).unwrap();
    assert_eq!(expected.outputs.len(), 9);
    for (name, theirs) in expected.outputs {
        let tensors = load(&name, (name == "checkpoint").then_some("model_state_dict")).unwrap();
        let ours = Network::new(&network(), &tensors).unwrap().forward(&inputs, None).unwrap();
        assert_close(&name, &ours, &theirs);
    }
}

#[test]
fn outputs_of_a_convolutional_network_agree_with_pytorchs() {
    let Cnn { inputs, outputs } = serde_json::from_slice::<Expected>(&read("expected.json")).unwrap().cnn;
    let convolution = |channels, kernel, pool| ConvolutionSpec { channels, kernel, pool };
    let network = ModelSpec::Cnn {
        image: ImageShape { channels: 2, height: 5, width: 4 },
        convolutions: vec![convolution(4, 3, 2), convolution(3, 2, 1)],
        layers: vec![5, 3],
        activation: Activation::Relu,
        dropout: 0.0,
    };
    let tensors = pth::load(&read("cnn.pth"), &nn::layout(&network), None).unwrap();
    let inputs = Tensor::new(inputs, &Device::Cpu).unwrap();
    assert_close("cnn", &Network::new(&network, &tensors).unwrap().forward(&inputs, None).unwrap(), &outputs);
}

#[track_caller]
fn assert_close(name: &str, ours: &Tensor, theirs: &[Vec<f32>]) {
    let ours = ours.to_vec2::<f32>().unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().flatten().zip(theirs.iter().flatten()) {
        assert!((ours - theirs).abs() <= 1e-5 * (1.0 + theirs.abs()), "{name}: {ours}, not {theirs}");
    }
}

#[test]
fn every_way_to_keep_the_same_weights_gives_the_same_bits() {
    let bits = |name| {
        let tensors: Tensors = load(name, None).unwrap();
        let bits =
            |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits);
        tensors.into_iter().map(|(name, tensor)| (name, bits(tensor).collect())).collect::<BTreeMap<_, Vec<_>>>()
    };
    let plain = bits("float32");
    for name in ["module_state", "parameters", "views", "protocol4", "float64"] {
        assert_eq!(bits(name), plain, "{name}");
    }
}

#[test]
fn a_checkpoint_needs_its_key_and_says_which() {
    let text = refusal("checkpoint", None);
    assert!(text.contains("checkpoint of several things") && text.contains("key = \"model_state_dict\""), "{text}");
    for (key, why) in [("epoch", "no state_dict under the key \"epoch\""), ("nett", "nothing under the key \"nett\"")] {
        let text = refusal("checkpoint", Some(key));
        assert!(text.contains(why) && text.contains("key = \"model_state_dict\""), "{text}");
    }
    let text = refusal("float32", Some("model_state_dict"));
    assert!(text.contains("leave `key` out"), "{text}");
}

#[test]
fn what_cannot_be_loaded_is_refused_with_the_way_out() {
    for (name, parts) in [
        ("refused_module", ["whole pickled module, made of \"__main__.Net\"", "torch.save(model.state_dict(), path)"]),
        ("refused_legacy", ["before version 1.6", "torch.save(model.state_dict(), path)"]),
        ("refused_torchscript", ["TorchScript", "torch.jit.load"]),
        ("refused_bool", ["\"layer2.bias\" is bool of shape [3] where float32", "network"]),
        ("refused_extra", ["\"extra\" is not one of the model's", "network"]),
        ("refused_complex", ["torch.ComplexFloatStorage", "model.float()"]),
        ("refused_tensor", ["a single tensor", "torch.save(model.state_dict(), path)"]),
    ] {
        let text = refusal(name, None);
        for part in parts {
            assert!(text.contains(part), "{name}: {text}");
        }
    }
}

#[test]
fn a_file_of_another_model_lists_every_difference() {
    let other = ModelSpec::Mlp { layers: vec![5, 8, 3, 2], activation: Activation::Relu, dropout: 0.0 };
    let fault = pth::load(&read("float32.pth"), &nn::layout(&other), None).unwrap_err();
    for part in [
        "\"layer1.weight\" is float32 of shape [7, 5] where float32 of shape [8, 5] is needed",
        "\"layer2.weight\" is float32 of shape [3, 7]",
        "\"layer3.weight\" is missing",
        "\"layer3.bias\" is missing",
    ] {
        assert!(fault.message.contains(part), "{}", fault.message);
    }
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let good = read("float32.pth");
    let layout = nn::layout(&network());
    let bytes = |tensors: &Tensors| safetensors::serialize(tensors, None).unwrap();
    let whole = bytes(&pth::load(&good, &layout, None).unwrap());
    let mut refused = 0;
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        match pth::load(&flipped, &layout, None) {
            Ok(tensors) => assert_eq!(bytes(&tensors), whole, "byte {at} changed a weight unseen"),
            Err(fault) => {
                assert_eq!(fault.class, ExitClass::Spec);
                refused += 1;
            }
        }
    }
    assert!(refused > good.len() / 3, "{refused} of {}", good.len());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let good = read("checkpoint.pth");
    for length in 0..good.len() {
        pth::load(&good[..length], &nn::layout(&network()), Some("model_state_dict")).unwrap_err();
    }
}
