//! How long it takes until all goes on after a kill: `ops/bench recovery`. SIGKILL of the daemon, until the next one answers and has adopted its workers; SIGKILL of a worker of the digits job,
//! until the job trains again. Real programs and a real disk. A table of medians over rounds, with the machine's facts.

mod daemon;
#[expect(dead_code, reason = "shared with a bench that needs more of it")]
#[path = "../dispatch/machine.rs"]
mod machine;
#[expect(dead_code, reason = "shared with a bench that needs more of it")]
#[path = "../dispatch/stats.rs"]
mod stats;

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use daemon::Daemon;
use serde_json::{Value, json};
use stats::Table;

/// Workers that a killed daemon leaves.
const WORKERS: usize = 4;

/// How long anything may take.
const CEILING: Duration = Duration::from_secs(120);

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn main() {
    // `cargo bench` hands flags to every bench, and `cargo test` runs them to see that they start.
    let is_quick = std::env::args().any(|argument| argument == "--test" || argument == "--quick");
    let (kills, jobs) = if is_quick { (2, 1) } else { (50, 25) };
    let disk = tempfile::Builder::new().prefix("bench").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let disk = disk.expect("the build's folder can be written to");
    println!("{}", machine::facts(disk.path()));
    let mut table = Table::default();
    daemons(&mut table, disk.path(), kills);
    workers(&mut table, disk.path(), jobs);
    println!("{}", table.text());
}

/// Asks again and again until there is an answer; a thousandth of a second between, so that asking is not what is measured.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < CEILING, "{what}: not within {CEILING:?}");
        sleep(Duration::from_millis(1));
    }
}

/// Kills the daemon, and starts the next one at once.
fn daemons(table: &mut Table, disk: &Path, kills: usize) {
    let mut daemon = Daemon::start(&disk.join("daemons"), "mlworker-fake");
    for number in 0..WORKERS {
        daemon.submit(&endless(), &format!("worker {number}"));
    }
    let running = |daemon: &Daemon| daemon.get("/v1/daemon").and_then(|answer| answer["jobs"]["running"].as_u64());
    let all = || Some(WORKERS as u64);
    until("all run", || (running(&daemon) == all() && daemon.dialled() == WORKERS).then_some(()));
    let (mut adopted, mut heard) = (Vec::new(), Vec::new());
    for _ in 0..kills {
        let dialled = daemon.dialled();
        let begun = Instant::now();
        daemon.kill();
        daemon.start_again();
        // It answers once it has proven each worker alive and taken it over.
        until("it answers", || (running(&daemon) == all()).then_some(()));
        adopted.push(begun.elapsed());
        until("its workers are heard", || (daemon.dialled() >= dialled + WORKERS).then_some(()));
        heard.push(begun.elapsed());
        assert_eq!(daemon.count("its worker is adopted"), adopted.len() * WORKERS, "all were adopted");
    }
    table.times(&format!("kill -9 of mld until the next has adopted {WORKERS} workers"), &adopted);
    table.times("  until all of them have dialled again", &heard);
}

/// Kills the worker of the digits job after its first checkpoints.
fn workers(table: &mut Table, disk: &Path, jobs: usize) {
    let daemon = Daemon::start(&disk.join("workers"), "mlworker");
    let (mut claimed, mut resumed, mut trains) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..jobs {
        let id = daemon.submit(&digits(), &format!("digits {number}"));
        until("it has saved", || event(&daemon, id, "checkpointed", 1));
        // Anywhere between two checkpoints.
        sleep(Duration::from_millis(7 * (number as u64 % 13)));
        let job = daemon.get(&format!("/v1/jobs/{id}")).expect("the daemon answers");
        let pid = job["worker"]["pid"].as_u64().expect("a running job has a process");
        let begun = Instant::now();
        daemon::kill(pid);
        until("it is claimed again", || event(&daemon, id, "claimed", 2));
        claimed.push(begun.elapsed());
        let newest = last_point(&daemon, id, 0);
        until("it goes on", || event(&daemon, id, "resumed", 2));
        resumed.push(begun.elapsed());
        until("it trains", || (last_point(&daemon, id, newest) > newest).then_some(()));
        trains.push(begun.elapsed());
        daemon.post(&format!("/v1/jobs/{id}/cancel"), &json!({}));
        until("it is over", || {
            let job = daemon.get(&format!("/v1/jobs/{id}"))?;
            (job["state"] == "cancelled").then_some(())
        });
    }
    table.times("kill -9 of the digits job's worker until another attempt is claimed", &claimed);
    table.times("  until it has read its checkpoint", &resumed);
    table.times("  until its next step's loss is on record", &trains);
}

/// Whether an attempt of a job has come to this.
fn event(daemon: &Daemon, id: u64, name: &str, attempt: u64) -> Option<()> {
    let list = daemon.get(&format!("/v1/jobs/{id}/events"))?;
    let found = list["events"].as_array()?.iter().any(|event| event["event"] == name && event["attempt"] == attempt);
    found.then_some(())
}

/// The newest point of a job's learning curve after this one.
fn last_point(daemon: &Daemon, id: u64, after: i64) -> i64 {
    let list = daemon.get(&format!("/v1/jobs/{id}/metrics?after={after}&limit=10000"));
    let last = list.and_then(|list| list["points"].as_array()?.last()?["id"].as_i64());
    last.unwrap_or(after)
}

fn endless() -> Value {
    json!({
        "version": 1,
        "name": "endless",
        "labels": {"fake": "steps:100000000:50"},
        "checkpoint": {"every_steps": 1_000_000_000},
        "train": {
            "model": {"type": "mlp", "layers": [4, 8, 2]},
            "data": {"format": "randn", "rows": 64, "features": 4, "targets": 2},
            "loss": "mse",
            "optimizer": {"type": "adam"},
            "batch_size": 8,
            "max_epochs": 1,
        },
    })
}

/// `config/jobs/digits.toml`, without an end.
fn digits() -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/jobs");
    let text = std::fs::read_to_string(folder.join("digits.toml")).expect("the example is there");
    let mut spec: Value = toml::from_str(&text).expect("the example is a job");
    spec["train"]["data"]["uri"] = json!(format!("file://{}", folder.join("data/digits.csv").display()));
    spec["train"]["max_epochs"] = json!(1_000_000);
    if let Some(train) = spec["train"].as_object_mut() {
        train.remove("convergence");
    }
    spec
}
