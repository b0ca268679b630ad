//! Jobs that wait for others, over the socket: what is refused, what is kept of the names, and what is shown.

use hyper::Method;
use mlctl::{
    api::types::{ArrayDetail, DryRunView, ErrorBody, ErrorCode, EventList, JobList, JobView, SpecView, WhyView},
    domain::rules::Problem,
};
use mlctl_protocol::{ExitClass, JobId};
use serde_json::{Value, json};

use crate::rig::{Rig, spec, submission};

fn after(name: &str, on: &[&str]) -> Value {
    let mut spec = spec(name);
    spec["after"] = json!(on);
    spec
}

/// The mistakes that a spec is refused for.
async fn problems(rig: &Rig, spec: Value) -> Vec<Problem> {
    let (status, body) = rig.ask(Method::POST, "/v1/jobs", submission(spec, "wrong")).await;
    let ErrorBody { error } = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), error.code), (422, ErrorCode::SpecInvalid), "{error:?}");
    error.problems
}

#[tokio::test]
async fn names_are_kept_as_ids_and_what_waits_says_for_what() {
    let rig = Rig::new().await;
    let (first, second) = (rig.submit("first").await, rig.submit("second").await);
    let view: JobView = rig.post("/v1/jobs", submission(after("third", &["ok:first", "any:@last"]), "k")).await;
    let reason = "waits for job 1 (queued) to succeed, job 2 (queued) to end";
    assert_eq!((view.state.as_str(), view.reason.as_deref()), ("blocked", Some(reason)));
    let again: JobView = rig.post("/v1/jobs", submission(after("third", &["ok:first", "any:@last"]), "k")).await;
    assert_eq!(again.id, view.id, "asked for in the same words, though @last is another job now");
    let (status, code, _) = rig.post_error("/v1/jobs", submission(after("third", &["ok:first"]), "k")).await;
    assert_eq!((status, code), (409, ErrorCode::KeyConflict));
    let kept: SpecView = rig.get("/v1/jobs/third/spec").await;
    let kept: Vec<String> = kept.spec.after.iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["ok:1", "any:2"]);
    let shown: JobView = rig.get("/v1/jobs/third").await;
    let on: Vec<String> = shown.after.iter().map(ToString::to_string).collect();
    assert_eq!(on, ["ok:1 (queued)", "any:2 (queued)"]);
    let shown: JobView = rig.get("/v1/jobs/first").await;
    assert_eq!((shown.dependents_count, shown.dependents[0].to_string()), (Some(1), "3 (ok, blocked)".to_owned()));
    let list: JobList = rig.get("/v1/jobs?state=blocked").await;
    assert_eq!((list.jobs.len(), list.jobs[0].reason.as_deref()), (1, Some(reason)));
    let list: JobList = rig.get("/v1/jobs?filter=state%3Dblocked").await;
    assert_eq!(list.jobs.len(), 1);
    let why: WhyView = rig.get("/v1/jobs/third/why").await;
    assert_eq!(
        (why.reason.as_str(), why.hint.as_deref()),
        (reason, Some("`mlctl why 1` says what that one waits for"))
    );
    let fence = rig.claim(first).await;
    rig.end(fence, ExitClass::Ok).await;
    let fence = rig.claim(second).await;
    rig.end(fence, ExitClass::Spec).await;
    let shown: JobView = rig.get("/v1/jobs/third").await;
    assert_eq!((shown.state.as_str(), shown.unmet), ("queued", None));
    let events: EventList = rig.get("/v1/jobs/third/events").await;
    let texts: Vec<&str> = events.events.iter().map(|event| event.text.as_str()).collect();
    assert!(texts[0].ends_with(", after ok:1, any:2") && texts[1].starts_with("all that it waited for has come about"));
    rig.end_server().await;
}

