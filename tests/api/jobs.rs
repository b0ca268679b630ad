//! Jobs that are there: shown, listed, cancelled, tried again.

use mlctl::{
    api::types::{AttemptList, ErrorCode, EventList, JobList, JobView, MetricList, SpecView, WhyView},
    store::{Beat, Used},
};
use mlctl_protocol::{
    ExitClass,
    message::ReportBody,
    progress::{MetricPoint, Progress},
};

use serde_json::json;

use crate::rig::{Rig, spec};

#[tokio::test]
async fn a_job_is_found_by_id_by_name_and_as_the_last() {
    let rig = Rig::new().await;
    assert_eq!(rig.get_error("/v1/jobs/@last").await.1, ErrorCode::NotFound);
    let (one, two) = (rig.submit("one").await, rig.submit("two").await);
    for (reference, id) in [("1", one), ("one", one), ("%6fne", one), ("two", two), ("@last", two), ("%40last", two)] {
        let view: JobView = rig.get(&format!("/v1/jobs/{reference}")).await;
        assert_eq!(view.id, id, "{reference}");
    }
    let again = rig.submit("one").await;
    let (status, code, message) = rig.get_error("/v1/jobs/one").await;
    assert_eq!((status, code), (409, ErrorCode::Ambiguous));
    assert!(message.contains(&one.to_string()) && message.contains(&again.to_string()), "{message}");
    let spec: SpecView = rig.get("/v1/jobs/two/spec").await;
    assert_eq!((spec.id, spec.spec.name.as_str()), (two, "two"));
    rig.end_server().await;
}

#[tokio::test]
async fn a_job_is_shown_as_it_is() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let view: JobView = rig.get("/v1/jobs/one").await;
    let user = rustix::process::geteuid().as_raw();
    assert_eq!((view.state.as_str(), view.uid, view.attempt), ("queued", user, None));
    assert_eq!(view.reason.as_deref(), Some("is about to start"));
    let fence = rig.claim(id).await;
    let progress = Progress { step: Some(4), steps: Some(8), rows_per_second: Some(16.0), ..Progress::default() };
    let lease_until = jiff::Timestamp::from_second(1_790_000_600).unwrap();
    let beat = Beat {
        fence,
        lease_until,
        progress,
        peak_rss_bytes: 9,
        used: Used { cpu_ms: 1_234, peak_vram_bytes: Some(5 << 30) },
        device: "cpu".into(),
        is_last: false,
    };
    rig.store.heartbeat(beat).await.unwrap();
    let point = |step| MetricPoint { step, epoch: 0, values: [("train_loss".to_owned(), 0.5)].into() };
    let body = ReportBody::Metrics { points: vec![point(1), point(2), point(3)] };
    rig.store.report(fence, 1, body).await.unwrap();
    let view: JobView = rig.get("/v1/jobs/one").await;
    assert_eq!((view.state.as_str(), view.attempt, view.eta_seconds), ("running", Some(1), Some(2)));
    assert_eq!(view.reason.as_deref(), Some("runs on cpu"));
    assert_eq!(view.metrics["train_loss"], 0.5);
    assert_eq!((view.peak_rss_bytes, view.peak_vram_bytes), (Some(9), Some(5 << 30)));
    assert_eq!(view.worker.unwrap().device.as_deref(), Some("cpu"));
    let points: MetricList = rig.get("/v1/jobs/one/metrics?limit=2").await;
    assert_eq!(points.points.iter().map(|point| point.step).collect::<Vec<_>>(), [1, 2]);
    let rest: MetricList = rig.get(&format!("/v1/jobs/one/metrics?after={}", points.next.unwrap())).await;
    assert_eq!((rest.points.len(), rest.points[0].step, rest.next), (1, 3, None));
    rig.end(fence, ExitClass::Spec).await;
    let view: JobView = rig.get("/v1/jobs/one").await;
    assert_eq!((view.state.as_str(), view.exit_class.as_deref()), ("failed", Some("spec")));
    assert_eq!((view.reason.as_deref(), view.eta_seconds), (Some("spec: so it ended"), None));
    let attempts: AttemptList = rig.get("/v1/jobs/one/attempts").await;
    assert_eq!((attempts.attempts.len(), attempts.attempts[0].exit_class.as_deref()), (1, Some("spec")));
    let why: WhyView = rig.get("/v1/jobs/one/why").await;
    assert_eq!((why.state.as_str(), why.reason.as_str(), why.hint.is_some()), ("failed", "spec: so it ended", true));
    let events: EventList = rig.get("/v1/jobs/one/events").await;
    let names: Vec<&str> = events.events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["submitted", "claimed", "failed"]);
    assert!(events.events.iter().all(|event| !event.text.is_empty() && !event.fields.contains_key("event")));
    let later: EventList = rig.get(&format!("/v1/jobs/one/events?after={}", events.events[0].id)).await;
    assert_eq!(later.events, events.events[1..]);
    rig.end_server().await;
}

