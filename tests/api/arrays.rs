//! Arrays through the API: checked member by member, refused before they are made, kept whole, acted on as one.

use mlctl::api::types::{
    ArrayChangeView, ArrayDetail, ArrayDryRunView, ArrayView, ErrorBody, ErrorCode, JobList, JobView,
};
use mlctl_protocol::{ExitClass, JobId};
use serde_json::{Value, json};

use crate::rig::{Rig, number, spec};

fn request(sweep: Value) -> Value {
    json!({"spec": spec("sweep"), "key": format!("array-{}", number()), "sweep": sweep})
}

fn grid(axes: &[(&str, Value)]) -> Value {
    let axes: Vec<_> = axes.iter().map(|(key, values)| json!({"key": key, "values": values})).collect();
    json!({"axes": axes})
}

const LR: &str = "train.optimizer.learning_rate";

async fn submit(rig: &Rig, request: &Value) -> ArrayView {
    rig.post("/v1/arrays", request.to_string()).await
}

async fn refusal(rig: &Rig, request: &Value) -> (ErrorCode, String) {
    let (status, body) = rig.ask(hyper::Method::POST, "/v1/arrays", request.to_string()).await;
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(!status.is_success() && status != 500, "{status}: {text}");
    let ErrorBody { error } = serde_json::from_slice(&body).unwrap();
    let problems: Vec<String> =
        error.problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
    (error.code, format!("{}\n{}", error.message, problems.join("\n")))
}

