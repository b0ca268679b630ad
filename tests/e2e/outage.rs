//! Object storage that is away for as long as it likes, with a real S3 server stopped and started again: training goes on, its checkpoints wait on this machine within their limit, survive
//! the worker, and are sent when the store is back; the model is that of an undisturbed run, bit for bit.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    s3::setup,
    s3_server::Server,
    support::{
        Daemon, Setup, Worker,
        daemon::worker_pid,
        processes,
        specs::{Length, training},
        until,
    },
};

/// A few seconds of training, with a checkpoint of 900 KB about every tenth of one.
fn job(steps: u64) -> Value {
    let mut spec = training(Worker::Real, "outage", Length::Long);
    spec["train"]["max_steps"] = steps.into();
    spec["checkpoint"] = json!({"every_steps": 20, "keep": 3});
    spec
}

/// The model's digest of an undisturbed run.
fn undisturbed(spec: &Value) -> Value {
    let mut daemon = Daemon::with(Worker::Real);
    let id = daemon.submit(spec);
    daemon.wait_for(&id, "succeeded")["model"]["digest"].clone()
}

/// A daemon with everything in the bucket that does not wait long for it.
fn daemon(server: &Server, keys: &Path, more: &[&str]) -> Daemon {
    let setup = setup(server, &keys.join("key")).set("storage.s3.retry_seconds=1");
    more.iter().fold(setup, |setup: Setup, assignment| setup.set(assignment)).start()
}

/// The steps of the checkpoints that wait in an attempt's folder.
fn waiting(daemon: &Daemon, id: &str, attempt: u64) -> Vec<(u64, PathBuf)> {
    let folder = daemon.state_dir.join(format!("attempts/{id}/{attempt}/spool/checkpoints"));
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let whole = entries.filter(|entry| entry.path().join("manifest.json").is_file());
    let mut found: Vec<_> =
        whole.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect();
    found.sort();
    found
}

fn away(job: &Value) -> &Value {
    &job["progress"]["storage_away"]
}

fn warnings(daemon: &Daemon, id: &str) -> Vec<String> {
    let events = daemon.events(id);
    let warned = events.iter().filter(|event| event["event"] == "warned");
    warned.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
}

fn said(daemon: &Daemon, id: &str, words: &str) -> bool {
    warnings(daemon, id).iter().any(|message| message.contains(words))
}

#[test]
fn training_ends_without_its_storage_and_its_results_wait_for_it() {
    let Some(mut server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let spec = job(400);
    let expected = undisturbed(&spec);
    // Who waits for the store is not taken for hung.
    let mut daemon = daemon(&server, keys.path(), &["workers.hang_seconds=5"]);
    let id = daemon.submit(&spec);
    daemon.wait_for_checkpoint(&id, 1);
    server.kill();
    let job = daemon.wait_until(&id, "has done all its steps", |job| away(job)["waiting"] == true);
    assert_eq!(job["progress"]["step"], 400, "{job:#}");
    assert!(away(&job)["checkpoints"].as_u64().unwrap() >= 1, "{job:#}");
    let why = daemon.mlctl(&["why", &id]).ok();
    assert!(why.contains("the object storage does not answer") && why.contains("wait for it"), "{why}");
    assert!(said(&daemon, &id, "the object storage does not answer since 20"), "{:?}", warnings(&daemon, &id));
    assert!(!waiting(&daemon, &id, 1).is_empty());
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!(daemon.job(&id)["state"], "running", "it has waited longer than a hung one may");
    server.start_again();
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["model"]["digest"], &job["attempt"]), (&expected, &json!(1)), "{job:#}");
    assert_eq!((&job["checkpoint"]["step"], away(&job)), (&json!(400), &Value::Null), "{job:#}");
    assert!(said(&daemon, &id, "is back"), "{:?}", warnings(&daemon, &id));
    assert!(waiting(&daemon, &id, 1).is_empty(), "nothing waits any more");
    daemon.wait_for_kept(&id, 3);
    let verified = daemon.mlctl(&["checkpoint", "verify", &id, "-o", "json"]).json();
    assert_eq!(verified["ok"], true, "{verified:#}");
    let steps: Vec<_> = verified["checkpoints"].as_array().unwrap().iter().map(|kept| kept["step"].clone()).collect();
    assert_eq!(steps.len(), 3, "the newest three, as without an outage: {verified:#}");
    assert!(steps.contains(&json!(400)), "{steps:?}");
}

