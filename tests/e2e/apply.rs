//! Schedules as files, with a real daemon and real workers: what is applied again is left alone, and what is changed keeps its runs, whatever is killed meanwhile.

use std::{collections::BTreeSet, path::Path};

use jiff::Timestamp;
use mlctl::{daemon::clock::SystemClock, domain::Clock as _};
use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, specs::written, until};

fn applied(daemon: &Daemon, args: &[&str]) -> Vec<(String, String)> {
    let view = daemon.mlctl(&[&["schedule", "apply", "-o", "json"], args].concat()).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    view["schedules"].as_array().unwrap().iter().map(|one| (text(&one["name"]), text(&one["outcome"]))).collect()
}

fn show(daemon: &Daemon, name: &str) -> Value {
    daemon.mlctl(&["schedule", "show", name, "-o", "json"]).json()
}

/// The ticks of a schedule that have a job, each one.
fn ticks(daemon: &Daemon, name: &str) -> BTreeSet<Timestamp> {
    let list = daemon.client.get("/v1/jobs?state=queued,blocked,running,succeeded,failed,cancelled&limit=10000").ok();
    let mut ticks = BTreeSet::new();
    for job in list["jobs"].as_array().unwrap().iter().filter(|job| job["labels"]["mlctl/schedule"] == name) {
        let tick = job["labels"]["mlctl/scheduled-at"].as_str().unwrap().parse().unwrap();
        assert!(ticks.insert(tick), "{tick} has two jobs");
    }
    ticks
}

#[test]
fn the_schedules_of_the_repository_are_applied_and_again_changes_nothing() {
    let daemon = Daemon::with(Worker::Real);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/schedules");
    let folder = folder.to_str().unwrap();
    let with = |outcome: &str| vec![("nightly-digits".to_owned(), outcome.to_owned())];
    assert_eq!(applied(&daemon, &[folder, "--dry-run"]), with("added"));
    assert_eq!(daemon.mlctl(&["schedule", "ls", "-o", "json"]).json()["schedules"], json!([]));
    assert_eq!(applied(&daemon, &[folder]), with("added"));
    assert_eq!(applied(&daemon, &[folder]), with("unchanged"));
    let run = daemon.mlctl(&["schedule", "run", "nightly-digits", "-o", "json"]).json();
    daemon.wait_for(run["id"].as_str().unwrap(), "succeeded");
}

#[test]
fn a_schedule_that_is_changed_again_and_again_runs_every_minute_once() {
    let now = SystemClock::default().now();
    let mut daemon = Setup::of(Worker::Real).variable("MLD_CLOCK_RATE", &format!("30@{now}")).start();
    daemon.write("job.toml", written("name = \"job\"", 2));
    let write = |daemon: &Daemon, jitter: u32, epochs: u32| {
        daemon.write("job.toml", written("name = \"job\"", epochs));
        let file = format!(
            "cron = \"* * * * *\"\njob = \"job.toml\"\noverlap = \"allow\"\nmisfire = \"all\"\ncatch_up = \"2h\"\njitter = \"{jitter}s\"\n"
        );
        daemon.write("minute.toml", file);
    };
    write(&daemon, 0, 2);
    daemon.write("other.toml", "cron = \"@weekly\"\njob = \"job.toml\"\n");
    applied(&daemon, &["minute.toml", "other.toml"]);
    let first = show(&daemon, "minute")["created_at"].clone();
    for round in 1..8_u32 {
        let before = ticks(&daemon, "minute").len();
        write(&daemon, round % 3 * 20, round + 2);
        let seen = daemon.mlctl(&["schedule", "apply", "minute.toml"]).ok();
        assert!(seen.contains(&format!("job.train.max_epochs: {} -> {}", round + 1, round + 2)), "{seen}");
        if round % 3 == 0 {
            daemon.kill();
            daemon.start();
        }
        assert_eq!(applied(&daemon, &["minute.toml"])[0].1, "unchanged");
        until("another minute has its run", || (ticks(&daemon, "minute").len() > before).then_some(()));
    }
    let shown = show(&daemon, "minute");
    assert_eq!((&shown["created_at"], &shown["spec"]["train"]["max_epochs"]), (&first, &json!(9)), "{shown:#}");
    // A file that is wrong leaves all as they are.
    daemon.write("wrong.toml", "cron = \"* * * * *\"\njob = \"job.toml\"\nmisfire = \"all\"\n");
    write(&daemon, 0, 50);
    daemon.mlctl(&["schedule", "apply", "minute.toml", "wrong.toml"]).must_fail(6, &["wrong.toml", "without end"]);
    assert_eq!(show(&daemon, "minute")["spec"]["train"]["max_epochs"], json!(9));
    let other = show(&daemon, "other");
    daemon.mlctl(&["schedule", "pause", "minute"]).ok();
    let fired = ticks(&daemon, "minute");
    let minutes: Vec<i64> = fired.iter().map(|tick| tick.as_second() / 60).collect();
    assert!(minutes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "each minute has its run: {fired:?}");
    let seen = applied(&daemon, &["minute.toml", "--prune"]);
    assert_eq!(seen[1], (other["name"].as_str().unwrap().to_owned(), "removed".to_owned()));
    assert_eq!(show(&daemon, "minute")["enabled"], json!(false), "it stays paused");
    daemon.mlctl(&["db", "check"]).ok();
}
