//! SIGKILL at chosen system calls: the n-th write, sync, rename, send or the like of some thread, of the daemon or of a worker, on the way of jobs from submit over claim and checkpoints to the
//! end. Where the call stands is what is between "done" and "said to be done", so that these find what a kill at a random moment hits once in ten thousand.
//!
//! Needs `strace`. Where it cannot be had the test fails and says so; `MLCTL_TEST_STRACE=skip` does without.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    chance::{Chance, cases, variable},
    history::{Answer, Wish, verdict},
    load::{self, Recorder},
    support::{Daemon, Setup, Worker, specs::fake},
};

/// The calls by which something becomes durable or known, and how many of each a thread makes in the scenario, at most: those that workers make, and then the daemon's own.
const CALLS: [(&str, u64); 11] = [
    ("fsync", 12),
    ("write", 40),
    ("writev", 16),
    ("sendto", 3),
    ("rename", 4),
    ("mkdir", 6),
    ("linkat", 3),
    ("unlink", 3),
    ("pwrite64", 60),
    ("fdatasync", 14),
    ("ftruncate", 2),
];

/// How many of these workers make.
const OF_WORKERS: usize = 8;

/// Points of the gate, for daemon and workers each.
const POINTS: u64 = 40;

/// Longer than any scenario: one that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The daemon, and what it starts: whichever gets there.
    Daemon,
    /// The first attempt of any job.
    Worker,
}

#[test]
fn nothing_is_lost_when_the_daemon_is_killed_at_a_call() {
    points(Who::Daemon);
}

#[test]
fn nothing_is_lost_when_a_worker_is_killed_at_a_call() {
    points(Who::Worker);
}

fn points(who: Who) {
    if !can_trace() {
        return;
    }
    let hits = Mutex::new(Vec::new());
    cases(POINTS, |mut chance| hits.lock().unwrap().extend(point(who, &mut chance)));
    let hits = hits.into_inner().unwrap();
    println!("{} of the points were reached: {}", hits.len(), hits.join(", "));
    let asked = crate::chance::number("MLCTL_TEST_CASES").unwrap_or(POINTS);
    assert!(hits.len() as u64 * 4 >= asked, "too few points were reached to say anything");
}

/// Whether strace is there and may do its work.
fn can_trace() -> bool {
    if variable("MLCTL_TEST_STRACE").as_deref() == Some("skip") {
        println!("MLCTL_TEST_STRACE=skip: nobody was killed at a system call");
        return false;
    }
    let killed = |nth: &str| {
        let mut command = Command::new("strace");
        command.args(tracing("write", nth)).args(["sh", "-c", "echo one; echo two"]);
        let run = command.stderr(Stdio::null()).output();
        run.expect("strace is missing: install it (on Debian: package strace), or set MLCTL_TEST_STRACE=skip").stdout
    };
    // It must kill before the second write, and not without reason.
    let said = [killed("2"), killed("3")];
    assert_eq!(said, [b"one\n".to_vec(), b"one\ntwo\n".to_vec()], "strace may not trace or kill here");
    true
}

