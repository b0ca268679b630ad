//! Jobs that give their devices up and go on later: the same bits as if they had never been interrupted, and no retry used up.

use serde_json::{Value, json};

use crate::support::{
    Daemon, Setup, Worker, processes,
    specs::{Length, fake, saved_by_order, training},
};

#[test]
fn a_paused_job_frees_its_device_and_goes_on_to_the_same_bits() {
    let mut daemon = Daemon::with(Worker::Real);
    let undisturbed = daemon.submit(&saved_by_order("undisturbed"));
    let undisturbed = daemon.wait_for(&undisturbed, "succeeded");

    let id = daemon.submit(&saved_by_order("paused"));
    let mut saved = 0;
    for attempt in 1..=2 {
        let running = daemon.wait_until(&id, "has done some steps", |job| {
            job["state"] == "running" && job["attempt"] == attempt && job["progress"]["step"].as_u64() > Some(saved)
        });
        let said = daemon.mlctl(&["pause", &id, "--reason", "the demo"]).ok();
        assert!(said.contains("was asked to save its work and pause"), "{said}");
        let job = daemon.wait_for(&id, "held");
        assert!(job["reason"].as_str().unwrap().ends_with(": the demo"), "{job:#}");
        assert_eq!((&job["attempt"], &job["retries_used"], &job["intent"]), (&json!(attempt), &json!(0), &Value::Null));
        assert!(!processes::is_alive(crate::support::daemon::worker_pid(&running).unwrap()), "its device is free");
        saved = job["checkpoint"]["step"].as_u64().expect("its work is saved");
        assert!(saved >= running["progress"]["step"].as_u64().unwrap(), "all of it");
        let said = daemon.mlctl(&["resume", &id]).ok();
        assert!(said.contains(&format!("goes on from step {saved}")), "{said}");
    }
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(3), &json!(0)));
    assert_eq!(job["model"]["digest"], undisturbed["model"]["digest"]);
    assert_eq!(job["metrics"]["train_loss"], undisturbed["metrics"]["train_loss"]);
    let names: Vec<_> = daemon.events(&id).iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names.iter().filter(|name| *name == "pausing").count(), 2);
    assert_eq!(names.iter().filter(|name| *name == "paused").count(), 2);
}

#[test]
fn a_pause_that_was_acknowledged_holds_over_a_kill_of_the_daemon() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&fake("long", "steps:10000000:10"));
    daemon.wait_for_checkpoint(&id, 1);
    daemon.mlctl(&["pause", &id]).ok();
    daemon.kill();
    daemon.start();
    let job = daemon.wait_for(&id, "held");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(1), &json!(0)));
    daemon.mlctl(&["pause", &id]).ok();
    assert_eq!(daemon.count(&id, "held"), 0, "paused already: nothing changes");
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.mlctl(&["pause", &id]).must_fail(5, &["is cancelled and cannot be paused"]);
}

#[test]
fn a_cancel_outweighs_a_pause_and_a_job_that_waits_is_held() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&fake("deaf", "ignore-term; steps:10000000:10"));
    daemon.wait_for_checkpoint(&id, 1);
    daemon.mlctl(&["pause", &id]).ok();
    let why = daemon.mlctl(&["why", &id]).ok();
    assert!(why.contains("to save its work and pause") && why.contains("mlctl cancel"), "{why}");
    daemon.mlctl(&["resume", &id]).must_fail(5, &["is running and cannot be released: it is still saving its work"]);
    daemon.mlctl(&["cancel", &id]).ok();
    assert!(daemon.mlctl(&["pause", &id]).ok().contains("was asked to end before"));
    daemon.wait_for(&id, "cancelled");

    let mut later = fake("later", "obey");
    later["time"] = json!({"begin": "2100-01-01T00:00:00Z"});
    let id = daemon.submit(&later);
    assert!(daemon.mlctl(&["pause", &id]).ok().contains("held by"));
    assert_eq!(daemon.job(&id)["state"], "held");
    assert!(daemon.mlctl(&["resume", &id]).ok().contains("is queued again"));
}

#[test]
fn a_preemptible_job_makes_way_for_a_more_urgent_one_and_goes_on_to_the_same_bits() {
    let mut daemon = Setup::of(Worker::Real).set("workers.cpus=1").set("workers.min_run_seconds=1").start();
    let spec = |name: &str| {
        let mut spec = saved_by_order(name);
        spec["train"]["max_steps"] = json!(2000);
        spec
    };
    let undisturbed = daemon.submit(&spec("undisturbed"));
    let undisturbed = daemon.wait_for(&undisturbed, "succeeded");

    let mut low = spec("low");
    (low["preemptible"], low["priority"]) = (json!(true), json!(10));
    let low = daemon.submit(&low);
    daemon.wait_until(&low, "has done a step", |job| job["progress"]["step"].as_u64() > Some(0));
    let equal =
        daemon.submit(&training(Worker::Real, "equal", Length::Short).as_object().map_or(Value::Null, |spec| {
            let mut spec = spec.clone();
            spec.insert("priority".into(), json!(10));
            spec.into()
        }));
    let urgent = daemon.submit(&training(Worker::Real, "urgent", Length::Short));
    let done = daemon.wait_for(&urgent, "succeeded");
    let events = daemon.events(&low);
    let asked = events.iter().find(|event| event["event"] == "yielding").expect("it was asked to make way");
    assert_eq!(asked["to"], urgent, "not for one that is no more urgent than itself: {asked:#}");
    let requeued = events.iter().find(|event| event["event"] == "requeued").expect("and did");
    assert_eq!(requeued["exit"]["class"], "preempted");
    let waited = |job: &Value| {
        let moment = |name: &str| job[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        moment("started_at").duration_since(moment("submitted_at")).as_secs()
    };
    assert!(waited(&done) < 20, "{done:#}");
    let job = daemon.wait_for(&low, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(2), &json!(0)));
    assert_eq!(job["model"]["digest"], undisturbed["model"]["digest"]);
    daemon.wait_for(&equal, "succeeded");
}