#[tokio::test]
async fn what_can_never_come_about_ends_or_keeps_a_job_and_says_why() {
    let rig = Rig::new().await;
    let first = rig.submit("first").await;
    let _: JobView = rig.post("/v1/jobs", submission(after("second", &["first"]), "2")).await;
    let mut kept = after("third", &["ok:first"]);
    kept["after_failed"] = "keep".into();
    let _: JobView = rig.post("/v1/jobs", submission(kept, "3")).await;
    let _: JobView = rig.post("/v1/jobs", submission(after("fourth", &["second"]), "4")).await;
    let fence = rig.claim(first).await;
    rig.end(fence, ExitClass::Spec).await;
    let view: JobView = rig.get("/v1/jobs/second").await;
    assert_eq!(view.reason.as_deref(), Some("cancelled: job 1 failed (spec): so it ended"));
    assert_eq!((view.state.as_str(), view.unmet), ("cancelled", Some(first)));
    assert_eq!(view.exit_hint.as_deref(), Some("`mlctl retry 2` starts it all the same"));
    let view: JobView = rig.get("/v1/jobs/third").await;
    assert!(
        view.state == "held" && view.reason.clone().unwrap().ends_with(": job 1 failed (spec): so it ended"),
        "{view:?}"
    );
    assert!(view.needs_a_person() && view.is_settled());
    let view: JobView = rig.get("/v1/jobs/fourth").await;
    let cause = "cancelled: job 2 was cancelled: job 1 failed (spec): so it ended";
    assert_eq!(view.reason.as_deref(), Some(cause), "the cause of all");
    let why: WhyView = rig.get("/v1/jobs/third/why").await;
    assert_eq!(why.hint.as_deref(), Some("`mlctl release 3` starts it all the same"));
    let view: JobView = rig.post("/v1/jobs/second/retry", "").await;
    assert_eq!(view.state, "queued");
    let view: JobView = rig.get("/v1/jobs/second").await;
    assert_eq!(view.after[0].to_string(), "ok:1 (failed, no longer waited for)");
    let late: JobView = rig.post("/v1/jobs", submission(after("late", &["first"]), "5")).await;
    assert_eq!(late.state, "cancelled", "as when it had failed a moment later");
    rig.end_server().await;
}

#[tokio::test]
async fn what_cannot_be_waited_for_is_refused_all_at_once() {
    let rig = Rig::new().await;
    rig.submit("first").await;
    let array = json!({
        "spec": after("sweep", &["ok:first"]), "key": "array",
        "sweep": {"axes": [{"key": "train.seed", "values": [1, 2]}]}
    });
    let view: Value = rig.post("/v1/arrays", array.to_string()).await;
    assert_eq!((&view["state"], &view["counts"]), (&json!("blocked"), &json!({"blocked": 2})));
    let found = problems(&rig, after("x", &["ok:first", "any:1", "missing", "notok:sweep", "ok:99"])).await;
    let told: Vec<(&str, &str)> =
        found.iter().map(|problem| (problem.path.as_str(), problem.message.as_str())).collect();
    let expected = [
        ("after[1]", "1 is waited for already"),
        ("after[2]", "no job missing"),
        ("after[3]", "2 (sweep) is an array, and whether one has failed as a whole is not waited for"),
        ("after[4]", "no job 99"),
    ];
    assert_eq!(told, expected);
    let found = problems(&rig, after("x", &["okk:first"])).await;
    assert!(found[0].message.contains("does not begin with ok:, any: or notok:"), "{found:?}");
    let many: Vec<String> = (0..1001).map(|number| format!("ok:{number}")).collect();
    let found = problems(&rig, after("x", &many.iter().map(String::as_str).collect::<Vec<_>>())).await;
    assert!(found[0].message.contains("1000") && found[0].path == "after", "{found:?}");
    let schedule = json!({"name": "night", "cron": "0 2 * * *", "spec": after("night", &["first"])});
    let (status, body) = rig.ask(Method::POST, "/v1/schedules", schedule.to_string()).await;
    assert!(status == 422 && String::from_utf8_lossy(&body).contains("waits for no others"), "{body:?}");
    let detail: ArrayDetail = rig.get("/v1/arrays/sweep").await;
    assert_eq!(detail.after[0].to_string(), "ok:1 (queued)");
    let body = json!({"spec": after("dry", &["any:sweep", "first"]), "key": "dry", "dry_run": true}).to_string();
    let dry: DryRunView = rig.post("/v1/jobs", body).await;
    let on: Vec<String> = dry.after.iter().map(ToString::to_string).collect();
    assert_eq!(on, ["any:2 (blocked)", "ok:1 (queued)"]);
    let _: JobView = rig.post("/v1/jobs", submission(after("last", &["any:sweep"]), "last")).await;
    let detail: ArrayDetail = rig.get("/v1/arrays/sweep").await;
    assert_eq!((detail.dependents_count, detail.dependents[0].id), (1, JobId(5)));
    let why: WhyView = rig.get("/v1/jobs/last/why").await;
    assert_eq!(why.reason, "waits for array 2 (blocked) to end");
    let _: JobView = rig.post("/v1/jobs/first/cancel", "").await;
    let last: JobView = rig.get("/v1/jobs/last").await;
    assert_eq!(last.state, "queued", "the array was cancelled with what it waited for, and has ended");
    rig.end_server().await;
}
