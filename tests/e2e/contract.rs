//! What the daemon and a worker owe each other. One set of scenarios, played by the fake worker and by the real one: where they differ, one of them is wrong.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    processes,
    specs::{Length, steps, training},
    until,
};

/// Makes a test of each scenario and worker.
macro_rules! played_by_both {
    ($($scenario:ident)*) => {
        mod fake {
            $(#[test] fn $scenario() { super::$scenario(super::Worker::Fake); })*
        }
        mod real {
            $(#[test] fn $scenario() { super::$scenario(super::Worker::Real); })*
        }
    };
}

played_by_both! {
    a_job_runs_to_its_end
    a_checkpoint_is_taken_on_demand
    a_cancelled_job_saves_its_work_and_is_gone_within_the_grace_time
    a_stopped_job_saves_its_work_and_a_retry_goes_on_from_there
    a_killed_worker_is_tried_again_from_its_last_checkpoint
    a_worker_outlives_its_daemon_and_is_adopted
    a_result_of_a_time_without_a_daemon_is_taken_once
    a_stopped_daemon_leaves_its_workers_alone
    a_job_waits_while_another_has_the_cores
}

fn a_job_runs_to_its_end(worker: Worker) {
    let mut daemon = Daemon::with(worker);
    let id = daemon.submit(&training(worker, "short", Length::Short));
    let job = daemon.wait_for(&id, "succeeded");
    let planned = steps(worker, Length::Short);
    assert_eq!(job["attempt"], 1);
    assert_eq!(job["retries_used"], 0);
    assert_eq!(job["exit_class"], "ok");
    assert_eq!(job["reason"], Value::Null);
    assert_eq!(job["progress"]["step"], planned, "{job:#}");
    assert_eq!(job["checkpoint"]["step"], planned);
    assert_eq!(job["model"]["digest"].as_str().map(str::len), Some(64));
    assert!(job["metrics"]["train_loss"].is_f64(), "{job:#}");
    for file in ["model.safetensors", "config.json"] {
        assert!(folder(&job["model"]["uri"]).join(file).is_file(), "the model has its {file}");
    }
    let happened: Vec<_> = daemon.events(&id).iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(happened[..3], ["submitted", "claimed", "launched"]);
    assert_eq!(happened.last().map(String::as_str), Some("succeeded"));
    assert!(happened.iter().any(|event| event == "checkpointed"));
    assert_whole_curve(&daemon, &id);
}

fn a_checkpoint_is_taken_on_demand(worker: Worker) {
    let mut daemon = Daemon::with(worker);
    let mut spec = training(worker, "endless", Length::Endless);
    spec["checkpoint"] = json!({"every_steps": 1_000_000_000});
    let id = daemon.submit(&spec);
    daemon.wait_until(&id, "has done a step", |job| job["progress"]["step"].as_u64() > Some(0));
    let taken = daemon.client.post(&format!("/v1/jobs/{id}/checkpoint"), &json!({})).ok();
    let step = taken["checkpoint"]["step"].as_u64().unwrap();
    assert!(step > 0);
    assert!(folder(&taken["checkpoint"]["uri"]).join("manifest.json").is_file(), "it is durable when it is answered");
    let job = daemon.wait_until(&id, "goes on", |job| job["progress"]["step"].as_u64() > Some(step));
    assert_eq!(job["state"], "running");
    assert_eq!(job["checkpoint"]["step"], step);
}

fn a_stopped_job_saves_its_work_and_a_retry_goes_on_from_there(worker: Worker) {
    let mut daemon = Daemon::with(worker);
    let mut spec = training(worker, "endless", Length::Endless);
    spec["checkpoint"] = json!({"every_steps": 1_000_000_000});
    let id = daemon.submit(&spec);
    let running = daemon.wait_until(&id, "has done a step", |job| job["progress"]["step"].as_u64() > Some(0));
    assert_eq!(running["checkpoint"], Value::Null, "nothing is saved yet");
    daemon.client.post(&format!("/v1/jobs/{id}/stop"), &json!({})).ok();
    let job = daemon.wait_for(&id, "cancelled");
    assert_eq!(job["exit_class"], "cancelled");
    let saved = job["checkpoint"]["step"].as_u64().unwrap();
    assert!(saved >= running["progress"]["step"].as_u64().unwrap(), "{job:#}");
    assert!(!daemon.log().contains("a worker is signalled"), "it was left the time that saving takes");
    daemon.client.post(&format!("/v1/jobs/{id}/retry"), &json!({})).ok();
    let again = daemon.wait_until(&id, "goes on", |job| job["progress"]["step"].as_u64() > Some(saved));
    assert_eq!(again["attempt"], 2);
    let resumed = daemon.events(&id).into_iter().find(|event| event["event"] == "resumed").unwrap();
    assert_eq!(resumed["step"], saved);
    daemon.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).ok();
    daemon.wait_for(&id, "cancelled");
}

fn a_cancelled_job_saves_its_work_and_is_gone_within_the_grace_time(worker: Worker) {
    let mut daemon = Daemon::with(worker);
    let id = daemon.submit(&training(worker, "endless", Length::Endless));
    let pid = daemon.wait_for_checkpoint(&id, 1);
    daemon.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).ok();
    let job = daemon.wait_for(&id, "cancelled");
    assert_eq!(job["exit_class"], "cancelled");
    assert!(!processes::is_alive(pid), "a cancelled job's worker is gone");
    assert!(
        !daemon.log().contains("a worker is signalled"),
        "it ended by itself, within the first half of the grace time"
    );
    let saved = job["checkpoint"]["step"].as_u64().unwrap();
    let again = daemon.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({}));
    assert_eq!(again.error(), "wrong_state", "a terminal state does not change");

    daemon.client.post(&format!("/v1/jobs/{id}/retry"), &json!({})).ok();
    let job = daemon.wait_until(&id, "goes on", |job| job["progress"]["step"].as_u64() > Some(saved));
    assert_eq!(job["attempt"], 2);
    let resumed = daemon.events(&id).into_iter().find(|event| event["event"] == "resumed").unwrap();
    assert_eq!(resumed["step"], saved, "what was saved at the cancel is what a retry goes on from");
}

