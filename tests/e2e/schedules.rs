//! A schedule through everything that can happen to a daemon: each tick submits one job, whatever is killed, whenever, and wherever the clock jumps. The wall clock of the
//! real daemon runs faster (`MLD_CLOCK_RATE`), so that a minute takes seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use mlctl::{daemon::clock::SystemClock, domain::Clock as _};
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::{
    chance::cases,
    support::{Daemon, Setup, Worker, until},
};

const RATE: &str = "MLD_CLOCK_RATE";
const OFFSET: &str = "MLD_CLOCK_OFFSET_SECONDS";

/// A daemon whose clock runs so many times as fast from now on, and that clock.
fn hurried(worker: Worker, times: u32) -> (Daemon, SystemClock) {
    let rate = format!("{times}@{}", SystemClock::default().now());
    let clock = SystemClock::set(None, Some(&rate)).unwrap();
    (Setup::of(worker).variable(RATE, &rate).start(), clock)
}

/// The jobs that schedules submitted.
fn scheduled(daemon: &Daemon) -> Vec<Value> {
    let list = daemon.client.get("/v1/jobs?state=queued,running,succeeded,failed,cancelled&limit=10000").ok();
    let jobs = list["jobs"].as_array().unwrap().iter();
    jobs.filter(|job| job["labels"]["mlctl/schedule"].is_string()).cloned().collect()
}

/// How many jobs each tick submitted.
fn fired(daemon: &Daemon) -> BTreeMap<Timestamp, usize> {
    let mut fired = BTreeMap::new();
    for job in scheduled(daemon) {
        let tick = job["labels"]["mlctl/scheduled-at"].as_str().unwrap().parse().unwrap();
        *fired.entry(tick).or_default() += 1;
    }
    fired
}

fn doubles(fired: &BTreeMap<Timestamp, usize>) -> Vec<Timestamp> {
    fired.iter().filter(|(_, jobs)| **jobs != 1).map(|(tick, _)| *tick).collect()
}

fn wait_for_ticks(daemon: &Daemon, count: usize) -> BTreeMap<Timestamp, usize> {
    until(&format!("{count} ticks have fired"), || Some(fired(daemon)).filter(|fired| fired.len() >= count))
}