#[tokio::test]
async fn lists_are_of_what_was_asked_for() {
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d"] {
        ids.push(rig.submit(name).await);
    }
    for name in ["a", "d"] {
        rig.post::<JobView>(&format!("/v1/jobs/{name}/edit"), r#"{"labels": {"team": "vision"}}"#).await;
    }
    rig.post::<JobView>("/v1/jobs/c/edit", r#"{"priority": 90}"#).await;
    let fence = rig.claim(ids[0]).await;
    rig.end(fence, ExitClass::Spec).await;
    rig.claim(ids[1]).await;
    let user = rustix::process::geteuid().as_raw();
    let cases = [
        ("", vec![4, 3, 2, 1]),
        ("?finished=0", vec![4, 3, 2]),
        ("?state=failed", vec![1]),
        ("?state=running,failed", vec![2, 1]),
        ("?state=running%2Cqueued&limit=2", vec![4, 3]),
        ("?limit=1", vec![4]),
        ("?limit=0", vec![]),
        ("?kind=train", vec![4, 3, 2, 1]),
        ("?kind=infer", vec![]),
        (&format!("?user={user}"), vec![4, 3, 2, 1]),
        ("?user=4294967294", vec![]),
        ("?limit=4294967295", vec![4, 3, 2, 1]),
        ("?queue=default", vec![4, 3, 2, 1]),
        ("?queue=night", vec![]),
        ("?labels=%7B%22team%22%3A%22vision%22%7D", vec![4, 1]),
        ("?labels=%7B%22team%22%3A%22vision%22%7D&state=failed", vec![1]),
        ("?labels=%7B%7D", vec![4, 3, 2, 1]),
        ("?since=2000-01-01T00:00:00Z", vec![4, 3, 2, 1]),
        ("?since=2100-01-01T00:00:00Z", vec![4, 3, 2]),
        ("?since=2100-01-01T00:00:00Z&state=failed", vec![]),
        ("?sort=oldest", vec![1, 2, 3, 4]),
        ("?sort=oldest&limit=2", vec![3, 4]),
        ("?sort=priority", vec![3, 1, 2, 4]),
        ("?sort=name", vec![1, 2, 3, 4]),
        ("?sort=finished", vec![4, 3, 2, 1]),
        ("?sort=newest", vec![4, 3, 2, 1]),
        ("?filter=state%3Dfailed", vec![1]),
        ("?filter=label.team%3Dvision+and+not+finished", vec![4]),
        ("?filter=priority%3E50+or+state%3Drunning", vec![3, 2]),
        ("?filter=priority%3E50+or+state%3Drunning&state=running", vec![2]),
        ("?filter=priority%3E50+or+state%3Drunning&limit=1", vec![3]),
        ("?filter=state%3Dfailed+and+state%3Drunning", vec![]),
        (&format!("?filter=user%3D{user}+and+age%3C7d+and+name%21%7Eb*"), vec![4, 3, 1]),
    ];
    for (query, expected) in cases {
        let list: JobList = rig.get(&format!("/v1/jobs{query}")).await;
        let found: Vec<u64> = list.jobs.iter().map(|job| job.id.0).collect();
        assert_eq!(found, expected, "{query}");
    }
    let wrong = ["?state=", "?state=done", "?state=queued,", "?kind=x", "?user=no-such-user", "?user=", "?limit=-1"];
    let labels = ["?labels=team", "?labels=%7B%22team%22%3A5%7D", "?labels=", "?since=yesterday", "?sort=size"];
    let long = format!("?labels=%7B%22team%22%3A%22{}%22%7D", "x".repeat(4096));
    let filters = ["?filter=", "?filter=stat%3D1", "?filter=state%3Ddancing", "?filter=%28"];
    let wrong = wrong.into_iter().chain(labels).chain(filters).chain([long.as_str()]);
    for query in wrong.chain(["?limit=x", "?stat=queued", "?limit=1&limit=2", "?limit=4294967296"]) {
        let (status, code, _) = rig.get_error(&format!("/v1/jobs{query}")).await;
        assert_eq!((status, code), (400, ErrorCode::BadRequest), "{query}");
    }
    rig.end_server().await;
}

#[tokio::test]
async fn cancel_and_retry_follow_the_state_machine() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let retried = rig.post_error("/v1/jobs/one/retry", "").await;
    assert_eq!((retried.0, retried.1), (409, ErrorCode::WrongState));
    let view: JobView = rig.post("/v1/jobs/one/cancel", "").await;
    assert_eq!((view.state.as_str(), view.reason.as_deref()), ("cancelled", Some("cancelled before it was started")));
    let cancelled = rig.post_error("/v1/jobs/one/cancel", "").await;
    assert_eq!((cancelled.0, cancelled.1), (409, ErrorCode::WrongState));
    let view: JobView = rig.post("/v1/jobs/one/retry", "").await;
    assert_eq!(view.state, "queued");
    rig.claim(id).await;
    let view: JobView = rig.post("/v1/jobs/one/cancel", "").await;
    assert_eq!((view.state.as_str(), view.intent.as_deref()), ("running", Some("cancel")));
    let view: JobView = rig.post("/v1/jobs/one/cancel", "").await;
    assert_eq!(view.intent.as_deref(), Some("cancel"), "asked twice is asked once");
    rig.end_server().await;
}

