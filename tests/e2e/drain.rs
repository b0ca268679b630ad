//! A daemon that is to be stopped for good: nothing is started any more, what runs finishes or saves its work, and then the daemon ends. What waited runs under the next one, and no retry is used up.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Daemon, Setup, Worker, processes, programs,
    specs::{Length, fake, saved_by_order, training},
    until,
};

fn one_core(worker: Worker) -> Daemon {
    Setup::of(worker).set("workers.cpus=1").start()
}

fn drained(daemon: &Daemon) -> Value {
    daemon.client.get("/v1/daemon").ok()["dispatch"]["drain"].clone()
}

fn ended_well(daemon: &mut Daemon) {
    let status = daemon.ended();
    assert!(status.success(), "{status}");
    assert!(processes::of_attempts(&daemon.state_dir).is_empty(), "no worker is left");
}

#[test]
fn a_drained_daemon_lets_jobs_finish_and_stops_and_the_next_one_runs_the_rest() {
    let mut daemon = one_core(Worker::Fake);
    let runs = daemon.submit(&training(Worker::Fake, "runs", Length::Long));
    daemon.wait_for_checkpoint(&runs, 1);
    let waits = daemon.submit(&fake("waits", "obey"));
    let said = daemon.mlctl(&["daemon", "drain", "--no-wait"]).ok();
    assert!(said.contains("is being drained, and stops when no job runs any more"), "{said}");
    let drain = drained(&daemon);
    assert_eq!((&drain["jobs"], &drain["saving"], &drain["stop"]), (&json!([runs]), &json!(false), &json!(true)));
    let status = daemon.mlctl(&["daemon", "status"]).ok();
    assert!(status.contains("draining, asked for by"), "{status}");
    // Jobs are taken, and wait.
    let late = daemon.submit(&fake("late", "obey"));
    let why = daemon.mlctl(&["why", &late]).ok();
    assert!(why.contains("mld is being drained") && why.contains("daemon drain --resume"), "{why}");
    let said = daemon.mlctl(&["daemon", "drain"]);
    assert!(said.stderr.contains(&format!("waits for job {runs} to finish")), "{said:?}");
    assert!(said.ok().contains("is drained and has stopped"));
    ended_well(&mut daemon);

    daemon.start();
    let job = daemon.wait_for(&runs, "succeeded");
    assert_eq!(job["attempt"], 1, "it was let finish: {job:#}");
    for id in [&waits, &late] {
        let job = daemon.wait_for(id, "succeeded");
        assert_eq!(job["attempt"], 1, "{job:#}");
    }
}

#[test]
fn a_job_that_saved_its_work_for_a_drain_goes_on_to_the_same_bits() {
    let mut daemon = one_core(Worker::Real);
    let undisturbed = daemon.submit(&saved_by_order("undisturbed"));
    let undisturbed = daemon.wait_for(&undisturbed, "succeeded");
    let id = daemon.submit(&saved_by_order("drained"));
    daemon.wait_until(&id, "has done some steps", |job| job["progress"]["step"].as_u64() > Some(0));
    daemon.mlctl(&["daemon", "drain", "--checkpoint"]).ok();
    ended_well(&mut daemon);
    daemon.start();
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(2), &json!(0)), "{job:#}");
    assert_eq!(job["model"]["digest"], undisturbed["model"]["digest"]);
    let attempts = daemon.client.get(&format!("/v1/jobs/{id}/attempts")).ok();
    let first = &attempts["attempts"][0];
    assert_eq!(
        (&first["exit_class"], &first["exit_message"]),
        (&json!("preempted"), &json!("made way for the daemon's stop"))
    );
}

#[test]
fn patience_ends_and_a_drain_is_taken_back() {
    let mut daemon = one_core(Worker::Fake);
    let id = daemon.submit(&fake("endless", "steps:10000000:10"));
    daemon.wait_for_checkpoint(&id, 1);
    daemon.mlctl(&["daemon", "drain", "--timeout", "1s", "--checkpoint"]).must_fail(2, &["--checkpoint"]);
    let said = daemon.mlctl(&["daemon", "drain", "--timeout", "1s", "--no-stop"]);
    assert!(said.stderr.contains(&format!("waits for job {id} to finish")), "{said:?}");
    assert!(said.ok().contains("is drained; `mlctl daemon drain --resume`"));
    let job = daemon.job(&id);
    assert_eq!(
        (&job["state"], &job["attempt"], &job["retries_used"]),
        (&json!("queued"), &json!(1), &json!(0)),
        "{job:#}"
    );
    let said = daemon.mlctl(&["daemon", "drain", "--resume"]).ok();
    assert_eq!(said.trim(), "jobs are started again");
    daemon.wait_for_checkpoint(&id, 2);
    assert_eq!(drained(&daemon), Value::Null);
    assert!(daemon.mlctl(&["daemon", "drain", "--resume"]).ok().contains("no drain"));

    // Ctrl-C ends the waiting, and not the drain.
    let mut drain = Command::new(programs::mlctl());
    drain
        .args(["daemon", "drain"])
        .env("MLCTL_SOCKET", &daemon.client.socket)
        .stderr(Stdio::piped())
        .stdout(Stdio::null());
    let waiting = drain.spawn().unwrap();
    until("it drains", || (drained(&daemon) != Value::Null).then_some(()));
    // The first look comes once the signal is listened for.
    let begun = std::time::Instant::now();
    let ended = std::thread::scope(|scope| {
        let pid = waiting.id();
        let ended = scope.spawn(move || waiting.wait_with_output().unwrap());
        while !ended.is_finished() {
            assert!(begun.elapsed() < crate::support::CEILING, "it ends");
            std::thread::sleep(std::time::Duration::from_millis(1000));
            processes::signal(pid, Signal::INT);
        }
        ended.join().unwrap()
    });
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("the drain goes on: `mlctl daemon drain --resume` takes it back"), "{said}");
    assert_ne!(drained(&daemon), Value::Null);
    // Another one hurries it.
    daemon.mlctl(&["daemon", "drain", "--checkpoint"]).ok();
    ended_well(&mut daemon);
    daemon.start();
    let job = daemon.wait_until(&id, "runs again", |job| job["attempt"] == 3);
    assert_eq!(job["retries_used"], 0);
}