#[test]
fn the_digits_are_retrained_every_minute_whatever_is_killed() {
    let (mut daemon, clock) = hurried(Worker::Real, 10);
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/jobs/digits.toml");
    let digits = digits.to_str().unwrap();
    let mut args = vec!["schedule", "add", digits, "--cron", "* * * * *", "--zone", "Europe/Berlin", "-n", "retrain"];
    args.extend(["--set", "train.max_epochs=2", "--set", "resources.cpus=1", "--overlap", "allow", "-o", "json"]);
    let added = daemon.mlctl(&args).json();
    let begin: Timestamp = added["created_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(added["next_local"].as_str().map(|local| local.ends_with("[Europe/Berlin]")), Some(true), "{added:#}");
    wait_for_ticks(&daemon, 1);
    let mut away = Vec::new();
    cases(1, |mut chance| {
        for kill in 0..4 {
            std::thread::sleep(Duration::from_millis(1000 + chance.below(6000)));
            let gone = clock.now();
            daemon.kill();
            daemon.start();
            away.push((gone, clock.now()));
            wait_for_ticks(&daemon, kill + 2);
        }
    });
    let fired = wait_for_ticks(&daemon, 6);
    assert_eq!(doubles(&fired), [], "{fired:?}");
    // Each minute from the first on, but for those that came while no daemon ran and were not the last of them.
    let last = *fired.keys().next_back().unwrap();
    let minutes = (1..).map(|n| Timestamp::from_second((begin.as_second() / 60 + n) * 60).unwrap());
    for minute in minutes.take_while(|minute| *minute <= last).filter(|minute| !fired.contains_key(minute)) {
        let is_missed = away.iter().any(|(gone, back)| *gone <= minute && minute < *back);
        assert!(is_missed, "{minute} did not fire; fired: {fired:?}, away: {away:?}");
    }
    let shown = daemon.mlctl(&["schedule", "show", "retrain", "-o", "json"]).json();
    daemon.mlctl(&["schedule", "rm", "retrain"]).ok();
    let jobs = scheduled(&daemon);
    for tick in shown["ticks"].as_array().unwrap() {
        let job = jobs.iter().find(|job| job["id"] == tick["job"]).unwrap();
        assert_eq!(job["labels"]["mlctl/scheduled-at"], tick["at"], "{job:#}");
    }
    for job in &jobs {
        let id = job["id"].as_str().unwrap();
        let job = daemon.wait_for(id, "succeeded");
        assert_eq!((&job["name"], &job["labels"]["mlctl/schedule"]), (&json!("digits"), &json!("retrain")));
        assert!(job["model"]["digest"].is_string() && job["metrics"]["test_accuracy"].is_f64(), "{job:#}");
    }
    let count = jobs.len();
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(scheduled(&daemon).len(), count, "a schedule that was removed submits nothing");
}

const JOB: &str = r#"
version = 1
name = "minute"
labels = { fake = "steps:2:1" }
[train]
loss = "mse"
batch_size = 8
max_epochs = 1
model = { type = "mlp", layers = [4, 8, 2] }
data = { format = "randn", rows = 64, features = 4, targets = 2, seed = 1 }
optimizer = { type = "adam" }
"#;

#[test]
fn a_clock_set_back_fires_no_tick_twice() {
    let (mut daemon, clock) = hurried(Worker::Fake, 60);
    daemon.write("job.toml", JOB);
    daemon.mlctl(&["schedule", "add", "job.toml", "--cron", "* * * * *", "--overlap", "allow"]).ok();
    let before = wait_for_ticks(&daemon, 4);
    let newest = *before.keys().next_back().unwrap();
    daemon.stop();
    daemon.set_variable(OFFSET, "-180");
    let passed = clock.now() - newest;
    daemon.start();
    let after = until("the clock has caught up", || {
        let fired = fired(&daemon);
        fired.keys().next_back().filter(|tick| **tick > newest).is_some().then_some(fired)
    });
    assert_eq!(doubles(&after), [], "{passed:?} had passed: {after:?}");
    // The control: a daemon that has forgotten what fired does it again, and is found out.
    daemon.stop();
    forget(&daemon.state_dir.join("mld.db"));
    daemon.set_variable(OFFSET, "-480");
    daemon.start();
    until("a tick fires twice", || (!doubles(&fired(&daemon)).is_empty()).then_some(()));
}

fn forget(database: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut conn = SqliteConnectOptions::new().filename(database).connect().await.unwrap();
        let done = sqlx::raw_sql("DELETE FROM ticks; DELETE FROM idempotency").execute(&mut conn).await.unwrap();
        assert!(done.rows_affected() > 0);
        conn.close().await.unwrap();
    });
}

#[test]
fn a_paused_schedule_submits_nothing_and_leaves_out_what_came_meanwhile() {
    let (mut daemon, clock) = hurried(Worker::Fake, 60);
    daemon.write("job.toml", JOB);
    daemon.mlctl(&["schedule", "add", "job.toml", "--cron", "* * * * *", "--overlap", "allow"]).ok();
    wait_for_ticks(&daemon, 2);
    let paused = daemon.mlctl(&["schedule", "pause", "minute"]).ok();
    assert!(paused.contains("is paused") && paused.contains("mlctl schedule resume"), "{paused}");
    let before = fired(&daemon);
    let listed = daemon.mlctl(&["schedule", "ls", "-o", "json"]).json()["schedules"][0].clone();
    assert_eq!((&listed["enabled"], &listed["next_at"]), (&json!(false), &Value::Null), "{listed:#}");
    assert!(daemon.mlctl(&["schedule", "ls"]).ok().contains("paused"));
    daemon.mlctl(&["schedule", "pause", "minute"]).ok();
    // Over a restart, too.
    daemon.stop();
    daemon.start();
    let newest = *before.keys().next_back().unwrap();
    until("three more ticks would have fired", || (clock.now().duration_since(newest).as_secs() > 240).then_some(()));
    assert_eq!(fired(&daemon), before);

    // Its job now, once for a key, whether it is paused or not, and its ticks stay as they are.
    let run = |key: &str| daemon.mlctl(&["schedule", "run", "minute", "--key", key, "-o", "json"]).json();
    let (one, same, other) = (run("one"), run("one"), run("other"));
    assert!(one["id"] == same["id"] && one["id"] != other["id"], "{one:#} {same:#} {other:#}");
    let labels = one["labels"].as_object().unwrap();
    assert!(labels["mlctl/schedule"] == "minute" && !labels.contains_key("mlctl/scheduled-at"), "{labels:?}");
    for job in [&one, &other] {
        let id = job["id"].as_str().unwrap();
        daemon.wait_for(id, "succeeded");
        daemon.mlctl(&["rm", "-y", id]).ok();
    }

    let resumed = daemon.mlctl(&["schedule", "resume", "minute"]).ok();
    assert!(resumed.contains("goes on: next "), "{resumed}");
    let at = clock.now();
    let after = wait_for_ticks(&daemon, before.len() + 2);
    let left_out = after
        .keys()
        .filter(|tick| **tick > newest && **tick < at.saturating_sub(jiff::Span::new().minutes(1)).unwrap())
        .count();
    assert_eq!((left_out, doubles(&after)), (0, Vec::new()), "what came meanwhile is not made up for: {after:?}");
    for verb in ["pause", "resume", "run"] {
        daemon.mlctl(&["schedule", verb, "none"]).must_fail(4, &["no schedule none"]);
    }
}

