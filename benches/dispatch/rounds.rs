//! What is measured, and how.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mlctl::{
    daemon::{clock::SystemClock, entropy},
    domain::Clock,
};
use serde_json::json;

use super::{
    CLIENTS, Scale,
    daemon::{Connection, Daemon, NOTHING, job, write_job},
    stats::Table,
};

/// Submits through the socket while nothing can start, so that they are all that is measured and the queue grows.
pub fn submits(table: &mut Table, mut daemon: Daemon, scale: &Scale) {
    daemon.block(1);
    let file = write_job(daemon.folder());
    let cli = |arguments: &[&str]| (0..scale.runs).map(|_| daemon.mlctl(arguments)).collect::<Vec<_>>();
    table.times("mlctl completion, wall (asks no daemon)", &cli(&["completion", "bash"]));
    table.times("mlctl submit, wall, empty queue", &cli(&["submit", &file, "-q"]));
    let mut rates = Vec::new();
    let mut latencies = Vec::new();
    let before = daemon.cpu();
    for _ in 0..scale.rounds {
        let begun = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (mut connection, each) = (daemon.connect(), scale.submits_each);
                thread::spawn(move || submit_all(&mut connection, each))
            })
            .collect();
        for client in clients {
            latencies.extend(client.join().expect("a client ends"));
        }
        rates.push(rate(CLIENTS * scale.submits_each, begun.elapsed()));
    }
    let (first, last) = (rates[0], rates[rates.len() - 1]);
    table.rates("durable submits, 64 clients, through the API", rates);
    table.times("  one of them, request to answer", &latencies);
    table.cpu(
        "  the daemon's processor time of one",
        daemon.cpu() - before,
        scale.rounds * CLIENTS * scale.submits_each,
    );
    let depth = scale.rounds * CLIENTS * scale.submits_each;
    table.row("  first round over last, the queue growing", format!("{:.2}   (to {depth} queued)", first / last));
    table.times(&format!("mlctl submit, wall, {depth} queued"), &cli(&["submit", &file, "-q"]));
    table.times(&format!("mlctl ls, wall, {depth} queued"), &cli(&["ls", "--limit", "50"]));
}

/// From a submit to the worker's first message, jobs a second, and an idle daemon.
pub fn starts(table: &mut Table, daemon: Daemon, scale: &Scale) {
    let mut connection = daemon.connect();
    let spec = job(NOTHING).to_string();
    let clock = clock();
    let mut submitted: Vec<(u64, Timestamp)> = Vec::new();
    for _ in 0..scale.runs {
        let at = clock.now();
        submitted.push((connection.submit(&spec, &key()), at));
        daemon.wait_for(submitted.len() as u64);
    }
    let messages = daemon.first_messages();
    let times: Vec<Duration> = submitted
        .iter()
        .filter_map(|(id, at)| {
            let (_, dialled) = messages.iter().find(|(job, _)| job == id)?;
            Duration::try_from(dialled.duration_since(*at)).ok()
        })
        .collect();
    assert_eq!(times.len(), scale.runs, "every worker said something");
    table.times("submit to the worker's first message", &times);
    let (begun, before) = (Instant::now(), daemon.cpu());
    for _ in 0..scale.jobs {
        connection.submit(&spec, &key());
    }
    daemon.wait_for((scale.runs + scale.jobs) as u64);
    table.rates(&format!("{} jobs of nothing, 2 at a time", scale.jobs), vec![rate(scale.jobs, begun.elapsed())]);
    table.cpu("  the daemon's processor time of one", daemon.cpu() - before, scale.jobs);
    commands(table, &daemon, (scale.runs + scale.jobs) as u64, scale);
    // What follows the last end is not idle yet.
    thread::sleep(Duration::from_secs(scale.idle_seconds.min(2)));
    let (_, before) = daemon.takes();
    thread::sleep(Duration::from_secs(scale.idle_seconds));
    let (bytes, after) = daemon.takes();
    table.row("the idle daemon's memory", format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)));
    let switches = after.saturating_sub(before);
    table.row("  its context switches", format!("{switches} in {} s", scale.idle_seconds));
}

/// Command jobs that do nothing, of one array, so that submitting them takes no part: what a process each costs, and the shim that speaks for it.
fn commands(table: &mut Table, daemon: &Daemon, done: u64, scale: &Scale) {
    let spec = json!({
        "version": 1, "name": "nothing", "retry": {"limit": 0},
        "command": {"argv": ["/bin/true", "{n}"], "cwd": "/", "params": {"n": 0}},
    });
    let members: Vec<usize> = (0..scale.jobs).collect();
    let begun = Instant::now();
    daemon.connect().submit_array(&spec, "command.params.n", &members);
    daemon.wait_for(done + members.len() as u64);
    let name = format!("{} commands of nothing (/bin/true), 2 at a time", scale.jobs);
    table.rates(&name, vec![rate(scale.jobs, begun.elapsed())]);
}

fn submit_all(connection: &mut Connection, count: usize) -> Vec<Duration> {
    let spec = job(NOTHING).to_string();
    (0..count)
        .map(|_| {
            let begun = Instant::now();
            connection.submit(&spec, &key());
            begun.elapsed()
        })
        .collect()
}

pub fn rate(count: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let count = count as f64;
    count / took.as_secs_f64()
}

/// An idempotency key such as `mlctl` makes them: the time first.
pub fn key() -> String {
    let mut chance = [0; 10];
    entropy::fill(&mut chance);
    let chance: String = chance.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{:012x}{chance}", clock().now().as_millisecond())
}

pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}
