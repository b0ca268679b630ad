//! How a daemon comes up, and when it must not: what is in the way is named, with what to do, by an exit code that says whose turn it is, and nothing is lost.

use std::{fs, os::unix::net::UnixListener};

use serde_json::json;

use crate::support::{
    Daemon, Setup, Worker,
    mount::Disk,
    specs::{Length, fake, training},
};

#[test]
fn a_second_daemon_on_a_state_directory_exits_at_once() {
    let mut first = Daemon::with(Worker::Fake);
    let second = first.fail_to_start();
    second.must_fail(5, &["another mld", &first.pid().to_string(), "hint: "]);
    let id = first.submit(&training(Worker::Fake, "short", Length::Short));
    first.wait_for(&id, "succeeded");
}

#[test]
fn a_socket_in_use_is_left_alone() {
    let mut daemon = Daemon::with(Worker::Fake);
    daemon.kill();
    let socket = daemon.client.socket.clone();
    fs::remove_file(&socket).unwrap();
    let theirs = UnixListener::bind(&socket).unwrap();
    daemon.fail_to_start().must_fail(5, &["in use by another process", "mld.sock", "hint: "]);
    drop(theirs);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    daemon.fail_to_start().must_fail(1, &["is not a socket", "hint: "]);
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    fs::remove_file(&socket).unwrap();
    daemon.start();
}

#[test]
fn a_read_only_state_directory_is_named() {
    let Some(disk) = Disk::tmpfs(64 << 20) else { return };
    let setup = Setup { state_dir: Some(disk.path.join("s")), ..Setup::of(Worker::Fake) };
    let mut daemon = setup.start();
    let id = daemon.submit(&training(Worker::Fake, "short", Length::Short));
    let before = daemon.wait_for(&id, "succeeded");
    assert!(daemon.stop().success());
    disk.read_only(true);
    daemon.fail_to_start().must_fail(1, &[&disk.path.display().to_string(), "Read-only file system", "hint: "]);
    disk.read_only(false);
    daemon.start();
    assert_eq!(daemon.job(&id), before);
}

#[test]
fn a_newer_schema_is_refused_and_not_touched() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&training(Worker::Fake, "short", Length::Short));
    daemon.wait_for(&id, "succeeded");
    assert!(daemon.stop().success());
    let path = daemon.state_dir.join("mld.db");
    let ours = fs::read(&path).unwrap();
    // The user version is four bytes at offset 60 of SQLite's file header.
    let mut newer = ours.clone();
    newer[60..64].copy_from_slice(&1000_u32.to_be_bytes());
    fs::write(&path, &newer).unwrap();
    daemon.fail_to_start().must_fail(1, &["schema 1000", "newer mld", "hint: "]);
    assert!(fs::read(&path).unwrap() == newer, "it is as it was");
    fs::write(&path, &ours).unwrap();
    daemon.start();
    assert_eq!(daemon.job(&id)["state"], "succeeded");
}

#[test]
fn another_programs_file_is_not_taken_for_a_database() {
    let mut daemon = Daemon::with(Worker::Fake);
    assert!(daemon.stop().success());
    let path = daemon.state_dir.join("mld.db");
    fs::write(&path, "a text of somebody's".repeat(100)).unwrap();
    daemon.fail_to_start().must_fail(1, &["mld.db", "hint: "]);
    assert!(fs::read_to_string(&path).unwrap().starts_with("a text of somebody's"));
}

#[test]
fn a_wrong_setting_is_shown_where_it_stands() {
    let daemon = Daemon::with(Worker::Fake);
    let file = daemon.write("mld.toml", "[workers]\ncpu = 4\nlease_seconds = 1\n");
    let mut command = std::process::Command::new(crate::support::programs::mld());
    command.arg("--state-dir").arg(daemon.folder().join("other")).arg("--config").arg(&file);
    let run = crate::support::cli::run(daemon.folder(), command);
    run.must_fail(2, &["mld.toml:2:1", "cpus", "mld.toml:3:17", "lease_seconds", "hint: "]);
    assert!(!daemon.folder().join("other").exists(), "a daemon that does not start makes nothing");
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=1").start();
    let holder = daemon.submit(&training(Worker::Fake, "holder", Length::Endless));
    let ids: Vec<_> = (0..50).map(|_| daemon.submit(&fake("waiting", "obey"))).collect();
    daemon.kill();
    daemon.start();
    for id in &ids {
        assert_eq!(daemon.job(id)["state"], "queued");
    }
    daemon.client.post(&format!("/v1/jobs/{holder}/cancel"), &json!({})).ok();
    for id in &ids {
        daemon.wait_for(id, "succeeded");
        assert_eq!(daemon.count(id, "succeeded"), 1);
    }
}

#[test]
fn a_key_names_one_job_whatever_happens() {
    let mut daemon = Daemon::with(Worker::Fake);
    let spec = training(Worker::Fake, "short", Length::Short);
    let first = daemon.try_submit(&spec, "key");
    assert_eq!(first.status, 201);
    let again = daemon.try_submit(&spec, "key");
    assert_eq!((again.status, &again.body["id"]), (200, &first.body["id"]));
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.try_submit(&spec, "key").body["id"], first.body["id"]);
    let other = daemon.try_submit(&training(Worker::Fake, "another", Length::Short), "key");
    assert_eq!((other.status, other.error()), (409, "key_conflict"));
    daemon.wait_for(first.body["id"].as_str().unwrap(), "succeeded");
}

#[test]
fn a_signal_while_it_starts_or_stops_harms_nothing() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&training(Worker::Fake, "long", Length::Long));
    for _ in 0..5 {
        assert!(daemon.stop().success());
        assert!(!daemon.client.socket.exists(), "a stopped daemon takes its socket away");
        daemon.start();
    }
    let job = daemon.wait_for(&id, "succeeded");
    // The first stop may fall between the claim and the launch: that attempt is given up, and costs the job no retry.
    assert_eq!(job["retries_used"], 0, "{job:#}");
}
