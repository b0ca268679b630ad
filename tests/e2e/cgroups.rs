//! A cgroup per attempt, with the real daemon: what a killed worker's program had started ends with it, in whatever session, also under the next daemon, and what it used is counted by the kernel.

use std::fs;

use crate::{
    cgroup_tree::Tree,
    support::{Daemon, Setup, Worker, daemon::worker_pid, processes, until},
};

/// A command that uses a processor, and leaves a process behind in a session of its own that bears no mark.
fn escaping(daemon: &Daemon, name: &str) -> (String, u32) {
    let file = daemon.folder().join(name);
    let line = format!(
        "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; env -i /usr/bin/setsid /bin/sleep 600 & echo $! >{}; sleep 600",
        file.display()
    );
    let id = daemon.mlctl(&["submit", "-q", "--", "sh", "-c", &line]).ok().trim().to_owned();
    let pid: u32 = until("a process leaves its number", || fs::read_to_string(&file).ok()?.trim().parse().ok());
    until("it has left the session", || {
        let is_away = fs::read_to_string(format!("/proc/{pid}/comm")).ok()? == "sleep\n";
        is_away.then_some(())
    });
    (id, pid)
}

fn kill_worker(daemon: &Daemon, id: &str) {
    let job = daemon.wait_until(id, "has a process", |job| worker_pid(job).is_some());
    processes::kill(worker_pid(&job).unwrap());
}

#[test]
fn nothing_of_an_attempt_survives_it_and_the_kernel_counts_what_it_used() {
    let Some(tree) = Tree::plant() else { return };
    let setup = Setup::of(Worker::Fake).set(&format!("workers.cgroup_dir='{}'", tree.0.display()));
    let mut daemon = setup.start();
    let cell = |id: &str| tree.0.join(format!("{id}-1"));
    let (first, pid) = escaping(&daemon, "first");
    assert!(fs::read_to_string(cell(&first).join("cgroup.procs")).unwrap().lines().any(|line| line == pid.to_string()));
    daemon.wait_until(&first, "was heard of", |job| !job["cpu_seconds"].is_null());
    kill_worker(&daemon, &first);
    let job = daemon.wait_for(&first, "failed");
    assert_eq!(job["exit_class"], "crash", "{job:#}");
    assert!(job["cpu_seconds"].as_f64() > Some(0.0), "{job:#}");
    assert!(!processes::is_alive(pid), "it ended with its attempt");
    assert!(!cell(&first).exists());

    // Under the next daemon too, which finds one worker alive and the other dead.
    let (alive, pid_alive) = escaping(&daemon, "alive");
    let (dead, pid_dead) = escaping(&daemon, "dead");
    daemon.kill();
    let dead_worker = {
        let procs = fs::read_to_string(cell(&dead).join("cgroup.procs")).unwrap();
        procs.lines().next().unwrap().parse().unwrap()
    };
    processes::kill(dead_worker);
    daemon.start();
    // Nobody was there to see their ends: they are tried again, and all of the first attempts is gone by then.
    daemon.wait_until(&dead, "is tried again", |job| job["attempt"] == 2);
    assert!(!processes::is_alive(pid_dead) && processes::is_alive(pid_alive));
    kill_worker(&daemon, &alive);
    daemon.wait_until(&alive, "is tried again", |job| job["attempt"] == 2);
    assert!(!processes::is_alive(pid_alive));
    assert!(!cell(&alive).exists() && !cell(&dead).exists());
    for id in [&alive, &dead] {
        daemon.mlctl(&["cancel", id]).ok();
        daemon.wait_for(id, "cancelled");
    }
    let left = fs::read_dir(&tree.0).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(left, 0, "no cgroup is left");
}

#[test]
fn the_control_without_one_a_process_escapes() {
    let daemon = Daemon::with(Worker::Fake);
    let (id, pid) = escaping(&daemon, "escaped");
    kill_worker(&daemon, &id);
    daemon.wait_for(&id, "failed");
    let survived = processes::is_alive(pid);
    processes::kill(pid);
    assert!(survived, "what the other test sees is the cgroup's doing");
}
