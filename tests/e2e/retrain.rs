//! Retrainings with real programs: the better challenger becomes the champion and no other does, whatever is killed, cancelled or wrong on the way.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, until};

/// A retraining of the digits of so many epochs.
fn night(epochs: u32) -> Value {
    json!({
        "version": 1, "name": "nightly", "resources": {"cpus": 1}, "retry": {"limit": 0}, "labels": {"team": "vision"},
        "retrain": {
            "model": "digits", "holdout": {"slice": "label"}, "gate": {"metric": "accuracy"},
            "train": {
                "seed": 7, "loss": "cross_entropy", "scaling": "standard", "batch_size": 32, "max_epochs": epochs,
                "model": {"type": "mlp", "layers": [64, 32, 10]}, "split": {"test": 0.15, "seed": 7},
                "optimizer": {"type": "adamw", "learning_rate": 0.002},
                "data": {"format": "csv", "uri": format!("file://{}", digits().display()), "targets": ["label"]},
            },
        }
    })
}

fn digits() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/jobs/data/digits.csv")
}

fn show(daemon: &Daemon, id: &str) -> Value {
    daemon.mlctl(&["show", id, "-o", "json"]).json()
}

/// A run that went well: its conclusion.
fn concluded(daemon: &mut Daemon, spec: &Value) -> Value {
    let id = daemon.submit(spec);
    daemon.wait_for(&id, "succeeded");
    show(daemon, &id)["conclusion"].clone()
}

fn champion(daemon: &Daemon) -> Value {
    let run = daemon.mlctl(&["model", "show", "digits@champion", "-o", "json"]);
    if run.code == 0 { run.json()["version"].clone() } else { Value::Null }
}

/// The job of a stage.
fn stage(daemon: &Daemon, run: &str, name: &str) -> String {
    until(&format!("stage {name} of run {run}"), || {
        let stages = show(daemon, run)["stages"].clone();
        let found = stages.as_array().into_iter().flatten().find(|stage| stage["stage"] == name);
        found.map(|stage| stage["job"].as_str().unwrap().to_owned())
    })
}

