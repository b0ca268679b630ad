//! Runs of a schedule that had passed, made up for because a person says so: each once, whatever is killed and however often it is asked for, with a real daemon and real workers.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    chance::cases,
    support::{Daemon, Worker, specs::written, until},
};

/// The jobs of a schedule's ticks, by their tick. Each has one.
fn by_tick(daemon: &Daemon, schedule: &str) -> BTreeMap<Timestamp, Value> {
    let list = daemon.client.get("/v1/jobs?state=queued,blocked,held,running,succeeded,failed,cancelled&limit=10000");
    let mut found = BTreeMap::new();
    for job in list.ok()["jobs"].as_array().unwrap() {
        if job["labels"]["mlctl/schedule"] == schedule {
            let tick: Timestamp = job["labels"]["mlctl/scheduled-at"].as_str().unwrap().parse().unwrap();
            assert!(found.insert(tick, job.clone()).is_none(), "{tick} has two jobs");
        }
    }
    found
}

fn add(daemon: &Daemon, more: &[&str]) {
    daemon.write("job.toml", written("name = \"night\"\nlabels = { fake = \"steps:2:1\" }", 2));
    daemon.mlctl(&[&["schedule", "add", "job.toml", "--zone", "Europe/Berlin"], more].concat()).ok();
}

/// The nights from one of March on.
fn nights<'a>(to: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["schedule", "backfill", "night", "--from", "2026-03-27T12:00", "--to", to][..], more].concat()
}

fn moment(job: &Value, key: &str) -> Timestamp {
    job[key].as_str().unwrap_or_else(|| panic!("{key}: {job:#}")).parse().unwrap()
}

#[test]
fn runs_of_a_past_time_are_made_up_for_one_after_another_and_once() {
    let mut daemon = Daemon::with(Worker::Real);
    add(&daemon, &["--cron", "30 2 * * *"]);
    // The night on which the clock leaves out half past two is one of them.
    let seen = daemon.mlctl(&nights("2026-03-30T12:00", &["--dry-run"]));
    assert!(seen.stderr.contains("3 of 3 runs would be submitted, to run one after another"), "{seen:?}");
    assert!(seen.ok().contains("the clock goes from 02:00 to 03:00"));
    assert!(by_tick(&daemon, "night").is_empty());

    let first = daemon.mlctl(&nights("2026-03-30T12:00", &["-o", "json"])).json();
    assert_eq!((&first["overlap"], &first["dry_run"]), (&json!("buffer_all"), &json!(false)), "{first:#}");
    daemon.kill();
    daemon.start();
    let again = daemon.mlctl(&nights("2026-03-31T12:00", &["-o", "json"])).json();
    let runs = again["runs"].as_array().unwrap();
    let existed: Vec<_> = runs.iter().map(|run| run["existed"].as_bool().unwrap()).collect();
    assert_eq!(existed, [true, true, true, false], "{again:#}");
    let jobs = |view: &Value| view["runs"].as_array().unwrap().iter().map(|run| run["job"].clone()).collect::<Vec<_>>();
    assert_eq!(jobs(&again)[..3], jobs(&first));
    let seen = daemon.mlctl(&nights("2026-03-31T12:00", &[]));
    assert!(seen.stderr.contains("nothing to submit: each of the 4 runs has its job"), "{seen:?}");

    let jobs: Vec<_> = jobs(&again).iter().map(|job| daemon.wait_for(job.as_str().unwrap(), "succeeded")).collect();
    for pair in jobs.windows(2) {
        assert!(moment(&pair[1], "started_at") >= moment(&pair[0], "finished_at"), "{pair:#?}");
    }
    let ticks: Vec<_> = by_tick(&daemon, "night").into_keys().map(|tick| tick.to_string()).collect();
    let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"];
    assert_eq!(ticks, expected);
    assert!(jobs.iter().all(|job| job["model"]["digest"].is_string()), "{jobs:#?}");
    let shown = daemon.mlctl(&["schedule", "show", "night"]).ok();
    assert!(shown.contains("made up for by "), "{shown}");
    daemon.mlctl(&["db", "check"]).ok();
}

