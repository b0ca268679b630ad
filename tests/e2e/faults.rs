//! Workers that misbehave, and a disk that is full. The fake worker plays them all: whatever it does, its job ends in a class that names what happened, nothing of it is left
//! alive, and the daemon serves on.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use mlctl_link::frame::WorkerStream;
use mlctl_protocol::{
    launch::Launch,
    message::{FromWorker, Hello, ToWorker},
};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::support::{Daemon, Setup, Worker, daemon::worker_pid, mount::Disk, processes, specs::fake, until};

/// A job of this script that is not tried again.
fn once(script: &str) -> Value {
    let mut spec = fake("once", script);
    spec["retry"] = json!({"limit": 0, "infrastructure_limit": 0});
    spec
}

/// Runs a script to its end, which must be a failure of this class, for a reason that has these words.
fn ends_as(daemon: &mut Daemon, script: &str, class: &str, words: &str) {
    let id = daemon.submit(&once(script));
    let job = daemon.wait_for(&id, "failed");
    assert_eq!(job["exit_class"], class, "{script}: {job:#}");
    assert!(job["exit_message"].as_str().unwrap().contains(words), "{script}: {job:#}");
    assert!(job["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{script}: {job:#}");
}

#[test]
fn every_death_has_its_class() {
    let mut daemon = Daemon::with(Worker::Fake);
    for (script, class, words) in [
        ("no-result", "crash", "exited with code 0 and left no result"),
        ("exit:3", "crash", "exited with code 3"),
        ("steps:5:1; signal:11", "crash", "signal 11 (SIGSEGV)"),
        ("signal:9", "crash", "signal 9 (SIGKILL)"),
        ("panic", "crash", "left no result"),
        ("fail:spec:no such column: y", "spec", "no such column: y"),
        ("fail:oom_device:out of memory", "oom_device", "out of memory"),
        ("fail:storage:the bucket is gone", "storage", "the bucket is gone"),
        ("dance", "spec", "\"dance\" is not understood"),
    ] {
        ends_as(&mut daemon, script, class, words);
    }
}

#[test]
fn a_lie_is_not_believed() {
    let mut daemon = Daemon::with(Worker::Fake);
    ends_as(&mut daemon, "lie:token", "crash", "cannot be true");
    // These end well only if the daemon saw through them: the fake fails by itself when it is believed.
    for script in
        ["lie:attempt; obey", "garbage-frame; obey", "huge-frame; obey", "steps:6:5; lie:step-backwards; obey"]
    {
        let id = daemon.submit(&once(script));
        let job = daemon.wait_for(&id, "succeeded");
        assert_eq!(job["progress"]["step"], 10, "{script}: {job:#}");
    }
}

/// Of another version of the protocol, and of this one with words that only later workers know.
#[test]
fn a_worker_that_speaks_otherwise_is_understood_or_told_why_not() {
    let mut daemon = Daemon::with(Worker::Fake);
    // Of garbage it is said that the connection was closed for it, and of nothing else.
    for (script, is_closed) in
        [("skew:other-version; obey", false), ("skew:news; obey", false), ("garbage-frame; obey", true)]
    {
        let id = daemon.submit(&once(script));
        let job = daemon.wait_for(&id, "succeeded");
        assert_eq!(job["progress"]["step"], 10, "{script}: {job:#}");
        assert_eq!(daemon.log().contains("a worker's connection was closed"), is_closed, "{script}");
    }
}

#[test]
fn a_crash_loop_ends_in_failed_after_its_retries() {
    let mut daemon = Daemon::with(Worker::Fake);
    let mut spec = fake("loop", "steps:2:1; signal:6");
    spec["retry"] = json!({"limit": 2, "backoff_seconds": 1, "max_backoff_seconds": 1});
    let id = daemon.submit(&spec);
    let job = daemon.wait_for(&id, "failed");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(3), &json!(2)));
    assert_eq!(job["exit_class"], "crash");
    let attempts = daemon.client.get(&format!("/v1/jobs/{id}/attempts")).ok();
    assert_eq!(attempts["attempts"].as_array().map(Vec::len), Some(3));
    assert_eq!(daemon.count(&id, "failed"), 1);
}

#[test]
fn a_spec_error_is_not_tried_again() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&fake("wrong", "fail:spec:column \"y\" is not in the file"));
    assert_eq!(daemon.wait_for(&id, "failed")["attempt"], 1);
}