fn a_killed_worker_is_tried_again_from_its_last_checkpoint(worker: Worker) {
    let mut daemon = Daemon::with(worker);
    let id = daemon.submit(&training(worker, "long", Length::Long));
    for attempt in 1..=2 {
        let pid = daemon.wait_for_checkpoint(&id, attempt);
        processes::kill(pid);
    }
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!(job["attempt"], 3);
    assert_eq!(job["retries_used"], 2);
    assert_eq!(job["progress"]["step"], steps(worker, Length::Long));
    let events = daemon.events(&id);
    let requeued: Vec<_> = events.iter().filter(|event| event["event"] == "requeued").collect();
    assert_eq!(requeued.len(), 2);
    assert!(requeued.iter().all(|event| event["exit"]["class"] == "crash"), "{requeued:?}");
    let resumed: Vec<_> = events.iter().filter(|event| event["event"] == "resumed").collect();
    assert_eq!(resumed.len(), 2, "both later attempts went on from a checkpoint");
    assert!(resumed[0]["step"].as_u64() < resumed[1]["step"].as_u64(), "and the second from a later one");
    assert_whole_curve(&daemon, &id);
}

fn a_worker_outlives_its_daemon_and_is_adopted(worker: Worker) {
    let mut daemon = Daemon::with(worker);
    let id = daemon.submit(&training(worker, "long", Length::Long));
    let pid = daemon.wait_for_checkpoint(&id, 1);
    for _ in 0..2 {
        daemon.kill();
        assert!(processes::is_alive(pid), "the end of the daemon ends no worker");
        daemon.start();
    }
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(1), &json!(0)), "the same attempt went on to its end");
    assert_eq!(worker_pid(&job), Some(pid));
    assert_whole_curve(&daemon, &id);
    assert_eq!(daemon.count(&id, "succeeded"), 1);
}

fn a_result_of_a_time_without_a_daemon_is_taken_once(worker: Worker) {
    let mut daemon = Daemon::with(worker);
    let id = daemon.submit(&training(worker, "long", Length::Long));
    daemon.wait_for_checkpoint(&id, 1);
    daemon.kill();
    let result = daemon.state_dir.join("attempts").join(&id).join("1").join("result.json");
    until("the worker leaves its result", || result.is_file().then_some(()));
    daemon.start();
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!(job["attempt"], 1);
    assert_eq!(job["progress"]["step"], steps(worker, Length::Long), "{job:#}");
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.job(&id)["state"], "succeeded");
    assert_eq!(daemon.count(&id, "succeeded"), 1);
    assert_whole_curve(&daemon, &id);
}

fn a_stopped_daemon_leaves_its_workers_alone(worker: Worker) {
    let mut daemon = Daemon::with(worker);
    let id = daemon.submit(&training(worker, "endless", Length::Endless));
    let pid = daemon.wait_for_checkpoint(&id, 1);
    assert!(daemon.stop().success());
    assert!(processes::is_alive(pid));
    daemon.start();
    let before = daemon.job(&id)["progress"]["step"].as_u64();
    let job = daemon.wait_until(&id, "is heard of again", |job| job["progress"]["step"].as_u64() > before);
    assert_eq!((worker_pid(&job), &job["attempt"]), (Some(pid), &json!(1)));
    daemon.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).ok();
    daemon.wait_for(&id, "cancelled");
    assert!(!processes::is_alive(pid), "an adopted worker can be ended too");
}

fn a_job_waits_while_another_has_the_cores(worker: Worker) {
    let mut daemon = Setup::of(worker).set("workers.cpus=1").start();
    let first = daemon.submit(&training(worker, "first", Length::Endless));
    let second = daemon.submit(&training(worker, "second", Length::Short));
    daemon.wait_until(&first, "runs", |job| job["state"] == "running");
    let waiting = daemon.job(&second);
    assert_eq!(waiting["state"], "queued");
    assert!(waiting["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "it says why it waits: {waiting:#}");
    daemon.client.post(&format!("/v1/jobs/{first}/cancel"), &json!({})).ok();
    daemon.wait_for(&second, "succeeded");
}

/// Every measurement is there once, in order, however often the job was interrupted.
fn assert_whole_curve(daemon: &Daemon, id: &str) {
    let points = daemon.points(id);
    let mut seen = BTreeSet::new();
    for point in &points {
        let names: Vec<_> = point["values"].as_object().unwrap().keys().cloned().collect();
        let step = point["step"].as_u64().unwrap();
        assert!(seen.insert((step, names)), "step {step} was measured twice: {points:?}");
    }
    let on_the_way: Vec<_> = points.iter().map(|point| point["step"].as_u64().unwrap()).collect();
    assert!(on_the_way.is_sorted(), "{on_the_way:?}");
    let gap = on_the_way.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    let first = on_the_way.first().copied().unwrap_or_default();
    assert!(first == 1 && gap <= 1, "no report is lost: begins with {first}, widest gap {gap}");
}

/// The folder of a `file://` URI.
fn folder(uri: &Value) -> PathBuf {
    uri.as_str().and_then(|uri| uri.strip_prefix("file://")).expect("a file URI").into()
}
