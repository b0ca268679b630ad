//! The kernel runs out of memory and kills: real workers and a command in a cgroup that has none left. What was killed must be told as that and not as a crash, and a training go on from its checkpoint to
//! the same bits. The control is killed by a person.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    processes,
    specs::{Length, training},
    until,
};

/// A cgroup whose processes are given so much more memory than they have, and no more.
struct Cell(PathBuf);

impl Cell {
    /// Of whichever version counts memory here; none, said out loud, where this user may make none.
    fn of(name: &str, bytes: u64) -> Option<Self> {
        let hierarchies = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")].map(
            |(root, limit)| {
                let cell = Path::new(root).join(format!("mld-test-{name}-{}", std::process::id()));
                (cell, limit)
            },
        );
        for (cell, limit) in hierarchies {
            if fs::create_dir(&cell).is_ok() {
                let cell = Self(cell);
                if fs::write(cell.0.join(limit), bytes.to_string()).is_ok() {
                    // Where there is swap, and it is counted.
                    let _ = fs::write(cell.0.join("memory.swap.max"), "0");
                    return Some(cell);
                }
            }
        }
        println!("SKIPPED: needs a cgroup that counts memory, and the right to make one");
        None
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn killed_by_the_kernel(exit: &Value) {
    assert_eq!(exit["class"], "oom_host", "{exit:#}");
    assert_eq!(exit["message"], "killed by the kernel, which had run out of memory", "{exit:#}");
}

/// How the first attempt of a job ended that was tried again.
fn first_end(daemon: &Daemon, id: &str) -> Value {
    daemon.events(id).into_iter().find(|event| event["event"] == "requeued").unwrap()["exit"].clone()
}

#[test]
fn what_the_kernel_kills_for_memory_is_told_as_that_and_a_training_goes_on() {
    // What it has stays its own: it is the next page that there is none for.
    let Some(narrow) = Cell::of("narrow", 64 << 10) else { return };
    let Some(wide) = Cell::of("wide", 32 << 20) else { return };
    let mut daemon = Setup::of(Worker::Real).start();
    let long = |name: &str| {
        let mut spec = training(Worker::Real, name, Length::Long);
        spec["train"]["model"]["layers"] = json!([32, 128, 128, 8]);
        spec
    };
    let hit = daemon.submit(&long("hit"));
    narrow.take(daemon.wait_for_checkpoint(&hit, 1));
    let job = daemon.wait_for(&hit, "succeeded");
    assert_eq!(job["attempt"], 2, "{job:#}");
    killed_by_the_kernel(&first_end(&daemon, &hit));
    let alone = daemon.submit(&long("alone"));
    assert_eq!(daemon.wait_for(&alone, "succeeded")["model"]["digest"], job["model"]["digest"], "the same bits");

    let pid = daemon.folder().join("pid");
    let go = daemon.folder().join("go");
    let line = format!(
        "echo $$ >{}; while [ ! -e {} ]; do sleep 0.01; done; exec tail /dev/zero",
        pid.display(),
        go.display()
    );
    let greedy = daemon.mlctl(&["submit", "-q", "--", "sh", "-c", &line]).ok().trim().to_owned();
    wide.take(until("a program leaves its number", || fs::read_to_string(&pid).ok()?.trim().parse().ok()));
    fs::write(&go, "").unwrap();
    let job = daemon.wait_for(&greedy, "failed");
    killed_by_the_kernel(&json!({"class": job["exit_class"], "message": job["exit_message"]}));
}

#[test]
fn the_control_that_a_person_kills_is_a_crash() {
    let mut daemon = Setup::of(Worker::Real).start();
    let hit = daemon.submit(&training(Worker::Real, "hit", Length::Long));
    processes::kill(daemon.wait_for_checkpoint(&hit, 1));
    assert_eq!(daemon.wait_for(&hit, "succeeded")["attempt"], 2);
    assert_eq!(first_end(&daemon, &hit)["class"], "crash");
    let command = daemon.mlctl(&["submit", "-q", "--", "sleep", "1000"]).ok().trim().to_owned();
    let shim = worker_pid(&daemon.wait_until(&command, "runs", |job| worker_pid(job).is_some())).unwrap();
    processes::kill(shim);
    assert_eq!(daemon.wait_for(&command, "failed")["exit_class"], "crash");
}