/// The ticks of one schedule that fired, each once.
fn fired_of(daemon: &Daemon, schedule: &str) -> BTreeSet<Timestamp> {
    let jobs = scheduled(daemon).into_iter().filter(|job| job["labels"]["mlctl/schedule"] == schedule);
    let mut fired = BTreeSet::new();
    for job in jobs {
        let tick = job["labels"]["mlctl/scheduled-at"].as_str().unwrap().parse().unwrap();
        assert!(fired.insert(tick), "{tick} fired twice");
    }
    fired
}

#[test]
fn what_was_missed_runs_or_is_skipped_as_each_schedule_says() {
    let (mut daemon, clock) = hurried(Worker::Real, 30);
    daemon.write("job.toml", JOB);
    let add = |name: &str, more: &[&str]| {
        let args = ["schedule", "add", "job.toml", "--cron", "* * * * *", "-n", name, "--set", "resources.cpus=1"];
        daemon.mlctl(&[&args[..], more].concat()).ok()
    };
    add("each", &["--misfire", "all", "--catch-up", "2h"]);
    add("none", &["--misfire", "skip", "--overlap", "allow"]);
    until("both have run", || ["each", "none"].iter().all(|name| !fired_of(&daemon, name).is_empty()).then_some(()));
    let (mut away, mut last) = (Vec::new(), clock.now());
    for _ in 0..2 {
        let gone = clock.now();
        daemon.kill();
        until("minutes have passed", || (clock.now().duration_since(gone).as_mins() >= 4).then_some(()));
        let back = clock.now();
        daemon.start();
        away.push((gone, back));
        last = back;
        until("what was missed has run", || fired_of(&daemon, "each").last().filter(|tick| **tick >= back).map(drop));
    }
    until("both go on", || fired_of(&daemon, "none").last().filter(|tick| **tick > last).map(drop));
    let (each, none) = (fired_of(&daemon, "each"), fired_of(&daemon, "none"));
    let minutes: Vec<i64> = each.iter().map(|tick| tick.as_second() / 60).collect();
    assert!(minutes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "each minute has its run: {each:?}");
    let is_missed =
        |tick: &&Timestamp| away.iter().any(|(gone, back)| gone < *tick && back.duration_since(**tick).as_secs() > 60);
    assert_eq!(none.iter().filter(is_missed).count(), 0, "{none:?} {away:?}");
    assert!(each.iter().filter(is_missed).count() >= 4, "{each:?} {away:?}");
    daemon.mlctl(&["schedule", "pause", "each", "none"]).ok();
    let shown = daemon.mlctl(&["schedule", "show", "none", "-o", "json"]).json();
    assert_eq!(shown["policy"]["misfire"], "skip");
    let reason = shown["missed"][0]["reason"].as_str().unwrap();
    assert!(reason.ends_with("late, and missed runs are skipped"), "{shown:#}");
    let shown = daemon.mlctl(&["schedule", "show", "each"]).ok();
    assert!(shown.contains("each runs, if it is no more than 2h late"), "{shown}");
    let job = scheduled(&daemon).pop().unwrap();
    daemon.wait_for(job["id"].as_str().unwrap(), "succeeded");
}

