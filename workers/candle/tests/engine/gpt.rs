//! Transformers: against what Hugging Face's transformers compute (`fixtures/gpt/make.py`), forward, backward and over whole short trainings; on from the weights of others; and every
//! mistake that a text can be.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor, Var};
use mlctl_protocol::{
    ExitClass,
    spec::{Loss, ModelSpec},
};
use mlworker::{
    bundle::ModelConfig,
    data::tokenizer::Tokenizer,
    loss::loss,
    nn::{Network, Tensors, layout},
    rng::{Rng, Stream},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    common::Recorder,
    jobs::{Bench, checkpoints},
};

#[derive(Deserialize)]
struct Expected {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    logits: Vec<f32>,
    loss: f64,
    gradients: BTreeMap<String, Vec<f32>>,
    losses: Vec<f64>,
}

const SEED: u64 = 5;

fn expected() -> BTreeMap<String, Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpt/transformers.json");
    serde_json::from_slice::<Expected>(&std::fs::read(path).unwrap()).unwrap().cases
}

/// The text of the example, which the project carries, cut to so many characters.
fn text(length: usize) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/jobs/data/genesis.txt");
    std::fs::read_to_string(path).unwrap()[..length].to_owned()
}

/// The models of the script.
fn models() -> Vec<(&'static str, Value)> {
    let with = |more: Value| {
        let mut model = json!({"type": "gpt", "context": 7, "width": 12, "depth": 2});
        model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        model
    };
    let llama = |more: Value| {
        let mut model = with(json!({"norm": "rms", "positions": "rope", "feed_forward": "swiglu"}));
        model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        model
    };
    vec![
        ("gpt2", with(json!({"heads": 3, "feed_forward": "gelu_tanh"}))),
        ("gpt2_gelu_untied", with(json!({"heads": 2, "hidden": 10, "tied": false}))),
        ("llama_grouped", llama(json!({"heads": 6, "kv_heads": 2, "hidden": 20, "tied": false}))),
        ("llama_tied_biases", llama(json!({"heads": 3, "kv_heads": 1, "hidden": 16, "bias": true}))),
    ]
}

#[track_caller]
fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!((ours - theirs).abs() <= tolerance * theirs.abs().max(1.0), "{what} {at}: {ours}, not {theirs}");
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn logits_loss_and_gradients_are_those_of_transformers() {
    let expected = expected();
    assert_eq!(expected.len(), models().len());
    for (name, mut model) in models() {
        model["vocab"] = json!(11);
        let spec: ModelSpec = serde_json::from_value(model).unwrap();
        let draw = |(number, (tensor, shape)): (u64, (String, Vec<usize>))| {
            let mut values = vec![0.0; shape.iter().product()];
            Rng::new(SEED, Stream::Data { table: 0, block: number }).fill_normal(&mut values);
            let is_norm = shape.len() == 1 && tensor.ends_with("weight");
            for value in &mut values {
                *value = if is_norm { 1.0 + 0.1 * *value } else { 0.3 * *value };
            }
            (tensor, Var::from_vec(values, shape, &Device::Cpu).unwrap())
        };
        let variables: Vec<(String, Var)> = (0..).zip(layout(&spec)).map(draw).collect();
        let tensors: Tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let network = Network::new(&spec, &tensors).unwrap();
        let mut rng = Rng::new(SEED, Stream::Data { table: 1, block: 0 });
        let tokens: Vec<u32> = (0..3 * 8).map(|_| rng.below(11)).collect();
        let cut = |from: usize| tokens.chunks(8).flat_map(|row| row[from..from + 7].to_vec()).collect::<Vec<_>>();
        let ids = Tensor::from_vec(cut(0), (3, 7), &Device::Cpu).unwrap();
        let next = Tensor::from_vec(cut(1), 21, &Device::Cpu).unwrap();

        let case = &expected[name];
        let logits = network.forward(&ids, None).unwrap();
        assert_close(name, &flat(&logits), &case.logits, 1e-5);
        let loss = loss(Loss::CrossEntropy, &logits, &next).unwrap();
        let value = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!((value / case.loss - 1.0).abs() < 1e-6, "{name}: {value}, not {}", case.loss);
        let gradients = network.gradients(&loss).unwrap();
        assert_eq!(variables.len(), case.gradients.len());
        for (tensor, var) in &variables {
            let ours = flat(gradients.get(var).unwrap());
            assert_close(&format!("{name} {tensor}"), &ours, &case.gradients[tensor], 1e-5);
        }
    }
}

