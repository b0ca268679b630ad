//! Settings that are read again while the daemon runs: what can hold at once does, what cannot is named, and a mistake changes nothing.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, processes, specs::fake, until};

/// A daemon whose settings are those of a file, and the file.
fn daemon(text: &str) -> (Daemon, tempfile::NamedTempFile) {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    fs::write(file.path(), text).unwrap();
    let mut setup = Setup::of(Worker::Fake);
    setup.settings.retain(|assignment| !assignment.starts_with("workers.cpus") && !assignment.starts_with("log."));
    setup.config = Some(file.path().to_owned());
    (setup.start(), file)
}

fn cpus(daemon: &Daemon) -> Value {
    daemon.client.get("/v1/daemon").ok()["machine"]["cpus"].clone()
}

#[test]
fn what_can_hold_at_once_does_and_the_rest_is_named() {
    let (mut daemon, file) = daemon("[workers]\ncpus = 1\n");
    let runs = daemon.submit(&fake("runs", "steps:10000000:10"));
    daemon.wait_for_checkpoint(&runs, 1);
    let waits = daemon.submit(&fake("waits", "obey"));
    assert_eq!(daemon.mlctl(&["daemon", "reload"]).ok().trim(), "the settings are as they were");
    assert!(!daemon.log().contains("DEBUG"), "{}", daemon.log());

    let more = "[workers]\ncpus = 2\nlease_seconds = 700\n[log]\nlevel = \"debug\"\n";
    fs::write(file.path(), more).unwrap();
    let said = daemon.mlctl(&["daemon", "reload"]);
    assert!(said.stderr.contains("systemctl restart mld"), "{said:?}");
    let said = said.ok();
    for line in [
        "workers.cpus holds from now on",
        "log.level holds from now on",
        "workers.lease_seconds has changed, and holds from the next start on",
    ] {
        assert!(said.contains(line), "{line:?} is not in {said}");
    }
    // There is room for it by now.
    daemon.wait_for(&waits, "succeeded");
    let late = daemon.submit(&fake("late", "obey"));
    daemon.wait_for(&late, "succeeded");
    until("there is more in the log", || daemon.log().contains("DEBUG").then_some(()));
    // What waits for a start is named until there is one.
    let again = daemon.mlctl(&["daemon", "reload", "-o", "json"]).json();
    assert_eq!((&again["applied"], &again["pending"]), (&json!([]), &json!(["workers.lease_seconds"])));

    fs::write(file.path(), format!("{more}[limits]\nmax_queued = 1\n[commands]\nenabled = false\n")).unwrap();
    daemon.mlctl(&["daemon", "reload"]).ok();
    daemon.mlctl(&["submit", "-q", "--", "true"]).must_fail(7, &["command jobs are switched off"]);
    for (key, status) in [("first", 201), ("second", 503)] {
        let mut large = fake("large", "obey");
        large["resources"] = json!({"cpus": 2});
        assert_eq!(daemon.try_submit(&large, key).status, status, "{key}");
    }
    assert!(daemon.stop().success());
    daemon.start();
    assert_eq!(daemon.mlctl(&["daemon", "reload"]).ok().trim(), "the settings are as they were");
    let job = daemon.job(&runs);
    assert_eq!((&job["state"], &job["attempt"]), (&json!("running"), &json!(1)), "{job:#}");
}

#[test]
fn a_mistake_is_shown_with_its_place_and_the_old_settings_stay() {
    let (daemon, file) = daemon("[workers]\ncpus = 1\n");
    fs::write(file.path(), "[workers]\ncpus = \"many\"\nspeed = 3\n").unwrap();
    let place = |line: u32, column: u32| format!("{}:{line}:{column}", file.path().display());
    daemon.mlctl(&["daemon", "reload"]).must_fail(6, &[&place(2, 8), &place(3, 1), "speed"]);
    assert_eq!(cpus(&daemon), 1);
    fs::write(file.path(), "[workers]\ncpus = 2\n[log]\nlevel = \"=,=\"\n").unwrap();
    daemon.mlctl(&["daemon", "reload"]).must_fail(6, &["log.level"]);
    assert_eq!(cpus(&daemon), 1, "all of it or nothing");
    // The same by a signal, which ends nothing.
    processes::signal(daemon.pid(), Signal::HUP);
    until("the signal is heard", || daemon.log().contains("SIGHUP").then_some(()));
    until("the log says why not", || (daemon.log().matches("cannot be read again").count() >= 3).then_some(()));
    assert_eq!(cpus(&daemon), 1);
    fs::write(file.path(), "[workers]\ncpus = 3\n").unwrap();
    processes::signal(daemon.pid(), Signal::HUP);
    until("what is right is in force", || (cpus(&daemon) == 3).then_some(()));
}