#[test]
fn the_better_challenger_becomes_the_champion_and_no_other_does() {
    let mut daemon = Daemon::with(Worker::Real);
    let first = concluded(&mut daemon, &night(3));
    assert_eq!(
        (&first["outcome"], &first["version"], &first["champion"]),
        (&json!("promoted"), &json!(1), &Value::Null)
    );
    assert_eq!(champion(&daemon), 1);
    let better = concluded(&mut daemon, &night(12));
    assert_eq!(
        (&better["outcome"], &better["version"], &better["champion"]),
        (&json!("promoted"), &json!(2), &json!(1))
    );
    assert_eq!(champion(&daemon), 2);
    let worse = concluded(&mut daemon, &night(1));
    assert_eq!((&worse["outcome"], &worse["version"], &worse["champion"]), (&json!("kept"), &json!(3), &json!(2)));
    let failed = worse["checks"].as_array().unwrap().iter().filter(|check| check["passed"] == false);
    assert_eq!(failed.map(|check| check["key"].as_str().unwrap()).collect::<Vec<_>>(), ["min_gain"]);
    assert_eq!(champion(&daemon), 2);

    let said = daemon.mlctl(&["show", "7"]).ok();
    for word in
        ["outcome", "kept", "FAILED min_gain", "digits/2 stays the champion", "train 8 succeeded, evaluate 9 succeeded"]
    {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    let moves = &daemon.mlctl(&["model", "show", "digits", "-o", "json"]).json()["moves"];
    let moved = moves.as_array().unwrap().iter().find(|one| one["alias"] == "champion").unwrap();
    assert_eq!((&moved["version"], &moved["job"]), (&json!(2), &json!("4")));
    assert!(moved["reason"].as_str().unwrap().contains("accuracy better by"), "{moved}");
    let trained = show(&daemon, "8");
    assert_eq!(
        (&trained["name"], &trained["labels"]["retrain"], &trained["labels"]["team"]),
        (&json!("nightly.train"), &json!("7"), &json!("vision"))
    );
    assert!(daemon.mlctl(&["doctor"]).ok().contains("ok"));
    assert_eq!(daemon.mlctl(&["db", "check", "-o", "json"]).json()["problems"], json!([]));
}

#[test]
fn a_run_whose_stage_fails_moves_nothing_and_goes_on_there_when_it_is_retried() {
    let mut daemon = Daemon::with(Worker::Real);
    concluded(&mut daemon, &night(3));
    let bad = daemon.write("bad.csv", fs::read_to_string(digits()).unwrap().replacen("\n0", "\nx", 1));
    let mut spec = night(12);
    spec["retrain"]["train"]["data"]["uri"] = format!("file://{}", bad.display()).into();
    let id = daemon.submit(&spec);
    let run = daemon.wait_for(&id, "failed");
    let train = stage(&daemon, &id, "train");
    assert_eq!(run["exit_class"], "spec");
    let message = run["exit_message"].as_str().unwrap();
    assert!(message.starts_with(&format!("its stage train, job {train}, failed (spec): ")), "{message}");
    assert_eq!(champion(&daemon), 1);
    fs::copy(digits(), bad).unwrap();
    daemon.mlctl(&["retry", &id]).ok();
    daemon.wait_for(&id, "succeeded");
    assert_eq!(stage(&daemon, &id, "train"), train, "the same job went on");
    assert_eq!((show(&daemon, &id)["conclusion"]["outcome"].clone(), champion(&daemon)), (json!("promoted"), json!(2)));
}

#[test]
fn who_cancels_a_run_ends_the_stage_that_is_under_way_and_may_go_on_there() {
    let mut daemon = Daemon::with(Worker::Real);
    let id = daemon.submit(&night(100_000));
    let train = stage(&daemon, &id, "train");
    daemon.wait_for(&train, "running");
    let why = daemon.mlctl(&["why", &id]).ok();
    assert!(why.contains(&format!("waits for job {train} (running) to end")), "{why}");
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
    daemon.wait_for(&train, "cancelled");
    daemon.mlctl(&["retry", &id]).ok();
    until("the stage goes on", || (show(&daemon, &train)["state"] == "running").then_some(()));
    daemon.mlctl(&["cancel", &train]).ok();
    let run = daemon.wait_for(&id, "failed");
    assert!(run["exit_message"].as_str().unwrap().contains("was cancelled"), "{run}");
    // One that is held goes on with its stage, and is not taken to the next.
    let held = daemon.submit(&night(2));
    let train = stage(&daemon, &held, "train");
    daemon.mlctl(&["hold", &held]).ok();
    daemon.wait_for(&train, "succeeded");
    daemon.mlctl(&["ls"]).ok();
    assert_eq!(show(&daemon, &held)["stages"].as_array().unwrap().len(), 1);
    daemon.mlctl(&["release", &held]).ok();
    daemon.wait_for(&held, "succeeded");
}

#[test]
fn a_daemon_that_is_killed_again_and_again_comes_to_the_same() {
    let conclusion = concluded(&mut Daemon::with(Worker::Real), &night(4));
    let mut daemon = Daemon::with(Worker::Real);
    let id = daemon.submit(&night(4));
    for wait in [5, 20, 80, 150, 200, 250, 300, 400, 500, 600] {
        std::thread::sleep(std::time::Duration::from_millis(wait));
        daemon.kill();
        daemon.start();
    }
    daemon.wait_for(&id, "succeeded");
    assert_eq!(show(&daemon, &id)["conclusion"], conclusion);
    assert_eq!(daemon.mlctl(&["model", "show", "digits", "-o", "json"]).json()["moves"].as_array().unwrap().len(), 1);
    let jobs = daemon.mlctl(&["ls", "--all", "-o", "json"]).json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 3, "{jobs:#}");
}

#[test]
fn nothing_is_trained_while_there_is_no_new_version_of_the_data() {
    let mut daemon = Daemon::with(Worker::Real);
    let copy = daemon.write("digits.csv", fs::read(digits()).unwrap());
    daemon.mlctl(&["dataset", "add", "digits", "digits.csv"]).ok();
    let mut spec = night(3);
    spec["retrain"]["train"]["data"] = json!({"format": "dataset", "dataset": "digits", "targets": ["label"]});
    daemon.write("night.toml", toml::to_string(&spec).unwrap());
    daemon.mlctl(&["submit", "night.toml"]).must_fail(6, &["divided anew", "[retrain.train.stream]"]);
    spec["retrain"]["train"]["stream"] = json!({});
    assert_eq!(concluded(&mut daemon, &spec)["outcome"], "promoted");
    let again = concluded(&mut daemon, &spec);
    assert_eq!((&again["outcome"], &again["version"]), (&json!("no_new_data"), &Value::Null));
    assert!(again["told"].as_str().unwrap().contains("digits/1"), "{again}");
    let text = fs::read_to_string(&copy).unwrap();
    let more = text.lines().skip(1).take(200).collect::<Vec<_>>().join("\n");
    fs::write(&copy, format!("{}\n{more}\n", text.trim_end())).unwrap();
    daemon.mlctl(&["dataset", "pin", "digits"]).ok();
    let newer = concluded(&mut daemon, &spec);
    assert_ne!(newer["outcome"], "no_new_data", "{newer}");
    assert_eq!(newer["version"], 2);
}

