//! Lists, jobs in full, waiting, and what is done to jobs.

use serde_json::{Value as Json, json};

use crate::{
    played::Answer,
    rig::{Rig, snapshot},
    views::{SUBMITTED, ended, error, event, job, timeless},
};

fn running() -> Json {
    job(
        12,
        json!({
            "name": "mlp-large", "state": "running", "reason": "runs on cpu", "attempt": 2, "retries_used": 1,
            "labels": {"team": "vision"}, "started_at": SUBMITTED.to_string(), "eta_seconds": 3700, "peak_rss_bytes": 64 << 20, "peak_vram_bytes": 5_u64 << 30,
            "progress": {"step": 1500, "steps": 10000, "epoch": 3, "epochs": 20, "rows_per_second": 54321.0, "loss": 0.125, "records": null, "total": null},
            "metrics": {"train_loss": 0.125, "val_accuracy": 0.9712}, "worker": {"pid": 4711, "host": "box", "device": "cpu"},
            "checkpoint": {"step": 1000, "uri": "file:///objects/jobs/12/2/checkpoints/1000"}
        }),
    )
}

fn all() -> Json {
    let waiting = job(13, json!({"reason": "waits for 4 CPUs; 1 of 2 is free", "priority": 80}));
    let failed = ended(9, "failed", "crash");
    json!({"schema": 1, "jobs": [waiting, running(), failed, ended(7, "succeeded", "ok")]})
}

#[test]
fn a_list_is_a_table_or_what_programs_read() {
    let rig = Rig::new(&[("GET /v1/jobs", &[Answer::Json(200, all())])]);
    snapshot("ls", &rig.run(&["ls"]).text());
    snapshot("ls-wide", &rig.run(&["ls", "-o", "wide"]).text());
    assert_eq!(rig.run(&["ps", "-o", "name"]).stdout, "13\n12\n9\n7\n");
    assert_eq!(serde_json::from_str::<Json>(&rig.run(&["ls", "-o", "json"]).stdout).unwrap(), all());
    let lines = rig.run(&["ls", "-o", "jsonl"]).stdout;
    let lines: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Json::from(lines), all()["jobs"]);
}

#[test]
fn filters_are_asked_of_the_daemon() {
    let line = "GET /v1/jobs?state=failed%2Ccancelled&kind=train&user=ada&limit=5";
    let none = [Answer::Json(200, json!({"schema": 1, "jobs": []}))];
    let rig = Rig::new(&[(line, &none), ("GET /v1/jobs?finished=10000&limit=10000", &none)]);
    let ran = rig.run(&["ls", "--state", "failed,cancelled", "--kind", "train", "--user", "ada", "--limit", "5"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "no jobs; `mlctl spec init train` writes a spec to begin with\n"));
    assert_eq!(rig.run(&["ls", "--all"]).code, 0);
}

#[test]
fn what_is_removed_is_said_with_what_stays() {
    let gone = |id: u64, jobs: usize, kept: &[&str], kept_count: usize, left: &[&str]| {
        let (id, left_count) = (id.to_string(), left.len());
        Answer::Json(
            200,
            json!({"schema": 1, "id": id, "name": "digits", "jobs": jobs, "kept": kept, "kept_count": kept_count, "left": left, "left_count": left_count}),
        )
    };
    let array = Answer::Json(409, error("is_array", "17 (sweep) is an array of 3 jobs"));
    let runs = Answer::Json(409, error("wrong_state", "job 8 is running, and only what has ended is removed"));
    let rig = Rig::new(&[
        ("DELETE /v1/jobs/9", &[gone(9, 1, &["file:///objects/jobs/9/model/1"], 1, &[])]),
        ("DELETE /v1/jobs/7?objects=true", &[gone(7, 1, &[], 0, &["file:///objects/jobs/7/1"])]),
        ("DELETE /v1/jobs/8", &[runs]),
        ("DELETE /v1/jobs/17", &[array]),
        ("DELETE /v1/arrays/17", &[gone(17, 3, &["file:///objects/jobs/18/model/1"], 3, &[])]),
    ]);
    let said = [
        vec!["rm", "9"],
        vec!["rm", "--objects", "-y", "7"],
        vec!["rm", "8", "9", "17"],
        vec!["rm", "9", "-o", "name"],
    ]
    .map(|args| rig.run(&args).text());
    snapshot("rm", &said.join(""));
}

