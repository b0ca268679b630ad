//! Queues over the socket: made, changed, listed, removed; and which jobs they take.

use hyper::Method;
use mlctl::{
    api::types::{DryRunView, ErrorBody, ErrorCode, JobView, QueueList, QueueView, WhyView},
    domain::{
        Command, Exit, Uid,
        queue::{Flow, Order},
    },
    store::NewJob,
};
use mlctl_protocol::ExitClass;
use serde_json::{Value, json};

use crate::rig::{Rig, spec};

async fn set(rig: &Rig, name: &str, request: Value) -> QueueView {
    rig.post(&format!("/v1/queues/{name}"), request.to_string()).await
}

fn submit(name: &str, queue: &str, cpus: u32) -> String {
    let mut spec = spec(name);
    spec["queue"] = queue.into();
    spec["resources"] = json!({"cpus": cpus});
    json!({"spec": spec, "key": name}).to_string()
}

/// The path and the words of the one problem that a submit is refused for.
async fn problem(rig: &Rig, body: String) -> (String, String, String) {
    let (status, body) = rig.ask(Method::POST, "/v1/jobs", body).await;
    let ErrorBody { error } = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{status} {body:?}"));
    assert_eq!((status.as_u16(), error.code, error.problems.len()), (422, ErrorCode::SpecInvalid, 1), "{error:?}");
    let problem = error.problems.into_iter().next().unwrap();
    (problem.path, problem.message, problem.hint.unwrap())
}

#[tokio::test]
async fn a_queue_lives_from_set_to_remove() {
    let rig = Rig::new().await;
    let list: QueueList = rig.get("/v1/queues").await;
    let default = &list.queues[0];
    assert_eq!((list.queues.len(), default.name.as_str(), default.state), (1, "default", Flow::Open));
    assert_eq!((default.running_limit, &default.changed_by), (None, &None));
    let made = set(&rig, "night", json!({"running": 2, "order": "strict"})).await;
    assert_eq!((made.running_limit, made.order, made.state), (Some(2), Order::Strict, Flow::Open));
    assert!(made.changed_by.is_some() && made.changed_at.is_some());
    let changed = set(&rig, "night", json!({"running": null, "cpus": 1})).await;
    assert_eq!((changed.running_limit, changed.cpus_limit, changed.order), (None, Some(1), Order::Strict));
    assert_eq!(set(&rig, "night", json!({"state": "paused"})).await.state, Flow::Paused);
    let job: JobView = rig.post("/v1/jobs", submit("one", "night", 1)).await;
    assert_eq!(job.queue, "night");
    let shown: QueueView = rig.get("/v1/queues/night").await;
    assert_eq!((shown.state, shown.jobs.get("queued"), shown.used.cpus), (Flow::Paused, Some(&1), 0));
    let (status, body) = rig.ask(Method::DELETE, "/v1/queues/night", "").await;
    let ErrorBody { error } = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), error.code), (409, ErrorCode::WrongState));
    assert_eq!(error.message, "1 jobs in queue night have not ended");
    let _: JobView = rig.post("/v1/jobs/one/cancel", "").await;
    let removed: QueueView = rig.delete("/v1/queues/night").await;
    assert_eq!(removed.name, "night");
    // Its job is still there.
    let list: QueueList = rig.get("/v1/queues").await;
    assert_eq!(list.queues.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["default", "night"]);
    rig.end_server().await;
}

