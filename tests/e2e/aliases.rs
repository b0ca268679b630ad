//! Aliases of models' versions with real programs: promote, predict with the champion, roll back, and a job that promotes by itself.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{
    Daemon, Worker, programs,
    specs::{Length, training},
    until,
};

const PREDICTS: &str = r#"
version = 1
name = "predict"

[infer]
model = { from = "model:digits@champion" }
data = { format = "randn", rows = 8, features = 32, targets = 8 }
"#;

/// A daemon with two versions of a model, each of a training of its own.
fn stage() -> Daemon {
    let mut daemon = Daemon::with(Worker::Real);
    for seed in [7, 8] {
        let mut spec = training(Worker::Real, "short", Length::Short);
        spec["train"]["register"] = "digits".into();
        spec["train"]["seed"] = seed.into();
        let id = daemon.submit(&spec);
        daemon.wait_for(&id, "succeeded");
        until("the version", || {
            let run = daemon.mlctl(&["model", "show", "digits", "-o", "json"]);
            (run.code == 0 && run.json()["versions"][0]["job"] == id.as_str()).then_some(())
        });
    }
    daemon
}

fn json(daemon: &Daemon, args: &[&str]) -> Value {
    daemon.mlctl(&[args, &["-o", "json"]].concat()).json()
}

#[test]
fn the_champion_is_promoted_predicted_with_and_rolled_back() {
    let mut daemon = stage();
    daemon.write("predict.toml", PREDICTS);
    daemon
        .mlctl(&["submit", "predict.toml"])
        .must_fail(6, &["predict.toml:6", "no alias champion", "mlctl model show"]);
    daemon.mlctl(&["model", "rollback", "digits"]).must_fail(5, &["no previous version"]);
    let said = daemon.mlctl(&["model", "promote", "digits/1", "--expect", "none", "--reason", "the first"]).ok();
    assert_eq!(said, "the champion of model digits is version 1 now; there was none\n");
    daemon.mlctl(&["submit", "predict.toml", "-w"]).ok();
    let of = |daemon: &Daemon| {
        let id = daemon.last()["id"].as_str().unwrap().to_owned();
        json(daemon, &["show", "--spec", &id])["infer"]["model"]["from"].clone()
    };
    let uri = |daemon: &Daemon, which: &str| json(daemon, &["model", "show", which])["uri"].clone();
    assert_eq!(of(&daemon), uri(&daemon, "digits/1"), "what the champion was at the submit");
    daemon.mlctl(&["model", "alias", "digits", "challenger", "2"]).ok();
    let moved = json(&daemon, &["model", "promote", "digits@challenger", "--expect", "1"]);
    assert_eq!((&moved["version"], moved["moves"].as_array().unwrap().len()), (&json!(2), 2), "{moved:#}");
    daemon
        .mlctl(&["model", "promote", "digits/1", "--expect", "1"])
        .must_fail(5, &["version 2 as champion", "mlctl model show"]);
    daemon.mlctl(&["submit", "predict.toml", "-w"]).ok();
    assert_eq!(of(&daemon), uri(&daemon, "digits@champion"));
    let compared = json(&daemon, &["model", "compare", "digits@previous", "digits@champion"]);
    let keys: Vec<_> = compared["spec"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap()).collect();
    assert_eq!(
        (keys, &compared["same_data"], &compared["same_tensors"]),
        (vec!["train.seed"], &json!(true), &json!(false))
    );
    let loss = compared["metrics"].as_array().unwrap().iter().find(|one| one["name"] == "val_loss").unwrap();
    assert!(loss["a"].is_number() && loss["change"].is_number(), "{loss}");
    let said = daemon.mlctl(&["model", "compare", "digits/1", "digits"]).ok();
    assert!(said.contains("train.seed") && said.contains("A  digits/1: job 1") && said.contains("val_loss"), "{said}");
    let (first, second) =
        (json(&daemon, &["model", "show", "digits/1"]), json(&daemon, &["model", "show", "digits/2"]));
    let of = |version: &Value| version["job"].as_str().unwrap().to_owned();
    let said = daemon.mlctl(&["diff", &of(&first), &of(&second)]).ok();
    assert!(said.contains("train.seed") && said.contains("val_loss") && said.contains("not the same"), "{said}");
    daemon.mlctl(&["model", "compare", "digits/1", "digits/9"]).must_fail(4, &["no version 9"]);
    daemon.kill();
    daemon.start();
    for (which, alias) in [("digits/1", "previous"), ("digits/2", "challenger")] {
        daemon.mlctl(&["model", "rm", which]).must_fail(5, &[alias, "--rm"]);
    }
    let said = daemon.mlctl(&["model", "rollback", "digits", "--reason", "complaints"]).ok();
    assert!(said.contains("is version 1 now; it was 2") && said.contains("has no previous now"), "{said}");
    let shown = daemon.mlctl(&["model", "show", "digits"]).ok();
    assert!(shown.contains("complaints") && shown.contains("the first") && shown.contains("champion"), "{shown}");
    // Nothing needs the second version any more but a name.
    daemon.mlctl(&["model", "rm", "digits/2"]).must_fail(5, &["challenger"]);
    daemon.mlctl(&["model", "alias", "digits", "challenger", "--rm"]).ok();
    daemon.mlctl(&["model", "rm", "digits@2"]).ok();
    daemon.mlctl(&["model", "promote", "digits/2"]).must_fail(4, &["no version 2"]);
    // What the champion holds outlives its job, whatever is collected.
    let folder = uri(&daemon, "digits@champion").as_str().unwrap().strip_prefix("file://").unwrap().to_owned();
    let jobs = json(&daemon, &["ls", "--all"]);
    let ids: Vec<_> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    daemon.mlctl(&[&["rm"], &ids[..]].concat()).ok();
    daemon.mlctl(&["checkpoint", "gc", "--grace", "0", "--results"]).ok();
    let said = daemon.mlctl(&["model", "compare", "digits", "digits@champion"]).ok();
    assert!(said.contains("spec     the same") && said.contains("to the bit"), "a job that is gone: {said}");
    let model = Path::new(&folder).join("model.safetensors");
    assert!(model.is_file());
    export(&daemon, &model);
}

