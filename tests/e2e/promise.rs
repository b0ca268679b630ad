//! The promise: whatever kills the worker or the daemon, and whenever, the model comes out the same to the bit. Real digits, the real worker, SIGKILL at random
//! moments; then a prediction with the model that came of it.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    chance::{Chance, cases},
    support::{Daemon, Setup, Worker, daemon::worker_pid, processes, until},
};

/// Enough epochs that a run is long enough to be hit several times.
fn digits(name: &str) -> Value {
    json!({
        "version": 1,
        "name": name,
        "checkpoint": {"every_steps": 37},
        "retry": {"limit": 100, "backoff_seconds": 1, "max_backoff_seconds": 1},
        "train": {
            "seed": 11,
            "model": {"type": "mlp", "layers": [64, 512, 256, 10], "dropout": 0.2},
            "data": {"format": "csv", "uri": uri(), "targets": ["label"]},
            "split": {"validation": 0.1, "test": 0.2, "seed": 2},
            "scaling": "standard",
            "loss": "cross_entropy",
            "optimizer": {"type": "adamw"},
            "batch_size": 64,
            "max_epochs": 60,
        },
    })
}

fn uri() -> String {
    format!("file://{}/config/jobs/data/digits.csv", env!("CARGO_MANIFEST_DIR"))
}

/// The same by a convolutional network.
fn images(name: &str) -> Value {
    let mut spec = digits(name);
    spec["train"]["model"] = json!({
        "type": "cnn", "image": {"channels": 1, "height": 8, "width": 8}, "dropout": 0.2,
        "convolutions": [{"channels": 16, "pool": 1}, {"channels": 32}], "layers": [64, 10]});
    spec["train"]["scaling"] = json!("min_max");
    spec["train"]["optimizer"]["learning_rate"] = json!(0.003);
    spec["train"]["max_epochs"] = json!(20);
    spec
}

#[test]
fn a_run_killed_at_random_moments_ends_with_the_same_bits_as_one_left_alone() {
    let (mut daemon, id) = killed_at_random_moments(digits, 3);
    predicts(&mut daemon, &id);
}

#[test]
fn so_does_one_of_a_convolutional_network() {
    let (mut daemon, id) = killed_at_random_moments(images, 1);
    predicts(&mut daemon, &id);
}

/// A transformer on the text of the example.
fn letters(name: &str) -> Value {
    json!({
        "version": 1,
        "name": name,
        "checkpoint": {"every_steps": 23},
        "retry": {"limit": 100, "backoff_seconds": 1, "max_backoff_seconds": 1},
        "train": {
            "seed": 11,
            "model": {"type": "gpt", "context": 64, "width": 64, "depth": 2, "heads": 4, "kv_heads": 2, "dropout": 0.1, "norm": "rms",
                "positions": "rope", "feed_forward": "swiglu"},
            "data": {"format": "text", "tokenizer": "characters",
                "uri": format!("file://{}/config/jobs/data/genesis.txt", env!("CARGO_MANIFEST_DIR"))},
            "split": {"validation": 0.1, "test": 0.05},
            "loss": "cross_entropy",
            "optimizer": {"type": "adamw", "learning_rate": 0.003},
            "batch_size": 8,
            "max_epochs": 4,
        },
    })
}

#[test]
fn so_does_one_of_a_transformer_on_text() {
    let (daemon, id) = killed_at_random_moments(letters, 1);
    let metrics = &daemon.job(&id)["metrics"];
    assert!(metrics["val_loss"].as_f64().unwrap() < 2.6, "{metrics:#}");
}

