//! Following a job: what is said, over a restart of the daemon, and when somebody presses Ctrl-C.

use std::io::{BufRead as _, BufReader};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};

use crate::{
    played::Answer,
    rig::{Rig, snapshot, until},
    views::{ended, event, job},
};

fn running(step: u64) -> Json {
    let progress = json!({"step": step, "steps": 100, "epoch": null, "epochs": null, "records": null, "total": null, "rows_per_second": 1000.0, "loss": 0.5});
    job(7, json!({"state": "running", "attempt": 1, "progress": progress, "eta_seconds": 9}))
}

fn points(id: u64) -> String {
    let points = json!({"points": [{"id": id, "step": 50, "epoch": 1, "values": {"val_loss": 0.25}}]});
    format!("id: {id}\n{}", event("metrics", &points))
}

#[test]
fn a_followed_job_is_told_in_lines_and_goes_on_where_the_daemon_left_off() {
    let queued = event("job", &job(7, json!({"reason": "waits for 1 CPU"})));
    let first = queued + &event("job", &running(10)) + &points(31);
    let second = event("job", &running(60)) + &points(32) + &event("end", &ended(7, "succeeded", "ok"));
    let rig = Rig::new(&[
        ("GET /v1/jobs/digits", &[Answer::Json(200, job(7, json!({})))]),
        ("GET /v1/jobs/7/follow", &[Answer::Events(first), Answer::Break, Answer::Events(second)]),
    ]);
    snapshot("follow", &rig.run(&["follow", "digits"]).text());
    let asked = rig.daemon.as_ref().unwrap().asked();
    let ids: Vec<_> = asked.iter().skip(1).map(|asked| asked.last_event.as_deref()).collect();
    assert_eq!(ids, [None, Some("31"), Some("31")]);
}

#[test]
fn a_job_that_failed_ends_the_following_with_its_code() {
    for (state, class, code) in [("failed", "crash", 20), ("cancelled", "cancelled", 21), ("failed", "timeout", 22)] {
        let end = ended(7, state, class);
        let rig = Rig::new(&[
            ("GET /v1/jobs/7", &[Answer::Json(200, job(7, json!({})))]),
            ("GET /v1/jobs/7/follow", &[Answer::Events(event("end", &end))]),
        ]);
        assert_eq!(rig.run(&["follow", "7"]).code, code);
        let ran = rig.run(&["follow", "7", "-o", "json"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (code, ""), "programs are told nothing but the end");
        assert_eq!(serde_json::from_str::<Json>(&ran.stdout).unwrap(), end);
    }
}

#[test]
fn ctrl_c_ends_the_following_and_not_the_job() {
    let rig = Rig::new(&[
        ("GET /v1/jobs/7", &[Answer::Json(200, running(1))]),
        ("GET /v1/jobs/7/follow", &[Answer::Hold(event("job", &running(1)))]),
        ("GET /v1/jobs/7/logs?follow=true", &[Answer::Hold(event("attempt", &json!({"attempt": 1})))]),
    ]);
    for (args, again) in [
        (&["follow", "7"][..], "mlctl follow 7"),
        (&["wait", "7"], "mlctl wait 7"),
        (&["logs", "7", "-f"], "mlctl logs 7 -f"),
    ] {
        let before = rig.asked().len();
        let mut child = rig.command(args).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        // Whoever has asked for the stream is listening for the signal too.
        until("the stream is asked for", || rig.asked().len() >= before + 2);
        let mut first = String::new();
        if args[0] == "follow" {
            stderr.read_line(&mut first).unwrap();
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let mut said = String::new();
        while stderr.read_line(&mut said).unwrap() > 0 {}
        assert_eq!(rig.ran(child).code, 130, "{args:?}: {said}");
        assert!(said.contains("the job runs on") && said.contains(again), "{args:?}: {said}");
    }
    assert!(rig.asked().iter().all(|line| line.starts_with("GET")), "nothing was done to the job");
}
