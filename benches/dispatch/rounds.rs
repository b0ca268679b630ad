//! What is measured, and how.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mlctl::{
    daemon::{clock::SystemClock, entropy},
    domain::{Clock, Uid},
    store::{NewJob, Store},
};
use mlctl_protocol::JobSpec;
use serde_json::json;

use super::{
    CLIENTS, Scale,
    daemon::{Connection, Daemon, job},
    stats::Table,
};

/// A job that ends at once.
const NOTHING: &str = "sleep:0";

/// Submits into the store alone, without socket and HTTP.
pub fn store(table: &mut Table, disk: &Path, scale: &Scale) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let spec: JobSpec = serde_json::from_value(job(NOTHING)).expect("the bench's spec is one");
    runtime.block_on(async {
        let store = Store::open(&disk.join("store.db"), clock(), entropy::fill).await.expect("a new database opens");
        let mut rates = Vec::new();
        for round in 0..scale.rounds {
            let begun = Instant::now();
            let mut clients = tokio::task::JoinSet::new();
            for client in 0..CLIENTS {
                let (store, spec, each) = (store.clone(), spec.clone(), scale.submits_each);
                clients.spawn(async move {
                    for number in 0..each {
                        let key = format!("{round}-{client}-{number}");
                        let new = NewJob { spec: spec.clone(), user: Uid(0), key, asked: None, hold: None };
                        store.submit(new).await.expect("a submit is kept");
                    }
                });
            }
            clients.join_all().await;
            rates.push(rate(CLIENTS * scale.submits_each, begun.elapsed()));
        }
        store.close().await;
        table.rates("durable submits, 64 tasks, the store alone", rates);
    });
}

/// Submits through the socket while nothing can start, so that they are all that is measured and the queue grows.
pub fn submits(table: &mut Table, daemon: Daemon, scale: &Scale) {
    daemon.connect().submit(&job("hang-alive"), "blocker");
    let file = daemon.socket().with_file_name("job.toml");
    std::fs::write(&file, toml::to_string(&job(NOTHING)).expect("a spec is TOML")).expect("the disk can be written to");
    let file = file.to_str().expect("the build's folder has a plain name").to_owned();
    let cli = |arguments: &[&str]| (0..scale.runs).map(|_| daemon.mlctl(arguments)).collect::<Vec<_>>();
    table.times("mlctl completion, wall (asks no daemon)", &cli(&["completion", "bash"]));
    table.times("mlctl submit, wall, empty queue", &cli(&["submit", &file, "-q"]));
    let mut rates = Vec::new();
    let mut latencies = Vec::new();
    for round in 0..scale.rounds {
        let begun = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (mut connection, each) = (daemon.connect(), scale.submits_each);
                thread::spawn(move || submit_all(&mut connection, each, &format!("{round}-{client}")))
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
    let depth = scale.rounds * CLIENTS * scale.submits_each;
    table.row("  first round over last, the queue growing", format!("{:.2}   (to {depth} queued)", first / last));
    table.times(&format!("mlctl submit, wall, {depth} queued"), &cli(&["submit", &file, "-q"]));
    table.times(&format!("mlctl ls, wall, {depth} queued"), &cli(&["ls", "--limit", "50"]));
}

/// From a submit to the worker's first message, jobs a second, and an idle daemon.
pub fn starts(table: &mut Table, daemon: Daemon, scale: &Scale) {
    let mut connection = daemon.connect();
    let spec = job(NOTHING);
    let clock = clock();
    let mut submitted: Vec<(u64, Timestamp)> = Vec::new();
    for number in 0..scale.runs {
        let at = clock.now();
        submitted.push((connection.submit(&spec, &format!("single {number}")), at));
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
    table.times("submit to the worker's first message, cold start", &times);
    let begun = Instant::now();
    for number in 0..scale.jobs {
        connection.submit(&spec, &format!("many {number}"));
    }
    daemon.wait_for((scale.runs + scale.jobs) as u64);
    table.rates(&format!("{} jobs of nothing, 2 at a time", scale.jobs), vec![rate(scale.jobs, begun.elapsed())]);
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

fn submit_all(connection: &mut Connection, count: usize, key: &str) -> Vec<Duration> {
    let spec = job(NOTHING);
    (0..count)
        .map(|number| {
            let begun = Instant::now();
            connection.submit(&spec, &format!("{key}-{number}"));
            begun.elapsed()
        })
        .collect()
}

fn rate(count: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let count = count as f64;
    count / took.as_secs_f64()
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}