/// The daemon, and the job that was left alone.
fn killed_at_random_moments(spec: fn(&str) -> Value, rounds: u64) -> (Daemon, String) {
    let mut daemon = Setup::of(Worker::Real).set("workers.cpus=1").start();
    let id = daemon.submit(&spec("undisturbed"));
    let undisturbed = daemon.wait_for(&id, "succeeded");
    assert_eq!(undisturbed["attempt"], 1);
    let length = took(&undisturbed);
    println!("left alone, it took {length:?}");
    cases(rounds, |mut chance| {
        let id = daemon.submit(&spec("disturbed"));
        let kills = disturb(&mut daemon, &id, length, &mut chance);
        let job = daemon.wait_for(&id, "succeeded");
        assert!(kills >= 3, "it was killed {kills} times only: {job:#}");
        assert_eq!(job["attempt"].as_u64(), Some(1 + kills), "every kill cost an attempt: {job:#}");
        assert_eq!(job["model"]["digest"], undisturbed["model"]["digest"], "after {kills} kills");
        for name in ["train_loss", "val_loss", "test_loss", "test_accuracy"] {
            assert_eq!(job["metrics"][name], undisturbed["metrics"][name], "{name} after {kills} kills");
        }
        // One that was killed before it had read its checkpoint says nothing of it; the last one went on from one.
        let resumed: Vec<_> = daemon.events(&id).into_iter().filter(|event| event["event"] == "resumed").collect();
        assert!(resumed.len() as u64 <= kills, "{resumed:#?}");
        assert_eq!(resumed.last().map(|event| &event["attempt"]), Some(&job["attempt"]), "{resumed:#?}");
    });
    (daemon, id)
}

/// Kills the worker at random moments, and now and then the daemon first, until it has happened often enough. Returns how often the worker was killed.
fn disturb(daemon: &mut Daemon, id: &str, length: Duration, chance: &mut Chance) -> u64 {
    let wanted = 3 + chance.below(3);
    let mut kills = 0;
    while kills < wanted {
        // From its first checkpoint on, or even a retry would begin at nothing and prove little.
        let attempt = kills + 1;
        let mut pid = None;
        until("there is a worker to kill, or none any more", || {
            let job = daemon.job(id);
            pid =
                worker_pid(&job).filter(|_| job["attempt"] == attempt && job["checkpoint"]["step"].as_u64().is_some());
            (pid.is_some() || job["state"] == "succeeded").then_some(())
        });
        let Some(pid) = pid else { return kills };
        std::thread::sleep(length / 8000 * u32::try_from(chance.below(1000)).unwrap());
        // Three in a row that nobody saw, and no checkpoint between them, would be a quarantine.
        let is_daemon_down = kills % 3 != 2 && chance.once_in(3);
        if is_daemon_down {
            daemon.kill();
        }
        let was_alive = processes::is_alive(pid);
        processes::kill(pid);
        if is_daemon_down {
            daemon.start();
        }
        let job = daemon.wait_until(id, "is put on record as killed", |job| {
            job["attempt"].as_u64() > Some(attempt) || job["state"] == "queued" || job["state"] == "succeeded"
        });
        if job["state"] == "succeeded" {
            return kills;
        }
        assert!(was_alive, "its worker had ended, and yet it goes on: {job:#}");
        kills += 1;
    }
    kills
}

fn took(job: &Value) -> Duration {
    let moment = |name: &str| job[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    moment("finished_at").duration_since(moment("started_at")).unsigned_abs()
}

/// Predicts the held-out part with a job's model: every row once, and as well as the training said.
fn predicts(daemon: &mut Daemon, trained: &str) {
    let spec = json!({
        "version": 1,
        "name": "predict",
        "infer": {
            "model": {"from": format!("job:{trained}")},
            "data": {"format": "csv", "uri": uri(), "targets": ["label"]},
            "part": "test",
        },
    });
    let id = daemon.submit(&spec);
    let job = daemon.wait_for(&id, "succeeded");
    let accuracy = job["metrics"]["accuracy"].as_f64().unwrap();
    assert!(accuracy >= 0.97, "{job:#}");
    let of_training = daemon.job(trained)["metrics"]["test_accuracy"].as_f64().unwrap();
    assert!((accuracy - of_training).abs() < 1e-9, "{accuracy} and {of_training} are of the same rows");
    let output = job["output"]["uri"].as_str().and_then(|uri| uri.strip_prefix("file://")).unwrap();
    let rows: Vec<Value> = std::fs::read_to_string(Path::new(output))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(job["output"]["records"], rows.len());
    assert_eq!(job["output"]["errors"], 0);
    let mut ids: Vec<_> = rows.iter().map(|row| row["id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), rows.len(), "every row once");
    // A fifth of 1,797, rounded in whichever way.
    assert!((358..=361).contains(&rows.len()), "{} rows", rows.len());
}
