//! Logs: harmless by default, as they are on demand.

use serde_json::json;

use crate::{
    played::Answer,
    rig::Rig,
    views::{ended, event, job},
};

const LOG: &[u8] = b"step 1\n\x1b[31mloss nan\x1b[0m\r\n10 %\r20 %\r\n\xff end";

#[test]
fn a_log_cannot_move_the_cursor_unless_it_is_asked_for_raw() {
    let rig = Rig::new(&[
        ("GET /v1/jobs/7/logs", &[Answer::Bytes(LOG.to_vec())]),
        ("GET /v1/jobs/7/logs?attempt=2&stream=stdout&tail=5", &[Answer::Bytes(b"tail\n".to_vec())]),
    ]);
    assert_eq!(rig.run(&["logs", "7"]).stdout, "step 1\n^[[31mloss nan^[[0m\n10 %\n20 %\n\u{fffd} end\n");
    let raw = rig.command(&["logs", "7", "--raw"]).output().unwrap();
    assert_eq!(raw.stdout, LOG);
    let ran = rig.run(&["logs", "7", "--attempt", "2", "--stream", "stdout", "--tail", "5"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "tail\n"));
}

#[test]
fn a_followed_log_goes_on_into_later_attempts_and_over_restarts() {
    let piece = |attempt: u32, text: &str| event("log", &json!({"attempt": attempt, "text": text}));
    let attempt = |attempt: u32| event("attempt", &json!({"attempt": attempt}));
    let first = attempt(1) + &piece(1, "one\ntw");
    let second = attempt(1) + &piece(1, "one\ntwo\n") + &attempt(2) + &piece(2, "again\n");
    let rig = Rig::new(&[
        ("GET /v1/jobs/7", &[Answer::Json(200, job(7, json!({})))]),
        (
            "GET /v1/jobs/7/logs?follow=true",
            &[Answer::Events(first), Answer::Events(second + &event("end", &ended(7, "succeeded", "ok")))],
        ),
    ]);
    let ran = rig.run(&["logs", "7", "-f"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "one\ntwo\nagain\n"));
    assert_eq!(ran.stderr, "the daemon is away; the job runs on\n--- attempt 2 ---\n");
}
