//! Submitting: what is sent, what is printed, and when it is sent again.

use std::{io::Write as _, process::Stdio};

use jiff::Timestamp;
use mlctl::{daemon::clock::SystemClock, domain::Clock as _};
use serde_json::{Value as Json, json};

use crate::{
    played::Answer,
    rig::Rig,
    views::{ended, error, event, job},
};

const SPEC: &str = r#"version = 1
name = "digits"

[train]
batch_size = 32
loss = "mse"
max_epochs = 3
model = { type = "mlp", layers = [2, 1] }
optimizer = { type = "adam" }

[train.data]
format = "csv"
uri = "rows.csv"
targets = ["y"]
"#;

fn rig(answers: &[Answer]) -> Rig {
    let end = event("end", &ended(7, "failed", "crash"));
    let rig = Rig::new(&[("POST /v1/jobs", answers), ("GET /v1/jobs/7/follow", &[Answer::Events(end)])]);
    rig.write("job.toml", SPEC);
    rig.write("rows.csv", "x1,x2,y\n");
    rig
}

fn accepted() -> Answer {
    Answer::Json(201, job(7, json!({})))
}

fn sent(rig: &Rig) -> Vec<Json> {
    rig.daemon
        .as_ref()
        .unwrap()
        .asked()
        .into_iter()
        .filter(|asked| asked.line == "POST /v1/jobs")
        .map(|asked| asked.body)
        .collect()
}

#[test]
fn a_spec_is_sent_whole_with_absolute_paths_and_a_key() {
    let rig = rig(&[accepted()]);
    let ran = rig.run(&[
        "submit",
        "job.toml",
        "-n",
        "other",
        "--priority",
        "70",
        "--label",
        "team=a=b",
        "--set",
        "train.seed=9",
    ]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "submitted job 7 (digits)\n", ""));
    let body = &sent(&rig)[0];
    assert_eq!(body["dry_run"], json!(false));
    assert_eq!(body["key"].as_str().unwrap().len(), 32);
    let spec = &body["spec"];
    assert_eq!(
        (&spec["name"], &spec["priority"], &spec["labels"]["team"]),
        (&json!("other"), &json!(70), &json!("a=b"))
    );
    assert_eq!((&spec["train"]["seed"], &spec["retry"]["limit"]), (&json!(9), &json!(3)), "defaults are filled in");
    let file = rig.path().canonicalize().unwrap().join("rows.csv");
    assert_eq!(spec["train"]["data"]["uri"], json!(format!("file://{}", file.display())));
}

#[test]
fn a_time_limit_is_sent_in_seconds_and_its_end_has_a_code_of_its_own() {
    let end = event("end", &ended(7, "failed", "timeout"));
    let rig = Rig::new(&[("POST /v1/jobs", &[accepted()]), ("GET /v1/jobs/7/follow", &[Answer::Events(end)])]);
    rig.write("job.toml", SPEC);
    rig.write("rows.csv", "x1,x2,y\n");
    for (flag, text, seconds) in [("-t", "90", 90), ("--time", "2h 30m", 9000), ("-t", "1d", 86_400), ("-t", "1.2s", 2)]
    {
        assert_eq!(rig.run(&["submit", "job.toml", flag, text]).code, 0);
        assert_eq!(sent(&rig).last().unwrap()["spec"]["time"]["limit_seconds"], json!(seconds), "{text}");
    }
    for flag in ["-w", "-f"] {
        assert_eq!(rig.run(&["submit", "job.toml", "-t", "90", flag]).code, 22);
    }
    let count = sent(&rig).len();
    for (text, code, words) in [
        ("soon", 2, "expected a duration"),
        ("0", 6, "--time"),
        ("3y", 2, "expected a duration"),
        ("9000h", 6, "31536000"),
    ] {
        let ran = rig.run(&["submit", "job.toml", "-t", text]);
        assert_eq!(ran.code, code, "{text}: {ran:?}");
        assert!(ran.stderr.contains(words), "{text}: {ran:?}");
    }
    assert_eq!(sent(&rig).len(), count, "nothing wrong was sent");
    rig.run(&["submit", "job.toml"]);
    assert_eq!(sent(&rig).last().unwrap()["spec"].get("time"), None, "no limit is no key: digests stay as they were");
}

#[test]
fn a_start_time_is_sent_as_a_moment() {
    let begin = "2999-11-26T01:00:00Z";
    let rig = rig(&[Answer::Json(201, job(7, json!({"not_before": begin})))]);
    let ran = rig.run(&["submit", "job.toml", "--begin", "2999-11-26T02:00:00+01:00"]);
    assert!(
        ran.stdout.starts_with("submitted job 7 (digits), not to start before 2999-11-26 01:00:00 UTC (in "),
        "{ran:?}"
    );
    assert_eq!(sent(&rig)[0]["spec"]["time"]["begin"], json!(begin));
    let before = SystemClock::default().now();
    assert_eq!(rig.run(&["submit", "job.toml", "--begin", "2h"]).code, 0);
    let at: Timestamp = sent(&rig)[1]["spec"]["time"]["begin"].as_str().unwrap().parse().unwrap();
    let ahead = at.duration_since(before).as_secs();
    assert!((7199..7260).contains(&ahead), "{ahead}");
    for (args, code, words) in
        [(["--begin", "tomorrow"], 2, "expected a time"), (["--set", "time.begin='soon'"], 6, "is no moment")]
    {
        let ran = rig.run(&["submit", "job.toml", args[0], args[1]]);
        assert!(ran.code == code && ran.stderr.contains(words), "{ran:?}");
    }
    assert_eq!(sent(&rig).len(), 2);
}

