//! Concurrency keys: jobs with the same key one at a time, whatever else there is room for; the oldest first, or the newest alone.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Setup, Worker,
    daemon::worker_pid,
    specs::{Length, fake, training, written},
};

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

fn newest(name: &str, script: &str) -> Value {
    let mut spec = fake(name, script);
    spec["concurrency"] = json!({"key": "prod", "wins": "newest"});
    spec
}

#[test]
fn the_newest_job_replaces_the_one_that_runs_which_saves_its_work_and_can_go_on() {
    let mut daemon = Setup::of(Worker::Real).start();
    let mut spec = training(Worker::Real, "first", Length::Endless);
    // Nothing is saved but when it is asked to end.
    spec["checkpoint"] = json!({"every_steps": 1_000_000_000});
    spec["concurrency"] = json!({"key": "prod", "wins": "newest"});
    let first = daemon.submit(&spec);
    daemon.wait_until(&first, "has done some steps", |job| job["progress"]["step"].as_u64() > Some(0));
    let file = daemon.write("second.toml", written("name = \"second\"", 1));
    let submit = ["submit", file.to_str().unwrap(), "--concurrency-key", "prod", "--concurrency", "newest", "-q"];
    let second = daemon.mlctl(&submit).ok().trim().to_owned();
    let replaced = daemon.wait_for(&first, "cancelled");
    assert_eq!(replaced["replaced_by"], second, "{replaced:#}");
    assert!(replaced["checkpoint"]["step"].as_u64() > Some(0), "its work is saved: {replaced:#}");
    let why = daemon.mlctl(&["why", &first]).ok();
    assert!(why.contains(&format!("replaced by job {second} with the same concurrency key \"prod\"")), "{why}");
    let events = daemon.events(&first);
    let told = format!("cancelled: job {second} with the same concurrency key replaces it");
    assert!(events.iter().any(|event| event["event"] == "replaced" && event["text"] == told), "{events:#?}");
    daemon.wait_for(&second, "succeeded");
    daemon.mlctl(&["retry", &first]).ok();
    daemon.wait_until(&first, "goes on", |job| job["attempt"] == 2 && job["progress"]["step"].as_u64() > Some(0));
    assert_eq!(daemon.count(&first, "resumed"), 1);
    daemon.mlctl(&["cancel", &first]).ok();
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
}

/// At whatever moment the daemon is killed: either the new job is there and the old one makes way for it, or neither.
#[test]
fn a_replacement_is_whole_or_has_not_happened_wherever_the_daemon_is_killed() {
    let mut daemon = Setup::of(Worker::Fake).start();
    let mut holder = daemon.submit(&newest("first", "steps:10000000:10"));
    let mut both = 0;
    for round in 0..12_u64 {
        daemon.wait_until(&holder, "runs", |job| worker_pid(job).is_some());
        let (spec, client) = (newest("next", "steps:10000000:10"), daemon.client.clone());
        let key = format!("replacement-{round}");
        let body = json!({"spec": spec, "key": key}).to_string();
        let submit =
            std::thread::spawn(move || client.send("POST", "/v1/jobs", &body).is_ok_and(|answer| answer.status == 201));
        // From before it is read to after it was answered, on a busy machine too.
        std::thread::sleep(Duration::from_micros(round * round * 500));
        daemon.kill();
        let was_answered = submit.join().unwrap();
        daemon.start();
        let list = daemon.client.get("/v1/jobs?state=running,queued").ok();
        let open: Vec<&Value> = list["jobs"].as_array().unwrap().iter().collect();
        let new = open.iter().find(|job| job["id"] != holder.as_str());
        let old = daemon.job(&holder);
        match new {
            Some(new) => {
                assert_eq!(old["replaced_by"], new["id"], "{old:#}");
                let new = new["id"].as_str().unwrap().to_owned();
                daemon.wait_for(&holder, "cancelled");
                holder = new;
                both += 1;
            }
            None => {
                assert!(!was_answered, "it was answered and is gone");
                assert_eq!(
                    (&old["state"], &old["intent"], &old["replaced_by"]),
                    (&json!("running"), &Value::Null, &Value::Null)
                );
            }
        }
        assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
    }
    assert!(both > 0, "it was always killed before");
    daemon.mlctl(&["cancel", &holder]).ok();
    daemon.wait_for(&holder, "cancelled");
}
