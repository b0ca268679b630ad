//! Databases that earlier releases left while jobs ran, under the real daemon: it brings them to its schema, ends what ran and is not there any more by no fault of the job's, goes on with what waits, and nothing is wrong with them afterwards.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, until};

/// The daemon, and its folder, which is to be there for longer.
fn daemon(version: u32) -> (tempfile::TempDir, Daemon) {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("s");
    fs::create_dir(&state_dir).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/db-v{version}.sqlite"));
    fs::copy(fixture, state_dir.join("mld.db")).unwrap();
    let daemon = Setup { state_dir: Some(state_dir), ..Setup::of(Worker::Fake) }.start();
    (home, daemon)
}

fn jobs(daemon: &Daemon, state: &str) -> Vec<Value> {
    daemon.client.get(&format!("/v1/jobs?state={state}")).ok()["jobs"].as_array().unwrap().clone()
}

/// When the last attempt was started, before this daemon was.
fn is_old(job: &Value, started_at: &str) -> bool {
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    job["started_at"].as_str().is_some_and(|started| at(started) < at(started_at))
}

#[test]
fn what_ran_under_an_earlier_schema_ends_or_goes_on_and_the_database_is_sound() {
    for version in 1..=4 {
        let (_home, mut daemon) = daemon(version);
        let started_at = daemon.client.get("/v1/daemon").ok()["started_at"].as_str().unwrap().to_owned();
        until("what ran before is not running any more", || {
            jobs(&daemon, "running").iter().all(|job| !is_old(job, &started_at)).then_some(())
        });
        // Of those that ran, none has used up a retry of its own: that nobody was there to see their end is not their fault.
        let mut ended = 0;
        for state in ["queued", "running", "succeeded", "failed", "held"] {
            for job in jobs(&daemon, state) {
                let id = job["id"].as_str().unwrap();
                let attempts = daemon.client.get(&format!("/v1/jobs/{id}/attempts")).ok();
                let lost = |attempt: &&Value| ["lost", "preempted"].iter().any(|class| attempt["exit_class"] == *class);
                let found = attempts["attempts"].as_array().unwrap().iter().filter(lost).count();
                ended += found;
            }
        }
        assert!(ended > 0, "schema {version}: some ran");
        let dispatch = until("it was looked through", || {
            let dispatch = daemon.client.get("/v1/daemon").ok()["dispatch"].clone();
            (!dispatch["checked_at"].is_null()).then_some(dispatch)
        });
        assert_eq!((&dispatch["state"], &dispatch["frozen"]), (&json!("open"), &Value::Null), "schema {version}");
        let job = daemon.submit(&crate::support::specs::fake("new", "obey"));
        daemon.mlctl(&["db", "check"]).ok();
        assert!(daemon.stop().success());
        daemon.start();
        assert!(["queued", "running", "succeeded"].contains(&daemon.job(&job)["state"].as_str().unwrap()));
    }
}