fn job(model: &Value, uri: &str) -> Value {
    json!({"version": 1, "name": "letters", "train": {
        "seed": SEED, "loss": "cross_entropy", "batch_size": 4, "max_steps": 10, "model": model,
        "data": {"format": "text", "uri": uri, "tokenizer": "characters"},
        "optimizer": {"type": "adam", "learning_rate": 0.01}}})
}

#[test]
fn ten_steps_go_as_in_pytorch() {
    let expected = expected();
    for (name, model) in models() {
        let (bench, host) = (Bench::new(), Recorder::default());
        let uri = bench.file("text.txt", text(2000));
        bench.run(&job(&model, &uri), &host, (1, 1), &[]).unwrap();
        let points = host.points();
        let losses: Vec<f64> = points.iter().filter_map(|point| point.values.get("loss").copied()).collect();
        assert_eq!(losses.len(), 10);
        for (ours, theirs) in losses.iter().zip(&expected[name].losses) {
            assert!((ours / theirs - 1.0).abs() < 1e-5, "{name}: {losses:?}, not {:?}", expected[name].losses);
        }
    }
}

fn small() -> Value {
    json!({"type": "gpt", "context": 8, "width": 16, "depth": 1, "heads": 2})
}

#[test]
fn a_text_is_learnt_validated_and_its_model_knows_its_characters() {
    let (bench, host) = (Bench::new(), Recorder::default());
    let uri = bench.file("text.txt", "abcdefgh".repeat(200));
    let mut spec = job(&small(), &uri);
    spec["train"]["split"] = json!({"validation": 0.1, "test": 0.05});
    (spec["train"]["max_steps"], spec["train"]["max_epochs"]) = (Value::Null, json!(8));
    let done = bench.run(&spec, &host, (1, 1), &[]).unwrap();
    assert!(done.metrics["val_loss"] < 0.1 && done.metrics["test_accuracy"] > 0.95, "{:?}", done.metrics);
    let folder = done.model.unwrap().uri;
    let config = ModelConfig::from_json(bench.read(&format!("{folder}/config.json")).as_bytes()).unwrap();
    assert_eq!(config.tokenizer, Some(Tokenizer::Characters { vocabulary: "abcdefgh".into() }));
    assert_eq!((config.network.outputs(), config.classes, config.dataset.rows), (8, Some(8), 199));
    let evaluation: Value = serde_json::from_str(&bench.read(&format!("{folder}/evaluation.json"))).unwrap();
    assert_eq!(evaluation["rows"], 10 * 8, "tokens are counted, not sequences");

    // On from there with its vocabulary, the embedding frozen; from its checkpoint as well, and from its weights alone.
    let other = bench.file("other.txt", "hgfedcba".repeat(40));
    let mut next = job(&small(), &other);
    next["train"]["freeze"] = json!(["transformer.w?e.weight"]);
    let weights = format!("{folder}/model.safetensors");
    let saved = checkpoints(&host)[0].uri.clone();
    for (number, from) in [(2, &folder), (3, &saved), (4, &weights)] {
        next["train"]["init"] = json!({"from": from});
        let model = bench.run(&next, &Recorder::default(), (number, 1), &[]).unwrap().model.unwrap().uri;
        let load = |folder: &str| {
            let file = format!("{}/model.safetensors", folder.strip_prefix("file://").unwrap());
            candle_core::safetensors::load(file, &Device::Cpu).unwrap()
        };
        let (before, after) = (load(&folder), load(&model));
        for (name, tensor) in &before {
            let is_frozen = name == "transformer.wte.weight" || name == "transformer.wpe.weight";
            assert_eq!(flat(tensor) == flat(&after[name]), is_frozen, "{name} from {from}");
        }
    }
    // A character that the model does not know is told with its place; another kind of token too.
    let strange = bench.file("strange.txt", format!("{}x", "hgfedcba".repeat(40)));
    for (uri, tokenizer, why) in [
        (&strange, "characters", "strange.txt, byte 320: the character 'x' is none of the vocabulary"),
        (&other, "bytes", "was trained on characters"),
    ] {
        let mut next = job(&small(), uri);
        next["train"]["init"] = json!({"from": folder});
        next["train"]["data"]["tokenizer"] = json!(tokenizer);
        next["train"]["model"]["vocab"] = if tokenizer == "bytes" { json!(256) } else { Value::Null };
        let fault = bench.run(&next, &Recorder::default(), (5, 1), &[]).unwrap_err();
        assert!(fault.class == ExitClass::Spec && fault.message.contains(why), "{fault}");
    }
    let infer = json!({"version": 1, "name": "write", "infer": {"model": {"from": folder},
        "data": {"format": "randn", "rows": 1, "features": 1, "targets": 1}}});
    let fault = bench.run(&infer, &Recorder::default(), (6, 1), &[]).unwrap_err();
    assert!(fault.class == ExitClass::Spec && fault.message.contains("is a gpt"), "{fault}");
}