#[tokio::test]
async fn a_held_job_says_who_holds_it_and_why_until_it_is_released() {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let view: JobView = rig.post("/v1/jobs/one/hold", r#"{"reason": "until the data is there"}"#).await;
    let reason = view.reason.unwrap();
    assert!(view.state == "held" && reason.ends_with(": until the data is there"), "{reason}");
    let why: WhyView = rig.get("/v1/jobs/one/why").await;
    assert_eq!((why.state.as_str(), &why.reason), ("held", &reason));
    assert_eq!(why.hint.as_deref(), Some("`mlctl release 1` lets it wait for its turn"));
    let view: JobView = rig.post("/v1/jobs/one/hold", "").await;
    assert_eq!(view.reason, Some(reason), "held already: nothing changes");
    for (query, found) in [("", 1), ("?state=held", 1), ("?state=queued", 0)] {
        let list: JobList = rig.get(&format!("/v1/jobs{query}")).await;
        assert_eq!(list.jobs.len(), found, "{query}");
    }
    let view: JobView = rig.post("/v1/jobs/one/release", "").await;
    assert_eq!((view.state.as_str(), view.reason.as_deref()), ("queued", Some("is about to start")));
    let again = rig.post_error("/v1/jobs/one/release", "").await;
    assert_eq!((again.0, again.1), (409, ErrorCode::WrongState));
    let events: EventList = rig.get("/v1/jobs/one/events").await;
    let names: Vec<&str> = events.events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["submitted", "held", "released"]);
    let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(201));
    for body in [long.as_str(), r#"{"reason": "two\nlines"}"#, r#"{"reason": 5}"#, r#"{"reasons": "x"}"#] {
        let (status, code, _) = rig.post_error("/v1/jobs/one/hold", body.to_owned()).await;
        assert_eq!((status, code), (400, ErrorCode::BadRequest), "{body}");
    }
    rig.end_server().await;
}

#[tokio::test]
async fn a_job_submitted_held_takes_its_key_and_its_room() {
    let rig = Rig::with(|_, config| config.max_queued = 1).await;
    let held = |key: &str, hold: bool| json!({"spec": spec("one"), "key": key, "hold": hold}).to_string();
    let view: JobView = rig.post("/v1/jobs", held("k", true)).await;
    assert_eq!(view.state, "held");
    let again: JobView = rig.post("/v1/jobs", held("k", true)).await;
    assert_eq!(again.id, view.id);
    let (status, code, _) = rig.post_error("/v1/jobs", held("k", false)).await;
    assert_eq!((status, code), (409, ErrorCode::KeyConflict), "one that is not held is another job");
    let (status, code, _) = rig.post_error("/v1/jobs", held("other", false)).await;
    assert_eq!((status, code), (503, ErrorCode::Busy), "held jobs wait too");
    rig.end_server().await;
}

