//! What workers printed, as it is and as it goes on.

use std::io::Write as _;

use hyper::Method;
use mlctl::{
    api::types::{ErrorCode, JobView, follow},
    supervisor::Stream,
};
use mlctl_protocol::ExitClass;

use crate::rig::{Messages, Rig};

async fn text(rig: &Rig, path: &str) -> String {
    let (status, body) = rig.ask(Method::GET, path, "").await;
    assert_eq!(status, 200, "{path}");
    String::from_utf8(body.to_vec()).unwrap()
}

fn append(path: &std::path::Path, text: &str) {
    std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Reads on until the text printed is this.
async fn printed(stream: &mut Messages, attempt: u32, expected: &str) {
    let mut text = String::new();
    while text.len() < expected.len() {
        let piece = stream.next_of(follow::LOG).await;
        assert_eq!(piece.data["attempt"], attempt);
        text.push_str(piece.data["text"].as_str().unwrap());
    }
    assert_eq!(text, expected);
}

#[tokio::test]
async fn logs_are_given_as_they_are() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let (status, code, _) = rig.get_error("/v1/jobs/one/logs").await;
    assert_eq!((status, code), (409, ErrorCode::WrongState), "nothing was started");
    let fence = rig.claim(id).await;
    assert_eq!(text(&rig, "/v1/jobs/one/logs").await, "", "nothing was printed");
    let stderr = rig.log(id, 1, Stream::Stderr);
    append(&stderr.with_extension("log.1"), "zero\n");
    append(&stderr, "one\ntwo\nthree\n");
    append(&rig.log(id, 1, Stream::Stdout), "data\n");
    rig.end(fence, ExitClass::Crash).await;
    rig.claim(id).await;
    append(&rig.log(id, 2, Stream::Stderr), "second\n");
    let cases = [
        ("", "second\n"),
        ("?attempt=2", "second\n"),
        ("?attempt=1", "zero\none\ntwo\nthree\n"),
        ("?attempt=1&tail=2", "two\nthree\n"),
        ("?attempt=1&tail=4", "zero\none\ntwo\nthree\n"),
        ("?attempt=1&tail=0", ""),
        ("?attempt=1&stream=stdout", "data\n"),
        ("?attempt=1&stream=stderr&follow=false", "zero\none\ntwo\nthree\n"),
        ("?stream=stdout", ""),
    ];
    for (query, expected) in cases {
        assert_eq!(text(&rig, &format!("/v1/jobs/one/logs{query}")).await, expected, "{query}");
    }
    for (query, status) in
        [("?attempt=0", 404), ("?attempt=3", 404), ("?attempt=x", 400), ("?stream=both", 400), ("?lines=3", 400)]
    {
        assert_eq!(rig.get_error(&format!("/v1/jobs/one/logs{query}")).await.0, status, "{query}");
    }
    let long = "0123456789abcdef\n".repeat(20_000);
    std::fs::write(rig.log(id, 2, Stream::Stderr), &long).unwrap();
    assert_eq!(text(&rig, "/v1/jobs/one/logs").await, long);
    rig.end_server().await;
}

#[tokio::test]
async fn a_followed_log_goes_on_into_the_next_attempt_and_ends_with_the_job() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let mut stream = rig.follow("/v1/jobs/one/logs?follow=true", None).await;
    let fence = rig.claim(id).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data["attempt"]), (follow::ATTEMPT, &1.into()));
    let log = rig.log(id, 1, Stream::Stderr);
    append(&log, "one ü");
    printed(&mut stream, 1, "one ü").await;
    // Cut under the reading, as the supervisor does it.
    append(&log, " end\n");
    std::fs::copy(&log, log.with_extension("log.1")).unwrap();
    std::fs::write(&log, "").unwrap();
    append(&log, "two\n");
    printed(&mut stream, 1, " end\ntwo\n").await;
    append(&log, "last\n");
    rig.end(fence, ExitClass::Crash).await;
    printed(&mut stream, 1, "last\n").await;
    rig.claim(id).await;
    let second = stream.next().await.unwrap();
    assert_eq!((second.name.as_str(), &second.data["attempt"]), (follow::ATTEMPT, &2.into()));
    append(&rig.log(id, 2, Stream::Stderr), "again\n");
    printed(&mut stream, 2, "again\n").await;
    let mut late = rig.follow("/v1/jobs/one/logs?follow=true&attempt=1&tail=1", None).await;
    printed(&mut late, 1, "last\n").await;
    assert_eq!(late.next().await.unwrap().name, follow::END, "one attempt alone ends with it");
    let view: JobView = rig.post("/v1/jobs/one/cancel", "").await;
    let fence = rig.store.job(id).await.unwrap().attempt.unwrap().fence;
    assert_eq!(view.intent.as_deref(), Some("cancel"));
    rig.end(fence, ExitClass::Cancelled).await;
    let end = stream.next().await.unwrap();
    assert_eq!((end.name.as_str(), &end.data["state"]), (follow::END, &"cancelled".into()));
    assert!(stream.next().await.is_none());
    rig.end_server().await;
}