#[tokio::test]
async fn a_slip_of_the_fingers_makes_no_queue_and_finds_none() {
    let rig = Rig::new().await;
    let (status, code, message) = rig.post_error("/v1/queues/nihgt", r#"{"state": "paused"}"#).await;
    assert_eq!((status, code, message.as_str()), (404, ErrorCode::NotFound, "no queue nihgt"));
    for (name, body) in [("a%20b", r#"{"running": 1}"#), (".x", r#"{"running": 1}"#), ("x", r#"{"runnning": 1}"#)] {
        let (status, code, _) = rig.post_error(&format!("/v1/queues/{name}"), body).await;
        assert_eq!((status, code), (400, ErrorCode::BadRequest), "{name} {body}");
    }
    set(&rig, "night", json!({"running": 1})).await;
    let (path, message, hint) = problem(&rig, submit("one", "nihgt", 1)).await;
    assert_eq!((path.as_str(), message.as_str()), ("queue", "there is no queue nihgt"));
    assert!(hint.contains("there are default, night;"), "{hint}");
    let (path, message, _) = problem(&rig, submit("one", "no such", 1)).await;
    assert_eq!((path.as_str(), message.as_str()), ("queue", "\"no such\" is no name of a queue"));
    rig.end_server().await;
}

#[tokio::test]
async fn a_queue_takes_what_it_could_run_and_nothing_while_it_drains() {
    let rig = Rig::new().await;
    set(&rig, "small", json!({"cpus": 1})).await;
    let (path, message, _) = problem(&rig, submit("one", "small", 2)).await;
    assert_eq!(path, "resources.cpus");
    assert_eq!(message, "queue small gives its jobs 1 cores at once, and this one needs 2");
    let _: JobView = rig.post("/v1/jobs", submit("two", "small", 1)).await;
    let large: JobView = rig.post("/v1/jobs", submit("three", "default", 2)).await;
    let (status, _, message) = rig.post_error(&format!("/v1/jobs/{}/edit", large.id), r#"{"queue": "small"}"#).await;
    assert_eq!(status, 400, "{message}");
    set(&rig, "small", json!({"state": "draining"})).await;
    let (path, message, hint) = problem(&rig, submit("four", "small", 1)).await;
    assert_eq!((path.as_str(), message.as_str()), ("queue", "queue small is draining: it takes no more jobs"));
    assert!(hint.contains("mlctl queue resume small"), "{hint}");
    let again: JobView = rig.post("/v1/jobs", submit("two", "small", 1)).await;
    assert_eq!(again.name, "two", "what was acknowledged stays so");
    set(&rig, "small", json!({"state": "open"})).await;
    let _: JobView = rig.post("/v1/jobs", submit("four", "small", 1)).await;
    let moved: JobView = rig.post("/v1/jobs/four/edit", r#"{"queue": "default"}"#).await;
    assert_eq!(moved.queue, "default");
    rig.end_server().await;
}

#[tokio::test]
async fn who_has_used_much_stands_behind_who_has_used_little() {
    let rig = Rig::new().await;
    let new = |user: u32, key: &str| NewJob {
        spec: serde_json::from_value(spec(key)).unwrap(),
        user: Uid(user),
        key: key.into(),
        asked: None,
        hold: None,
    };
    let used = rig.store.submit(new(7, "used")).await.unwrap().id;
    let fence = rig.store.claim(used, Vec::new(), [7; 32], rig.store_now()).await.unwrap().fence;
    rig.forward(3600);
    let exit = Exit { class: ExitClass::Ok, message: None, hint: None };
    let end = Command::End { exit, model: None, output: None, jitter: 0.0 };
    rig.store.command(used, Some(fence), end).await.unwrap();
    rig.store.submit(new(7, "much")).await.unwrap();
    rig.forward(9 * 3600);
    rig.store.submit(new(8, "little")).await.unwrap();
    let why: WhyView = rig.get("/v1/jobs/much/why").await;
    assert_eq!(why.reason, "is about to start, after job 3", "ten points are ten hours");
    rig.forward(2 * 3600);
    rig.store.submit(new(8, "late")).await.unwrap();
    let why: WhyView = rig.get("/v1/jobs/late/why").await;
    assert_eq!(why.reason, "waits for what jobs before it are about to have");
    rig.end_server().await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_become_of_the_job() {
    let rig = Rig::new().await;
    let dry = async |name: &str, cpus: u32| {
        let mut body: Value = serde_json::from_str(&submit(name, "default", cpus)).unwrap();
        body["dry_run"] = true.into();
        let view: DryRunView = rig.post("/v1/jobs", body.to_string()).await;
        view.placement.unwrap()
    };
    let now = dry("now", 2).await;
    assert_eq!((now.reason.as_str(), now.starts_by), ("is about to start", Some(rig.store_now())));
    let mut long = spec("long");
    long["resources"] = json!({"cpus": 2});
    long["time"] = json!({"limit_seconds": 600});
    let _: JobView = rig.post("/v1/jobs", json!({"spec": long, "key": "long"}).to_string()).await;
    let later = dry("later", 2).await;
    assert_eq!(later.starts_by.unwrap().duration_since(rig.store_now()).as_secs(), 600);
    assert_eq!(rig.store.counts().await.unwrap(), [("queued".to_owned(), 1)], "nothing was submitted");
    rig.end_server().await;
}