#[test]
fn what_a_killed_worker_could_not_send_is_gone_on_from() {
    let Some(mut server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let spec = job(1000);
    let expected = undisturbed(&spec);
    let mut daemon = daemon(&server, keys.path(), &[]);
    let id = daemon.submit(&spec);
    daemon.wait_for_checkpoint(&id, 1);
    server.kill();
    let job =
        daemon.wait_until(&id, "keeps some here", |job| away(job)["checkpoints"].as_u64().is_some_and(|kept| kept > 2));
    let stored = daemon.job(&id)["checkpoint"]["step"].as_u64().unwrap();
    processes::kill(worker_pid(&job).unwrap());
    // The store is still away: there is nothing else to go on from than what is here.
    daemon.wait_until(&id, "goes on", |job| job["attempt"] == 2 && away(job)["checkpoints"].as_u64() > Some(1));
    let resumed = daemon.events(&id).into_iter().find(|event| event["event"] == "resumed").unwrap();
    let step = resumed["step"].as_u64().unwrap();
    assert!(step > stored, "it goes on from step {step}: the store had step {stored}");
    until("what the first attempt left is not needed any more", || waiting(&daemon, &id, 1).is_empty().then_some(()));
    assert!(waiting(&daemon, &id, 2).iter().any(|(kept, _)| *kept == step), "it is the second one's to send");
    server.start_again();
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["model"]["digest"], &job["attempt"]), (&expected, &json!(2)), "{job:#}");
    daemon.wait_for_kept(&id, 3);
    assert_eq!(daemon.mlctl(&["checkpoint", "verify", &id, "-o", "json"]).json()["ok"], true);
}

/// A job that predicts so many generated rows with the model of another.
fn predicting(model: &Value, rows: u64, batch_size: u64) -> Value {
    json!({
        "version": 1, "name": "predicts", "retry": {"limit": 0, "infrastructure_limit": 0},
        "infer": {
            "model": {"from": model["uri"]}, "batch_size": batch_size,
            "data": {"format": "randn", "rows": rows, "features": 32, "targets": 8, "seed": 9}
        },
    })
}

