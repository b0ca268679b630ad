//! Workers in sessions of their own: what is meant for the daemon's terminal, a Ctrl-C or its closing, reaches neither a worker nor what it has started, from its first moment on.

use std::{os::unix::process::CommandExt as _, process::Command};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    processes::{self, AHEAD},
    specs::{Length, fake, training},
    until,
};

/// A daemon in a process group of its own, as a shell that has a terminal starts it.
fn in_a_group(worker: Worker) -> Setup {
    let becomes = "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])";
    Setup { under: ["python3", "-c", becomes].map(str::to_owned).to_vec(), ..Setup::of(worker) }
}

fn signal_group(daemon: &Daemon, signal: Signal) {
    assert_eq!(processes::stat(daemon.pid()).unwrap().group, daemon.pid(), "it leads a group");
    kill_process_group(Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap(), signal).unwrap();
}

/// A process leads a session without a terminal.
fn assert_alone(pid: u32, who: &str) {
    let found = processes::stat(pid).unwrap();
    assert_eq!((found.group, found.session, found.terminal), (pid, pid, 0), "{who}: {found:?}");
}

/// The worker of a job that runs, once it has been heard of.
fn heard(daemon: &Daemon, id: &str) -> u32 {
    let job = daemon.wait_until(id, "was heard of", |job| !job["cpu_seconds"].is_null());
    worker_pid(&job).unwrap()
}

#[test]
fn every_worker_leads_a_session_and_what_it_starts_is_in_it() {
    for worker in [Worker::Fake, Worker::Real] {
        let mut daemon = Setup::of(worker).set("workers.ahead=1").start();
        let id = daemon.submit(&training(worker, "endless", Length::Endless));
        assert_alone(heard(&daemon, &id), "a worker that trains");
        let ahead = until("one waits", || {
            processes::of_attempts(&daemon.state_dir).into_iter().find(|process| process.job == AHEAD)
        });
        until("it has begun a session", || (processes::stat(ahead.pid)?.session == ahead.pid).then_some(()));
        assert_alone(ahead.pid, "one that was started ahead");
        daemon.mlctl(&["cancel", &id]).ok();
        daemon.wait_for(&id, "cancelled");
    }
    let daemon = Daemon::with(Worker::Fake);
    let id = daemon.mlctl(&["submit", "-q", "--", "sh", "-c", "sleep 1000 & wait"]).ok().trim().to_owned();
    let shim = heard(&daemon, &id);
    assert_alone(shim, "a command's worker");
    let others = until("the program and its child run", || {
        let found: Vec<u32> = processes::of_attempts(&daemon.state_dir).iter().map(|process| process.pid).collect();
        (found.len() == 3).then_some(found)
    });
    assert!(others.iter().all(|pid| processes::stat(*pid).unwrap().session == shim), "{others:?} under {shim}");
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}

#[test]
fn what_is_meant_for_the_daemons_terminal_ends_no_worker() {
    let mut daemon = in_a_group(Worker::Fake).start();
    let id = daemon.submit(&fake("trains", "steps:10000000:5"));
    let command = daemon.mlctl(&["submit", "-q", "--", "sleep", "1000"]).ok().trim().to_owned();
    let workers = [heard(&daemon, &id), heard(&daemon, &command)];
    signal_group(&daemon, Signal::HUP);
    until("the settings are read again", || daemon.log().contains("SIGHUP").then_some(()));
    signal_group(&daemon, Signal::INT);
    assert!(daemon.ended().success());
    assert!(workers.iter().all(|pid| processes::is_alive(*pid)), "they go on without it");
    daemon.start();
    for (job, pid) in [&id, &command].into_iter().zip(workers) {
        let found = daemon.job(job);
        assert_eq!((worker_pid(&found), &found["attempt"]), (Some(pid), &json!(1)), "{found:#}");
        daemon.mlctl(&["cancel", job]).ok();
        daemon.wait_for(job, "cancelled");
    }
}

#[test]
fn nor_does_it_end_one_that_is_just_being_started() {
    let mut daemon = in_a_group(Worker::Fake).start();
    let (mut signals, mut fallen) = (0, 0);
    let submits = (0..40).map(|n| {
        signal_group(&daemon, Signal::HUP);
        signals += 1;
        daemon.submit(&fake(&format!("short-{n}"), "steps:2:1"))
    });
    let ids: Vec<String> = submits.collect();
    for id in &ids {
        let job = daemon.wait_until(id, "has succeeded", |job| {
            signal_group(&daemon, Signal::HUP);
            signals += 1;
            job["state"] == "succeeded"
        });
        fallen += job["attempt"].as_u64().unwrap() - 1;
    }
    println!("{signals} signals while {} workers were started: {fallen} fell", ids.len());
    assert!(signals > ids.len());
    // From its fork to its first call a process is in its parent's group, and no one can change that; on a machine under load it may have to wait in there. While its program is loaded, which takes a
    // hundred times as long, it is not: were it, hardly any would be left.
    assert!(fallen <= ids.len() as u64 / 4, "{fallen} fell");
}

/// The control: a program that stays in the daemon's group falls to the same signal.
#[test]
fn the_control_a_process_of_the_group_falls() {
    let daemon = in_a_group(Worker::Fake).start();
    let group = i32::try_from(daemon.pid()).unwrap();
    let mut child = Command::new("sleep").arg("1000").process_group(group).spawn().unwrap();
    signal_group(&daemon, Signal::HUP);
    until("it falls", || child.try_wait().unwrap());
}
