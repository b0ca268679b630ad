//! Versions of models with real programs, and the collection of what nothing needs: what killed workers left is found and goes while jobs run, and what anything needs stays.

use std::path::Path;

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    processes,
    specs::{Length, training},
    until,
};

/// Workers that are killed at most until one has left something.
const KILLS: u64 = 8;

#[test]
fn a_success_becomes_a_version_that_outlives_its_job() {
    let mut daemon = Daemon::with(Worker::Real);
    let mut spec = training(Worker::Real, "short", Length::Short);
    spec["train"]["register"] = "digits".into();
    let id = daemon.submit(&spec);
    daemon.wait_for(&id, "succeeded");
    let shown = until("the version", || {
        let run = daemon.mlctl(&["model", "show", "digits", "-o", "json"]);
        (run.code == 0).then(|| run.json())
    });
    let version = &shown["versions"][0];
    assert_eq!((version["version"].as_u64(), version["job"].as_str()), (Some(1), Some(id.as_str())), "{shown:#}");
    assert_eq!(version["digest"], daemon.job(&id)["model"]["digest"]);
    assert!(version["dataset_digest"].is_string() && version["metrics"]["val_loss"].is_number(), "{version:#}");
    let folder = Path::new(version["uri"].as_str().unwrap().strip_prefix("file://").unwrap());
    for object in version["objects"].as_array().unwrap() {
        let bytes = std::fs::read(folder.join(object["name"].as_str().unwrap())).unwrap();
        assert_eq!(object["blake3"], mlctl_artifacts::blake3_hex(&bytes));
    }
    let step = daemon.job(&id)["checkpoint"]["step"].as_u64().unwrap();
    let verified = daemon.mlctl(&["checkpoint", "verify", "--all", "-o", "json"]).json();
    assert_eq!((verified["ok"].as_bool(), verified["jobs"][0]["id"].as_str()), (Some(true), Some(id.as_str())));
    assert!(daemon.mlctl(&["checkpoint", "verify", "--all"]).ok().contains("whole"));
    daemon.mlctl(&["checkpoint", "rm", &format!("{id}/{step}")]).must_fail(5, &["it is the newest"]);
    daemon.mlctl(&["checkpoint", "rm", &format!("{id}/999999")]).must_fail(4, &["no checkpoint"]);
    let said = daemon.mlctl(&["model", "add", "best", &format!("{id}/{step}")]).ok();
    assert!(said.contains("version 1 of model best"), "{said}");
    daemon.mlctl(&["rm", "--objects", &id]).must_fail(5, &["a version of a model holds"]);
    daemon.mlctl(&["model", "rm", "best/1"]).ok();
    daemon.mlctl(&["rm", &id]).ok();
    assert_eq!(daemon.mlctl(&["model", "ls", "-o", "name"]).ok(), "best\ndigits\n");
    // Even where the results of removed jobs are to go.
    daemon.mlctl(&["checkpoint", "gc", "--grace", "0", "--results"]).ok();
    assert!(folder.join("model.safetensors").is_file());
    daemon.mlctl(&["model", "rm", "digits/1"]).ok();
    daemon.mlctl(&["checkpoint", "gc", "--grace", "0"]).ok();
    assert!(folder.join("model.safetensors").is_file(), "a removed job's model is left for who wants it");
    daemon.mlctl(&["checkpoint", "gc", "--grace", "0", "--results"]).ok();
    assert_eq!(std::fs::read_dir(daemon.state_dir.join("objects/jobs")).unwrap().count(), 0, "no folder is left");
}

#[test]
fn what_killed_workers_leave_is_collected_while_jobs_run() {
    let mut daemon = Setup::of(Worker::Real).start();
    let mut spec = training(Worker::Real, "endless", Length::Endless);
    spec["checkpoint"] = serde_json::json!({"every_steps": 5, "keep": 2});
    spec["retry"]["limit"] = 100.into();
    let id = daemon.submit(&spec);
    let objects = daemon.state_dir.join("objects/jobs");
    // Killed in the middle of a checkpoint sooner or later; each attempt has a folder of its own. What the job's own retention is about to delete is garbage for that moment, too.
    let stray = |daemon: &Daemon| {
        let run = daemon.mlctl(&["checkpoint", "gc", "--dry-run", "--grace", "0", "-o", "json"]).json();
        run["garbage"]["objects"].as_u64().unwrap()
    };
    let mut attempt = 0;
    while attempt == 0 || stray(&daemon) == 0 && attempt < KILLS {
        attempt += 1;
        processes::kill(daemon.wait_for_checkpoint(&id, attempt));
        daemon.wait_until(&id, "the next attempt", |job| job["attempt"].as_u64() > Some(attempt));
    }
    // What a kill that hits a write leaves: whether one has is up to chance.
    let home = std::fs::read_dir(&objects).unwrap().next().unwrap().unwrap().path();
    let folder = home.join("1/checkpoints/000000000999");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("state.json"), "half").unwrap();
    let long = daemon.mlctl(&["checkpoint", "gc", "--grace", "1d", "-o", "json"]).json();
    assert_eq!((long["deleted"]["objects"].as_u64(), long["young"]["objects"].as_u64() > Some(0)), (Some(0), true));
    let done = daemon.mlctl(&["checkpoint", "gc", "--grace", "0", "-o", "json"]).json();
    assert!(done["deleted"]["objects"].as_u64() > Some(0) && done["failed"] == 0, "{done:#}");
    assert!(!folder.join("state.json").exists(), "{done:#}");
    until("once is enough", || (stray(&daemon) == 0).then_some(()));
    // The job goes on from what it has, and all of that is whole.
    daemon.mlctl(&["checkpoint", "verify", &id]).ok();
    let step = daemon.job(&id)["checkpoint"]["step"].as_u64();
    daemon.wait_until(&id, "the next checkpoint", |job| job["checkpoint"]["step"].as_u64() > step);
    let pid = worker_pid(&daemon.job(&id)).unwrap();
    processes::kill(pid);
    let last = daemon.job(&id)["attempt"].as_u64().unwrap();
    daemon.wait_until(&id, "an attempt that goes on", |job| job["attempt"].as_u64() > Some(last));
    assert!(daemon.count(&id, "resumed") > 0);
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}
