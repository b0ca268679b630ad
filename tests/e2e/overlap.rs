//! Schedules whose runs take longer than the time between them, or fail, with a real daemon and real workers. The daemon's wall clock runs faster, so that a minute takes two seconds.

use mlctl::{daemon::clock::SystemClock, domain::Clock as _};
use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, specs::written, until};

const FAILS: &str = r#"
version = 1
name = "fails"
[retry]
limit = 0
[command]
argv = ["false"]
cwd = "/"
"#;

fn hurried() -> Daemon {
    let now = SystemClock::default().now();
    let daemon = Setup::of(Worker::Real).variable("MLD_CLOCK_RATE", &format!("30@{now}")).start();
    // It goes on until somebody ends it.
    daemon.write("long.toml", written("name = \"long\"", 100_000_000));
    daemon.write("fails.toml", FAILS);
    daemon
}

fn add(daemon: &Daemon, file: &str, name: &str, more: &[&str]) {
    let args = ["schedule", "add", file, "--cron", "* * * * *", "-n", name];
    daemon.mlctl(&[&args[..], more].concat()).ok();
}

fn show(daemon: &Daemon, name: &str) -> Value {
    daemon.mlctl(&["schedule", "show", name, "-o", "json"]).json()
}

/// The jobs of a schedule, oldest first, each with its state.
fn jobs(daemon: &Daemon, name: &str) -> Vec<(String, String)> {
    let states = "queued,blocked,running,succeeded,failed,cancelled";
    let list = daemon.client.get(&format!("/v1/jobs?state={states}&limit=10000")).ok();
    let own = list["jobs"].as_array().unwrap().iter().filter(|job| job["labels"]["mlctl/schedule"] == name);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut jobs: Vec<_> = own.map(|job| (text(&job["id"]), text(&job["state"]))).collect();
    jobs.sort_by_key(|(id, _)| id.parse::<u64>().unwrap());
    jobs
}

fn in_state(daemon: &Daemon, name: &str, state: &str) -> usize {
    jobs(daemon, name).iter().filter(|(_, found)| found == state).count()
}

fn end(daemon: &Daemon, name: &str) {
    daemon.mlctl(&["schedule", "rm", name]).ok();
    // Who waits goes first, so that none of them begins.
    for (id, state) in jobs(daemon, name).iter().rev() {
        if matches!(state.as_str(), "queued" | "blocked" | "running") {
            daemon.mlctl(&["cancel", id]).ok();
        }
    }
    until("all have ended", || {
        let is_over = |state: &str| !matches!(state, "queued" | "blocked" | "running");
        jobs(daemon, name).iter().all(|(_, state)| is_over(state)).then_some(())
    });
}

#[test]
fn runs_that_overlap_are_skipped_by_default_or_wait() {
    let mut daemon = hurried();
    add(&daemon, "long.toml", "skips", &[]);
    until("two runs are skipped", || (show(&daemon, "skips")["missed"].as_array()?.len() >= 2).then_some(()));
    daemon.kill();
    daemon.start();
    let skipped = show(&daemon, "skips")["missed"].as_array().unwrap().len();
    until("another is", || (show(&daemon, "skips")["missed"].as_array()?.len() > skipped).then_some(()));
    let shown = show(&daemon, "skips");
    let first = jobs(&daemon, "skips");
    assert_eq!((first.len(), &shown["policy"]["overlap"]), (1, &json!("skip")), "{first:?} {shown:#}");
    let why = format!("job {} has not ended, and overlapping runs are skipped", first[0].0);
    assert_eq!(shown["missed"][0]["reason"], json!(why), "{shown:#}");
    let text = daemon.mlctl(&["schedule", "show", "skips"]).ok();
    assert!(text.contains(&why) && text.contains("skip: left out while an earlier run has not ended"), "{text}");
    daemon.mlctl(&["cancel", &first[0].0]).ok();
    until("the next run begins", || (jobs(&daemon, "skips").len() == 2).then_some(()));
    end(&daemon, "skips");

    add(&daemon, "long.toml", "waits", &["--overlap", "buffer-one"]);
    until("one is left out", || (!show(&daemon, "waits")["missed"].as_array()?.is_empty()).then_some(()));
    let two = jobs(&daemon, "waits");
    assert_eq!((two.len(), two[1].1.as_str()), (2, "blocked"), "{two:?}");
    let why = daemon.mlctl(&["why", &two[1].0]).ok();
    assert!(why.contains(&two[0].0), "{why}");
    daemon.mlctl(&["cancel", &two[0].0]).ok();
    daemon.wait_for(&two[1].0, "running");
    end(&daemon, "waits");
}

#[test]
fn a_run_has_the_one_before_save_its_work_and_end_or_cancels_it() {
    let daemon = hurried();
    for (name, overlap) in [("saves", "cancel-other"), ("ends", "terminate-other")] {
        add(&daemon, "long.toml", name, &["--overlap", overlap]);
        until("two have made way", || (in_state(&daemon, name, "cancelled") >= 2).then_some(()));
        assert!(in_state(&daemon, name, "running") <= 1);
        until("one runs", || (in_state(&daemon, name, "running") == 1).then_some(()));
        let last = jobs(&daemon, name);
        end(&daemon, name);
        if overlap == "cancel-other" {
            let saved = |id: &str| {
                let job = daemon.mlctl(&["show", id, "-o", "json"]).json();
                job["checkpoint"]["step"].as_u64() > Some(0)
            };
            let has_saved = |(id, state): &(String, String)| state == "cancelled" && saved(id);
            assert!(last.iter().any(has_saved), "work is saved: {last:?}");
        }
    }
}

#[test]
fn a_schedule_whose_jobs_fail_is_paused_with_the_reason_and_goes_on_when_resumed() {
    let mut daemon = hurried();
    add(&daemon, "fails.toml", "failing", &["--pause-on-failure=2"]);
    let paused = || Some(show(&daemon, "failing")).filter(|shown| shown["enabled"] == json!(false));
    let shown = until("it is paused", paused);
    let failed = jobs(&daemon, "failing");
    assert!(failed.len() >= 2 && failed.iter().all(|(_, state)| state != "succeeded"), "{failed:?}");
    let why = shown["paused"].as_str().unwrap().to_owned();
    assert!(why.starts_with("2 jobs in a row failed, the last of them job "), "{why}");
    for view in ["ls", "show"] {
        let args =
            if view == "ls" { vec!["schedule", "ls", "-o", "wide"] } else { vec!["schedule", "show", "failing"] };
        let text = daemon.mlctl(&args).ok();
        assert!(text.contains("paused: 2 jobs in a row failed"), "{text}");
    }
    daemon.kill();
    daemon.start();
    assert_eq!(show(&daemon, "failing")["paused"], json!(why));
    daemon.mlctl(&["schedule", "resume", "failing"]).ok();
    let again = until("it is paused again", || {
        Some(show(&daemon, "failing")).filter(|shown| shown["enabled"] == json!(false) && shown["paused"] != json!(why))
    });
    assert!(jobs(&daemon, "failing").len() >= failed.len() + 2, "it took two more: {again:#}");
    daemon.mlctl(&["schedule", "resume", "failing"]).ok();
    daemon.mlctl(&["schedule", "pause", "failing"]).ok();
    assert_eq!(show(&daemon, "failing")["paused"], Value::Null, "a person paused it");
    end(&daemon, "failing");
}