#[test]
fn what_a_filter_finds_is_cancelled_and_nothing_else() {
    let line = "GET /v1/jobs?filter=%28not+finished%29+and+%28label.team%3Dvision%29&limit=10000";
    let none = "GET /v1/jobs?filter=%28finished%29+and+%28age%3E30d%29&limit=10000";
    let old = "GET /v1/jobs?filter=%28finished%29+and+%28age%3E60d%29&limit=10000";
    // Of array 17 both members, of array 27 one of two.
    let member = |id: u64, array: u64, index: u32| {
        let mut view = ended(id, "failed", "crash");
        view["array"] = json!({"id": array.to_string(), "index": index, "params": {}});
        view
    };
    let found = [ended(7, "succeeded", "ok"), member(18, 17, 1), member(19, 17, 2), member(28, 27, 1)];
    let whole = |id: u64| {
        let id = id.to_string();
        json!({"schema": 1, "id": id, "name": "sweep", "kind": "train", "state": "failed", "queue": "default", "priority": 50, "user": "ada", "uid": 1,
               "labels": {}, "size": 2, "finished": 2, "counts": {"failed": 2}, "axes": [], "sample": null, "metric": null,
               "submitted_at": "2026-11-20T00:00:00Z", "compared_by": null, "best": []})
    };
    let gone = |id: u64, jobs: usize| json!({"schema": 1, "id": id.to_string(), "name": "gone", "jobs": jobs, "kept": [], "kept_count": 0, "left": [], "left_count": 0});
    let two =
        json!({"schema": 1, "jobs": [running(), ended(7, "succeeded", "ok")], "note": "only some were looked at"});
    let rig = Rig::new(&[
        (line, &[Answer::Json(200, two)]),
        (none, &[Answer::Json(200, json!({"schema": 1, "jobs": []}))]),
        (old, &[Answer::Json(200, json!({"schema": 1, "jobs": found}))]),
        ("GET /v1/arrays/17", &[Answer::Json(200, whole(17))]),
        ("GET /v1/arrays/27", &[Answer::Json(200, whole(27))]),
        ("DELETE /v1/jobs/7", &[Answer::Json(200, gone(7, 1))]),
        ("DELETE /v1/jobs/17", &[Answer::Json(409, error("is_array", "17 (sweep) is an array of 2 jobs"))]),
        ("DELETE /v1/arrays/17", &[Answer::Json(200, gone(17, 2))]),
        ("POST /v1/jobs/12/cancel", &[Answer::Json(200, running())]),
        ("POST /v1/jobs/7/cancel", &[Answer::Json(409, error("wrong_state", "job 7 is succeeded"))]),
    ]);
    let said = [
        vec!["cancel", "-F", "label.team=vision"],
        vec!["rm", "--filter", "age>30d"],
        vec!["rm", "-F", "age>60d"],
        vec!["retry", "-F", "age>soon"],
    ]
    .map(|args| rig.run(&args).text());
    snapshot("filtered", &said.join(""));
}

#[test]
fn a_filter_is_read_before_the_daemon_is_asked() {
    let line = "GET /v1/jobs?filter=state%3Dfailed+and+name%7E%22a+b*%22";
    let rig = Rig::new(&[(line, &[Answer::Json(200, all())])]);
    assert_eq!(rig.run(&["ls", "-F", "state=failed and name~\"a b*\"", "-o", "name"]).stdout, "13\n12\n9\n7\n");
    let wrong = ["stat=failed and priority>high", "(state=failed", "", "name=\"tmp", "finished>7d"]
        .map(|filter| rig.run(&["ls", "--filter", filter]).text());
    snapshot("ls-filter-wrong", &wrong.join(""));
}