#[test]
fn a_spread_is_previewed_and_a_schedule_ends_when_it_is_to() {
    let (daemon, clock) = hurried(Worker::Real, 60);
    daemon.write("job.toml", JOB);
    let add = |name: &str, cron: &str, more: &[&str]| {
        daemon.mlctl(&[&["schedule", "add", "job.toml", "-n", name, "--cron", cron][..], more].concat())
    };
    add("spread", "30 2 * * *", &["--zone", "Europe/Berlin", "--jitter", "2h"]).ok();
    let preview = daemon.mlctl(&["schedule", "preview", "spread", "-n", "3", "-o", "json"]).json();
    let shown = daemon.mlctl(&["schedule", "show", "spread", "-o", "json"]).json();
    let runs = preview["runs"].as_array().unwrap();
    assert_eq!((&runs[0]["due"], &shown["policy"]["jitter_seconds"]), (&shown["next_at"], &json!(7200)));
    let moment = |run: &Value, key: &str| run[key].as_str().unwrap().parse::<Timestamp>().unwrap();
    let spread: BTreeSet<_> =
        runs.iter().map(|run| moment(run, "due") - moment(run, "utc")).map(|by| by.as_secs()).collect();
    assert!(spread.len() > 1 && spread.iter().all(|by| (0..7200).contains(by)), "{preview:#}");
    assert!(daemon.mlctl(&["schedule", "preview", "spread"]).ok().contains("later by its jitter"));

    let refused = |more: &[&str], words: &[&str]| add("wrong", "@daily", more).must_fail(6, words);
    refused(&["--until", "2020-01-01T00:00"], &["would never run", "policy.until"]);
    refused(&["--from", "2126-02-01T00:00", "--until", "2126-01-01T00:00"], &["it ends before it begins"]);
    refused(&["--misfire", "skip", "--catch-up", "1h"], &["missed runs are skipped"]);
    let until_when = clock.now() + SignedDuration::from_mins(3);
    add("short", "* * * * *", &["--until", &until_when.to_string()]).ok();
    let ended = || daemon.mlctl(&["schedule", "show", "short", "-o", "json"]).json()["next_at"].is_null();
    until("it has ended", || ended().then_some(()));
    let fired = fired_of(&daemon, "short");
    assert!(!fired.is_empty() && fired.iter().all(|tick| *tick <= until_when), "{fired:?} {until_when}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fired_of(&daemon, "short"), fired);
    for job in scheduled(&daemon) {
        daemon.wait_for(job["id"].as_str().unwrap(), "succeeded");
    }
}

#[test]
fn an_impossible_schedule_is_refused_and_nothing_is_kept() {
    let daemon = Daemon::with(Worker::Fake);
    daemon.write("job.toml", JOB);
    let add = |cron: &str, zone: &str| daemon.mlctl(&["schedule", "add", "job.toml", "--cron", cron, "--zone", zone]);
    add("0 0 30 2 *", "UTC").must_fail(6, &["column 5: 30 February does not exist", "hint: name a day up to 29"]);
    add("0 2 * * *", "Europe/Berln")
        .must_fail(6, &["\"Europe/Berln\" is no time zone", "did you mean `Europe/Berlin`?"]);
    add("61 2 * * *", "UTC").must_fail(6, &["column 1: ", "minutes go from 0 to 59"]);
    let request = json!({"cron": "0 0 31 4 *", "spec": {"version": 1}});
    assert_eq!(daemon.client.post("/v1/schedules", &request).status, 422);
    assert_eq!(daemon.mlctl(&["schedule", "ls", "-o", "json"]).json()["schedules"], json!([]));
    daemon.mlctl(&["schedule", "show", "none"]).must_fail(4, &["no schedule none", "mlctl schedule ls"]);
    add("@daily", "UTC").ok();
    daemon
        .mlctl(&["schedule", "add", "job.toml", "--cron", "@hourly"])
        .must_fail(5, &["there is a schedule minute already"]);
}