#[test]
fn a_schedule_retrains_and_its_runs_wait_for_one_another() {
    let mut daemon = Setup::of(Worker::Real).start();
    daemon.write("night.toml", toml::to_string(&night(3)).unwrap());
    daemon.mlctl(&["schedule", "add", "--cron", "0 2 * * *", "night.toml", "--name", "digits"]).ok();
    let first = daemon.mlctl(&["schedule", "run", "digits", "-o", "json"]).json();
    daemon.wait_for(first["id"].as_str().unwrap(), "succeeded");
    assert_eq!(champion(&daemon), 1);
    let after = daemon.submit(&json!({
        "version": 1, "name": "after", "after": [format!("ok:{}", first["id"].as_str().unwrap())],
        "infer": {"model": {"from": "model:digits@champion"}, "data": night(1)["retrain"]["train"]["data"], "part": "test"}
    }));
    daemon.wait_for(&after, "succeeded");
    daemon
        .mlctl(&["schedule", "add", "--cron", "0 3 * * *", "night.toml", "--name", "other"])
        .must_fail(6, &["schedule digits retrains model digits already", "mlctl schedule rm digits"]);
}

#[test]
fn what_makes_no_sense_is_refused_at_the_submit() {
    let daemon = Daemon::with(Worker::Real);
    let refused = |change: fn(&mut Value), words: &[&str]| {
        let mut spec = night(3);
        change(&mut spec);
        daemon.write("night.toml", toml::to_string(&spec).unwrap());
        for verb in [&["submit", "night.toml"][..], &["schedule", "add", "--cron", "0 2 * * *", "night.toml"]] {
            daemon.mlctl(verb).must_fail(6, words);
        }
    };
    refused(|spec| spec["retrain"]["model"] = json!("a b"), &["night.toml", "name"]);
    refused(|spec| spec["retrain"]["train"]["register"] = json!("x"), &["register", "leave it out"]);
    refused(|spec| spec["retrain"]["train"]["split"]["test"] = json!(0.0), &["no rows to compare models on"]);
    refused(|spec| spec["retrain"]["train"]["model"]["layers"] = json!([64, 32, 1]), &["layers"]);
    refused(
        |spec| spec["retrain"]["train"]["data"]["uri"] = json!("file:///nowhere/x.csv"),
        &["/nowhere/x.csv does not exist"],
    );
    refused(
        |spec| {
            spec["retrain"]["holdout"]["data"] =
                json!({"format": "csv", "uri": "file:///nowhere/y.csv", "targets": ["label"]});
        },
        &["/nowhere/y.csv does not exist"],
    );
    refused(|spec| spec["retrain"]["gate"]["metrics"] = json!("loss"), &["metrics"]);
    refused(|spec| spec["name"] = json!("n".repeat(95)), &["90 characters"]);
    daemon.write("night.toml", toml::to_string(&night(3)).unwrap());
    daemon
        .mlctl(&["submit", "night.toml", "--array", "retrain.train.seed=1,2"])
        .must_fail(6, &["no members of an array"]);
    refused(|spec| spec["retrain"]["train"]["init"] = json!({"from": "model:digits@champion"}), &["no model digits"]);
}

/// Neither waits a run for what never comes, nor do others wait for it.
#[test]
fn a_run_that_can_promote_nothing_fails_and_keeps_nobody_from_going_on() {
    let mut daemon = Daemon::with(Worker::Real);
    let trained = daemon.submit(&json!({
        "version": 1, "name": "first", "train": {
            "model": {"type": "mlp", "layers": [4, 2]}, "data": {"format": "randn", "rows": 64, "features": 4, "targets": 2},
            "loss": "mse", "optimizer": {"type": "adam"}, "batch_size": 8, "max_epochs": 1,
        }
    }));
    daemon.wait_for(&trained, "succeeded");
    daemon.mlctl(&["model", "add", "digits", &trained]).ok();
    for number in 0..100 {
        daemon.mlctl(&["model", "alias", "digits", &format!("name-{number}"), "1"]).ok();
    }
    let stuck = daemon.submit(&night(2));
    let mut other = night(2);
    other["retrain"]["model"] = json!("others");
    let other = daemon.submit(&other);
    daemon.wait_for(&other, "succeeded");
    let run = daemon.wait_for(&stuck, "failed");
    assert_eq!((&run["exit_class"], champion(&daemon)), (&json!("spec"), Value::Null));
    let message = run["exit_message"].as_str().unwrap();
    assert!(message.contains("model digits") && message.contains("100"), "{message}");
    // With a name less there is room for the champion.
    daemon.mlctl(&["model", "alias", "digits", "name-7", "--rm"]).ok();
    daemon.mlctl(&["retry", &stuck]).ok();
    until("the run succeeds", || (show(&daemon, &stuck)["state"] == "succeeded").then_some(()));
    assert_eq!(champion(&daemon), 2);
}
