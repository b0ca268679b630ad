//! PyTorch's weights and the article's example, end to end through the CLI: a `model.pth` is predicted with, a training begins from what it is given, and a file
//! made to harm ends its own job and nothing else.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{Daemon, Worker, processes};

/// What a file that harms may be refused with, one of each kind: memory, stack, time, code, a shape that overflows.
const HOSTILE: [(&str, &str); 6] = [
    ("doubling_tuples", "no dict"),
    ("expanded_to_8_gib", "of shape [2147483648]"),
    ("deep_lists", "too deeply"),
    ("many_kept", "steps"),
    ("system", "\"os.system\""),
    ("shape_that_overflows", "no possible view"),
];

const INFER: &str = r#"
version = 1
name = "predict"

[infer]
data = { format = "csv", uri = "rows.csv" }

[infer.model]
from = "model.pth"
network = { type = "mlp", layers = [2, 2] }
"#;

const TRAIN: &str = r#"
version = 1
name = "first"

[train]
loss = "mse"
batch_size = 8
max_steps = 3
model = { type = "mlp", layers = [4, 8, 2] }
data = { format = "randn", rows = 32, features = 4, targets = 2 }
optimizer = { type = "adam" }
"#;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_articles_row_is_predicted_with_its_model_pth() {
    let daemon = Daemon::with(Worker::Real);
    let file = repository("config/jobs/article-infer.toml");
    daemon.mlctl(&["submit", file.to_str().unwrap(), "-w"]).ok();
    let job = daemon.last();
    assert_eq!((&job["state"], &job["output"]["records"]), (&"succeeded".into(), &1.into()), "{job:#}");
    let output = job["output"]["uri"].as_str().unwrap().strip_prefix("file://").unwrap();
    let line: Value = serde_json::from_str(std::fs::read_to_string(output).unwrap().trim()).unwrap();
    let expected = std::fs::read(repository("workers/candle/tests/fixtures/article/pytorch.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let numbers = |value: &Value| value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let (ours, theirs) = (numbers(&line["values"]), numbers(&expected["outputs"]));
    assert_eq!((ours.len(), theirs.len()), (10, 10));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() <= 1e-5 * (1.0 + theirs.abs()), "{ours}, not PyTorch's {theirs}");
    }
}

#[test]
fn a_file_made_to_harm_fails_its_job_and_the_daemon_goes_on() {
    let daemon = Daemon::with(Worker::Real);
    let pid = daemon.pid();
    let script = repository("workers/candle/tests/fixtures/pth/hostile.py");
    let made = Command::new("python3").arg(script).arg(daemon.folder()).status();
    assert!(made.expect("python3 is installed").success());
    daemon.write("rows.csv", "a,b\n1,2\n");
    for (name, why) in HOSTILE {
        let file = format!("{name}.pth");
        daemon.write("infer.toml", INFER.replace("model.pth", &file));
        assert_eq!(daemon.mlctl(&["submit", "infer.toml", "-w"]).code, 20, "{name}");
        let job = daemon.last();
        assert_eq!((&job["exit_class"], &job["attempt"]), (&"spec".into(), &1.into()), "{name}: {job:#}");
        let message = job["exit_message"].as_str().unwrap();
        assert!(message.contains(&file) && message.contains(why), "{name}: {message}");
        assert!(job["exit_hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{job:#}");
    }
    // One that does no harm, of another model: every difference is listed.
    daemon.write("infer.toml", INFER.replace("model.pth", "good.pth").replace("[2, 2]", "[2, 3]"));
    assert_eq!(daemon.mlctl(&["submit", "infer.toml", "-w"]).code, 20);
    let message = daemon.last()["exit_message"].as_str().unwrap().to_owned();
    for part in ["\"layer1.weight\" is float32 of shape [2, 2]", "\"layer1.bias\" is float32 of shape [2]"] {
        assert!(message.contains(part), "{message}");
    }
    daemon.write("infer.toml", INFER.replace("model.pth", "good.pth"));
    daemon.mlctl(&["submit", "infer.toml", "-w"]).ok();
    assert_eq!((daemon.last()["state"].as_str(), daemon.pid()), (Some("succeeded"), pid));
    // Without a network nothing is queued: a PyTorch file has none.
    let without = "from = \"model.pth\"\nnetwork = { type = \"mlp\", layers = [2, 2] }";
    daemon.write("infer.toml", INFER.replace(without, "from = \"good.pth\""));
    daemon.mlctl(&["submit", "infer.toml"]).must_fail(6, &["infer.model.network"]);
}

/// The files under a folder, with their sizes.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push((entry.path(), entry.metadata().unwrap().len())),
        }
    }
    found
}

const FROZEN: &str = r#"
version = 1
name = "fine"
checkpoint = { every_steps = 4, keep = 3 }

[train]
loss = "mse"
batch_size = 8
max_steps = 40
freeze = ["layer1.*"]
model = { type = "mlp", layers = [64, 4096, 2] }
data = { format = "randn", rows = 64, features = 64, targets = 2 }
optimizer = { type = "adam" }
"#;