#[test]
fn what_a_list_leaves_out_is_said() {
    let line =
        "GET /v1/jobs?queue=night&labels=%7B%22team%22%3A%22vision%22%7D&since=2026-11-25T00%3A00%3A00Z&sort=priority";
    let mut some = all();
    some["note"] = json!("only some were looked at");
    let rig = Rig::new(&[(line, &[Answer::Json(200, some)])]);
    let args = ["ls", "--queue", "night", "--label", "team=vision", "--since", "2026-11-25", "--sort", "priority"];
    let ran = rig.run(&args);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "only some were looked at\n"));
    let wrong = [["--since", "yesterday"], ["--sort", "size"], ["--label", "team"]]
        .map(|flag| rig.run(&["ls", flag[0], flag[1]]).text());
    snapshot("ls-wrong", &wrong.join(""));
}

#[test]
fn a_job_is_shown_in_full() {
    let rig = Rig::new(&[
        ("GET /v1/jobs/mlp-large", &[Answer::Json(200, running())]),
        ("GET /v1/jobs/@last", &[Answer::Json(200, ended(9, "failed", "crash"))]),
        ("GET /v1/jobs/9/logs?tail=20", &[Answer::Bytes(b"loading\n\x1b[31mpanic\x1b[0m\n".to_vec())]),
    ]);
    snapshot("show-running", &timeless(&rig.run(&["show", "mlp-large"]).text()));
    snapshot("show-failed", &timeless(&rig.run(&["show", "@last"]).text()));
    let shown: Json = serde_json::from_str(&rig.run(&["show", "mlp-large", "-o", "json"]).stdout).unwrap();
    assert_eq!(shown, running());
}

#[test]
fn a_wait_ends_as_the_job_did() {
    for (state, class, code) in
        [("succeeded", "ok", 0), ("failed", "crash", 20), ("cancelled", "cancelled", 21), ("failed", "timeout", 22)]
    {
        let end = ended(7, state, class);
        let rig = Rig::new(&[
            ("GET /v1/jobs/digits", &[Answer::Json(200, job(7, json!({})))]),
            ("GET /v1/jobs/7/follow", &[Answer::Events(event("job", &job(7, json!({}))) + &event("end", &end))]),
        ]);
        let ran = rig.run(&["wait", "digits"]);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stdout.starts_with(&format!("job 7 (digits) {state} after 1m 15s\n")), "{ran:?}");
        assert_eq!(rig.run(&["wait", "digits", "-o", "name"]).stdout, "7\n");
        let json: Json = serde_json::from_str(&rig.run(&["wait", "digits", "-o", "json"]).stdout).unwrap();
        assert_eq!(json, end);
    }
}

#[test]
fn a_wait_for_several_jobs_ends_as_the_worst() {
    let rig = Rig::new(&[
        ("GET /v1/jobs/1", &[Answer::Json(200, ended(1, "cancelled", "cancelled"))]),
        ("GET /v1/jobs/2", &[Answer::Json(200, ended(2, "failed", "spec"))]),
        ("GET /v1/jobs/3", &[Answer::Json(200, ended(3, "succeeded", "ok"))]),
    ]);
    assert_eq!(rig.run(&["wait", "1", "2", "3"]).code, 20);
    assert_eq!(rig.run(&["wait", "1", "3"]).code, 21);
    assert_eq!(rig.run(&["wait", "3", "none"]).code, 4, "a misspelt one is said at once");
}

#[test]
fn a_wait_that_takes_too_long_ends_by_itself() {
    let rig = Rig::new(&[
        ("GET /v1/jobs/7", &[Answer::Json(200, job(7, json!({"state": "running"})))]),
        ("GET /v1/jobs/7/follow", &[Answer::Hold(event("job", &job(7, json!({"state": "running"}))))]),
    ]);
    let ran = rig.run(&["wait", "7", "--timeout", "100ms"]);
    assert_eq!(ran.code, 8);
    assert!(ran.stderr.contains("job 7 (digits) is still running"), "{ran:?}");
}

#[test]
fn several_jobs_are_cancelled_and_the_first_failure_counts() {
    let conflict = Answer::Json(409, error("wrong_state", "job 8 is succeeded"));
    let rig = Rig::new(&[
        ("POST /v1/jobs/7/cancel", &[Answer::Json(200, ended(7, "cancelled", "cancelled"))]),
        ("POST /v1/jobs/8/cancel", &[conflict]),
        ("POST /v1/jobs/9/cancel", &[Answer::Json(200, running())]),
    ]);
    snapshot("cancel", &rig.run(&["cancel", "7", "8", "9"]).text());
    assert_eq!(rig.asked(), ["POST /v1/jobs/7/cancel", "POST /v1/jobs/8/cancel", "POST /v1/jobs/9/cancel"]);
}

