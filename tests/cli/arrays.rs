//! Arrays: what `--array` sends, and how an array is shown among jobs and by itself.

use serde_json::{Value as Json, json};

use crate::{
    played::Answer,
    rig::{Rig, snapshot},
    views::{SUBMITTED, error, event, job, timeless},
};

const SPEC: &str = r#"version = 1
name = "sweep"

[train]
loss = "mse"
max_epochs = 3
model = { type = "mlp", layers = [2, 1] }
optimizer = { type = "adam" }
data = { format = "randn", rows = 10, features = 2, targets = 1 }
"#;

fn array(changes: Json) -> Json {
    let mut view = json!({
        "schema": 1, "id": "17", "name": "sweep", "kind": "train", "state": "running", "queue": "default", "priority": 50, "user": "ada", "uid": 1000,
        "labels": {"team": "vision"}, "size": 100, "finished": 34, "counts": {"succeeded": 31, "failed": 3, "running": 2, "queued": 64}, "quarantined": 0,
        "axes": [
            {"key": "train.optimizer.learning_rate", "range": {"low": 0.0001, "high": 0.1, "scale": "log"}},
            {"key": "train.batch_size", "values": [16, 32, 64]}
        ],
        "sample": {"count": 100, "seed": 42}, "metric": null, "submitted_at": SUBMITTED.to_string()
    });
    for (key, value) in changes.as_object().unwrap() {
        view[key] = value.clone();
    }
    view
}

fn rig(answers: &[(&str, &[Answer])]) -> Rig {
    let is_array = || Answer::Json(409, error("is_array", "17 (sweep) is an array of 100 jobs"));
    let mut script = vec![("GET /v1/jobs/sweep", vec![is_array()])];
    for verb in ["cancel", "stop", "hold", "pause", "release", "retry", "edit"] {
        script.push((Box::leak(format!("POST /v1/jobs/sweep/{verb}").into_boxed_str()), vec![is_array()]));
    }
    let mut script: Vec<(&str, &[Answer])> = script.iter().map(|(line, answers)| (*line, answers.as_slice())).collect();
    script.extend_from_slice(answers);
    let rig = Rig::new(&script);
    rig.write("job.toml", SPEC);
    rig
}

fn sent(rig: &Rig) -> Json {
    let asked = rig.daemon.as_ref().unwrap().asked();
    asked.iter().rev().find(|asked| asked.line == "POST /v1/arrays").unwrap().body.clone()
}

#[test]
fn lists_and_ranges_are_sent_by_full_keys() {
    let rig = rig(&[("POST /v1/arrays", &[Answer::Json(201, array(json!({})))])]);
    let args = [
        "--array",
        "lr=1e-4,1e-2",
        "--array",
        "batch_size=8,16",
        "--array",
        "train.loss=mse",
        "--metric",
        "test_accuracy",
    ];
    let ran = rig.run(&[&["submit", "job.toml"][..], &args].concat());
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "submitted array 17 (sweep) of 100 jobs, 17.1 to 17.100\n"),
        "{ran:?}"
    );
    let body = sent(&rig);
    assert_eq!(
        body["sweep"],
        json!({"axes": [
            {"key": "train.optimizer.learning_rate", "values": [1e-4, 1e-2]},
            {"key": "train.batch_size", "values": [8, 16]},
            {"key": "train.loss", "values": ["mse"]}
        ]})
    );
    assert_eq!(body["metric"], json!({"name": "test_accuracy", "goal": "max"}));
    assert_eq!(body["spec"]["train"]["batch_size"], 8, "what must be there may stand in the flag alone");
    let args = [
        "--array",
        "lr=1e-4..1e-1",
        "--array",
        "batch_size=log:8..512",
        "--array",
        "dropout=0,0.5",
        "--sample",
        "5",
        "--seed",
        "3",
    ];
    let ran = rig.run(&[&["submit", "job.toml"][..], &args].concat());
    assert_eq!(ran.stdout, "submitted array 17 (sweep) of 100 jobs, 17.1 to 17.100, drawn with seed 3\n", "{ran:?}");
    assert_eq!(
        sent(&rig)["sweep"],
        json!({
            "axes": [
                {"key": "train.optimizer.learning_rate", "range": {"low": 1e-4, "high": 0.1, "scale": "log"}},
                {"key": "train.batch_size", "range": {"low": 8.0, "high": 512.0, "scale": "log", "whole": true}},
                {"key": "train.model.dropout", "values": [0.0, 0.5]}
            ],
            "sample": {"count": 5, "seed": 3}
        })
    );
    let ran = rig.run(&["submit", "job.toml", "--array", "batch_size=8..16", "--sample", "2"]);
    let seed = sent(&rig)["sweep"]["sample"]["seed"].as_u64().unwrap();
    assert!(ran.stdout.contains(&format!("drawn with seed {seed}\n")), "a seed that nobody named is told: {ran:?}");
}

