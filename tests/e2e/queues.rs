//! Queues with real programs: limits hold, paused ones wait, gaps are filled behind a job that waits for the machine.

use crate::support::{Setup, Worker, specs::fake};

#[test]
fn what_runs_of_a_queue_stays_within_its_limits_over_a_restart() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=4").start();
    daemon.mlctl(&["queue", "set", "night", "--running", "1", "--cpus", "2"]).ok();
    let into = |name: &str, script: &str| {
        let mut spec = fake(name, script);
        spec["queue"] = "night".into();
        spec
    };
    let first = daemon.submit(&into("first", "steps:10000000:10"));
    daemon.wait_for(&first, "running");
    let second = daemon.submit(&into("second", "obey"));
    let other = daemon.submit(&fake("other", "obey"));
    daemon.wait_for(&other, "succeeded");
    let why = daemon.mlctl(&["why", &second]).ok();
    assert!(why.contains("queue night runs 1 job at once"), "{why}");
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.job(&second)["state"], "queued");
    let listed = daemon.mlctl(&["queue", "ls"]).ok();
    assert!(listed.contains("night") && listed.contains("1/1") && listed.contains("1/2"), "{listed}");

    daemon.mlctl(&["queue", "pause", "night"]).ok();
    daemon.mlctl(&["cancel", &first]).ok();
    daemon.wait_for(&first, "cancelled");
    let why = daemon.mlctl(&["why", &second]).ok();
    assert!(why.contains("queue night is paused"), "{why}");
    daemon.mlctl(&["queue", "drain", "night"]).ok();
    daemon.wait_for(&second, "succeeded");
    let refused = daemon.mlctl(&["submit", "-", "--queue", "night"]);
    assert_ne!(refused.code, 0);
    daemon.mlctl(&["queue", "rm", "night"]).ok();
    assert_eq!(daemon.mlctl(&["queue", "rm", "night"]).code, 4);
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
}

#[test]
fn a_short_job_fills_the_gap_behind_one_that_waits_for_the_machine() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=2").start();
    let with = |name: &str, script: &str, cpus: u32, limit: Option<u32>| {
        let mut spec = fake(name, script);
        spec["resources"] = serde_json::json!({"cpus": cpus});
        if let Some(limit) = limit {
            spec["time"] = serde_json::json!({"limit_seconds": limit});
        }
        spec
    };
    let long = daemon.submit(&with("long", "steps:10000000:10", 1, Some(3600)));
    daemon.wait_for(&long, "running");
    let large = daemon.submit(&with("large", "obey", 2, None));
    let endless = daemon.submit(&with("endless", "obey", 1, None));
    let short = daemon.submit(&with("short", "obey", 1, Some(60)));
    daemon.wait_for(&short, "succeeded");
    for waits in [&large, &endless] {
        assert_eq!(daemon.job(waits)["state"], "queued");
    }
    let why = daemon.mlctl(&["why", &endless]).ok();
    assert!(why.contains(&format!("job {large}")) && why.contains("would delay"), "{why}");
    let why = daemon.mlctl(&["why", &large]).ok();
    assert!(why.contains("starts in 1 h at the latest") || why.contains("starts in 59 min at the latest"), "{why}");
    daemon.mlctl(&["cancel", &long]).ok();
    daemon.wait_for(&large, "succeeded");
    daemon.wait_for(&endless, "succeeded");
}
