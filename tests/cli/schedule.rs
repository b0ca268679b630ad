//! Schedules: what a line means without a daemon, and what the daemon is asked.

use jiff::SignedDuration;
use serde_json::{Value as Json, json};

use crate::{
    played::Answer,
    rig::{Rig, snapshot},
    views::{SUBMITTED, error, timeless},
};

const BERLIN: [&str; 8] =
    ["schedule", "preview", "--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--from", "2026-03-27T00:00:00Z"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

#[test]
fn a_preview_needs_no_daemon_and_shows_both_changes_of_the_clock() {
    let rig = Rig::without_daemon();
    snapshot("preview-spring", &rig.run(&BERLIN).text());
    let said: Json = serde_json::from_str(&rig.run(&with(&BERLIN, &["-n", "3", "-o", "json"])).stdout).unwrap();
    let gap = "the clock goes from 02:00 to 03:00: runs at the first moment after";
    assert_eq!(
        said,
        json!({"schema": 1, "runs": [
            {"utc": "2026-03-27T01:30:00Z", "local": "2026-03-27T02:30:00+01:00[Europe/Berlin]", "note": null},
            {"utc": "2026-03-28T01:30:00Z", "local": "2026-03-28T02:30:00+01:00[Europe/Berlin]", "note": null},
            {"utc": "2026-03-29T01:00:00Z", "local": "2026-03-29T03:00:00+02:00[Europe/Berlin]", "note": gap},
        ]})
    );
    let args = ["schedule", "preview", "--cron", "*/30 1 * * *", "--zone", "America/New_York"];
    snapshot("preview-autumn", &rig.run(&with(&args, &["--from", "2026-11-01T04:00:00Z", "-n", "5"])).text());
    assert_eq!(rig.run(&with(&BERLIN, &["-n", "1", "-o", "name"])).stdout, "2026-03-27T01:30:00Z\n");
    assert_eq!(rig.run(&with(&BERLIN, &["-n", "4", "-o", "jsonl"])).stdout.lines().count(), 4);
    let ran = rig.run(&["schedule", "preview", "--cron", "0 0 13 * fri", "--from", "2026-01-01T00:00:00Z", "-n", "1"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("2026-01-02 00:00:00+00:00[UTC]"), "{ran:?}");
    assert!(ran.stderr.starts_with("note: day of month and day of week are both given"), "{ran:?}");
}

#[test]
fn a_line_or_a_zone_that_is_none_is_6_and_says_where() {
    let rig = Rig::without_daemon();
    let mut all = String::new();
    for (cron, zone) in [
        ("30 25 * * *", "UTC"),
        ("0 0 30 2 *", "UTC"),
        ("0 2 * *", "UTC"),
        ("0 2 * * * root", "UTC"),
        ("*5 * * * *", "UTC"),
        ("@reboot", "UTC"),
        ("", "UTC"),
        ("0 2 * * *", "Europe/Berln"),
        ("0 2 * * *", "CEST+1"),
        ("99 2 * * *", "Nowhere/At_All"),
    ] {
        let args = ["schedule", "preview", "--cron", cron, "--zone", zone];
        all += &rig.run(&args).text();
        let ran = rig.run(&with(&args, &["-o", "json"]));
        let said: Json = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!((ran.code, ran.stdout.as_str(), &said["error"]["exit_code"]), (6, "", &json!(6)), "{cron} {zone}");
        let problem = &said["error"]["problems"][0];
        assert!(problem["column"].as_u64() > Some(0) && problem["hint"].is_string(), "{said:#}");
    }
    snapshot("schedule-mistakes", &all);
    let ran = rig.run(&["schedule", "preview", "--cron", "0 0 30 2 *", "-o", "json"]);
    let said: Json = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(said["error"]["problems"][0]["column"], json!(5), "{said:#}");
    // Refused before the spec is looked for, and without a daemon.
    assert_eq!(rig.run(&["schedule", "add", "none.toml", "--cron", "0 0 31 4,6 *"]).code, 6);
}

#[test]
fn a_name_that_is_none_and_what_only_the_daemon_finds_are_said_where_they_are() {
    let refusal = json!({"error": {
        "code": "spec_invalid", "message": "the schedule has a mistake", "hint": "correct it",
        "problems": [{"path": "train.batch_size", "message": "it is odd", "hint": "make it even"}]
    }});
    let rig = Rig::new(&[("POST /v1/schedules", &[Answer::Json(422, refusal)])]);
    let ran = rig.run(&["schedule", "add", "job.toml", "--cron", "@daily", "--name", "two words"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.stderr.contains("--name: ' ' cannot be in a name\n  | two words\n"), "{ran:?}");
    rig.write("job.toml", &rig.run(&["spec", "init", "train"]).stdout);
    let set = "train.data={format=\"randn\",rows=64,features=8,targets=1}";
    let ran = rig.run(&["schedule", "add", "job.toml", "--cron", "@daily", "--set", set]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.stderr.contains("job.toml:") && ran.stderr.contains("it is odd"), "{ran:?}");
}

#[test]
fn a_wrong_use_is_2() {
    let rig = Rig::without_daemon();
    for args in [
        &["schedule"][..],
        &["schedule", "add", "job.toml"],
        &["schedule", "add", "job.toml", "--cron", "@daily", "--misfire", "all"],
        &["schedule", "add", "job.toml", "--cron", "@daily", "--misfire", "twice"],
        &["schedule", "add", "job.toml", "--cron", "@daily", "--jitter", "soon"],
        &["schedule", "add", "job.toml", "--cron", "@daily", "--overlap", "buffer"],
        &["schedule", "add", "job.toml", "--cron", "@daily", "--pause-on-failure=0"],
        &["schedule", "add", "job.toml", "--cron", "@daily", "--pause-on-failure=101"],
        &["schedule", "add", "job.toml", "--cron", "@daily", "--until", "spring"],
        &["schedule", "preview"],
        &["schedule", "preview", "night", "--cron", "0 2 * * *"],
        &["schedule", "preview", "--zone", "UTC"],
        &["schedule", "preview", "--cron", "0 2 * * *", "--from", "tomorrow"],
        &["schedule", "preview", "--cron", "0 2 * * *", "-n", "0"],
        &["schedule", "preview", "--cron", "0 2 * * *", "-n", "10001"],
        &["schedule", "show", ".."],
        &["schedule", "apply"],
        &["schedule", "backfill", "night", "--from", "2026-11-01T00:00"],
        &["schedule", "backfill", "night", "--from", "2026-11-01T00:00", "--to", "spring"],
        &[
            "schedule",
            "backfill",
            "night",
            "--from",
            "2026-11-01T00:00",
            "--to",
            "2026-11-02T00:00",
            "--overlap",
            "skip",
        ],
        &["schedule", "rm"],
    ] {
        assert_eq!(rig.run(args).code, 2, "{args:?}");
    }
    assert_eq!(rig.run(&["schedule", "ls"]).code, 3);
}

fn view(name: &str) -> Json {
    let next = SUBMITTED.checked_add(SignedDuration::from_hours(5 * 24)).unwrap();
    json!({
        "schema": 1, "name": name, "cron": "30 2 * * *", "zone": "Europe/Berlin", "enabled": true, "paused": null,
        "policy": {"misfire": "once", "catch_up_seconds": null, "from": null, "until": null, "jitter_seconds": 0}, "user": "ada", "uid": 1000,
        "created_at": SUBMITTED.to_string(), "job_name": "digits", "job_kind": "train", "next_at": next.to_string(),
        "next_local": "2026-11-27T02:30:00+01:00[Europe/Berlin]", "last": tick(7, 0), "problem": null, "remarks": []
    })
}

fn tick(job: u64, late: i64) -> Json {
    let submitted = SUBMITTED.checked_add(SignedDuration::from_secs(late)).unwrap();
    json!({"at": SUBMITTED.to_string(), "nominal": "2026-11-20T02:30:00", "pass": 1, "job": job.to_string(), "submitted_at": submitted.to_string(), "asked_by": null})
}

#[test]
fn schedules_are_listed_and_shown() {
    let mut broken = view("old");
    for (key, value) in
        [("last", Json::Null), ("next_local", Json::Null), ("problem", json!("\"Europe/Gone\" is no time zone"))]
    {
        broken[key] = value;
    }
    let list = json!({"schema": 1, "schedules": [view("night"), broken]});
    let mut detail = view("night");
    let mut asked = tick(11, 90_000);
    asked["asked_by"] = json!("ada");
    detail["ticks"] = json!([tick(9, 7200), tick(7, 0), asked]);
    let later = SUBMITTED.to_string();
    let reason = "queue night is draining: it takes no more jobs";
    detail["missed"] =
        json!([{"at": later, "nominal": "2026-11-20T02:30:00", "pass": 1, "reason": reason, "missed_at": later}]);
    detail["policy"] = json!({"misfire": "all", "catch_up_seconds": 21_600, "from": later, "until": null, "jitter_seconds": 600,
            "overlap": "buffer_all", "pause_on_failure": 2});
    detail["remarks"] = json!(["day of month and day of week are both given"]);
    detail["spec"] = json!({
        "version": 1, "name": "digits",
        "train": {
            "model": {"type": "mlp", "layers": [2, 1]}, "data": {"format": "randn", "rows": 4, "features": 2, "targets": 1},
            "loss": "mse", "optimizer": {"type": "sgd"}, "batch_size": 2, "max_steps": 10
        }
    });
    let rig = Rig::new(&[
        ("GET /v1/schedules", &[Answer::Json(200, list.clone())]),
        ("GET /v1/schedules/night", &[Answer::Json(200, detail)]),
        ("GET /v1/schedules/night/preview?n=2", &[Answer::Json(200, json!({"schema": 1, "runs": []}))]),
    ]);
    snapshot("schedule-ls", &timeless(&rig.run(&["schedule", "ls", "-o", "wide"]).text()));
    snapshot("schedule-show", &timeless(&rig.run(&["schedule", "show", "night"]).text()));
    assert_eq!(serde_json::from_str::<Json>(&rig.run(&["schedule", "ls", "-o", "json"]).stdout).unwrap(), list);
    assert_eq!(rig.run(&["schedule", "ls", "-o", "name"]).stdout, "night\nold\n");
    let ran = rig.run(&["schedule", "preview", "night", "-n", "2", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Json>(&ran.stdout).unwrap(), json!({"schema": 1, "runs": []}));
}

#[test]
fn schedules_in_files_are_applied_with_what_changes_and_every_mistake_at_its_place() {
    let view = json!({"schema": 1, "dry_run": true, "schedules": [
        {"name": "night", "outcome": "changed", "changes": [
            {"key": "cron", "before": "30 2 * * *", "after": "0 3 * * *"},
            {"key": "policy.jitter_seconds", "before": null, "after": 600},
        ]},
        {"name": "day", "outcome": "unchanged", "changes": []},
        {"name": "week", "outcome": "added", "changes": []},
        {"name": "old", "outcome": "removed", "changes": []},
    ]});
    let problems =
        json!([{"path": "schedules[1].queue", "message": "there is no queue night", "hint": "name another"}]);
    let refusal = json!({"error": {
        "code": "spec_invalid", "message": "the set of schedules has a mistake", "hint": "correct it", "problems": problems}});
    let rig = Rig::new(&[(
        "POST /v1/apply",
        &[Answer::Json(200, view.clone()), Answer::Json(200, view), Answer::Json(422, refusal)],
    )]);
    for folder in ["jobs", "all"] {
        std::fs::create_dir(rig.path().join(folder)).unwrap();
    }
    rig.write("jobs/job.toml", "version = 1\nname = \"x\"\n[command]\nargv = [\"/bin/true\"]\ncwd = \"/\"\n");
    rig.write("all/b-night.toml", "name = \"night\"\ncron = \"0 3 * * *\"\nzone = \"Europe/Berlin\"\njob = \"../jobs/job.toml\"\njitter = \"10m\"\nuntil = \"2027-01-01T00:00:00\"\n");
    rig.write(
        "all/a-day.toml",
        "cron = \"@daily\"\njob = \"../jobs/job.toml\"\nmisfire = \"all\"\ncatch_up = \"6h\"\n",
    );
    rig.write("all/readme.md", "not one of them");
    let mut said = rig.run(&["schedule", "apply", "all", "--dry-run", "--prune"]).text();
    assert_eq!(rig.run(&["schedule", "apply", "all", "-o", "name"]).stdout, "night\nday\nweek\nold\n");
    let asked = rig.daemon.as_ref().unwrap().asked();
    let sent = &asked[0].body;
    assert_eq!((&sent["prune"], &sent["dry_run"]), (&json!(true), &json!(true)));
    let (day, night) = (&sent["schedules"][0], &sent["schedules"][1]);
    assert_eq!((&day["name"], &day["zone"], &night["name"]), (&json!("a-day"), &json!("UTC"), &json!("night")));
    assert_eq!((&day["policy"]["overlap"], &day["policy"]["catch_up_seconds"]), (&json!("buffer_all"), &json!(21_600)));
    let policy = &night["policy"];
    assert_eq!((&policy["overlap"], &policy["jitter_seconds"]), (&json!("skip"), &json!(600)));
    assert_eq!(policy["until"], json!("2026-12-31T23:00:00Z"), "by the clock of its zone");
    said += &rig.run(&["schedule", "apply", "all"]).text();
    let wrong = "name = \"a b\"\ncron = \"61 * * * *\"\nzone = \"Europe/Berln\"\njob = \"none.toml\"\nfrom = \"90m\"\njitter = \"soon\"\n";
    rig.write("wrong.toml", wrong);
    rig.write("unknown.toml", "cron = \"@daily\"\njob = \"jobs/job.toml\"\noverlap = \"some\"\njiter = \"1m\"\n");
    rig.write("missing.toml", "cron = \"@daily\"\njob = \"none.toml\"\n");
    for file in ["wrong.toml", "unknown.toml", "missing.toml", "none.toml"] {
        let ran = rig.run(&["schedule", "apply", "all", file]);
        assert_eq!(ran.code, 6, "{ran:?}");
        said += &ran.text();
    }
    snapshot("schedule-apply", &said);
    assert_eq!(rig.daemon.as_ref().unwrap().asked().len(), 3, "the daemon is asked only when all files are right");
}

#[test]
fn what_was_made_up_for_is_told_and_what_has_its_job_left_alone() {
    let run = |utc: &str, local: &str, job: Json, existed: bool| json!({"utc": utc, "local": local, "note": null, "job": job, "existed": existed});
    let (first, second) = ("2026-11-02T01:30:00Z", "2026-11-03T01:30:00Z");
    let (at_first, at_second) =
        ("2026-11-02T02:30:00+01:00[Europe/Berlin]", "2026-11-03T02:30:00+01:00[Europe/Berlin]");
    let answer = |dry_run: bool, job: Json, overlap: &str| {
        let runs = [run(first, at_first, json!("7"), true), run(second, at_second, job, false)];
        Answer::Json(200, json!({"schema": 1, "dry_run": dry_run, "overlap": overlap, "runs": runs}))
    };
    let none = json!({"schema": 1, "dry_run": false, "overlap": "allow", "runs": []});
    let problem = json!({"path": "to", "message": "it is to come", "hint": "name a moment that has passed"});
    let refusal = json!({"error": {"code": "spec_invalid", "message": "the backfill has a mistake", "hint": "correct it", "problems": [problem]}});
    let mut detail = view("night");
    (detail["ticks"], detail["missed"]) = (json!([]), json!([]));
    detail["spec"] = json!({"version": 1, "name": "digits", "command": {"argv": ["true"], "cwd": "/"}});
    let rig = Rig::new(&[
        ("GET /v1/schedules/night", &[Answer::Json(200, detail)]),
        (
            "POST /v1/schedules/night/backfill",
            &[
                answer(true, Json::Null, "buffer_all"),
                answer(false, json!("12"), "buffer_all"),
                answer(false, json!("12"), "allow"),
                answer(false, json!("12"), "allow"),
                Answer::Json(200, none),
                Answer::Json(422, refusal),
            ],
        ),
    ]);
    let args = ["schedule", "backfill", "night", "--from", "2026-11-01T00:00", "--to", "2026-11-03T12:00Z"];
    let mut all = rig.run(&with(&args, &["--dry-run"])).text();
    all += &rig.run(&args).text();
    let ran = rig.run(&with(&args, &["--overlap", "allow", "-o", "name"]));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("12\n", ""));
    let said: Json = serde_json::from_str(&rig.run(&with(&args, &["-o", "json"])).stdout).unwrap();
    assert_eq!((&said["runs"][1]["job"], &said["runs"][0]["existed"]), (&json!("12"), &json!(true)), "{said:#}");
    all += &rig.run(&args).text();
    let refused = rig.run(&args);
    assert_eq!(refused.code, 6, "{refused:?}");
    all += &refused.text();
    snapshot("schedule-backfill", &all);
    let asked = rig.daemon.as_ref().unwrap().asked();
    let sent: Vec<_> = asked.iter().filter(|asked| !asked.body.is_null()).map(|asked| asked.body.clone()).collect();
    let span = |overlap: Json, dry_run: bool| json!({"from": "2026-10-31T23:00:00Z", "to": "2026-11-03T12:00:00Z", "overlap": overlap, "dry_run": dry_run});
    assert_eq!(sent[..3], [span(Json::Null, true), span(Json::Null, false), span(json!("allow"), false)]);
}

#[test]
fn a_schedule_is_added_once_and_removed() {
    let (line, gone) = ("POST /v1/schedules", error("not_found", "no schedule none"));
    let rig = Rig::new(&[
        (
            line,
            &[
                Answer::Json(201, view("night")),
                Answer::Break,
                Answer::Json(200, view("night")),
                Answer::Json(409, error("key_conflict", "there is one")),
            ],
        ),
        ("DELETE /v1/schedules/night", &[Answer::Json(200, view("night"))]),
        ("DELETE /v1/schedules/none", &[Answer::Json(404, gone)]),
    ]);
    rig.write("job.toml", &rig.run(&["spec", "init", "train"]).stdout.replace("housing.csv", "job.toml"));
    let set = ["--set", "train.data={format=\"randn\",rows=64,features=8,targets=1}"];
    let args =
        with(&["schedule", "add", "job.toml", "--cron", "30 2 * * *", "--zone", "Europe/Berlin", "-n", "night"], &set);
    let ran = rig.run(&args);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (
            0,
            "schedule night added: 30 2 * * * in Europe/Berlin\n  next 2026-11-27 02:30:00+01:00[Europe/Berlin] (in 1d 21h)\n"
        ),
        "{ran:?}"
    );
    let asked = rig.daemon.as_ref().unwrap().asked();
    let sent = &asked[0].body;
    assert_eq!(
        (&sent["name"], &sent["cron"], &sent["zone"]),
        (&json!("night"), &json!("30 2 * * *"), &json!("Europe/Berlin"))
    );
    assert_eq!(sent["spec"]["version"], json!(1));
    let ran = rig.run(&args);
    assert!(
        ran.stdout.starts_with("schedule night is there already"),
        "asked again where the connection broke: {ran:?}"
    );
    assert_eq!(rig.run(&args).code, 5);
    let ran = rig.run(&["schedule", "rm", "none", "night"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, "schedule night removed; its jobs stay\n"), "{ran:?}");
}