#[test]
fn a_backfill_that_is_killed_anywhere_is_gone_on_with_by_asking_again() {
    let mut daemon = Daemon::with(Worker::Fake);
    add(&daemon, &["--cron", "0 * * * *"]);
    daemon.mlctl(&["queue", "pause", "default"]).ok();
    let (from, to) = ("2026-05-01T00:00:00Z", "2026-05-15T23:00:00Z");
    let body = json!({"from": from, "to": to}).to_string();
    cases(1, |mut chance| {
        let mut before = 0;
        for _ in 0..4 {
            let (client, body) = (daemon.client.clone(), body.clone());
            let asking = std::thread::spawn(move || client.send("POST", "/v1/schedules/night/backfill", &body).is_ok());
            until("another job is there", || (by_tick(&daemon, "night").len() > before).then_some(()));
            std::thread::sleep(Duration::from_millis(chance.below(60)));
            daemon.kill();
            let _ = asking.join().unwrap();
            daemon.start();
            before = by_tick(&daemon, "night").len();
            if before == 360 {
                break;
            }
        }
    });
    let args = ["schedule", "backfill", "night", "--from", from, "--to", to, "-o", "json"];
    let view = daemon.mlctl(&args).json();
    let jobs = by_tick(&daemon, "night");
    assert_eq!((jobs.len(), view["runs"].as_array().unwrap().len()), (360, 360));
    for run in view["runs"].as_array().unwrap() {
        assert_eq!(jobs[&moment(run, "utc")]["id"], run["job"], "{run:#}");
    }
    let open = jobs.values().filter(|job| job["state"] == "queued").count();
    assert_eq!(open, 1, "the others wait for it");
    daemon.mlctl(&["db", "check"]).ok();
}

#[test]
fn what_cannot_be_made_up_for_is_refused_with_what_to_do() {
    let daemon = Daemon::with(Worker::Fake);
    add(&daemon, &["--cron", "* * * * *", "--from", "2026-05-01T00:00:00Z"]);
    let refused = |from: &str, to: &str, words: &[&str]| {
        daemon.mlctl(&["schedule", "backfill", "night", "--from", from, "--to", to]).must_fail(6, words);
    };
    refused("2026-05-01T00:00:00Z", "2126-01-01T00:00:00Z", &["to", "is to come", "name a moment that has passed"]);
    refused("2026-05-03T00:00", "2026-05-02T00:00", &["it ends before it begins"]);
    let parts = ["more than 1000 runs", "the first can end at 2026-05-01T16:39:00Z"];
    refused("2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z", &parts);
    refused("2026-04-01T00:00:00Z", "2026-04-30T00:00:00Z", &["no runs before 2026-05-01T00:00:00Z"]);
    let args = ["schedule", "backfill", "none", "--from", "2026-05-01T00:00", "--to", "2026-05-02T00:00"];
    daemon.mlctl(&args).must_fail(4, &["no schedule none", "mlctl schedule ls"]);
    daemon.mlctl(&["schedule", "pause", "night"]).ok();
    daemon.mlctl(&["queue", "drain", "default"]).ok();
    refused("2026-05-01T00:00:00Z", "2026-05-01T00:02:00Z", &["drain"]);
    // Side by side, from a paused schedule.
    daemon.mlctl(&["queue", "resume", "default"]).ok();
    let args = ["schedule", "backfill", "night", "--from", "2026-05-01T00:00:00Z", "--to", "2026-05-01T00:02:00Z"];
    let view = daemon.mlctl(&[&args[..], &["--overlap", "allow", "-o", "json"]].concat()).json();
    for run in view["runs"].as_array().unwrap() {
        let job = daemon.wait_for(run["job"].as_str().unwrap(), "succeeded");
        assert_eq!(job["labels"]["mlctl/scheduled-at"], run["utc"], "{job:#}");
    }
}