#[test]
fn a_text_may_be_several_files_and_compressed_and_bytes_are_any() {
    let (bench, host) = (Bench::new(), Recorder::default());
    let mut spec = job(&small(), "");
    let mut digests = Vec::new();
    std::fs::create_dir(bench.dir.path().join("parts")).unwrap();
    let whole = text(3000);
    bench.file("parts/a.txt", &whole[..1000]);
    bench.file("parts/b.txt", &whole[1000..]);
    let zipped = bench.file("text.zst", zstd::encode_all(whole.as_bytes(), 3).unwrap());
    for (number, uri) in [(1, bench.file("text.txt", &whole)), (2, bench.uri("parts/")), (3, zipped)] {
        spec["train"]["data"]["uri"] = json!(uri);
        digests.push(bench.run(&spec, &host, (number, 1), &[]).unwrap().model.unwrap().digest);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "the same text is the same training");
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    spec["train"]["data"] = json!({"format": "text", "uri": bench.file("bytes", bytes), "tokenizer": "bytes"});
    let folder = bench.run(&spec, &host, (4, 1), &[]).unwrap().model.unwrap().uri;
    let config = ModelConfig::from_json(bench.read(&format!("{folder}/config.json")).as_bytes()).unwrap();
    assert_eq!((config.network.outputs(), config.tokenizer), (256, Some(Tokenizer::Bytes)));
}

#[test]
fn a_text_that_cannot_be_learnt_is_told_with_file_and_byte() {
    let bench = Bench::new();
    std::fs::create_dir(bench.dir.path().join("parts")).unwrap();
    bench.file("parts/a.txt", "good text");
    bench.file("parts/b.txt", b"bad \xff text");
    let many: String = ('\u{1000}'..'\u{12000}').collect();
    for (name, content, keys, why) in [
        ("empty.txt", "", json!({}), "empty.txt is empty"),
        ("short.txt", "too long", json!({}), "has 8 tokens, and a sequence takes 9"),
        ("same.txt", "aaaaaaaaaaaaaaaaaaa", json!({}), "one character, again and again"),
        ("many.txt", many.as_str(), json!({}), "different characters, more than a vocabulary"),
        ("abc.txt", "abcabcabcabcabc", json!({"vocab": 2}), "the text has 3 tokens, and the model tells 2 apart"),
        ("parts/", "", json!({}), "parts/b.txt is not UTF-8 text: byte 4 is no character"),
        ("gone.txt", "", json!({}), "gone.txt"),
    ] {
        let uri = match name {
            "parts/" | "gone.txt" => bench.uri(name),
            name => bench.file(name, content),
        };
        let mut spec = job(&small(), &uri);
        spec["train"]["model"].as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let fault = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap_err();
        assert!(fault.class == ExitClass::Spec && fault.message.contains(why), "{name}: {fault}");
    }
    // Two sequences leave none for a tenth of them.
    let mut spec = job(&small(), &bench.file("two.txt", "abcabcabcabcabcabc"));
    spec["train"]["split"] = json!({"validation": 0.1});
    let fault = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap_err();
    assert!(fault.message.contains("less than one row"), "{fault}");
}