#[test]
fn predictions_wait_for_their_storage_and_are_those_of_an_undisturbed_run() {
    let Some(mut server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let mut daemon = daemon(&server, keys.path(), &["workers.hang_seconds=25", "workers.heartbeat_seconds=1"]);
    // So large that the fastest machine tells of its predictions before the last.
    let mut spec = job(20);
    spec["train"]["model"]["layers"] = json!([32, 512, 512, 8]);
    let id = daemon.submit(&spec);
    let model = daemon.wait_for(&id, "succeeded")["model"].clone();
    // More than a part of an upload, so that the store goes away between two of them; and less, which is sent at the end alone.
    for (rows, batch_size) in [(120_000, 20), (40_000, 1)] {
        let spec = predicting(&model, rows, batch_size);
        let expected = daemon.submit(&spec);
        let expected = daemon.wait_for(&expected, "succeeded")["output"].clone();
        let id = daemon.submit(&spec);
        let job = daemon.wait_until(&id, "is on its way", |job| job["progress"]["records"].as_u64() > Some(rows / 20));
        assert_eq!(job["state"], "running", "it is over before anything could be tried: {job:#}");
        server.kill();
        let job = daemon.wait_until(&id, "has predicted all", |job| away(job)["waiting"] == true);
        assert_eq!(job["progress"]["records"], rows, "{job:#}");
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert_eq!(daemon.job(&id)["state"], "running");
        let why = daemon.mlctl(&["why", &id]).ok();
        assert!(why.contains("the object storage does not answer") && why.contains("wait for it"), "{why}");
        server.start_again();
        let job = daemon.wait_for(&id, "succeeded");
        assert_eq!((&job["attempt"], &job["output"]["records"]), (&json!(1), &json!(rows)), "{job:#}");
        assert!(said(&daemon, &id, "is back"), "{:?}", warnings(&daemon, &id));
        let (one, other) = (read(&server, &expected["uri"]), read(&server, &job["output"]["uri"]));
        assert!(one == other && !one.is_empty(), "{} and {} bytes", one.len(), other.len());
    }
}

#[test]
fn what_a_killed_command_had_completed_and_could_not_store_is_told_of() {
    let Some(mut server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let daemon = daemon(&server, keys.path(), &["workers.grace_seconds=1"]);
    let line = "echo one > $ML_CHECKPOINT_DIR/step-$ML_ATTEMPT; while [ ! -e go ]; do sleep 0.05; done";
    let args = ["submit", "-q", "--retries", "2", "--checkpoint-dir", "checkpoints", "--", "sh", "-c", line];
    server.kill();
    let id = daemon.mlctl(&args).ok().trim().to_owned();
    until("it says that one is not stored", || said(&daemon, &id, "step-1 is not stored").then_some(()));
    processes::kill(worker_pid(&daemon.job(&id)).unwrap());
    daemon.wait_until(&id, "is tried again", |job| job["attempt"] == 2 && worker_pid(job).is_some());
    until("the next attempt tells of it", || {
        said(&daemon, &id, "attempt 1 had completed a checkpoint that it could not store").then_some(())
    });
    let lies = daemon.state_dir.join("attempts").join(&id).join("1/checkpoints/step-1");
    assert!(lies.is_file() && said(&daemon, &id, &lies.display().to_string()), "{:?}", warnings(&daemon, &id));
    server.start_again();
    daemon.wait_until(&id, "has stored its own", |job| job["checkpoint"]["step"] == 2);
    assert!(!daemon.state_dir.join("attempts").join(&id).join("2/unsent").exists());
    daemon.write("go", "");
    daemon.wait_for(&id, "succeeded");
}

/// An object of the bucket.
fn read(server: &Server, uri: &Value) -> Vec<u8> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stores = mlctl_artifacts::Stores::with_s3(Some(server.access()));
    runtime.block_on(async { stores.open(uri.as_str().unwrap()).unwrap().get(1 << 30).await.unwrap().to_vec() })
}

#[test]
fn beyond_the_limit_the_newest_are_kept_and_patience_has_an_end() {
    let Some(mut server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    // Long enough that many are taken after the store was given up.
    let mut spec = job(2000);
    let expected = undisturbed(&spec);
    spec["retry"] = json!({"limit": 0, "infrastructure_limit": 0});
    let limit = 2_000_000_u64;
    let limited = format!("storage.spool_max_bytes={limit}");
    let mut daemon = daemon(&server, keys.path(), &[&limited, "storage.outage_seconds=1"]);
    let id = daemon.submit(&spec);
    daemon.wait_for_checkpoint(&id, 1);
    server.kill();
    let job = daemon.wait_for(&id, "failed");
    assert_eq!(job["exit_class"], "storage", "{job:#}");
    let message = job["exit_message"].as_str().unwrap();
    assert!(message.contains("what could not be sent (2 checkpoints)"), "{message}");
    let warned = warnings(&daemon, &id);
    let given_up =
        warned.iter().find_map(|message| message.strip_prefix("the checkpoint at step ")?.split_once(" is given up"));
    let given_up: u64 = given_up.unwrap_or_else(|| panic!("{warned:?}")).0.parse().unwrap();
    let kept = waiting(&daemon, &id, 1);
    let steps: Vec<u64> = kept.iter().map(|(step, _)| *step).collect();
    assert!(steps.len() == 2 && steps[0] > given_up && steps[1] == 2000, "the newest: {steps:?}, not {given_up}");
    let bytes: u64 = kept
        .iter()
        .flat_map(|(_, folder)| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < limit + 10_000, "{bytes} bytes and two manifests");
    server.start_again();
    daemon.mlctl(&["retry", &id]).ok();
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["model"]["digest"], &job["checkpoint"]["step"]), (&expected, &json!(2000)), "{job:#}");
    assert!(waiting(&daemon, &id, 1).is_empty() && waiting(&daemon, &id, 2).is_empty());
    assert_eq!(daemon.mlctl(&["checkpoint", "verify", &id, "-o", "json"]).json()["ok"], true);
}
