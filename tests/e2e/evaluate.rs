//! Evaluations with real programs: the champion and a challenger on the same rows, a worker that is killed, and models that cannot be compared.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Daemon, Worker};

/// The job of `config/jobs/digits.toml`, of few epochs, that registers what it trains.
fn digits(epochs: u32, split_seed: u32) -> Value {
    json!({
        "version": 1, "name": format!("digits-{epochs}"), "resources": {"cpus": 1},
        "train": {
            "seed": 7, "loss": "cross_entropy", "scaling": "standard", "batch_size": 32, "max_epochs": epochs, "register": "digits",
            "model": {"type": "mlp", "layers": [64, 32, 10]}, "data": data(),
            "split": {"validation": 0.15, "test": 0.15, "seed": split_seed},
            "optimizer": {"type": "adamw", "learning_rate": 0.002},
        }
    })
}

fn data() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/jobs/data/digits.csv");
    json!({"format": "csv", "uri": format!("file://{}", file.display()), "targets": ["label"]})
}

fn compare(models: &[&str]) -> Value {
    let models: Vec<_> = models.iter().map(|from| json!({"from": from})).collect();
    json!({
        "version": 1, "name": "compare", "resources": {"cpus": 1},
        "evaluate": {"models": models, "data": data(), "part": "test", "slice": "label"}
    })
}

fn trained(daemon: &mut Daemon, spec: &Value) -> String {
    let id = daemon.submit(spec);
    daemon.wait_for(&id, "succeeded");
    id
}

#[test]
fn a_champion_and_a_challenger_are_compared_on_the_same_rows() {
    let mut daemon = Daemon::with(Worker::Real);
    let first = trained(&mut daemon, &digits(1, 7));
    let second = trained(&mut daemon, &digits(8, 7));
    daemon.mlctl(&["model", "add", "digits", &first]).ok();
    daemon.mlctl(&["model", "promote", "digits/1"]).ok();
    let id = trained(&mut daemon, &compare(&["model:digits@champion", &format!("job:{second}")]));
    let job = daemon.mlctl(&["show", &id, "-o", "json"]).json();
    let metric = |name: &str| job["metrics"][name].as_f64().unwrap();
    assert!(metric("1.accuracy_difference_low") > 0.0 && metric("1.loss_difference_high") < 0.0, "{job:#}");
    let difference = metric("1.accuracy") - metric("accuracy");
    assert!((difference - metric("1.accuracy_difference")).abs() < 1e-12, "{job:#}");
    let output = job["output"]["uri"].as_str().unwrap();
    assert!(output.ends_with("/evaluation.json"), "{output}");
    let found: Value = serde_json::from_slice(&fs::read(output.strip_prefix("file://").unwrap()).unwrap()).unwrap();
    assert_eq!(found["slices"].as_array().unwrap().len(), 10, "{found:#}");
    assert_eq!(found["all"]["rows"], 270);
    let champion = daemon.mlctl(&["model", "show", "digits@champion", "-o", "json"]).json();
    assert_eq!(found["models"][0], champion["uri"]);
    // What was measured when it was trained.
    let told = daemon.mlctl(&["show", &second, "-o", "json"]).json();
    assert_eq!(metric("1.accuracy"), told["metrics"]["test_accuracy"].as_f64().unwrap());
    daemon.mlctl(&["show", &id]).ok();

    let other = trained(&mut daemon, &digits(2, 8));
    let id = daemon.submit(&compare(&[&format!("job:{first}"), &format!("job:{other}")]));
    daemon.wait_for(&id, "failed");
    let said = daemon.mlctl(&["show", &id]).ok();
    assert!(said.contains("other divisions of it"), "{said}");
}

#[test]
fn what_cannot_be_compared_is_refused_at_the_submit() {
    let daemon = Daemon::with(Worker::Real);
    let refused = |models: &[&str], parts: &[&str]| {
        daemon.write("compare.toml", toml::to_string(&compare(models)).unwrap());
        daemon.mlctl(&["submit", "compare.toml"]).must_fail(6, parts);
    };
    refused(&["model:digits@champion"], &["compare.toml:", "no model digits"]);
    refused(&["job:nothing"], &["compare.toml:", "nothing"]);
    refused(&["job:1"; 9], &["compare.toml:", "8"]);
    refused(&[], &["compare.toml:", "models"]);
}
