//! A dead worker's process id is given to a stranger, who leads a group of that number too, while no daemon runs. The next daemon must neither adopt nor signal the stranger. In a PID namespace of
//! its own, where the kernel can be told which number comes next.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use serde_json::json;

use crate::support::{Setup, Worker, daemon::worker_pid, processes, specs::fake, until};

#[test]
fn a_stranger_with_a_dead_workers_process_id_is_left_alone() {
    let namespace = ["-p", "-f", "-m", "--mount-proc"];
    let may = Command::new("unshare").args(namespace).arg("true").stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("SKIPPED: needs root and a PID namespace");
        return;
    }
    // The shell is the namespace's first process, and reaps what loses its parent.
    let output = Command::new("unshare")
        .args(namespace)
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "reuse::takes_the_number_of_a_dead_worker", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success() && said.contains("done"), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by the test above, in a PID namespace"]
fn takes_the_number_of_a_dead_worker() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.grace_seconds=1").start();
    for kills_daemon_first in [true, false] {
        let id = daemon.submit(&fake("reused", "steps:10000000:10"));
        let pid = daemon.wait_for_checkpoint(&id, 1);
        if kills_daemon_first {
            daemon.kill();
        } else {
            assert!(daemon.stop().success());
        }
        processes::kill(pid);
        until("its number is free", || (!fs::exists(format!("/proc/{pid}")).unwrap()).then_some(()));
        let mut stranger = stranger(pid);
        daemon.start();
        let job = daemon.wait_until(&id, "is tried again", |job| job["attempt"] == 2 && worker_pid(job).is_some());
        assert_ne!(worker_pid(&job), Some(pid));
        let requeued = daemon.events(&id).into_iter().find(|event| event["event"] == "requeued").unwrap();
        assert_eq!(requeued["exit"]["class"], "lost", "{requeued:#}");
        daemon.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).ok();
        daemon.wait_for(&id, "cancelled");
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was killed");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    println!("done");
}

/// Somebody else's process with this number, at the head of a group of its own.
fn stranger(pid: u32) -> Child {
    until("the number is given again", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut child = Command::new("sleep").arg("100000").process_group(0).spawn().unwrap();
        if child.id() == pid {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    })
}
