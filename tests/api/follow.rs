//! Streams: what they say, where they go on, and how they end.

use std::time::Duration;

use crate::rig::{CEILING, Rig};
use mlctl::api::types::{JobView, follow};
use mlctl_protocol::{ExitClass, message::ReportBody, progress::MetricPoint};

fn points(steps: std::ops::Range<u64>) -> ReportBody {
    let point = |step| MetricPoint { step, epoch: 0, values: [("train_loss".to_owned(), 0.5)].into() };
    ReportBody::Metrics { points: steps.map(point).collect() }
}

fn steps(data: &serde_json::Value) -> Vec<u64> {
    data["points"].as_array().unwrap().iter().map(|point| point["step"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_followed_job_ends_when_it_is_cancelled() {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let mut stream = rig.follow("/v1/jobs/one/follow", None).await;
    assert_eq!(stream.next().await.unwrap().data["state"], "queued");
    let _: JobView = rig.post("/v1/jobs/one/cancel", "").await;
    let job = stream.next_of(follow::JOB).await;
    assert_eq!(job.data["state"], "cancelled");
    let end = stream.next().await.unwrap();
    assert_eq!((end.name.as_str(), &end.data), (follow::END, &job.data));
    assert!(stream.next().await.is_none(), "nothing follows");
    let mut stream = rig.follow("/v1/jobs/1/follow", None).await;
    assert_eq!(stream.next_of(follow::END).await.data["state"], "cancelled", "of one that is over: at once");
    rig.end_server().await;
}

#[tokio::test]
async fn points_come_once_and_go_on_after_the_last_id() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let fence = rig.claim(id).await;
    rig.store.report(fence, 1, points(0..2500)).await.unwrap();
    let mut stream = rig.follow("/v1/jobs/one/follow", None).await;
    let mut seen = Vec::new();
    let mut last = None;
    while seen.len() < 2500 {
        let message = stream.next_of(follow::METRICS).await;
        assert!(message.id > last, "ids grow");
        last = message.id;
        seen.extend(steps(&message.data));
    }
    assert_eq!(seen, (0..2500).collect::<Vec<_>>());
    drop(stream);
    rig.store.report(fence, 2, points(2500..2510)).await.unwrap();
    let mut again = rig.follow("/v1/jobs/one/follow", last).await;
    assert_eq!(steps(&again.next_of(follow::METRICS).await.data), (2500..2510).collect::<Vec<_>>());
    let mut by_query = rig.follow(&format!("/v1/jobs/one/follow?after={}", last.unwrap() + 9), None).await;
    assert_eq!(steps(&by_query.next_of(follow::METRICS).await.data), [2509]);
    // What comes with the end comes before it.
    rig.store.report(fence, 3, points(2510..2512)).await.unwrap();
    rig.end(fence, ExitClass::Spec).await;
    let mut rest = Vec::new();
    loop {
        let message = again.next().await.expect("there is an end");
        match message.name.as_str() {
            follow::METRICS => rest.extend(steps(&message.data)),
            follow::END => break,
            _ => {}
        }
    }
    assert_eq!(rest, [2510, 2511]);
    assert_eq!(rig.get_error("/v1/jobs/one/follow?after=x").await.0, 400);
    rig.end_server().await;
}

#[tokio::test]
async fn events_are_followed_to_the_end_of_the_job() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let mut stream = rig.follow("/v1/jobs/one/events?follow=true", None).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data["event"]), (follow::EVENT, &"submitted".into()));
    let other = rig.submit("two").await;
    rig.claim(other).await;
    let fence = rig.claim(id).await;
    assert_eq!(stream.next().await.unwrap().data["event"], "claimed");
    rig.end(fence, ExitClass::Crash).await;
    assert_eq!(stream.next().await.unwrap().data["event"], "requeued");
    let _: JobView = rig.post("/v1/jobs/1/cancel", "").await;
    let last = stream.next().await.unwrap();
    assert_eq!(last.data["event"], "cancelled");
    assert_eq!(stream.next().await.unwrap().name, follow::END);
    assert!(stream.next().await.is_none());
    let mut rest = rig.follow("/v1/jobs/1/events?follow=true", first.id).await;
    assert_eq!(rest.next().await.unwrap().data["event"], "claimed", "goes on after the last id");
    let mut none = rig.follow("/v1/jobs/1/events?follow=true", last.id).await;
    assert_eq!(none.next().await.unwrap().name, follow::END);
    rig.end_server().await;
}

#[tokio::test]
async fn a_stop_ends_open_streams_at_once() {
    // Nobody is cut off: a stream that did not end by itself would be waited for.
    let rig = Rig::with(|config, _| config.patience.drain = CEILING * 100).await;
    let id = rig.submit("one").await;
    rig.claim(id).await;
    let mut streams = Vec::new();
    for path in ["/v1/jobs/1/follow", "/v1/jobs/1/events?follow=true", "/v1/jobs/1/logs?follow=true"] {
        let mut stream = rig.follow(path, None).await;
        assert!(stream.next().await.is_some());
        streams.push(stream);
    }
    rig.stop.cancel();
    for stream in &mut streams {
        while let Some(message) = stream.next().await {
            assert_ne!(message.name, follow::END, "it was cut off, the job is not over");
        }
    }
    rig.end_server().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_no_stop_up() {
    let rig = Rig::with(|config, _| config.patience.drain = Duration::from_millis(100)).await;
    let id = rig.submit("one").await;
    let fence = rig.claim(id).await;
    // More than the kernel holds for it.
    for seq in 1..=10 {
        rig.store.report(fence, seq, points(0..5_000)).await.unwrap();
    }
    let deaf = rig.follow("/v1/jobs/1/follow", None).await;
    rig.end_server().await;
    drop(deaf);
}
