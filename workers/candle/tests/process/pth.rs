//! PyTorch's files through the program: what real PyTorch wrote (`fixtures/pth/make.py`) is predicted with and trained on from, and files made to
//! harm (`fixtures/pth/hostile.py`) end in words, soon, and in little memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mlctl_protocol::{ExitClass, JobSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::daemon::{Daemon, Ended};

/// What a worker may take for a file made to harm, from its start to its end.
const MAX_TIME: Duration = Duration::from_secs(2);
const MAX_MEMORY_BYTES: u64 = 512 * 1024 * 1024;

#[derive(Deserialize)]
struct Expected {
    inputs: Vec<Vec<f32>>,
    outputs: BTreeMap<String, Vec<Vec<f32>>>,
}

impl Expected {
    fn read() -> Self {
        serde_json::from_slice(&std::fs::read(fixtures().join("expected.json")).unwrap()).unwrap()
    }

    /// The inputs as a table, with two columns and more of targets.
    fn csv(&self) -> String {
        let rows = self.inputs.iter().map(|row| row.iter().map(|value| format!("{value:?},")).collect::<String>());
        format!("a,b,c,d,e,p,q,r\n{}", rows.map(|row| format!("{row}1,2,3\n")).collect::<String>())
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth")
}

fn fixture(name: &str) -> String {
    format!("file://{}/{name}.pth", fixtures().display())
}

fn spec(value: Value) -> JobSpec {
    serde_json::from_value(value).unwrap()
}

fn network() -> Value {
    json!({"type": "mlp", "layers": [5, 7, 3]})
}

/// A daemon's folder with the inputs in it; the file's URI.
fn stage(expected: &Expected) -> (Daemon, String) {
    let daemon = Daemon::new();
    let file = daemon.dir.path().join("inputs.csv");
    std::fs::write(&file, expected.csv()).unwrap();
    (daemon, format!("file://{}", file.display()))
}

fn infer(from: &str, key: Option<&str>, data: &str) -> JobSpec {
    let data = json!({"format": "csv", "uri": data, "features": ["a", "b", "c", "d", "e"]});
    spec(json!({"version": 1, "name": "pth", "infer": {
        "model": {"from": from, "key": key, "network": network()}, "data": data, "batch_size": 3}}))
}

/// What a job that was refused said, the advice with it.
fn refusal(ended: &Ended) -> String {
    let result = ended.result.as_ref().unwrap();
    assert_eq!((result.class, ended.code), (ExitClass::Spec, Some(1)), "{result:?}");
    format!("{} / {}", result.message.as_ref().unwrap(), result.hint.as_ref().unwrap())
}

#[tokio::test]
async fn pytorchs_own_files_are_predicted_with_as_pytorch_does() {
    let expected = Expected::read();
    let (daemon, data) = stage(&expected);
    for (job, (name, theirs)) in (1..).zip(&expected.outputs) {
        let key = (name == "checkpoint").then_some("model_state_dict");
        let result = daemon.run(&infer(&fixture(name), key, &data), job, 1).await.result.unwrap();
        assert_eq!(result.class, ExitClass::Ok, "{name}: {result:?}");
        let output = result.output.unwrap();
        let text = std::fs::read_to_string(output.uri.strip_prefix("file://").unwrap()).unwrap();
        let ours: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            let ours = ours["values"].as_array().unwrap();
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().map(|value| value.as_f64().unwrap()).zip(theirs) {
                let theirs = f64::from(*theirs);
                assert!((ours - theirs).abs() <= 1e-5 * (1.0 + theirs.abs()), "{name}: {ours}, not {theirs}");
            }
        }
    }
}

