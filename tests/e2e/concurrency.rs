//! Concurrency keys: jobs with the same key one at a time, whatever else there is room for.

use crate::support::{Setup, Worker, specs::fake};

#[test]
fn of_the_jobs_with_a_key_one_runs_at_a_time_and_the_next_starts_by_itself() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=4").start();
    let mut first = fake("first", "steps:10000000:10");
    first["concurrency"] = serde_json::json!({"key": "prod"});
    let first = daemon.submit(&first);
    daemon.wait_for(&first, "running");
    let mut second = fake("second", "obey");
    second["concurrency"] = serde_json::json!({"key": "prod", "limit": 1});
    let second = daemon.submit(&second);
    let free = daemon.submit(&fake("free", "obey"));
    daemon.wait_for(&free, "succeeded");
    let why = daemon.mlctl(&["why", &second]).ok();
    let expected =
        format!("waits for a place: 1 job with concurrency key \"prod\" at once at most; job {first} is before it");
    assert!(why.contains(&expected), "{why}");
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.job(&second)["state"], "queued");
    daemon.mlctl(&["cancel", &first]).ok();
    daemon.wait_for(&second, "succeeded");
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
}