#[test]
fn jobs_are_stopped_held_released_and_edited() {
    let held = job(8, json!({"state": "held", "reason": "held by ada: no data"}));
    let stopping = job(7, json!({"state": "running", "intent": "stop"}));
    let edited = job(8, json!({"state": "held", "priority": 80, "labels": {"team": "vision"}}));
    let rig = Rig::new(&[
        ("POST /v1/jobs/7/stop", &[Answer::Json(200, stopping)]),
        ("POST /v1/jobs/8/stop", &[Answer::Json(200, ended(8, "cancelled", "cancelled"))]),
        ("POST /v1/jobs/8/hold", &[Answer::Json(200, held.clone())]),
        ("POST /v1/jobs/8/release", &[Answer::Json(200, job(8, json!({})))]),
        ("POST /v1/jobs/8/edit", &[Answer::Json(200, edited)]),
        ("GET /v1/jobs/8", &[Answer::Json(200, held)]),
    ]);
    let mut all = String::new();
    for args in [
        &["stop", "7", "8"][..],
        &["hold", "8", "--reason", "no data"],
        &["show", "8"],
        &["edit", "8", "-p", "80", "--label", "team=vision", "--unlabel", "stage"],
        &["release", "8"],
        &["edit", "8"],
        &["edit", "8", "--priority", "101"],
        &["hold"],
    ] {
        all += &format!("$ mlctl {}\n{}", args.join(" "), rig.run(args).text());
    }
    snapshot("control", &timeless(&all));
    let asked = rig.daemon.as_ref().unwrap().asked();
    let of = |path: &str| asked.iter().find(|asked| asked.line.ends_with(path)).unwrap().body.clone();
    assert_eq!(of("/hold"), json!({"reason": "no data"}));
    assert_eq!(of("/edit"), json!({"priority": 80, "labels": {"team": "vision", "stage": null}}));
    assert_eq!(of("/stop"), Json::Null);
}

#[test]
fn a_retry_says_where_it_goes_on() {
    let again = job(7, json!({"checkpoint": {"step": 1500, "uri": "u"}}));
    let rig = Rig::new(&[("POST /v1/jobs/7/retry", &[Answer::Json(200, again)])]);
    assert_eq!(rig.run(&["retry", "7"]).stdout, "job 7 (digits) is queued again, from step 1,500\n");
}

#[test]
fn a_curve_is_drawn_from_all_pages() {
    let model = tempfile::tempdir().unwrap();
    let evaluation = json!({"format": 1, "part": "test", "rows": 20, "loss": 0.1, "accuracy": 0.95, "confusion": [[9, 1], [0, 10]], "recall": [0.9, 1.0]});
    std::fs::write(model.path().join("evaluation.json"), evaluation.to_string()).unwrap();
    let mut done = ended(7, "succeeded", "ok");
    done["model"] = json!({"uri": format!("file://{}", model.path().display()), "digest": "00"});
    let page = |from: u64, next: Option<u64>| {
        let points: Vec<_> = (from..from + 50)
            .map(|step| json!({"id": step, "step": step, "epoch": 0, "values": {"train_loss": 100.0 / (step + 1) as f64}}))
            .collect();
        Answer::Json(200, json!({"schema": 1, "id": "7", "points": points, "next": next}))
    };
    let rig = Rig::new(&[
        ("GET /v1/jobs/7", &[Answer::Json(200, done)]),
        ("GET /v1/jobs/7/metrics?limit=10000", &[page(0, Some(49))]),
        ("GET /v1/jobs/7/metrics?after=49&limit=10000", &[page(50, None)]),
    ]);
    snapshot("plot", &rig.run(&["plot", "7"]).text());
    let ran = rig.run(&["plot", "7", "--metric", "val_loss"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("there are: train_loss"), "{ran:?}");
    let drawn: Json = serde_json::from_str(&rig.run(&["plot", "7", "-o", "json"]).stdout).unwrap();
    assert_eq!((drawn["points"].as_array().unwrap().len(), &drawn["evaluation"]["rows"]), (100, &json!(20)));
}