#[test]
fn every_form_of_the_answer() {
    let rig = rig(&[accepted()]);
    assert_eq!(rig.run(&["submit", "job.toml", "-q"]).stdout, "7\n");
    assert_eq!(rig.run(&["submit", "job.toml", "-o", "name"]).stdout, "7\n");
    let ran = rig.run(&["submit", "job.toml", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Json>(&ran.stdout).unwrap(), job(7, json!({})));
    for flag in ["-w", "-f"] {
        let ran = rig.run(&["submit", "job.toml", flag]);
        assert_eq!(ran.code, 20);
        assert!(ran.stdout.starts_with("submitted job 7 (digits)\njob 7 (digits) failed after 1m 15s\n"), "{ran:?}");
        let ran = rig.run(&["submit", "job.toml", flag, "-o", "json"]);
        assert_eq!(serde_json::from_str::<Json>(&ran.stdout).unwrap(), ended(7, "failed", "crash"));
    }
    let keys: std::collections::HashSet<_> =
        sent(&rig).iter().map(|body| body["key"].as_str().unwrap().to_owned()).collect();
    assert_eq!(keys.len(), sent(&rig).len(), "each submit has a key of its own");
}

#[test]
fn a_submit_whose_connection_broke_is_sent_again_with_its_key() {
    let rig = rig(&[Answer::Break, Answer::Break, Answer::Json(200, job(7, json!({})))]);
    let ran = rig.run(&["submit", "job.toml", "-q"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "7\n"));
    let sent = sent(&rig);
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|body| *body == sent[0]), "{sent:?}");
}

#[test]
fn the_same_key_again_says_so() {
    let rig = rig(&[
        Answer::Json(200, job(7, json!({"state": "running"}))),
        Answer::Json(409, error("key_conflict", "the key stands for job 6")),
    ]);
    let ran = rig.run(&["submit", "job.toml", "--key", "night"]);
    assert_eq!(ran.stdout, "job 7 (digits) was submitted before under this key: it is running\n");
    assert_eq!(sent(&rig)[0]["key"], json!("night"));
    assert_eq!(rig.run(&["submit", "job.toml", "--key", "night"]).code, 5);
}

#[test]
fn a_dry_run_submits_nothing() {
    let mut spec = json!(null);
    let rig = rig(&[accepted()]);
    assert_eq!(rig.run(&["submit", "job.toml", "-q"]).code, 0);
    std::mem::swap(&mut spec, &mut sent(&rig)[0]["spec"]);
    let rig = self::rig(&[Answer::Json(200, json!({"schema": 1, "dry_run": true, "spec": spec}))]);
    let ran = rig.run(&["submit", "job.toml", "--dry-run"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "job.toml is a valid train job: digits would be submitted\n"));
    assert_eq!(sent(&rig)[0]["dry_run"], json!(true));
}

#[test]
fn a_spec_comes_from_standard_input_too() {
    let rig = rig(&[accepted()]);
    let mut child = rig.command(&["submit", "-", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(SPEC.as_bytes()).unwrap();
    assert_eq!(rig.ran(child).code, 0);
    let mut child = rig.command(&["submit", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(SPEC.replace("32", "0").as_bytes()).unwrap();
    let ran = rig.ran(child);
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.starts_with("mlctl: cannot submit the spec from standard input\n-:5:14: "), "{ran:?}");
}

#[test]
fn a_wrong_spec_never_reaches_the_daemon() {
    let rig = rig(&[accepted()]);
    for (args, part) in [
        (&["submit", "none.toml"][..], "read none.toml"),
        (&["submit", "job.toml", "--set", "train.data.uri=nowhere.csv"], "HOME/nowhere.csv does not exist"),
        (&["submit", "job.toml", "--name", "7"], "--name: a name of digits alone"),
        (&["submit", "job.toml", "--set", "train.loss=mean"], "--set: \"mean\" is no value of `loss`"),
        (&["submit", "job.toml", "--priority", "101"], "--priority: `priority` must be"),
    ] {
        let ran = rig.run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (6, ""), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(part), "{args:?}: {ran:?}");
    }
    assert_eq!(rig.run(&["submit", "job.toml", "--set", "train"]).code, 2, "no assignment at all");
    assert!(sent(&rig).is_empty());
}

#[test]
fn what_the_daemon_finds_wrong_is_shown_where_it_was_written() {
    let mut refusal = error("spec_invalid", "the spec is wrong");
    refusal["error"]["problems"] =
        json!([{"path": "train.data.uri", "message": "it is outside the data roots", "hint": "move it"}]);
    let rig = rig(&[Answer::Json(422, refusal)]);
    let ran = rig.run(&["submit", "job.toml"]);
    assert_eq!(ran.code, 6);
    let (line, text) = (1..).zip(SPEC.lines()).find(|(_, text)| text.contains("uri")).unwrap();
    let column = text.find("\"rows.csv").unwrap() + 1;
    let shown = format!("job.toml:{line}:{column}: it is outside the data roots");
    assert!(ran.stderr.contains(&shown) && ran.stderr.contains("move it"), "{shown}: {ran:?}");
    let ran = rig.run(&["submit", "job.toml", "--set", "train.data.uri='x.csv'", "--dry-run"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    let ran = rig.run(&["submit", "job.toml", "-o", "json"]);
    let shown: Json = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(shown["error"]["problems"][0]["line"], line, "{shown:#}");
}
