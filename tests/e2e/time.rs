//! When jobs may run and for how long: what is asked of a worker at its limit, what becomes of its work, and of one that does not listen; and jobs that wait for their start time.

use serde_json::{Value, json};

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    processes,
    specs::{Length, fake, training},
};

/// A spec with a limit.
fn limited(mut spec: Value, seconds: u32) -> Value {
    spec["time"] = json!({"limit_seconds": seconds});
    spec
}

#[test]
fn a_job_stopped_at_its_limit_has_saved_its_work_and_a_retry_goes_on() {
    let mut daemon = Daemon::with(Worker::Real);
    let mut spec = limited(training(Worker::Real, "limited", Length::Endless), 3);
    // Nothing is saved but by the order to stop.
    spec["checkpoint"] = json!({"every_steps": 1_000_000_000});
    let id = daemon.submit(&spec);
    let waited = daemon.mlctl(&["wait", &id]);
    assert_eq!(waited.code, 22, "{waited:?}");
    let job = daemon.job(&id);
    assert_eq!(
        (&job["state"], &job["exit_class"], &job["retries_used"]),
        (&json!("failed"), &json!("timeout"), &json!(0))
    );
    assert_eq!(job["time_limit_seconds"], 3);
    assert_eq!(job["exit_message"], "stopped at its time limit; the limit is 3 seconds");
    assert!(!daemon.log().contains("a worker is signalled"), "the order was enough");
    let saved = job["checkpoint"]["step"].as_u64().expect("its work was saved");
    assert_eq!(job["progress"]["step"], saved, "all of it");
    let why = daemon.mlctl(&["why", &id]).ok();
    assert!(why.contains(&format!("`mlctl retry {id}` goes on from step {saved}")), "{why}");
    let show = daemon.mlctl(&["show", &id]).ok();
    assert!(
        show.contains("timeout: stopped at its time limit") && show.contains(&format!("next: mlctl retry {id}")),
        "{show}"
    );

    daemon.mlctl(&["retry", &id]).ok();
    let job = daemon.wait_until(&id, "goes on", |job| job["progress"]["step"].as_u64() > Some(saved));
    assert_eq!(job["attempt"], 2);
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.contains("left of its time limit of 3 s"), "{reason}");
    let job = daemon.wait_for(&id, "failed");
    assert_eq!(
        (&job["attempt"], &job["exit_class"]),
        (&json!(2), &json!("timeout")),
        "it has as long again, and no longer"
    );
    assert!(job["checkpoint"]["step"].as_u64() > Some(saved));
}

#[test]
fn a_worker_that_ignores_its_limit_is_killed_with_its_children() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.grace_seconds=1").start();
    let id = daemon.submit(&limited(fake("deaf", "ignore-term; spawn-child; steps:10000000:5"), 2));
    let job = daemon.wait_for(&id, "failed");
    assert_eq!(job["exit_class"], "timeout");
    assert!(job["exit_message"].as_str().unwrap().contains("had not stopped by itself"), "{job:#}");
    assert!(!processes::is_alive(worker_pid(&job).unwrap()));
    assert!(processes::of_attempts(&daemon.state_dir).is_empty(), "nor is its child left");
}

#[test]
fn a_limit_outlives_the_daemon() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&limited(fake("long", "steps:10000000:10"), 6));
    let pid = daemon.wait_for_checkpoint(&id, 1);
    std::thread::sleep(std::time::Duration::from_secs(3));
    daemon.kill();
    assert!(processes::is_alive(pid));
    daemon.start();
    let restarted = std::time::Instant::now();
    let job = daemon.wait_for(&id, "failed");
    assert_eq!((&job["exit_class"], &job["attempt"]), (&json!("timeout"), &json!(1)));
    let took = restarted.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "what it had run before counts: {took:?}");
}

#[test]
fn a_job_waits_for_its_start_time_over_a_restart_while_others_pass_it() {
    let mut daemon = Daemon::with(Worker::Fake);
    let spec = daemon.write("timed.toml", TIMED);
    let id = daemon.mlctl(&["submit", spec.to_str().unwrap(), "--begin", "6s", "-q"]).ok().trim().to_owned();
    let waiting = daemon.job(&id);
    assert_eq!(waiting["state"], "queued");
    let begin: jiff::Timestamp = waiting["not_before"].as_str().unwrap().parse().unwrap();
    let why = daemon.mlctl(&["why", &id]).ok();
    assert!(why.contains("starts in ") && why.contains("not before "), "{why}");
    let other = daemon.submit(&fake("other", "obey"));
    daemon.wait_for(&other, "succeeded");
    assert_eq!(daemon.job(&id)["state"], "queued", "a start time holds nobody else back");
    daemon.kill();
    daemon.start();
    let job = daemon.wait_for(&id, "succeeded");
    let started: jiff::Timestamp = job["started_at"].as_str().unwrap().parse().unwrap();
    let late = started.duration_since(begin).as_millis();
    assert!((0..3000).contains(&late), "it started {late} ms after its time");
}

const TIMED: &str = r#"version = 1
name = "timed"
priority = 100
labels = { fake = "obey" }

[train]
model = { type = "mlp", layers = [4, 8, 2] }
data = { format = "randn", rows = 64, features = 4, targets = 2 }
loss = "mse"
optimizer = { type = "adam" }
batch_size = 8
max_epochs = 1
"#;