#[test]
fn a_hung_worker_is_found_by_its_lack_of_progress_and_killed() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.hang_seconds=2").set("workers.grace_seconds=1").start();
    // Mute, and alive but idle.
    for script in ["steps:7:1; hang", "steps:7:1; hang-alive"] {
        let id = daemon.submit(&once(script));
        let job = daemon.wait_for(&id, "failed");
        assert_eq!(job["exit_class"], "hang", "{script}: {job:#}");
        assert!(job["exit_message"].as_str().unwrap().contains("no progress for 2 seconds"), "{job:#}");
        assert!(!processes::is_alive(worker_pid(&job).unwrap()));
    }
}

#[test]
fn a_cancel_holds_though_the_worker_ignores_it() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.grace_seconds=1").start();
    let id = daemon.submit(&fake("deaf", "ignore-term; spawn-child; steps:10000000:5"));
    let pid = daemon.wait_for_checkpoint(&id, 1);
    daemon.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).ok();
    let job = daemon.wait_for(&id, "cancelled");
    assert_eq!(job["exit_class"], "cancelled");
    assert!(!processes::is_alive(pid));
    assert!(processes::of_attempts(&daemon.state_dir).is_empty(), "nor is its child left");
}

#[test]
fn a_child_of_a_worker_does_not_outlive_the_job() {
    let mut daemon = Daemon::with(Worker::Fake);
    for (script, state) in [("spawn-child; obey", "succeeded"), ("spawn-child; signal:9", "failed")] {
        let id = daemon.submit(&once(script));
        daemon.wait_for(&id, state);
        let said = daemon.client.get(&format!("/v1/jobs/{id}/logs?stream=stdout")).text;
        assert!(said.contains("child "), "{script}: there was a child: {said}");
        assert!(processes::of_attempts(&daemon.state_dir).is_empty(), "{script}");
    }
}

#[test]
fn a_flood_of_output_is_bounded_and_harms_no_job() {
    let (bytes, files) = (1 << 20, 3);
    let setup = Setup::of(Worker::Fake).set(&format!("workers.log_max_bytes={bytes}"));
    let mut daemon = setup.set(&format!("workers.log_files={files}")).start();
    let id = daemon.submit(&once("flood:268435456; obey"));
    daemon.wait_for(&id, "succeeded");
    let attempt = daemon.state_dir.join("attempts").join(&id).join("1");
    let kept = || {
        let entries = std::fs::read_dir(&attempt).unwrap().filter_map(Result::ok);
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("stdout"))
            .filter_map(|entry| Some(entry.metadata().ok()?.len()))
            .sum::<u64>()
    };
    // What is cut off takes an eighth more each time that it grows while it is copied, and a line that says what was dropped.
    let bound = bytes * files + (bytes / 8 + 200) * (files - 1);
    until("the log is cut", || (kept() <= bound).then_some(()));
    let said = daemon.client.get(&format!("/v1/jobs/{id}/logs?stream=stdout&tail=2")).text;
    assert!(said.contains("step 10 of 10"), "the end of the log is what is kept: {said}");
}

/// A worker that writes its secret down before it works, so that a test can play its ghost.
fn with_known_secret(folder: &Path) -> Setup {
    let script = folder.join("worker.sh");
    let fake = Worker::Fake.program();
    std::fs::write(&script, format!("#!/bin/sh\ncat > launch.json\nexec {} < launch.json\n", fake.display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    Setup { worker: script, ..Setup::of(Worker::Fake) }
}

#[test]
fn a_stale_worker_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = with_known_secret(folder.path()).start();
    let id = daemon.submit(&fake("contested", "steps:10000000:10"));
    processes::kill(daemon.wait_for_checkpoint(&id, 1));
    daemon.wait_for_checkpoint(&id, 2);
    let launch = |attempt: u32| {
        let path = daemon.state_dir.join("attempts").join(&id).join(attempt.to_string()).join("launch.json");
        serde_json::from_slice::<Launch>(&std::fs::read(path).unwrap()).unwrap()
    };
    let (first, second) = (launch(1), launch(2));
    let ghost = Launch { attempt: second.attempt, ..first.clone() };
    for (launch, who) in [(&first, "the killed attempt"), (&ghost, "the killed attempt under the new one's number")] {
        for started in [false, true] {
            assert!(matches!(dial(launch, started), ToWorker::Refused { .. }), "{who}, started: {started}");
        }
    }
    assert!(matches!(dial(&second, true), ToWorker::Welcome { .. }), "the secret is what decides");
    let job = daemon.job(&id);
    assert_eq!((&job["state"], &job["attempt"]), (&json!("running"), &json!(2)), "the ghost has changed nothing");
}

/// Says hello on the workers' socket, and returns the answer.
fn dial(launch: &Launch, started: bool) -> ToWorker {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stream = WorkerStream::new(UnixStream::connect(&launch.socket).await.unwrap());
        let hello = Hello {
            job: launch.job,
            attempt: launch.attempt,
            secret: launch.secret.clone(),
            pid: std::process::id(),
            worker: "ghost".into(),
            started,
        };
        stream.send(FromWorker::Hello(hello)).await.unwrap();
        stream.recv().await.unwrap().expect("an answer")
    })
}