#[test]
fn what_is_frozen_is_stored_once_and_stays_while_it_is_needed() {
    let daemon = Daemon::with(Worker::Real);
    daemon.write("fine.toml", FROZEN);
    daemon.mlctl(&["submit", "fine.toml", "-w"]).ok();
    let undisturbed = daemon.last();
    // Killed again and again: the same bits, and what is frozen is still where the first attempt has put it.
    let endless = FROZEN.replace("max_steps = 40", "max_steps = 400").replace("\"fine\"", "\"killed\"");
    daemon.write("killed.toml", format!("{endless}\n[retry]\nlimit = 100\n"));
    let id = daemon.mlctl(&["submit", "-q", "killed.toml"]).ok().trim().to_owned();
    for attempt in 1..=3 {
        processes::kill(daemon.wait_for_checkpoint(&id, attempt));
        daemon.wait_until(&id, "the next attempt", |job| job["attempt"].as_u64() > Some(attempt));
    }
    let killed = daemon.wait_for(&id, "succeeded");
    daemon.write("whole.toml", endless.replace("\"killed\"", "\"whole\""));
    daemon.mlctl(&["submit", "whole.toml", "-w"]).ok();
    assert_eq!(killed["model"]["digest"], daemon.last()["model"]["digest"]);
    assert_ne!(killed["model"]["digest"], undisturbed["model"]["digest"]);
    let objects = daemon.state_dir.join("objects/jobs");
    let home = std::fs::read_dir(&objects).unwrap().map(|entry| entry.unwrap().path());
    let home = home.into_iter().find(|home| home.file_name().unwrap().to_string_lossy().starts_with(&format!("{id}-")));
    let home = home.unwrap();
    let weights = |name: &str| -> Vec<_> {
        let of_checkpoints = files(&home).into_iter().filter(|(path, _)| !path.starts_with(home.join("model")));
        of_checkpoints.filter(|(path, _)| path.to_string_lossy().contains(name)).collect()
    };
    let shared = weights("/shared/");
    assert!(shared.len() == 1 && shared[0].0.starts_with(home.join("1")), "{shared:?}");
    assert!(shared[0].1 > 65 * 4096 * 4, "the weights and biases of the first layer");
    // Of the others there is what is trained, and its two averages.
    let trained = 4 * (4096 * 2 + 2);
    for (path, size) in weights(".safetensors") {
        let times = if path.to_string_lossy().contains("/optimizer-") { 2 } else { 1 };
        assert!(size < times * trained + 1000, "{} has {size} bytes", path.display());
    }
    // Nothing that a checkpoint needs is collected, and who pulls one has all of it.
    daemon.mlctl(&["checkpoint", "gc", "--grace", "0"]).ok();
    daemon.mlctl(&["checkpoint", "verify", "killed"]).ok();
    let step = daemon.job(&id)["checkpoint"]["step"].as_u64().unwrap();
    let pulled = daemon.folder().join("pulled");
    daemon.mlctl(&["checkpoint", "pull", &format!("{id}/{step}"), pulled.to_str().unwrap()]).ok();
    let next = format!("{FROZEN}\n[train.init]\nfrom = \"{}\"\n", pulled.display()).replace("\"fine\"", "\"next\"");
    daemon.write("next.toml", next);
    daemon.mlctl(&["submit", "next.toml", "-w"]).ok();
    daemon.mlctl(&["rm", &id]).ok();
    assert!(weights("/shared/").is_empty(), "what a removed job shared goes with it");
    daemon.write("wrong.toml", FROZEN.replace("layer1", "layer7"));
    assert_eq!(daemon.mlctl(&["submit", "wrong.toml", "-w"]).code, 20);
    let message = daemon.last()["exit_message"].as_str().unwrap().to_owned();
    assert!(message.contains("\"layer7.*\", fits no tensor of the model"), "{message}");
}

#[test]
fn a_training_begins_from_the_model_of_a_job() {
    let daemon = Daemon::with(Worker::Real);
    daemon.write("first.toml", TRAIN);
    daemon.mlctl(&["submit", "first.toml", "-w"]).ok();
    let first = daemon.last();
    daemon.write(
        "next.toml",
        format!("{}\n[train.init]\nfrom = \"job:first\"\n", TRAIN.replace("\"first\"", "\"next\"")),
    );
    daemon.mlctl(&["submit", "next.toml", "-w"]).ok();
    let next = daemon.last();
    assert_eq!((&next["name"], &next["state"]), (&"next".into(), &"succeeded".into()));
    assert_ne!(next["model"]["digest"], first["model"]["digest"]);
    let (before, after) =
        (first["metrics"]["train_loss"].as_f64().unwrap(), next["metrics"]["train_loss"].as_f64().unwrap());
    assert!(after < before, "it goes on where the first one ended: {after}, after {before}");
    for (from, words) in [("job:nobody", "nobody"), ("absent.pth", "absent.pth does not exist")] {
        let set = format!("train.init.from=\"{from}\"");
        daemon.mlctl(&["submit", "next.toml", "--set", &set]).must_fail(6, &[words]);
    }
}
