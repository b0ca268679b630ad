//! A disk that fails under the real daemon: its calls are made to return errors by strace. After a sync that failed nothing is acknowledged any more, and it is said what to do; whatever
//! happens, after a restart everything that was acknowledged is there, and the database is whole.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;

use crate::{
    chance::cases,
    support::{Daemon, Setup, Worker, processes, specs::fake, until},
};

/// A running daemon's system calls, some of which fail.
struct Faults(Child);

impl Faults {
    /// Has calls fail from now on: `fdatasync:error=EIO:when=3+`.
    fn inject(daemon: &Daemon, what: &str) -> Self {
        let (call, _) = what.split_once(':').unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={what}")]);
        command.args(["-p", &daemon.pid().to_string()]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("strace is needed to make calls fail: apt-get install strace");
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "strace: {line}");
        // What else it says must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self(child)
    }

    /// The disk is well again.
    fn over(mut self) {
        processes::signal(self.0.id(), Signal::INT);
        until("strace lets go", || self.0.try_wait().unwrap());
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Submits until one is refused, which must be so. Returns the ids of the acknowledged, and how the other one was refused.
fn submit_until_refused(daemon: &Daemon, error: &str, words: &str) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let refused = until("a submit is refused", || {
        let answer = daemon.try_submit(&fake("one", "obey"), &format!("key-{}", acknowledged.len()));
        if answer.status >= 300 {
            return Some(answer);
        }
        acknowledged.push(answer.body["id"].as_str().unwrap().to_owned());
        None
    });
    assert_eq!(refused.error(), error, "{}", refused.text);
    assert!(refused.text.contains(words), "{}", refused.text);
    acknowledged
}

/// A daemon that starts nothing: its jobs wait.
fn daemon() -> Daemon {
    let daemon = Setup::of(Worker::Fake).set("workers.cpus=1").start();
    daemon.mlctl(&["queue", "pause", "default"]).ok();
    daemon
}

fn are_there(daemon: &Daemon, acknowledged: &[String]) {
    for id in acknowledged {
        assert_eq!(daemon.job(id)["state"], "queued", "job {id} was acknowledged");
    }
    daemon.mlctl(&["db", "check"]).ok();
}

#[test]
fn after_a_call_that_failed_for_good_nothing_is_acknowledged_until_a_restart() {
    cases(1, |mut chance| {
        // Syncs are the answers' own, writes those of SQLite's thread. Some fail once, and all is well for the next one: it is not.
        for (call, once) in [("fdatasync", true), ("fdatasync", false), ("pwrite64", true), ("pwrite64", false)] {
            let mut daemon = daemon();
            let mut kept = vec![daemon.submit(&fake("before", "obey"))];
            let nth = 1 + chance.below(6);
            let what = format!("{call}:error=EIO:when={nth}{}", if once { "" } else { "+" });
            println!("{what}");
            let faults = Faults::inject(&daemon, &what);
            kept.extend(submit_until_refused(&daemon, "internal", "check the disk, then restart the daemon"));
            faults.over();
            for _ in 0..3 {
                submit_until_refused(&daemon, "internal", "check the disk, then restart the daemon");
            }
            let log = daemon.log();
            let told = log.matches("nothing is acknowledged until the daemon is restarted").count();
            assert!(told == 1, "it is said once: {log}");
            daemon.kill();
            daemon.start();
            are_there(&daemon, &kept);
            let after = daemon.submit(&fake("after", "obey"));
            are_there(&daemon, &[after]);
        }
    });
}

#[test]
fn a_disk_that_says_that_it_is_full_costs_what_was_refused_and_nothing_else() {
    cases(1, |mut chance| {
        let mut daemon = daemon();
        let mut kept = vec![daemon.submit(&fake("before", "obey"))];
        let faults = Faults::inject(&daemon, &format!("pwrite64:error=ENOSPC:when={}+", 1 + chance.below(12)));
        kept.extend(submit_until_refused(&daemon, "disk_full", "what was acknowledged is safe"));
        faults.over();
        let answer = daemon.try_submit(&fake("again", "obey"), "again");
        assert!(answer.status < 300, "no restart is needed: {}", answer.text);
        kept.push(answer.body["id"].as_str().unwrap().to_owned());
        are_there(&daemon, &kept);
        daemon.kill();
        daemon.start();
        are_there(&daemon, &kept);
    });
}