#[test]
fn a_worker_that_cannot_be_started_fails_its_job_and_not_the_daemon() {
    let missing = Setup { worker: "/nonexistent/mlworker".into(), ..Setup::of(Worker::Fake) };
    let mut daemon = missing.start();
    let id = daemon.submit(&once("obey"));
    let job = daemon.wait_for(&id, "failed");
    assert!(job["exit_message"].as_str().unwrap().contains("/nonexistent/mlworker"), "{job:#}");
    assert!(job["exit_hint"].as_str().unwrap().contains("workers.command"), "{job:#}");
}

#[test]
fn a_full_disk_refuses_new_work_and_keeps_the_old() {
    let Some(disk) = Disk::tmpfs(8 << 20) else { return };
    let setup = Setup { state_dir: Some(disk.path.join("s")), ..Setup::of(Worker::Fake) };
    // Nothing else is dispatched meanwhile: the queue alone fills the disk.
    let mut daemon = setup.set("workers.cpus=1").set("daemon.disk_reserve_bytes=0").start();
    let holder = daemon.submit(&fake("holder", "sleep:600000"));
    daemon.wait_until(&holder, "runs", |job| job["state"] == "running");
    let filler = disk.path.join("filler");
    let free = disk.free();
    std::fs::write(&filler, vec![0; usize::try_from(free).unwrap().saturating_sub(256 << 10)]).unwrap();
    let mut spec = fake("waiting", "obey");
    for label in ["a", "b", "c", "d"] {
        spec["labels"][label] = "x".repeat(1000).into();
    }
    let mut acknowledged = Vec::new();
    let refused = until("the disk is full", || {
        let answer = daemon.try_submit(&spec, &format!("key-{}", acknowledged.len()));
        if answer.status < 300 {
            acknowledged.push(answer.body["id"].as_str().unwrap().to_owned());
            return None;
        }
        Some(answer)
    });
    assert_eq!(refused.error(), "disk_full", "{}", refused.text);
    for id in &acknowledged {
        assert_eq!(daemon.job(id)["state"], "queued", "what was acknowledged is there");
    }
    std::fs::remove_file(&filler).unwrap();
    let after =
        until("there is room again", || Some(daemon.try_submit(&spec, "after")).filter(|answer| answer.status < 300));
    daemon.kill();
    daemon.start();
    for id in acknowledged.iter().chain(after.body["id"].as_str().map(str::to_owned).iter()) {
        assert_eq!(daemon.job(id)["state"], "queued", "and after a crash as well");
    }
}

#[test]
fn a_job_that_takes_more_memory_than_it_asked_for_is_ended_as_out_of_memory() {
    let daemon = Setup::of(Worker::Fake).set("workers.heartbeat_seconds=1").start();
    let submit = |mem: &str, script: &str| {
        let args = ["submit", "-o", "name", "--mem", mem, "--retries", "0", "--", "/usr/bin/python3", "-c", script];
        daemon.mlctl(&args).ok().trim().to_owned()
    };
    // Both touch 200 MiB and would sleep for a minute; one has asked for it.
    let script = "x = bytearray(200 << 20)\nimport time\ntime.sleep(60)";
    let greedy = submit("100MiB", script);
    let honest =
        submit("1GiB", "x = bytearray(200 << 20)\nimport time\ntime.sleep(3)\nwhile time.process_time() < 0.5: pass");
    let ended = daemon.wait_for(&greedy, "failed");
    assert_eq!(ended["exit_class"], "oom_host", "{ended}");
    let message = ended["exit_message"].as_str().unwrap();
    assert!(message.contains("more than the 100 MiB that it had asked for"), "{message}");
    let ended = daemon.wait_for(&honest, "succeeded");
    assert!(ended["peak_rss_bytes"].as_u64().unwrap() > 200 << 20, "{ended}");
    // The kernel counts in ticks of a hundredth.
    let seconds = ended["cpu_seconds"].as_f64().unwrap();
    assert!((0.45..30.0).contains(&seconds), "what its child has used counts: {ended}");
}
