//! Workers started ahead: each runs one job, with all that a worker started for it has; they end with the daemon, and one that is gone is nobody's misfortune.

use std::{fs, thread::sleep, time::Duration};

use rustix::process::{Pid, getpgid};
use serde_json::json;

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    processes::{self, AHEAD},
    specs, until,
};

fn with(worker: Worker, ahead: u32) -> Daemon {
    Setup::of(worker).set(&format!("workers.ahead={ahead}")).start()
}

/// The processes that wait, once there are so many.
fn waiting(daemon: &Daemon, count: usize) -> Vec<u32> {
    until("workers wait", || {
        let found = processes::of_attempts(&daemon.state_dir).into_iter().filter(|process| process.job == AHEAD);
        let folder = daemon.state_dir.join("attempts").join("ahead");
        let is_idle = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&folder));
        let mut pids: Vec<u32> = found.map(|process| process.pid).filter(is_idle).collect();
        pids.sort_unstable();
        (pids.len() == count).then_some(pids)
    })
}

fn shell(daemon: &Daemon, flags: &[&str], line: &str) -> String {
    let args = [&["submit", "-q"], flags, &["--", "sh", "-c", line]].concat();
    daemon.mlctl(&args).ok().trim().to_owned()
}

#[test]
fn a_worker_started_ahead_runs_one_job_as_if_it_had_been_started_for_it() {
    let daemon = with(Worker::Fake, 2);
    assert!(waiting(&daemon, 0).is_empty(), "nobody has asked for anything yet");
    let first = shell(&daemon, &[], "exit 0");
    daemon.wait_for(&first, "succeeded");
    let before = waiting(&daemon, 2);
    let id = shell(&daemon, &[], "pwd; env; echo wrong >&2; while [ ! -e go ]; do sleep 0.01; done");
    let job = daemon.wait_until(&id, "runs", |job| worker_pid(job).is_some());
    let pid = worker_pid(&job).unwrap();
    assert!(before.contains(&pid), "{pid} did not wait: {before:?}");
    let process = Pid::from_raw(i32::try_from(pid).unwrap());
    assert_eq!(getpgid(process).unwrap(), process.unwrap(), "a group of its own");
    let run_dir = daemon.state_dir.join("attempts").join(&id).join("1");
    until("its folder is the attempt's", || (fs::read_link(format!("/proc/{pid}/cwd")).ok()? == run_dir).then_some(()));
    fs::write(daemon.folder().join("go"), "").unwrap();
    daemon.wait_for(&id, "succeeded");
    let said = daemon.mlctl(&["logs", &id]).ok();
    for line in [&format!("ML_JOB_ID={id}"), "ML_ATTEMPT=1", &format!("ML_RUN_DIR={}", run_dir.display()), "wrong"] {
        assert!(said.lines().any(|found| found == line), "{line} is not in {said}");
    }
    assert!(run_dir.join("result.json").is_file());
    let after = waiting(&daemon, 2);
    assert!(!after.contains(&pid), "it is used once");
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
}

#[test]
fn training_jobs_have_their_own_and_go_on_after_a_crash() {
    let mut daemon = with(Worker::Fake, 1);
    let first = daemon.submit(&specs::fake("first", "obey"));
    daemon.wait_for(&first, "succeeded");
    let before = waiting(&daemon, 1);
    let id = daemon.submit(&specs::fake("second", "fail-attempts:1;steps:20:5"));
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!(job["attempt"], 2, "{job:#}");
    let launched = daemon.events(&id).into_iter().find(|event| event["event"] == "launched").unwrap();
    assert!(launched.to_string().contains(&format!("is process {} on", before[0])), "{launched:#}");
    // Of both programs one waits.
    let command = shell(&daemon, &[], "exit 0");
    daemon.wait_for(&command, "succeeded");
    waiting(&daemon, 2);
}

