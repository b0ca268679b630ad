//! Workers that were stopped (SIGSTOP) for longer than their lease, and wake up. One is found by the daemon and replaced. The other has got out of its sight, so that it lives on beside its
//! successor: what it does then must change nothing, neither on record nor in storage.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    processes,
    specs::{Length, training},
    until,
};

/// A worker whose first process starts the real one where no daemon looks for it: in a session of its own, without the mark.
fn escaping(folder: &Path) -> Setup {
    let setup = Setup::of(Worker::Real);
    let (script, out, worker) = (folder.join("worker.sh"), folder.display(), setup.worker.display());
    let text = format!(
        "#!/bin/sh\ncat > launch.json\nif mkdir {out}/escaped 2>/dev/null; then\n\
         env -u ML_RUN_DIR setsid {worker} < launch.json > {out}/stale.log 2>&1 &\necho $! > {out}/stale.pid\nexec sleep 100000\nfi\n\
         exec {worker} < launch.json\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    Setup { worker: script, ..setup }.set("workers.lease_seconds=10").set("workers.grace_seconds=1")
}

/// Long enough to be stopped in, with an end and a digest.
fn learning(name: &str) -> Value {
    let mut spec = training(Worker::Real, name, Length::Long);
    spec["checkpoint"]["keep"] = json!(100);
    spec["train"]["model"]["layers"] = json!([32, 128, 128, 8]);
    spec
}

#[test]
fn a_worker_that_wakes_after_its_lease_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = escaping(folder.path()).start();
    let contested = daemon.submit(&learning("contested"));
    daemon.wait_for_checkpoint(&contested, 1);
    let read = || fs::read_to_string(folder.path().join("stale.pid")).ok()?.trim().parse::<u32>().ok();
    let stale = until("the worker has escaped", read);
    processes::signal(stale, Signal::STOP);
    let alone = daemon.submit(&learning("alone"));
    let found = daemon.submit(&training(Worker::Real, "found", Length::Endless));
    let stopped = daemon.wait_for_checkpoint(&found, 1);
    processes::signal(stopped, Signal::STOP);

    // Both leases run out, and both jobs go on from their last checkpoint.
    daemon.wait_for_checkpoint(&found, 2);
    assert!(!processes::is_alive(stopped), "a stopped worker is killed before another takes its place");
    processes::signal(stopped, Signal::CONT);
    daemon.wait_until(&contested, "has another attempt", |job| job["attempt"] == 2 && worker_pid(job).is_some());
    assert!(processes::is_alive(stale), "the other one is out of reach");
    daemon.wait_for_checkpoint(&contested, 2);
    let before = made_by_first(&daemon, &contested);
    processes::signal(stale, Signal::CONT);
    until("the stale worker ends by itself", || (!processes::is_alive(stale)).then_some(()));

    let job = daemon.wait_for(&contested, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(2), &json!(0)), "{job:#}");
    assert_eq!(job["model"]["digest"], daemon.wait_for(&alone, "succeeded")["model"]["digest"], "the same bits");
    assert_eq!(made_by_first(&daemon, &contested), before, "nothing of it is on record after its end");
    let events = daemon.events(&contested);
    let end = events.iter().position(|event| event["event"] == "requeued").unwrap();
    assert_eq!(events[end]["exit"]["class"], "lost", "{:#}", events[end]);
    assert!(events[end + 1..].iter().all(|event| event["attempt"] != 1), "{events:#?}");
    let verified = daemon.client.post(&format!("/v1/jobs/{contested}/checkpoints/verify"), &json!({})).ok();
    assert!(!verified.to_string().contains("\"damaged\""), "{verified:#}");
    let why = daemon.events(&found).into_iter().find(|event| event["event"] == "requeued").unwrap();
    assert!(why.to_string().contains("no heartbeat for 10 seconds"), "{why:#}");
    daemon.client.post(&format!("/v1/jobs/{found}/cancel"), &json!({})).ok();
    daemon.wait_for(&found, "cancelled");
}

/// The steps that the first attempt has on record.
fn made_by_first(daemon: &Daemon, id: &str) -> Vec<u64> {
    let list = daemon.client.get(&format!("/v1/jobs/{id}/checkpoints")).ok();
    let all = list["checkpoints"].as_array().unwrap().iter().filter(|checkpoint| checkpoint["attempt"] == 1);
    all.map(|checkpoint| checkpoint["step"].as_u64().unwrap()).collect()
}

/// What a worker does that hangs for shorter than its lease is its own business.
#[test]
fn a_worker_that_wakes_within_its_lease_goes_on() {
    let mut daemon = Setup::of(Worker::Real).set("workers.lease_seconds=60").start();
    let id = daemon.submit(&learning("patient"));
    let pid = daemon.wait_for_checkpoint(&id, 1);
    processes::signal(pid, Signal::STOP);
    std::thread::sleep(Duration::from_secs(3));
    processes::signal(pid, Signal::CONT);
    assert_eq!(daemon.wait_for(&id, "succeeded")["attempt"], 1);
}