#[tokio::test]
async fn a_grid_becomes_jobs_and_a_row() {
    let rig = Rig::new().await;
    let alone = rig.submit("alone").await;
    let array =
        submit(&rig, &request(grid(&[(LR, json!([0.1, 0.01])), ("train.batch_size", json!([8, 16, 32]))]))).await;
    assert_eq!((array.size, array.state.as_str(), array.finished), (6, "queued", 0));
    let fifth: JobView = rig.get(&format!("/v1/jobs/{}.5", array.id)).await;
    assert_eq!((fifth.id.0, fifth.name.as_str()), (array.id.0 + 5, "sweep.5"));
    let place = fifth.array.unwrap();
    assert_eq!((place.id, place.index), (array.id, 5));
    assert_eq!(place.params, [(LR.to_owned(), json!(0.01)), ("train.batch_size".to_owned(), json!(16))].into());
    let kept: Value = rig.get(&format!("/v1/jobs/{}/spec", fifth.id)).await;
    assert_eq!(kept["spec"]["train"]["batch_size"], 16);
    assert_eq!(kept["spec"]["train"]["optimizer"]["learning_rate"], 0.01);
    let list: JobList = rig.get("/v1/jobs").await;
    assert_eq!(list.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [alone]);
    assert_eq!(list.arrays, std::slice::from_ref(&array));
    let members: JobList = rig.get("/v1/jobs?array=sweep").await;
    assert_eq!(members.jobs.iter().map(|job| job.id.0 - array.id.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(members.arrays.is_empty());
    let all: JobList = rig.get("/v1/jobs?members=true").await;
    assert_eq!((all.jobs.len(), all.arrays.len()), (7, 0));
    for query in ["kind=infer", "queue=other", "state=failed", "labels=%7B%22a%22%3A%22b%22%7D"] {
        let list: JobList = rig.get(&format!("/v1/jobs?{query}")).await;
        assert_eq!((list.jobs.len(), list.arrays.len()), (0, 0), "{query}");
    }
    let (status, code, _) = rig.get_error(&format!("/v1/jobs/{}", array.id)).await;
    assert_eq!((status, code), (409, ErrorCode::IsArray));
    let (status, code, _) = rig.get_error(&format!("/v1/arrays/{alone}")).await;
    assert_eq!((status, code), (400, ErrorCode::BadRequest));
}

#[tokio::test]
async fn draws_are_the_same_for_the_same_seed() {
    let rig = Rig::new().await;
    let axes = json!([{"key": LR, "range": {"low": 1e-4, "high": 0.1, "scale": "log"}}]);
    let sweep = json!({"axes": axes, "sample": {"count": 20, "seed": 7}});
    let first = submit(&rig, &request(sweep.clone())).await;
    let second = submit(&rig, &request(sweep)).await;
    assert_eq!(first.sample.map(|sample| sample.seed), Some(7));
    for index in [1, 20] {
        let one: JobView = rig.get(&format!("/v1/jobs/{}.{index}", first.id)).await;
        let other: JobView = rig.get(&format!("/v1/jobs/{}.{index}", second.id)).await;
        assert_eq!(one.array.unwrap().params, other.array.unwrap().params);
    }
    rig.store.check().await.map(|problems| assert!(problems.is_empty(), "{problems:?}")).unwrap();
}

#[tokio::test]
async fn all_mistakes_of_all_members_come_at_once() {
    let rig = Rig::new().await;
    let bad = request(grid(&[
        ("train.batch_size", json!([0, 8])),
        ("train.loss", json!(["mse", "guess"])),
        ("resources.cpus", json!([1, 64])),
    ]));
    let (code, text) = refusal(&rig, &bad).await;
    assert_eq!(code, ErrorCode::SpecInvalid);
    for words in [
        "train.batch_size: expected from 1",
        "train.loss: unknown variant",
        "the job needs 64 cores",
        "member 1",
        "more:",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let missing = request(grid(&[(
        "train.data",
        json!(
            ["a", "b"]
                .map(|name| json!({"format": "csv", "uri": format!("/nowhere/{name}.csv"), "targets": ["y", "z"]}))
        ),
    )]));
    let (_, text) = refusal(&rig, &missing).await;
    assert!(text.contains("/nowhere/a.csv does not exist") && text.contains("/nowhere/b.csv does not exist"), "{text}");
    let unknown = request(grid(&[("train.optimizer.speed", json!([1]))]));
    assert!(refusal(&rig, &unknown).await.1.contains("unknown field `speed`"));
    let list: JobList = rig.get("/v1/jobs?members=true").await;
    assert!(list.jobs.is_empty() && list.arrays.is_empty(), "nothing of it was kept");
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_made() {
    let rig = Rig::with(|_, config| config.max_queued = 10).await;
    let ten: Vec<u32> = (1..=10).collect();
    let axes: Vec<_> = (0..7).map(|axis| json!({"key": format!("labels.k{axis}"), "values": ten})).collect();
    let (code, text) = refusal(&rig, &request(json!({"axes": axes}))).await;
    assert_eq!(code, ErrorCode::TooLarge);
    assert!(text.contains("10000000 members, and one has 10000 at most"), "{text}");
    let (code, _) = refusal(&rig, &request(json!({"axes": [], "sample": {"count": u32::MAX, "seed": 0}}))).await;
    assert_eq!(code, ErrorCode::SpecInvalid);
    let eleven: Vec<u32> = (1..=11).collect();
    let (code, text) = refusal(&rig, &request(grid(&[("train.seed", json!(eleven))]))).await;
    assert_eq!(code, ErrorCode::Busy, "{text}");
    assert_eq!(submit(&rig, &request(grid(&[("train.seed", json!(ten))]))).await.size, 10, "as many as may wait");
}

#[tokio::test]
async fn a_key_is_the_array_and_a_dry_run_keeps_nothing() {
    let rig = Rig::new().await;
    let mut asked = request(grid(&[("train.seed", json!([1, 2, 3]))]));
    asked["dry_run"] = json!(true);
    let view: ArrayDryRunView = rig.post("/v1/arrays", asked.to_string()).await;
    assert_eq!((view.size, view.params.len(), view.spec.name.as_str()), (3, 3, "sweep.1"));
    let list: JobList = rig.get("/v1/jobs").await;
    assert!(list.arrays.is_empty());
    asked["dry_run"] = json!(false);
    let first = submit(&rig, &asked).await;
    assert_eq!(submit(&rig, &asked).await, first);
    asked["sweep"] = grid(&[("train.seed", json!([1, 2]))]);
    assert_eq!(refusal(&rig, &asked).await.0, ErrorCode::KeyConflict);
    assert_eq!(rig.store.counts().await.unwrap().iter().map(|(_, jobs)| jobs).sum::<u64>(), 3);
}

#[tokio::test]
async fn an_array_is_acted_on_as_one_and_compared() {
    let rig = Rig::new().await;
    let mut asked = request(grid(&[("train.seed", json!([1, 2, 3, 4]))]));
    asked["hold"] = json!(true);
    let array = submit(&rig, &asked).await;
    assert_eq!(array.state, "held");
    let released: ArrayChangeView = rig.post("/v1/arrays/sweep/release", "").await;
    assert_eq!((released.changed, released.array.state.as_str()), (4, "queued"));
    let first = rig.claim(JobId(array.id.0 + 1)).await;
    rig.end(first, ExitClass::Spec).await;
    let held: ArrayChangeView = rig.post("/v1/arrays/sweep/hold", r#"{"reason": "no power"}"#).await;
    assert_eq!((held.changed, held.array.finished), (3, 1));
    let cancelled: ArrayChangeView = rig.post("/v1/arrays/sweep/cancel", "").await;
    assert_eq!((cancelled.changed, cancelled.array.state.as_str()), (3, "failed"));
    let (status, code, message) = rig.post_error("/v1/arrays/sweep/stop", "").await;
    assert_eq!((status, code), (409, ErrorCode::WrongState));
    assert!(message.contains("3 cancelled, 1 failed"), "{message}");
    let retried: ArrayChangeView = rig.post("/v1/arrays/sweep/retry", "").await;
    assert_eq!((retried.changed, retried.array.state.as_str()), (4, "queued"));
    let shown: ArrayDetail = rig.get("/v1/arrays/sweep").await;
    assert_eq!((shown.compared_by, shown.best.len()), (None, 0));
    let (status, ..) = rig.get_error("/v1/arrays/sweep?metric=%24.x").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_followed_array_ends_with_its_last_member() {
    let rig = Rig::new().await;
    let array = submit(&rig, &request(grid(&[("train.seed", json!([1, 2]))]))).await;
    let mut messages = rig.follow("/v1/arrays/sweep/follow", None).await;
    assert_eq!(messages.next_of("array").await.data["finished"], 0);
    for member in [1, 2] {
        let fence = rig.claim(JobId(array.id.0 + member)).await;
        rig.end(fence, ExitClass::Ok).await;
    }
    let end = messages.next_of("end").await.data;
    assert_eq!((&end["state"], &end["finished"]), (&json!("succeeded"), &json!(2)));
}

#[tokio::test]
async fn halving_is_kept_and_makes_checkpoints_at_its_rungs() {
    let rig = Rig::new().await;
    let mut asked = request(grid(&[("train.seed", json!([1, 2]))]));
    asked["halving"] = json!({"metric": {"name": "train_loss", "goal": "min"}, "eta": 3, "min_steps": 7});
    let array = submit(&rig, &asked).await;
    assert_eq!(array.halving.map(|halving| (halving.eta, halving.min_steps)), Some((3, 7)));
    let kept: Value = rig.get(&format!("/v1/jobs/{}.1/spec", array.id)).await;
    assert_eq!(kept["spec"]["checkpoint"]["every_steps"], 7);
    for (metric, min_steps, words) in [
        ("vall_loss", 7, "no checkpoint of a training job"),
        ("val_loss", 7, "without rows to validate on"),
        ("train_loss", 0, "min_steps is at least 1"),
    ] {
        asked["key"] = json!(format!("halving-{}", number()));
        asked["halving"] = json!({"metric": {"name": metric, "goal": "min"}, "eta": 3, "min_steps": min_steps});
        let (code, text) = refusal(&rig, &asked).await;
        assert_eq!(code, ErrorCode::SpecInvalid);
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test]
async fn members_that_would_replace_each_other_are_refused() {
    let rig = Rig::new().await;
    let mut request = request(grid(&[(LR, json!([0.1, 0.01]))]));
    request["spec"]["concurrency"] = json!({"key": "k", "wins": "newest"});
    let (code, told) = refusal(&rig, &request).await;
    assert_eq!(code, ErrorCode::SpecInvalid);
    assert!(told.contains("concurrency.wins: the members of an array would replace each other"), "{told}");
    request["spec"]["concurrency"]["limit"] = 101.into();
    let (_, told) = refusal(&rig, &request).await;
    assert!(told.contains("concurrency.limit: where the newest wins, 100 run at once at most, found 101"), "{told}");
}

#[tokio::test]
async fn an_array_is_edited_as_one_and_each_member_takes_what_it_can() {
    let rig = Rig::new().await;
    let array = submit(&rig, &request(grid(&[("train.seed", json!([1, 2, 3, 4]))]))).await;
    let member = |index: u64| JobId(array.id.0 + index);
    let failed = rig.claim(member(1)).await;
    rig.end(failed, ExitClass::Spec).await;
    rig.claim(member(2)).await;
    rig.post::<JobView>(&format!("/v1/jobs/{}/hold", member(3)), "{}").await;
    let edit = json!({"priority": 80, "labels": {"team": "vision"}, "time_limit_seconds": 600}).to_string();
    let edited: ArrayChangeView = rig.post("/v1/arrays/sweep/edit", edit.clone()).await;
    assert_eq!((edited.changed, edited.array.priority), (4, 80));
    assert_eq!(edited.array.labels, [("team".to_owned(), "vision".to_owned())].into());
    let mut seen = Vec::new();
    for index in 1..=4 {
        let job: JobView = rig.get(&format!("/v1/jobs/{}", member(index))).await;
        seen.push((job.state.clone(), job.priority, job.labels.len(), job.time_limit_seconds));
    }
    let expected = [("failed", 50, 0), ("running", 50, 1), ("held", 80, 1), ("queued", 80, 1)];
    assert_eq!(seen, expected.map(|(state, priority, labels)| (state.to_owned(), priority, labels, Some(600))));
    let again: ArrayChangeView = rig.post("/v1/arrays/sweep/edit", edit).await;
    assert_eq!(again.changed, 0, "nothing is left to change");
    let (status, _, message) = rig.post_error("/v1/arrays/sweep/edit", r#"{"queue": "nowhere"}"#).await;
    assert!(status == 400 && message.contains("there is no queue nowhere"), "{status} {message}");
    let (status, _, message) = rig.post_error("/v1/arrays/sweep/edit", r#"{"deadline": "2020-01-01T00:00:00Z"}"#).await;
    assert!(status == 400 && message.contains("deadline: it has passed"), "{status} {message}");
    rig.post::<ArrayChangeView>("/v1/arrays/sweep/cancel", "").await;
    let (status, code, _) = rig.post_error("/v1/arrays/sweep/edit", r#"{"priority": 1}"#).await;
    assert_eq!((status, code), (409, ErrorCode::WrongState), "one member runs, and has what it waited for");
    assert_eq!(rig.store.check().await.unwrap(), Vec::<String>::new(), "its row is sealed anew");
}