#[test]
fn those_that_wait_end_with_the_daemon_and_those_at_work_are_adopted() {
    let mut daemon = with(Worker::Fake, 1);
    let first = shell(&daemon, &[], "exit 0");
    daemon.wait_for(&first, "succeeded");
    waiting(&daemon, 1);
    let id = shell(&daemon, &[], "setsid sleep 1000 & echo $! > deep; wait");
    let deep: u32 = until("it runs", || fs::read_to_string(daemon.folder().join("deep")).ok()?.trim().parse().ok());
    let idle = waiting(&daemon, 1);
    daemon.kill();
    until("who waited is gone", || (!processes::is_alive(idle[0])).then_some(()));
    assert!(processes::is_alive(deep), "the job goes on");
    daemon.start();
    assert!(!daemon.state_dir.join("attempts/ahead").exists(), "nothing is left of who waited");
    let job = daemon.wait_until(&id, "runs", |job| job["state"] == "running");
    let shim = worker_pid(&job).unwrap();
    processes::kill(shim);
    daemon.wait_until(&id, "is tried again", |job| job["attempt"] == 2 && worker_pid(job).is_some());
    assert!(!processes::is_alive(deep), "what it started was ended with it");
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
    assert!(daemon.stop().success());
    assert!(processes::of_attempts(&daemon.state_dir).is_empty());
    daemon.start();
}

#[test]
fn one_that_is_gone_is_nobodys_misfortune_and_time_counts_from_the_job() {
    let daemon = with(Worker::Fake, 1);
    let first = shell(&daemon, &[], "exit 0");
    daemon.wait_for(&first, "succeeded");
    processes::kill(waiting(&daemon, 1)[0]);
    until("it is reaped", || processes::zombies_of(daemon.pid()).is_empty().then_some(()));
    assert!(waiting(&daemon, 0).is_empty(), "nobody takes its place unasked");
    let second = shell(&daemon, &[], "exit 0");
    let job = daemon.wait_for(&second, "succeeded");
    assert_eq!(job["attempt"], 1, "{job:#}");
    waiting(&daemon, 1);
    sleep(Duration::from_secs(3));
    let limited = shell(&daemon, &["-t", "3s"], "sleep 1");
    let job = daemon.wait_for(&limited, "succeeded");
    assert_eq!(job["exit_class"], json!("ok"), "{job:#}");
    let late = shell(&daemon, &["-t", "1s"], "sleep 1000");
    assert_eq!(daemon.wait_for(&late, "failed")["exit_class"], json!("timeout"));
}

/// Seen in a storm of kills: folders were numbered from 1 by each daemon, and what an attempt had left behind was looked for by the folder in which its worker had once waited.
#[test]
fn the_end_of_an_adopted_worker_harms_none_that_was_started_ahead_since() {
    let mut daemon = with(Worker::Fake, 1);
    let start = |daemon: &mut Daemon, name: &str| {
        let short = daemon.submit(&specs::fake("short", "obey"));
        daemon.wait_for(&short, "succeeded");
        waiting(daemon, 1);
        let id = daemon.submit(&specs::fake(name, "steps:10000000:5"));
        let job = daemon.wait_until(&id, "runs", |job| worker_pid(job).is_some());
        (id, worker_pid(&job).unwrap())
    };
    let (before, first) = start(&mut daemon, "before");
    daemon.kill();
    daemon.start();
    let (since, second) = start(&mut daemon, "since");
    processes::kill(first);
    daemon.wait_until(&before, "is tried again", |job| job["attempt"] == 2 && worker_pid(job).is_some());
    assert!(processes::is_alive(second), "another job's worker was killed");
    assert_eq!(daemon.job(&since)["attempt"], 1);
    for id in [before, since] {
        daemon.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).ok();
        daemon.wait_for(&id, "cancelled");
    }
}

/// Asked for between the claim and the moment at which the attempt can be told, before it, or after it.
#[test]
fn a_cancel_holds_however_soon_it_comes() {
    let mut daemon = with(Worker::Fake, 1);
    let first = daemon.submit(&specs::fake("first", "obey"));
    daemon.wait_for(&first, "succeeded");
    let mut claimed = 0;
    for round in 0..60 {
        waiting(&daemon, 1);
        let id = daemon.submit(&specs::fake("soon", "sleep:600000"));
        sleep(Duration::from_micros(100 * round));
        daemon.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).ok();
        claimed += usize::from(daemon.wait_for(&id, "cancelled")["attempt"] == 1);
    }
    assert!(claimed > 0, "none had been claimed when it was cancelled");
}