#[tokio::test]
async fn an_edit_changes_priority_and_labels_within_the_rules() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let body = r#"{"priority": 80, "labels": {"team": "vision", "stage": "final"}}"#;
    let view: JobView = rig.post("/v1/jobs/one/edit", body).await;
    assert_eq!((view.priority, view.labels.len()), (80, 2));
    let view: JobView = rig.post("/v1/jobs/one/edit", r#"{"labels": {"stage": null}}"#).await;
    assert_eq!((view.priority, view.labels.len(), view.labels["team"].as_str()), (80, 1, "vision"));
    let long = format!(r#"{{"labels": {{"k": "{}"}}}}"#, "x".repeat(1025));
    let many: Vec<String> = (0..64).map(|number| format!("\"l{number}\": \"\"")).collect();
    let many = format!(r#"{{"labels": {{{}}}}}"#, many.join(", "));
    let wrong =
        [r#"{"priority": 101}"#, r#"{"priority": -1}"#, r#"{"labels": {"two words": "x"}}"#, r#"{"name": "x"}"#];
    for body in wrong.into_iter().chain([long.as_str(), many.as_str()]) {
        let (status, code, message) = rig.post_error("/v1/jobs/one/edit", body.to_owned()).await;
        assert_eq!((status, code), (400, ErrorCode::BadRequest), "{body}: {message}");
    }
    rig.claim(id).await;
    let (status, code, message) = rig.post_error("/v1/jobs/one/edit", r#"{"priority": 10}"#).await;
    assert_eq!((status, code), (409, ErrorCode::WrongState));
    assert!(message.contains("is running and cannot be given another priority"), "{message}");
    let view: JobView = rig.post("/v1/jobs/one/edit", r#"{"labels": {"stage": "late"}}"#).await;
    assert_eq!(view.labels["stage"], "late");
    rig.end_server().await;
}

#[tokio::test]
async fn an_edit_sets_terms_and_null_takes_them_away() {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let body = r#"{"begin": "2100-01-01T00:00:00Z", "deadline": "2100-01-02T00:00:00Z", "time_limit_seconds": 60, "retries": 0}"#;
    let view: JobView = rig.post("/v1/jobs/one/edit", body).await;
    assert_eq!((view.time_limit_seconds, view.retry_limit), (Some(60), 0));
    assert_eq!(view.deadline.map(|at| at.to_string()).as_deref(), Some("2100-01-02T00:00:00Z"));
    assert!(view.reason.as_deref().is_some_and(|reason| reason.contains("; its deadline is in ")), "{view:?}");
    let events: EventList = rig.get("/v1/jobs/one/events").await;
    let text = &events.events.last().unwrap().text;
    let words = "start time is 2100-01-01 00:00:00 UTC, deadline is 2100-01-02 00:00:00 UTC, time limit is 60 s, 0 retries allowed";
    assert!(text.ends_with(words), "{text}");
    let body = r#"{"begin": null, "deadline": null, "time_limit_seconds": null}"#;
    let view: JobView = rig.post("/v1/jobs/one/edit", body).await;
    assert_eq!((view.deadline, view.not_before, view.time_limit_seconds), (None, None, None));
    for body in [
        r#"{"time_limit_seconds": 0}"#,
        r#"{"time_limit_seconds": 99999999}"#,
        r#"{"retries": 101}"#,
        r#"{"deadline": "soon"}"#,
    ] {
        let (status, code, message) = rig.post_error("/v1/jobs/one/edit", body.to_owned()).await;
        assert_eq!((status, code), (400, ErrorCode::BadRequest), "{body}: {message}");
    }
    let (status, _, message) = rig.post_error("/v1/jobs/one/edit", r#"{"deadline": "2020-01-01T00:00:00Z"}"#).await;
    assert!(status == 409 && message.contains("cannot be given a deadline that has passed"), "{message}");
    let mut past = spec("past");
    past["time"] = json!({"deadline": "2020-01-01T00:00:00Z"});
    let (status, code, _) = rig.post_error("/v1/jobs", json!({"spec": past, "key": "past"}).to_string()).await;
    assert_eq!((status, code), (422, ErrorCode::SpecInvalid));
    rig.end_server().await;
}

#[tokio::test]
async fn a_stop_is_an_intent_and_a_cancel_after_it_is_graver() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    rig.claim(id).await;
    for (verb, intent) in [("stop", "stop"), ("stop", "stop"), ("cancel", "cancel"), ("stop", "cancel")] {
        let view: JobView = rig.post(&format!("/v1/jobs/one/{verb}"), "").await;
        assert_eq!((view.state.as_str(), view.intent.as_deref()), ("running", Some(intent)), "{verb}");
    }
    rig.submit("two").await;
    let view: JobView = rig.post("/v1/jobs/two/stop", "").await;
    assert_eq!(view.state, "cancelled", "one that waits has nothing to save");
    rig.end_server().await;
}
