//! Schedules over the socket: added once, listed, shown, previewed, removed; and what is refused.

use hyper::Method;
use jiff::Timestamp;
use mlctl::api::types::{
    Applied, AppliedView, ApplyView, BackfillView, ErrorBody, ErrorCode, PreviewView, ScheduleDetail, ScheduleList,
    ScheduleView,
};
use mlctl::domain::schedule::Overlap;
use serde_json::{Value, json};

use crate::rig::{Rig, spec};

fn schedule(name: &str, cron: &str, zone: &str) -> Value {
    json!({"name": name, "cron": cron, "zone": zone, "spec": spec("night")})
}

/// The problems that a schedule is refused for: the path and the words of each.
async fn problems(rig: &Rig, request: &Value) -> Vec<(String, String)> {
    let (status, body) = rig.ask(Method::POST, "/v1/schedules", request.to_string()).await;
    let ErrorBody { error } = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{status} {body:?}"));
    assert_eq!((status.as_u16(), error.code), (422, ErrorCode::SpecInvalid), "{error:?}");
    let own = error.problems.iter().filter(|problem| ["name", "cron", "zone"].contains(&problem.path.as_str()));
    assert!(own.into_iter().all(|problem| problem.hint.is_some()), "{error:?}");
    error.problems.into_iter().map(|problem| (problem.path, problem.message)).collect()
}

#[tokio::test]
async fn a_schedule_lives_from_add_to_remove() {
    let rig = Rig::new().await;
    let body = schedule("night", " 30 2 * * * ", "europe/berlin").to_string();
    let (status, answer) = rig.ask(Method::POST, "/v1/schedules", body.clone()).await;
    let added: ScheduleView = serde_json::from_slice(&answer).unwrap();
    assert_eq!(status, 201, "{added:?}");
    assert_eq!(
        (added.cron.as_str(), added.zone.as_str()),
        ("30 2 * * *", "Europe/Berlin"),
        "as they are properly written"
    );
    assert_eq!((added.job_name.as_str(), added.job_kind.as_str(), added.enabled), ("night", "train", true));
    assert!(added.next_at > Some(added.created_at) && added.last.is_none() && added.problem.is_none());
    assert!(added.next_local.is_some_and(|local| local.ends_with("[Europe/Berlin]")));
    assert_eq!(rig.ask(Method::POST, "/v1/schedules", body).await.0, 200, "the same once more");
    let other = schedule("night", "31 2 * * *", "Europe/Berlin");
    let (status, code, message) = rig.post_error("/v1/schedules", other.to_string()).await;
    assert_eq!((status, code), (409, ErrorCode::KeyConflict));
    assert!(message.contains("night"), "{message}");
    let unnamed = json!({"cron": "@hourly", "spec": spec("hourly")});
    let added: ScheduleView = rig.post("/v1/schedules", unnamed.to_string()).await;
    assert_eq!((added.name.as_str(), added.zone.as_str()), ("hourly", "UTC"));
    let list: ScheduleList = rig.get("/v1/schedules").await;
    assert_eq!(list.schedules.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["hourly", "night"]);
    let shown: ScheduleDetail = rig.get("/v1/schedules/night").await;
    assert_eq!((shown.schedule.name.as_str(), shown.ticks.len(), shown.spec.name.as_str()), ("night", 0, "night"));
    let preview: PreviewView = rig.get("/v1/schedules/night/preview?from=2026-03-28T00:00:00Z&n=2").await;
    let runs: Vec<_> = preview.runs.iter().map(|run| (run.utc, run.note.is_some())).collect();
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    assert_eq!(runs, [(at("2026-03-28T01:30:00Z"), false), (at("2026-03-29T01:00:00Z"), true)]);
    let preview: PreviewView = rig.get("/v1/schedules/night/preview").await;
    assert_eq!((preview.runs.len(), Some(preview.runs[0].utc)), (5, shown.schedule.next_at));
    let removed: ScheduleView = rig.delete("/v1/schedules/night").await;
    assert_eq!(removed, shown.schedule);
    for path in ["/v1/schedules/night", "/v1/schedules/night/preview"] {
        let (status, code, message) = rig.get_error(path).await;
        assert_eq!((status, code, message.as_str()), (404, ErrorCode::NotFound, "no schedule night"));
    }
    rig.end_server().await;
}

