//! kill -9 of the daemon, of workers and of both, at random moments, also of a daemon that is just coming up, under a mixed load. Then the queue drains, and what clients were told is held
//! against the record. `MLCTL_TEST_CASES=n` plays that many storms; `ops/soak storm` plays 10,000 cycles.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::json;

use crate::{
    chance::{Chance, cases},
    history::verdict,
    load::{self, Recorder, Submitter},
    support::{Daemon, Setup, Worker, processes, specs::fake},
};

/// Kills of a storm of the gate, and daemons that go through it at once, each on its own.
const CYCLES: u64 = 300;
const DAEMONS: u64 = 4;

/// Clients of each daemon.
const CLIENTS: u64 = 3;

/// What was killed, and what was there.
#[derive(Debug, Default)]
struct Tally {
    daemons: u64,
    starting: u64,
    workers: u64,
    calls: usize,
    unanswered: usize,
    jobs: usize,
}

#[test]
fn nothing_is_lost_or_doubled_when_daemon_and_workers_are_killed_again_and_again() {
    cases(1, |mut chance| {
        let storms: Vec<_> = (0..DAEMONS).map(|_| Chance(chance.next())).collect();
        let tallies: Vec<Tally> = std::thread::scope(|scope| {
            let storms: Vec<_> =
                storms.into_iter().map(|chance| scope.spawn(|| storm(chance, CYCLES / DAEMONS))).collect();
            storms.into_iter().map(|storm| storm.join().unwrap()).collect()
        });
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
        let count = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
        let (jobs, calls, unanswered) =
            (count(|tally| tally.jobs), count(|tally| tally.calls), count(|tally| tally.unanswered));
        println!(
            "{CYCLES} cycles: {} kills of daemons, {} of these while they started, {} of workers; {jobs} jobs, {calls} calls, {unanswered} without an answer: nothing lost, nothing doubled, no process left",
            sum(|tally| tally.daemons),
            sum(|tally| tally.starting),
            sum(|tally| tally.workers),
        );
        assert!(jobs > 200 && unanswered > 20 && sum(|tally| tally.workers) > 50, "too little to say anything");
    });
}

/// One daemon through so many kills.
fn storm(mut chance: Chance, cycles: u64) -> Tally {
    let ahead = format!("workers.ahead={}", chance.pick(&[0, 1, 2]));
    let mut daemon = Setup::of(Worker::Fake).set("workers.grace_seconds=1").set(&ahead).set("log.level='info'").start();
    let marks = load::folder(&daemon);
    let recorder = Recorder::default();
    tick_every_minute(&daemon);
    let mut tally = Tally::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let chance = (format!("job-{client}"), Chance(chance.next()));
            let client = Submitter::new(daemon.client.clone(), &recorder, &marks, chance);
            scope.spawn(|| client.run(&stop, 120));
        }
        for _ in 0..cycles {
            recorder.allow(3);
            std::thread::sleep(Duration::from_millis(chance.below(400)));
            cycle(&mut daemon, &mut chance, &mut tally);
        }
        stop.store(true, Ordering::SeqCst);
    });
    daemon.client.send("DELETE", "/v1/schedules/tick", "").unwrap();
    load::drain(&daemon);
    let account = load::account(&daemon, &recorder, &marks);
    let wrong = verdict(&account);
    assert_eq!(wrong, Vec::<String>::new(), "after {tally:?}");
    tally.calls = account.calls.len();
    tally.unanswered = account.calls.iter().filter(|call| call.ended == u64::MAX).count();
    tally.jobs = account.records.len();
    tally
}

fn tick_every_minute(daemon: &Daemon) {
    let spec = fake("tick", "steps:3:2");
    let added = json!({"name": "tick", "cron": "* * * * *", "zone": "UTC", "spec": spec});
    daemon.client.post("/v1/schedules", &added).ok();
}

/// One kill, or a few at once.
fn cycle(daemon: &mut Daemon, chance: &mut Chance, tally: &mut Tally) {
    match chance.below(5) {
        0 | 1 => kill_workers(daemon, chance, tally),
        2 => kill_daemon(daemon, tally),
        3 => {
            kill_daemon(daemon, tally);
            kill_workers(daemon, chance, tally);
        }
        _ => {
            kill_workers(daemon, chance, tally);
            kill_daemon(daemon, tally);
            // And once more before it serves: what it had begun to put right is there again.
            daemon.begin();
            std::thread::sleep(Duration::from_millis(chance.below(60)));
            kill_daemon(daemon, tally);
            tally.starting += 1;
        }
    }
    if daemon.has_ended() {
        std::thread::sleep(Duration::from_millis(chance.below(100)));
        daemon.start();
    }
}

fn kill_daemon(daemon: &mut Daemon, tally: &mut Tally) {
    assert!(!daemon.has_ended(), "it ended by itself:\n{}", daemon.log());
    daemon.kill();
    tally.daemons += 1;
}

/// Any processes of attempts: workers, those that wait for a job, and what they have started.
fn kill_workers(daemon: &Daemon, chance: &mut Chance, tally: &mut Tally) {
    for process in processes::of_attempts(&daemon.state_dir) {
        if chance.once_in(2) {
            processes::kill(process.pid);
            tally.workers += 1;
        }
    }
}