/// What is exported is what is on record, or nothing.
fn export(daemon: &Daemon, stored: &Path) {
    let said = daemon.mlctl(&["model", "export", "digits@champion", "out"]).ok();
    assert!(said.contains("digits/1 is in") && said.contains("verified"), "{said}");
    let out = daemon.folder().join("out");
    let (whole, record) = (fs::read(stored).unwrap(), fs::read_to_string(out.join("version.json")).unwrap());
    assert!(fs::read(out.join("model.safetensors")).unwrap() == whole, "the same bytes");
    let record: Value = serde_json::from_str(&record).unwrap();
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert_eq!((&record["model"], &record["version"]), (&json!("digits"), &json!(1)));
    let digest = record["digest"].as_str().unwrap();
    assert!(card.starts_with("# digits/1\n") && card.contains(digest) && card.contains("val_loss"), "{card}");
    assert!(card.contains("The job was removed"), "{card}");
    daemon.write("exported.toml", PREDICTS.replace("model:digits@champion", &format!("file://{}", out.display())));
    daemon.mlctl(&["submit", "exported.toml", "-w"]).ok();
    daemon.mlctl(&["model", "export", "digits", "out"]).must_fail(5, &["out is there already"]);
    daemon.mlctl(&["model", "export", "digits/9", "other"]).must_fail(4, &["no version 9"]);
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(stored, damaged).unwrap();
    daemon.mlctl(&["model", "export", "digits", "other"]).must_fail(1, &["model.safetensors", "checksum"]);
    assert!(!daemon.folder().join("other").exists(), "it appears whole or not at all");
    fs::write(stored, whole).unwrap();
    daemon.mlctl(&["model", "export", "digits", "other"]).ok();
}

#[test]
fn a_job_promotes_and_the_move_names_it() {
    let daemon = stage();
    let (mlctl, socket) = (programs::mlctl().display().to_string(), daemon.state_dir.join("mld.sock"));
    let socket = socket.display().to_string();
    let promote =
        ["submit", "-w", "--", &mlctl, "--socket", &socket, "model", "promote", "digits", "--reason", "night"];
    daemon.mlctl(&promote).ok();
    let shown = json(&daemon, &["model", "show", "digits"]);
    let moved = &shown["moves"][0];
    assert_eq!((&moved["job"], &moved["version"]), (&daemon.last()["id"], &json!(2)), "{shown:#}");
    let wrong: [(&[&str], &str); 5] = [
        (&["alias", "digits", "v3", "1"], "number of a version"),
        (&["alias", "digits", "7", "1"], "number of a version"),
        (&["alias", "digits", "eu"], "VERSION"),
        (&["promote", "digits@1x@2"], "cannot be in a name"),
        (&["promote", "digits/champion"], "digits@champion"),
    ];
    for (args, words) in wrong {
        daemon.mlctl(&[&["model"], args].concat()).must_fail(2, &[words]);
    }
    daemon.mlctl(&["model", "show", "digits@nobody"]).must_fail(4, &["no alias nobody"]);
}