#[tokio::test]
async fn everything_that_is_wrong_is_said_at_once() {
    let rig = Rig::new().await;
    let mut request = schedule("a name", "0 0 30 2 *", "Europe/Berln");
    request["spec"]["priority"] = 200.into();
    let found = problems(&rig, &request).await;
    let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["name", "cron", "zone", "priority"], "{found:?}");
    assert_eq!(found[1].1, "column 5: 30 February does not exist: this would never run");
    let mut many = spec("many");
    many["labels"] = (0..63).map(|n| (format!("label-{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    let found = problems(&rig, &json!({"cron": "@daily", "spec": many})).await;
    assert_eq!(found[0].0, "labels", "with the two labels of a tick there are too many: {found:?}");
    let long = schedule("x", &"*".repeat(2000), "UTC");
    assert!(problems(&rig, &long).await[0].1.contains("1000 bytes"));
    let mut timed = schedule("x", "@daily", "UTC");
    timed["spec"]["time"] = json!({"begin": "2026-11-26T02:00:00Z", "limit_seconds": 60});
    let found = problems(&rig, &timed).await;
    assert_eq!(
        found[0],
        ("time.begin".to_owned(), "when a schedule's jobs start is said by its crontab line".to_owned())
    );
    assert_eq!(found.len(), 1, "a limit may be there: {found:?}");
    timed["spec"]["time"] = json!({"deadline": "2126-11-26T02:00:00Z"});
    let found = problems(&rig, &timed).await;
    assert!(found.len() == 1 && found[0].1.starts_with("a moment is no deadline"), "{found:?}");
    let cases = [
        (json!({"cron": "@daily"}).to_string(), 400),
        (json!({"cron": "@daily", "spec": spec("x"), "catch_up": "all"}).to_string(), 400),
        (json!({"cron": 5, "spec": spec("x")}).to_string(), 400),
        (json!({"cron": "@daily", "spec": spec("x"), "policy": {"misfire": "some"}}).to_string(), 400),
        (json!({"cron": "@daily", "spec": spec("x"), "policy": {"catch_up": 5}}).to_string(), 400),
        (json!({"cron": "@daily", "spec": spec("x"), "policy": {"jitter_seconds": -1}}).to_string(), 400),
        (json!({"cron": "@daily", "spec": spec("x"), "policy": {"overlap": "some"}}).to_string(), 400),
        (json!({"cron": "@daily", "spec": spec("x"), "policy": {"pause_on_failure": 0}}).to_string(), 422),
        (json!({"cron": "@daily", "spec": spec("x"), "policy": {"misfire": "all"}}).to_string(), 422),
        (json!({"cron": "@daily", "spec": spec("x"), "policy": {"until": "2020-01-01T00:00:00Z"}}).to_string(), 422),
        ("[]".to_owned(), 400),
        (json!({"cron": "@daily", "spec": {"version": 1}}).to_string(), 422),
    ];
    for (body, expected) in cases {
        assert_eq!(rig.post_error("/v1/schedules", body.clone()).await.0, expected, "{body}");
    }
    let list: ScheduleList = rig.get("/v1/schedules").await;
    assert!(list.schedules.is_empty(), "nothing was kept");
    rig.end_server().await;
}

#[tokio::test]
async fn schedules_are_applied_in_place_and_again_changes_nothing() {
    let rig = Rig::new().await;
    let _: ScheduleView = rig.post("/v1/schedules", schedule("other", "@weekly", "UTC").to_string()).await;
    let apply = async |schedules: &[Value], prune: bool, dry_run: bool| -> Vec<(String, Applied, Vec<String>)> {
        let body = json!({"schedules": schedules, "prune": prune, "dry_run": dry_run}).to_string();
        let view: ApplyView = rig.post("/v1/apply", body).await;
        let keys = |one: AppliedView| (one.name, one.outcome, one.changes.into_iter().map(|one| one.key).collect());
        view.schedules.into_iter().map(keys).collect()
    };
    let none = Vec::<String>::new;
    let (night, day) = (schedule("night", "30 2 * * *", "Europe/Berlin"), schedule("day", "@hourly", "UTC"));
    for dry_run in [true, false] {
        let seen = apply(&[night.clone(), day.clone()], false, dry_run).await;
        assert_eq!(seen, [("night".into(), Applied::Added, none()), ("day".into(), Applied::Added, none())]);
        let list: ScheduleList = rig.get("/v1/schedules").await;
        assert_eq!(list.schedules.len(), if dry_run { 1 } else { 3 });
    }
    let _: ScheduleView = rig.post("/v1/schedules/night/pause", String::new()).await;
    let before: ScheduleDetail = rig.get("/v1/schedules/night").await;
    let mut changed = night.clone();
    (changed["cron"], changed["policy"]) = (json!("0 3 * * *"), json!({"jitter_seconds": 60}));
    changed["spec"]["priority"] = json!(70);
    let seen = apply(&[changed.clone(), day.clone()], true, false).await;
    let keys = ["cron", "job.priority", "policy.jitter_seconds"].map(str::to_owned).to_vec();
    let expected = [
        ("night".into(), Applied::Changed, keys),
        ("day".into(), Applied::Unchanged, none()),
        ("other".into(), Applied::Removed, none()),
    ];
    assert_eq!(seen, expected);
    let after: ScheduleDetail = rig.get("/v1/schedules/night").await;
    assert_eq!((after.schedule.cron.as_str(), after.spec.priority), ("0 3 * * *", 70));
    assert_eq!((after.schedule.created_at, after.schedule.enabled), (before.schedule.created_at, false));
    let seen = apply(&[changed.clone(), day.clone()], true, false).await;
    assert!(seen.iter().all(|(_, outcome, _)| *outcome == Applied::Unchanged), "{seen:?}");

    // One that is wrong leaves the others as they were, and all that is wrong is told.
    let wrong = schedule("worse", "61 * * * *", "Europe/Berln");
    let body = json!({"schedules": [schedule("night", "@daily", "UTC"), wrong, day, day]}).to_string();
    let (status, answer) = rig.ask(Method::POST, "/v1/apply", body).await;
    let ErrorBody { error } = serde_json::from_slice(&answer).unwrap();
    let paths: Vec<_> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!((status.as_u16(), paths), (422, vec!["schedules[1].cron", "schedules[1].zone", "schedules[3].name"]));
    let now: ScheduleDetail = rig.get("/v1/schedules/night").await;
    assert_eq!(now, after);
    assert_eq!(rig.post_error("/v1/apply", json!({"schedules": [], "force": true}).to_string()).await.0, 400);
    rig.end_server().await;
}

#[tokio::test]
async fn what_is_asked_to_be_made_up_for_is_checked_before_anything_is_submitted() {
    let rig = Rig::new().await;
    let mut late = schedule("night", "0 2 * * *", "UTC");
    late["policy"] = json!({"jitter_seconds": 3600, "until": "2126-01-01T00:00:00Z"});
    let _: ScheduleView = rig.post("/v1/schedules", late.to_string()).await;
    let path = "/v1/schedules/night/backfill";
    let body = |from: &str, to: &str, overlap: &str| json!({"from": from, "to": to, "overlap": overlap}).to_string();
    let (first, third) = ("2026-01-01T00:00:00Z", "2026-01-03T12:00:00Z");
    for (body, status) in [
        (body(first, third, "skip"), 422),
        (body(first, "2026-13-01T00:00:00Z", "allow"), 400),
        (body(first, third, "some"), 400),
        (body(third, first, "allow"), 422),
        (body(first, "2125-01-03T12:00:00Z", "allow"), 422),
        (body("2127-01-01T00:00:00Z", "2127-01-03T12:00:00Z", "allow"), 422),
        (json!({"from": first}).to_string(), 400),
        (json!({"from": first, "to": third, "force": true}).to_string(), 400),
    ] {
        assert_eq!(rig.post_error(path, body.clone()).await.0, status, "{body}");
    }
    let dry = json!({"from": first, "to": third, "dry_run": true}).to_string();
    let view: BackfillView = rig.post(path, dry.clone()).await;
    assert_eq!((view.runs.len(), view.overlap), (3, Overlap::Allow), "as the schedule has it");
    assert!(view.runs.iter().all(|run| run.job.is_none() && !run.existed));
    let made: BackfillView = rig.post(path, body(first, third, "buffer_all")).await;
    assert!(made.runs.iter().all(|run| run.job.is_some() && !run.existed));
    let view: BackfillView = rig.post(path, dry).await;
    assert!(view.runs.iter().zip(&made.runs).all(|(now, made)| now.existed && now.job == made.job));
    let detail: ScheduleDetail = rig.get("/v1/schedules/night").await;
    assert!(detail.ticks.len() == 3 && detail.ticks.iter().all(|tick| tick.asked_by.is_some()), "{detail:?}");
    rig.end_server().await;
}

#[tokio::test]
async fn hostile_names_and_queries_are_refused() {
    let rig = Rig::new().await;
    let _: ScheduleView = rig.post("/v1/schedules", schedule("night", "@daily", "UTC").to_string()).await;
    let long = "x".repeat(201);
    for (name, status) in [
        ("..", 404),
        ("%2e%2e%2fnight", 404),
        ("night%20", 404),
        ("%27%20OR%201=1", 404),
        ("a%00", 400),
        ("%ff", 400),
        (&long, 400),
    ] {
        assert_eq!(rig.get_error(&format!("/v1/schedules/{name}")).await.0, status, "{name}");
    }
    for query in ["n=-1", "n=x", "from=noon", "from=2026-13-01T00:00:00Z", "until=2026-01-01T00:00:00Z"] {
        assert_eq!(rig.get_error(&format!("/v1/schedules/night/preview?{query}")).await.0, 400, "{query}");
    }
    let preview: PreviewView = rig.get("/v1/schedules/night/preview?n=4294967295&from=2099-12-01T00:00:00Z").await;
    assert!(preview.runs.len() < 10_001, "bounded, and no further than there is a calendar");
    rig.end_server().await;
}