#[tokio::test]
async fn a_training_begins_with_the_weights_it_is_given() {
    let expected = Expected::read();
    let (daemon, data) = stage(&expected);
    let train = |init: Value| {
        let data = json!({"format": "csv", "uri": data, "targets": ["p", "q", "r"]});
        spec(json!({"version": 1, "name": "pth", "train": {
            "model": network(), "init": init, "data": data, "loss": "mse", "batch_size": 4, "max_steps": 1,
            "optimizer": {"type": "sgd", "learning_rate": 1e-9}}}))
    };
    // The loss of the first step is that of PyTorch's outputs.
    let squares = |outputs: &[Vec<f32>]| {
        let of =
            |row: &Vec<f32>| row.iter().zip([1.0, 2.0, 3.0]).map(|(y, t)| (f64::from(*y) - t).powi(2)).sum::<f64>();
        outputs.iter().map(of).sum::<f64>() / 12.0
    };
    let mut models = Vec::new();
    for (job, (name, init)) in (1..).zip([
        ("float32", json!({"from": fixture("float32")})),
        ("checkpoint", json!({"from": fixture("checkpoint"), "key": "model_state_dict"})),
    ]) {
        let result = daemon.run(&train(init), job, 1).await.result.unwrap();
        assert_eq!(result.class, ExitClass::Ok, "{result:?}");
        let (ours, theirs) = (result.metrics["train_loss"], squares(&expected.outputs[name]));
        assert!((ours - theirs).abs() <= 1e-5 * theirs, "{name}: {ours}, not {theirs}");
        models.push(result.model.unwrap().uri);
    }
    // A job's own model is begun with as well, by its folder or its file, and so is its checkpoint.
    let checkpoint = std::fs::read_dir(daemon.dir.path().join("objects/1/1/checkpoints")).unwrap().next().unwrap();
    let checkpoint = format!("file://{}", checkpoint.unwrap().path().display());
    for (job, from) in (3..).zip([models[0].clone(), format!("{}/model.safetensors", models[0]), checkpoint]) {
        let result = daemon.run(&train(json!({"from": from})), job, 1).await.result.unwrap();
        let (ours, theirs) = (result.metrics["train_loss"], squares(&expected.outputs["float32"]));
        assert!((ours - theirs).abs() <= 1e-5 * theirs, "{from}: {ours}, not {theirs}");
    }
    // What does not fit is refused before the first step.
    let said = refusal(&daemon.run(&train(json!({"from": fixture("refused_bool")})), 6, 1).await);
    assert!(said.contains("refused_bool.pth") && said.contains("\"layer2.bias\" is bool"), "{said}");
    let mut other = serde_json::to_value(train(json!({"from": models[0]}))).unwrap();
    other["train"]["model"]["layers"] = json!([5, 8, 3]);
    let said = refusal(&daemon.run(&spec(other), 7, 1).await);
    assert!(said.contains("other layers than train.model"), "{said}");
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_with_the_file_and_the_way_out() {
    let expected = Expected::read();
    let (daemon, data) = stage(&expected);
    for (job, (name, key, parts)) in (1..).zip([
        (
            "refused_module",
            None,
            ["whole pickled module, made of \"__main__.Net\"", "torch.save(model.state_dict(), path)"],
        ),
        ("refused_extra", None, ["\"extra\" is not one of the model's", "network in the spec"]),
        ("refused_bool", None, ["\"layer2.bias\" is bool of shape [3] where float32", "network in the spec"]),
        ("checkpoint", None, ["several things", "key = \"model_state_dict\""]),
        ("checkpoint", Some("epoch"), ["no state_dict under the key \"epoch\"", "key = \"model_state_dict\""]),
        ("gone", None, ["does not exist", "check the path"]),
    ]) {
        let said = refusal(&daemon.run(&infer(&fixture(name), key, &data), job, 1).await);
        assert!(said.contains(&format!("{name}.pth")), "{said}");
        for part in parts {
            assert!(said.contains(part), "{name}: {said}");
        }
    }
    let mut other = serde_json::to_value(infer(&fixture("float32"), None, &data)).unwrap();
    other["infer"]["model"]["network"]["layers"] = json!([5, 8, 3, 2]);
    let said = refusal(&daemon.run(&spec(other), 7, 1).await);
    for part in ["float32 of shape [7, 5] where float32 of shape [8, 5]", "\"layer3.weight\" is missing"] {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test]
async fn a_file_made_to_harm_ends_the_job_and_nothing_else() {
    let expected = Expected::read();
    let (daemon, data) = stage(&expected);
    let folder = daemon.dir.path().join("hostile");
    std::fs::create_dir(&folder).unwrap();
    let made = std::process::Command::new("python3").arg(fixtures().join("hostile.py")).arg(&folder).status();
    assert!(made.expect("python3 is installed").success());
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort_unstable();
    assert!(names.len() >= 40);
    for (job, path) in (1..).zip(names) {
        let began = Instant::now();
        let ended = daemon.run(&infer(&format!("file://{}", path.display()), None, &data), job, 1).await;
        let (took, name) = (began.elapsed(), path.file_name().unwrap().to_str().unwrap().to_owned());
        assert!(refusal(&ended).contains(&name), "{name}");
        assert!(took < MAX_TIME, "{name} took {took:?}");
        let peak = ended.peak_bytes;
        assert!(peak > 1024 * 1024 && peak < MAX_MEMORY_BYTES, "{name} took {} MiB", peak >> 20);
    }
}
