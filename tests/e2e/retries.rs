//! Which ends are followed by another attempt, out of which budget, and when a job is held for a person to look at.

use serde_json::{Value, json};

use crate::support::{
    Daemon, Worker,
    specs::{fake, written},
};

/// A job of this script, with quick retries and this over its policy.
fn job(script: &str, policy: Value) -> Value {
    let mut spec = fake("job", script);
    let Value::Object(policy) = policy else { panic!("an object") };
    spec["retry"].as_object_mut().unwrap().extend(policy);
    spec
}

#[test]
fn faults_of_the_infrastructure_have_a_budget_of_their_own_and_end_in_quarantine() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&job("fail:storage:the bucket is gone", json!({"limit": 0, "infrastructure_limit": 2})));
    let waited = daemon.mlctl(&["wait", &id]);
    assert_eq!(waited.code, 20, "{waited:?}");
    assert!(
        waited.stdout.contains("quarantined: 2 retries after faults of the infrastructure are used up"),
        "{waited:?}"
    );
    let job = daemon.job(&id);
    assert_eq!((&job["state"], &job["quarantined"], &job["attempt"]), (&json!("held"), &json!(true), &json!(3)));
    assert_eq!((&job["retries_used"], &job["infrastructure_retries_used"]), (&json!(0), &json!(2)));
    assert_eq!(daemon.mlctl(&["wait", &id]).code, 20, "one that was quarantined before is not waited for either");
    let why = daemon.mlctl(&["why", &id]).ok();
    assert!(why.contains("quarantined") && why.contains(&format!("mlctl release {id}")), "{why}");
    let show = daemon.mlctl(&["show", &id]).ok();
    assert!(show.contains("storage: the bucket is gone"), "{show}");

    daemon.kill();
    daemon.start();
    assert_eq!(daemon.job(&id)["quarantined"], true);
    daemon.mlctl(&["release", &id]).ok();
    let job = daemon.wait_until(&id, "was tried again, and again", |job| job["attempt"] == 6 && job["state"] == "held");
    assert_eq!(job["infrastructure_retries_used"], 2, "the budget was new");
    assert_eq!(daemon.count(&id, "quarantined"), 2);
    daemon.mlctl(&["retry", &id]).ok();
    daemon.wait_until(&id, "is tried again", |job| job["attempt"].as_u64() > Some(6));
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}

#[test]
fn a_job_that_may_harm_the_machine_is_held_at_its_third_death_in_a_row() {
    let daemon = Daemon::with(Worker::Fake);
    daemon.write("harmful.toml", scripted("fail:oom_host:no memory left"));
    for flag in ["-w", "-f"] {
        let ran = daemon.mlctl(&["submit", "harmful.toml", flag, "--retries", "50"]);
        assert_eq!(ran.code, 20, "{ran:?}");
        let words = "quarantined: it died 3 times in a row, the last time as oom_host, without a checkpoint between";
        assert!(ran.stdout.contains(words), "{ran:?}");
        let job = daemon.last();
        assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(3), &json!(2)));
    }
    daemon.write("slow.toml", scripted("steps:5:1; fail:oom_host:no memory left"));
    let ran = daemon.mlctl(&["submit", "slow.toml", "-w", "--retries", "0"]);
    assert_eq!((ran.code, &daemon.last()["state"]), (20, &json!("failed")), "one without retries has failed: {ran:?}");
}

#[test]
fn only_the_ends_that_are_named_are_tried_again() {
    let daemon = Daemon::with(Worker::Fake);
    daemon.write("crash.toml", scripted("signal:6"));
    let attempts = |args: &[&str]| {
        let ran = daemon.mlctl(&[&["submit", "crash.toml", "-w"], args].concat());
        assert_eq!(ran.code, 20, "{ran:?}");
        let job = daemon.last();
        assert_eq!(job["state"], "failed");
        job["attempt"].as_u64().unwrap()
    };
    assert_eq!(attempts(&["--retries", "2"]), 3);
    assert_eq!(attempts(&["--retries", "2", "--retry-on", "crash,hang"]), 3);
    assert_eq!(attempts(&["--retries", "2", "--retry-on", "oom,infra"]), 1);
    daemon
        .mlctl(&["submit", "crash.toml", "--retry-on", "rain"])
        .must_fail(2, &["rain", "expected some of oom, infra"]);
    daemon.mlctl(&["submit", "crash.toml", "--retry-on", "spec"]).must_fail(6, &["--retry-on", "is not tried again"]);
    daemon.write("limit.toml", scripted("steps:10000000:10"));
    let ran = daemon.mlctl(&["submit", "limit.toml", "-w", "-t", "2", "--retries", "1", "--retry-on", "timeout"]);
    assert_eq!((ran.code, &daemon.last()["attempt"]), (22, &json!(2)), "as long again by itself: {ran:?}");
}

#[test]
fn an_array_with_quarantined_members_is_not_waited_for_any_longer() {
    let daemon = Daemon::with(Worker::Fake);
    daemon.write("sweep.toml", scripted("fail:hang:no progress"));
    let ran = daemon.mlctl(&["submit", "sweep.toml", "--array", "train.seed=1,2", "-w"]);
    assert_eq!(ran.code, 20, "{ran:?}");
    assert!(ran.stdout.contains("2 held, 2 of them quarantined"), "{ran:?}");
    assert!(ran.stderr.contains("mlctl release 1"), "{ran:?}");
    assert_eq!(daemon.mlctl(&["wait", "1"]).code, 20);
    daemon.mlctl(&["hold", "1"]).ok();
    daemon.mlctl(&["release", "1"]).ok();
    daemon.wait_until("2", "is tried again", |job| job["attempt"].as_u64() > Some(3));
    daemon.mlctl(&["cancel", "1"]).ok();
    daemon.wait_for("2", "cancelled");
}

/// A job for the fake worker with this script.
fn scripted(script: &str) -> String {
    let head = format!(
        "name = \"job\"\nlabels = {{ fake = \"{script}\" }}\nretry = {{ backoff_seconds = 1, max_backoff_seconds = 1 }}"
    );
    written(&head, 1)
}
