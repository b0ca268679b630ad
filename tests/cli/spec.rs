//! Specs without a daemon.

use serde_json::{Value as Json, json};

use crate::rig::{Rig, snapshot};

#[test]
fn what_init_prints_is_valid() {
    let rig = Rig::without_daemon();
    for kind in ["train", "infer", "evaluate", "retrain", "command"] {
        rig.write("job.toml", &rig.run(&["spec", "init", kind]).stdout);
        let ran = rig.run(&["spec", "validate", "job.toml"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let ran = rig.run(&["spec", "validate", "job.toml", "-o", "json"]);
        let said: Json = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&said["valid"], said["spec"][kind].is_object()), (&json!(true), true));
    }
}

#[test]
fn every_mistake_is_shown_where_it_is() {
    let rig = Rig::without_daemon();
    let good = rig.run(&["spec", "init", "train"]).stdout;
    let bad = good
        .replace("priority = 50", "priority = 500")
        .replace("batch_size = 32", "batchsize = 32")
        .replace("\"adam\"", "\"adams\"");
    rig.write("job.toml", &bad);
    let ran = rig.run(&["spec", "validate", "job.toml"]);
    assert_eq!(ran.code, 6);
    snapshot("spec-schema", &ran.text());
    let said: Json = serde_json::from_str(&rig.run(&["spec", "validate", "job.toml", "-o", "json"]).stderr).unwrap();
    let places: Vec<_> = said["error"]["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            (problem["line"].as_u64().unwrap(), problem["column"].as_u64().unwrap(), problem["path"].as_str().unwrap())
        })
        .collect();
    let line = |part: &str| bad.lines().position(|line| line.contains(part)).unwrap() as u64 + 1;
    assert!(places.contains(&(line("priority = 500"), 12, "priority")), "{places:?}");
    assert!(places.contains(&(line("batchsize"), 1, "train.batchsize")), "{places:?}");
    let bad = good.replace("first-training", "12").replace("layers = [8, 32, 16, 1]", "layers = [9, 2]");
    rig.write("job.toml", &bad);
    snapshot("spec-rules", &rig.run(&["spec", "validate", "job.toml"]).text());
}

#[test]
fn the_schema_is_json() {
    let schema: Json = serde_json::from_str(&Rig::without_daemon().run(&["spec", "schema"]).stdout).unwrap();
    assert_eq!(schema["title"], json!("mlctl job spec"));
}