#[test]
fn mistakes_in_parameters_are_shown_where_they_are() {
    let rig = rig(&[]);
    let mut all = String::new();
    for args in [
        &["--array", "lr=", "--array", "seed=1,2", "--array", "learnin_rate=1", "--array", "batch_size"][..],
        &["--array", "batch_size=8,0,-1", "--array", "loss=mse,guess"],
        &["--array", "batch_size=8", "--array", "lr=1e-4..1e-1"],
        &["--array", "batch_size=8", "--array", "lr=0.0..1.0", "--sample", "3"],
        &["--array", "batch_size=8", "--array", "train.batch_size=9"],
        &["--array", "batch_size=8", "--array", "train.optimizer.speed=9"],
        &["--array", "batch_size=8", "--follow"],
        &["--sample", "3"],
    ] {
        all += &format!(
            "$ mlctl submit job.toml {}\n{}",
            args.join(" "),
            rig.run(&[&["submit", "job.toml"][..], args].concat()).text()
        );
    }
    snapshot("array-mistakes", &all);
    assert!(rig.asked().is_empty());
}

#[test]
fn an_array_is_a_row_a_page_and_one_to_act_on() {
    let list = json!({
        "schema": 1, "jobs": [job(200, json!({"reason": "waits"})), job(7, json!({}))],
        "arrays": [array(json!({})), array(json!({"id": "3", "state": "succeeded", "finished": 100, "counts": {"succeeded": 100}}))]
    });
    let member = |index: u32, value: f64| {
        json!({"id": (17 + index).to_string(), "index": index, "state": "succeeded", "value": value, "step": 1200,
               "params": {"train.optimizer.learning_rate": 0.00123, "train.batch_size": 32}})
    };
    let mut detail = array(json!({}));
    detail["compared_by"] = json!({"name": "val_loss", "goal": "min"});
    detail["best"] = json!([member(8, 0.0123), member(31, 0.5)]);
    let mut bare = array(json!({"sample": null}));
    bare["compared_by"] = Json::Null;
    bare["best"] = json!([]);
    let changed = Answer::Json(200, json!({"schema": 1, "changed": 66, "array": array(json!({}))}));
    let ended = array(json!({"state": "failed", "finished": 100, "counts": {"succeeded": 97, "failed": 3}}));
    let dry = json!({"schema": 1, "dry_run": true, "size": 2, "spec": serde_json::from_str::<Json>(
        r#"{"version":1,"name":"sweep.1","train":{"model":{"type":"mlp","layers":[2,1]},"data":{"format":"randn","rows":10,"features":2,"targets":1},
            "loss":"mse","optimizer":{"type":"adam"},"batch_size":8,"max_epochs":3}}"#).unwrap(),
        "params": [{"train.batch_size": 8}, {"train.batch_size": 16}]});
    let rig = rig(&[
        ("GET /v1/jobs", &[Answer::Json(200, list)]),
        (
            "GET /v1/arrays/sweep",
            &[Answer::Json(200, detail.clone()), Answer::Json(200, detail), Answer::Json(200, bare)],
        ),
        ("GET /v1/arrays/17/follow", &[Answer::Events(event("end", &ended))]),
        (
            "GET /v1/arrays/sweep?metric=test_loss&goal=max&best=3",
            &[Answer::Json(404, error("not_found", "asked right"))],
        ),
        ("POST /v1/arrays/sweep/cancel", std::slice::from_ref(&changed)),
        ("POST /v1/arrays/sweep/retry", std::slice::from_ref(&changed)),
        ("POST /v1/arrays/sweep/edit", std::slice::from_ref(&changed)),
        ("POST /v1/arrays", &[Answer::Json(200, dry)]),
    ]);
    let mut all = String::new();
    for args in [
        &["ls"][..],
        &["ls", "-o", "wide"],
        &["ls", "-o", "name"],
        &["show", "sweep"],
        &["wait", "sweep"],
        &["show", "sweep"],
        &["show", "sweep", "--metric", "test_loss", "--goal", "max", "--best", "3"],
        &["cancel", "sweep"],
        &["retry", "sweep"],
        &["edit", "sweep", "--priority", "3"],
        &["submit", "job.toml", "--array", "batch_size=8,16", "--dry-run"],
    ] {
        all += &format!("$ mlctl {}\n{}", args.join(" "), rig.run(args).text());
    }
    snapshot("arrays", &timeless(&all));
}
