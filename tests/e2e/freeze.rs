//! A database that is damaged where the start cannot see it: the daemon finds it beside its work, starts no job any more and takes none, and says what to do; what runs goes on.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, cli, programs, specs::fake, until};

/// What stands in a finished job alone, and what is made of it.
const NEEDLE: (&str, &str) = ("planted-needle", "planted-need1e");

fn daemon() -> Daemon {
    Setup::of(Worker::Fake).set("workers.cpus=1").start()
}

fn dispatch(daemon: &Daemon) -> Value {
    daemon.client.get("/v1/daemon").ok()["dispatch"].clone()
}

/// A job that is over and bears the needle, one that runs, and one that waits for its core.
fn furnish(daemon: &mut Daemon) -> [String; 3] {
    let mut spec = fake("over", "obey");
    spec["labels"]["note"] = NEEDLE.0.into();
    let over = daemon.submit(&spec);
    daemon.wait_for(&over, "succeeded");
    daemon.mlctl(&["db", "backup"]).ok();
    let runs = daemon.submit(&fake("runs", "steps:10000000:10"));
    daemon.wait_for_checkpoint(&runs, 1);
    let waits = daemon.submit(&fake("waits", "obey"));
    [over, runs, waits]
}

/// Writes `to` in the place of `from` in the database's file, as a disk might.
fn flip(daemon: &Daemon, from: &str, to: &str) {
    let path: PathBuf = daemon.state_dir.join("mld.db");
    let mut bytes = fs::read(&path).unwrap();
    let found: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
    assert!(!found.is_empty(), "all of it is in the one file of a database that was closed");
    found.iter().for_each(|at| bytes[*at..*at + to.len()].copy_from_slice(to.as_bytes()));
    fs::write(&path, bytes).unwrap();
}

fn frozen(daemon: &Daemon) -> Value {
    until("dispatch is frozen", || Some(dispatch(daemon)).filter(|dispatch| dispatch["state"] == "frozen"))
}

#[test]
fn damage_beyond_the_start_freezes_dispatch_and_everybody_says_so() {
    let mut daemon = daemon();
    let [_, runs, waits] = furnish(&mut daemon);
    assert!(daemon.stop().success());
    flip(&daemon, NEEDLE.0, NEEDLE.1);
    daemon.start();
    let found = frozen(&daemon);
    assert!(!found["frozen"]["problems"].as_array().unwrap().is_empty(), "{found:#}");

    // Nothing new is taken, what was acknowledged is still acknowledged, and what runs runs on to an end that is kept.
    let refused = daemon.try_submit(&fake("new", "obey"), "another");
    assert_eq!((refused.status, refused.error()), (503, "damaged"), "{refused:?}");
    assert_eq!(daemon.try_submit(&fake("waits", "obey"), "test-3").ok()["id"], waits.as_str());
    let job = daemon.job(&runs);
    assert_eq!((&job["state"], &job["attempt"]), (&json!("running"), &json!(1)), "{job:#}");
    daemon.mlctl(&["cancel", &runs]).ok();
    daemon.wait_for(&runs, "cancelled");
    for _ in 0..100 {
        let job = daemon.job(&waits);
        assert_eq!((&job["state"], &job["attempt"]), (&json!("queued"), &Value::Null), "{job:#}");
        assert!(job["reason"].as_str().unwrap().contains("no job is started: the database is damaged"), "{job:#}");
    }
    let says = |run: cli::Run, code: i32| {
        assert_eq!(run.code, code, "{run:?}");
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("damaged") && said.contains("mlctl db restore latest"), "{said}");
    };
    says(daemon.mlctl(&["daemon", "status"]), 0);
    says(daemon.mlctl(&["doctor"]), 1);
    says(daemon.mlctl(&["why", &waits]), 0);
    says(daemon.mlctl(&["submit", "-q", "--", "true"]), 1);
    assert!(daemon.log().contains("no job is started any more"), "the log says so");

    // Another daemon knows it before it starts a job.
    assert!(daemon.stop().success());
    let before = daemon.log().len();
    daemon.start();
    let log = daemon.log().split_off(before);
    assert!(log.find("no job is started any more").unwrap() < log.find("is ready").unwrap(), "{log}");
    assert_eq!(dispatch(&daemon)["state"], "frozen");

    // When a check finds nothing wrong any more, it goes on.
    assert!(daemon.stop().success());
    flip(&daemon, NEEDLE.1, NEEDLE.0);
    daemon.start();
    daemon.wait_for(&waits, "succeeded");
    assert_eq!(dispatch(&daemon)["state"], "open");

    // The usual way out is a backup.
    assert!(daemon.stop().success());
    flip(&daemon, NEEDLE.0, NEEDLE.1);
    daemon.start();
    frozen(&daemon);
    assert!(daemon.stop().success());
    let mut restore = std::process::Command::new(programs::mld());
    restore.arg("--state-dir").arg(&daemon.state_dir).args(["db", "restore", "latest"]);
    cli::run(daemon.folder(), restore).ok();
    daemon.start();
    let job = daemon.submit(&fake("after", "obey"));
    daemon.wait_for(&job, "succeeded");
    daemon.mlctl(&["db", "check"]).ok();
}

#[test]
fn the_control_a_sound_database_is_dispatched_from() {
    let mut daemon = daemon();
    let [_, runs, waits] = furnish(&mut daemon);
    assert!(daemon.stop().success());
    flip(&daemon, NEEDLE.0, NEEDLE.0);
    daemon.start();
    let found =
        until("the scan is over", || Some(dispatch(&daemon)).filter(|dispatch| !dispatch["checked_at"].is_null()));
    assert_eq!((&found["state"], &found["frozen"]), (&json!("open"), &Value::Null), "{found:#}");
    daemon.mlctl(&["cancel", &runs]).ok();
    daemon.wait_for(&waits, "succeeded");
    daemon.try_submit(&fake("new", "obey"), "another").ok();
}
