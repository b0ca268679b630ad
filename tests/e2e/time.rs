//! When jobs may run and for how long: what is asked of a worker at its limit, what becomes of its work, and of one that does not listen; and jobs that wait for their start time.

use serde_json::{Value, json};

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    processes,
    specs::{Length, fake, training, written},
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
    let spec = daemon.write("timed.toml", timed());
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

#[test]
fn a_job_that_waits_beyond_its_deadline_fails_though_the_machine_is_full_or_no_daemon_runs() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=1").start();
    let long = daemon.submit(&fake("long", "steps:10000000:10"));
    daemon.wait_for_checkpoint(&long, 1);
    daemon.write("late.toml", timed().replace("timed", "late"));
    let ran = daemon.mlctl(&["submit", "late.toml", "--deadline", "1s", "-w"]);
    assert_eq!(ran.code, 22, "{ran:?}");
    assert!(ran.stdout.contains("passed before it could start"), "{ran:?}");
    let job = daemon.last();
    assert_eq!(
        (&job["state"], &job["attempt"], &job["exit_class"]),
        (&json!("failed"), &Value::Null, &json!("timeout"))
    );
    let id = job["id"].as_str().unwrap();
    daemon.mlctl(&["retry", id]).must_fail(5, &["its deadline has passed", "--no-deadline"]);
    let why = daemon.mlctl(&["why", id]).ok();
    assert!(why.contains("--no-deadline"), "{why}");

    let held = daemon.mlctl(&["submit", "late.toml", "--hold", "--deadline", "3s", "-q"]).ok().trim().to_owned();
    let why = daemon.mlctl(&["why", &held]).ok();
    assert!(why.contains("its deadline is in "), "{why}");
    daemon.kill();
    std::thread::sleep(std::time::Duration::from_secs(3));
    daemon.start();
    let job = daemon.wait_for(&held, "failed");
    assert_eq!((&job["exit_class"], daemon.count(&held, "expired")), (&json!("timeout"), 1));
    assert_eq!(daemon.job(&long)["attempt"], 1, "who has no deadline is left alone");
    let past = daemon.mlctl(&["submit", "late.toml", "--deadline", "2020-01-01T00:00:00Z"]);
    past.must_fail(6, &["--deadline", "has passed"]);
}

#[test]
fn a_job_that_runs_saves_its_work_before_its_deadline_and_goes_on_with_another() {
    let mut daemon = Daemon::with(Worker::Real);
    let mut spec = training(Worker::Real, "due", Length::Endless);
    // Nothing is saved but by the order to stop.
    spec["checkpoint"] = json!({"every_steps": 1_000_000_000});
    let id = daemon.submit(&spec);
    daemon.wait_until(&id, "has done a step", |job| job["progress"]["step"].as_u64() > Some(0));
    let said = daemon.mlctl(&["edit", &id, "--deadline", "2s"]).ok();
    assert!(said.contains("deadline "), "{said}");
    let reason = daemon.job(&id)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("its deadline is in "), "{reason}");
    assert_eq!(daemon.mlctl(&["wait", &id]).code, 22);
    let job = daemon.job(&id);
    let message = job["exit_message"].as_str().unwrap();
    assert!(message.starts_with("stopped at its deadline; the deadline is "), "{message}");
    assert!(!daemon.log().contains("a worker is signalled"), "the order was enough");
    let saved = job["checkpoint"]["step"].as_u64().expect("its work was saved");
    let ended: jiff::Timestamp = job["finished_at"].as_str().unwrap().parse().unwrap();
    let deadline: jiff::Timestamp = job["deadline"].as_str().unwrap().parse().unwrap();
    let late = ended.duration_since(deadline).as_millis();
    assert!(late < 1000, "it had stopped in time, or nearly: {late} ms");
    if late < 0 {
        std::thread::sleep(std::time::Duration::from_millis(u64::try_from(-late).unwrap()));
    }
    daemon.mlctl(&["retry", &id]).must_fail(5, &["its deadline has passed"]);
    daemon.mlctl(&["edit", &id, "--priority", "9"]).must_fail(5, &["cannot be edited, but for its deadline"]);
    daemon.mlctl(&["edit", &id, "--no-deadline", "--time", "1h"]).ok();
    daemon.mlctl(&["retry", &id]).ok();
    let job = daemon.wait_until(&id, "goes on", |job| job["progress"]["step"].as_u64() > Some(saved));
    assert_eq!(
        (&job["attempt"], &job["deadline"], &job["time_limit_seconds"]),
        (&json!(2), &Value::Null, &json!(3600))
    );
    // What it may run in all is over already.
    daemon.mlctl(&["edit", &id, "--time", "1s"]).ok();
    let job = daemon.wait_for(&id, "failed");
    assert!(job["exit_message"].as_str().unwrap().contains("the limit is 1 seconds"), "{job:#}");
}

#[test]
fn a_start_time_can_be_moved_while_a_job_waits_for_it() {
    let mut daemon = Daemon::with(Worker::Fake);
    let mut spec = fake("later", "obey");
    spec["time"] = json!({"begin": "2100-01-01T00:00:00Z"});
    let id = daemon.submit(&spec);
    daemon.mlctl(&["edit", &id, "--begin", "2s", "--retries", "7"]).ok();
    assert_eq!(daemon.job(&id)["retry_limit"], 7);
    daemon.wait_for(&id, "succeeded");
    daemon.mlctl(&["edit", &id, "--begin", "2s"]).must_fail(5, &["is succeeded and cannot be edited"]);
    daemon.mlctl(&["edit", &id, "--deadline", "2s", "--no-deadline"]).must_fail(2, &["cannot be used with"]);
}

fn timed() -> String {
    let head = r#"name = "timed"
priority = 100
labels = { fake = "obey" }"#;
    written(head, 1)
}