/// The arguments of strace for a program that it runs in the program's back. (With `--seccomp-bpf`, which is faster, strace 6.1 injects nothing here.)
fn tracing(call: &str, nth: &str) -> Vec<String> {
    let inject = format!("inject={call}:signal=KILL:when={nth}");
    let words = ["-D", "-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
    words.map(str::to_owned).to_vec()
}

/// One kill. Returns where it was, if anybody got there.
fn point(who: Who, chance: &mut Chance) -> Option<String> {
    let (call, most) = chance.pick(if who == Who::Worker { &CALLS[..OF_WORKERS] } else { &CALLS });
    let nth = 1 + chance.below(most);
    let at = format!("{call} {nth}");
    let (is_new, ahead) = (chance.once_in(4), chance.below(2));
    println!("{who:?} at {at}, new: {is_new}, ahead: {ahead}");
    let mut setup = Setup::of(Worker::Fake).set("workers.grace_seconds=1").set(&format!("workers.ahead={ahead}"));
    let scripts = tempfile::tempdir().unwrap();
    let mut words = vec!["strace".to_owned()];
    words.extend(tracing(call, &nth.to_string()));
    if who == Who::Worker {
        // The first process alone: a kill of each would be the end of every attempt.
        let (script, flag) = (scripts.path().join("worker.sh"), scripts.path().join("traced"));
        let (worker, flag) = (setup.worker.display(), flag.display());
        let text = format!("#!/bin/sh\nmkdir {flag} 2>/dev/null || exec {worker}\nexec {} {worker}\n", words.join(" "));
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        setup.worker = script;
    }
    let mut daemon = setup.clone().start();
    if who == Who::Daemon {
        assert!(daemon.stop().success());
        if is_new {
            // What makes a database is hit as well.
            for entry in fs::read_dir(&daemon.state_dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
            }
        }
        daemon.change(Setup { under: words, ..setup.clone() }, &[]);
        daemon.begin();
        daemon.change(setup, &[]);
    }
    let hit = play(&mut daemon, who, &at);
    hit.then_some(at)
}

/// Plays the scenario, however often the daemon has to be started again. Returns whether anybody was killed.
fn play(daemon: &mut Daemon, who: Who, at: &str) -> bool {
    let marks = load::folder(daemon);
    let recorder = Recorder::default();
    let (was_hit, is_traced) = (Cell::new(false), Cell::new(who == Who::Daemon));
    let mut ensure = |daemon: &mut Daemon| {
        if !daemon.answers() {
            was_hit.set(true);
            is_traced.set(false);
            daemon.start();
        }
    };
    ensure(daemon);
    let saving = load::patient(fake("saving", "steps:11:2"));
    let command = load::command("command", &marks, "0.02");
    for (key, spec) in [("saving", saving), ("command", command), ("cancelled", fake("cancelled", "steps:10000000:5"))]
    {
        let body = json!({"spec": spec, "key": key});
        let wish = Wish::Submit { key: key.into(), members: None };
        insist(daemon, &mut ensure, &recorder, (wish, None, body));
    }
    insist(daemon, &mut ensure, &recorder, (Wish::Cancel, Some(3), json!({})));
    let begun = Instant::now();
    loop {
        ensure(daemon);
        let Ok(list) = daemon.client.send("GET", "/v1/jobs?state=queued,running", "") else { continue };
        let jobs = list.body["jobs"].as_array().cloned().unwrap_or_default();
        if jobs.is_empty() {
            break;
        }
        for job in &jobs {
            recorder.ask(&daemon.client, Wish::Look, load::number(&job["id"]), &Value::Null);
        }
        // Every worker that a traced daemon starts would be killed at the same place.
        if is_traced.get() && jobs.iter().any(|job| job["attempt"].as_u64() > Some(1)) {
            daemon.kill();
        }
        assert!(begun.elapsed() < LIMIT, "{at}: {jobs:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure(daemon);
    if is_traced.get() {
        // It may come to the call yet, and its account is asked for once.
        daemon.kill();
        daemon.start();
    }
    let account = load::account(daemon, &recorder, &marks);
    assert_eq!(verdict(&account), Vec::<String>::new(), "{who:?} at {at}");
    let again = |event: &crate::history::Happened| event.event == "requeued";
    was_hit.get() || account.records.iter().any(|record| record.events.iter().any(again))
}

/// Asks until there is an answer.
fn insist(
    daemon: &mut Daemon,
    ensure: &mut dyn FnMut(&mut Daemon),
    recorder: &Recorder,
    (wish, job, body): (Wish, Option<u64>, Value),
) {
    while recorder.ask(&daemon.client, wish.clone(), job, &body) == Answer::Nothing {
        ensure(daemon);
    }
}
