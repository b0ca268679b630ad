//! The store alone, without socket and HTTP: submits, claims with executors that do nothing, and what either costs when the queue has grown.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use mlctl::{
    daemon::entropy,
    domain::{
        Command, Exit, Uid,
        array::{Design, Params, Sweep},
    },
    store::{ListFilter, NewArray, NewJob, Store},
};
use mlctl_protocol::{ExitClass, JobId, JobSpec};
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    CLIENTS, Scale,
    daemon::{Daemon, NOTHING, job, write_job},
    machine::cpu,
    rounds::{clock, key, rate},
    stats::Table,
};

const USER: Uid = Uid(0);
const LEASE: SignedDuration = SignedDuration::from_secs(600);

fn spec() -> JobSpec {
    serde_json::from_value(job(NOTHING)).expect("the bench's spec is one")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started")
}

async fn open(path: &Path) -> Store {
    Store::open(path, clock(), entropy::fill).await.expect("the database opens")
}

/// A database with so many jobs that have ended, and nobody in it.
pub fn finished(path: &Path, jobs: usize) {
    runtime().block_on(async {
        let store = open(path).await;
        fill(&store, 0, jobs, 0).await;
        store.close().await;
    });
}

/// Submits of 64 tasks, and then claims and ends of what they submitted.
pub fn store(table: &mut Table, disk: &Path, scale: &Scale) {
    runtime().block_on(async {
        let store = open(&disk.join("store.db")).await;
        let (mut submits, mut claims) = (Vec::new(), Vec::new());
        let (before, count) = (cpu("self"), scale.rounds * CLIENTS * scale.submits_each);
        for _ in 0..scale.rounds {
            submits.push(submit(&store, scale.submits_each).await);
        }
        let between = cpu("self");
        for round in 0..scale.rounds {
            claims.push(carry_out(&store, round * CLIENTS * scale.submits_each, scale.submits_each).await);
        }
        let after = cpu("self");
        store.close().await;
        table.rates("durable submits, 64 tasks, the store alone", submits);
        table.cpu("  processor time of a submit, task included", between - before, count);
        table.rates("claim + complete, 64 executors of nothing, the store alone", claims);
        table.cpu("  processor time of a job, executor included", after - between, count);
    });
}

/// So many submits of each of 64 tasks; how many a second.
async fn submit(store: &Store, each: usize) -> f64 {
    let (begun, spec) = (Instant::now(), spec());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (store, spec) = (store.clone(), spec.clone());
        clients.spawn(async move {
            for _ in 0..each {
                let new = NewJob { spec: spec.clone(), user: USER, key: key(), asked: None, hold: None };
                store.submit(new).await.expect("a submit is kept");
            }
        });
    }
    clients.join_all().await;
    rate(CLIENTS * each, begun.elapsed())
}

/// Claims and ends so many jobs after the first `skip` by each of 64 tasks; how many a second.
async fn carry_out(store: &Store, skip: usize, each: usize) -> f64 {
    let begun = Instant::now();
    let mut executors = JoinSet::new();
    for executor in 0..CLIENTS {
        let store = store.clone();
        executors.spawn(async move {
            for number in 0..each {
                claim_and_end(&store, JobId((skip + number * CLIENTS + executor + 1) as u64)).await;
            }
        });
    }
    executors.join_all().await;
    rate(CLIENTS * each, begun.elapsed())
}

async fn claim_and_end(store: &Store, job: JobId) {
    let lease_until = clock().now() + LEASE;
    let fence = store.claim(job, Vec::new(), [7; 32], lease_until).await.expect("a queued job is claimed").fence;
    let exit = Exit { class: ExitClass::Ok, message: None, hint: None };
    let end = Command::End { exit, model: None, output: None, jitter: 0.5 };
    store.command(job, Some(fence), end).await.expect("a running job ends");
}

/// What a submit, a claim and a list cost beside few jobs and beside many.
pub fn growth(table: &mut Table, disk: &Path, scale: &Scale) {
    let path = disk.join("grown.db");
    let few = runtime().block_on(async {
        let store = open(&path).await;
        fill(&store, scale.few, 0, 0).await;
        let few = costs(&store, scale).await;
        fill(&store, scale.many, scale.many, scale.later).await;
        store.close().await;
        few
    });
    // A database that is just opened has cold caches, as after a restart.
    let many = runtime().block_on(async {
        let store = open(&path).await;
        let many = costs(&store, scale).await;
        store.close().await;
        many
    });
    let depth = format!("{} queued, {} finished, {} to start later", scale.many, scale.many, scale.later);
    for ((what, few), (_, many)) in few.into_iter().zip(many) {
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        let (few, many) = (few.as_secs_f64() * 1e3, many.as_secs_f64() * 1e3);
        table.row(
            &format!("{what}, {} queued, then {depth}", scale.few),
            format!("{few:.3} ms, {many:.3} ms: {ratio:.2}x"),
        );
    }
    let state = disk.join("state-3");
    std::fs::create_dir_all(&state).expect("the disk can be written to");
    std::fs::rename(&path, state.join("mld.db")).expect("the disk can be written to");
    for ending in ["head", "instance"] {
        let _ = std::fs::rename(disk.join(format!("grown.db.{ending}")), state.join(format!("mld.db.{ending}")));
    }
    let mut daemon = Daemon::start(disk, 3);
    daemon.block(3);
    let listed: Vec<_> = (0..scale.runs).map(|_| daemon.mlctl(&["ls", "--limit", "50"])).collect();
    table.times(&format!("mlctl ls, wall, {depth}"), &listed);
    let file = write_job(disk);
    let submitted: Vec<_> = (0..scale.runs).map(|_| daemon.mlctl(&["submit", &file, "-q"])).collect();
    table.times("  mlctl submit, wall", &submitted);
    let (bytes, _) = daemon.takes();
    table.row("  the daemon's memory then", format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)));
}

/// Medians of what is done one after another: a submit, a claim of the first in line with its end, a list.
async fn costs(store: &Store, scale: &Scale) -> Vec<(&'static str, Duration)> {
    let spec = spec();
    let (mut submits, mut claims, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.runs {
        let new = NewJob { spec: spec.clone(), user: USER, key: key(), asked: None, hold: None };
        let begun = Instant::now();
        store.submit(new).await.expect("a submit is kept");
        submits.push(begun.elapsed());
        let begun = Instant::now();
        let first = store.ready(clock().now(), 2).await.expect("the queue is read");
        claim_and_end(store, first.first().expect("one was just submitted").id).await;
        claims.push(begun.elapsed());
        let begun = Instant::now();
        store.list(ListFilter { finished: 50, limit: 50, ..ListFilter::default() }).await.expect("jobs are listed");
        lists.push(begun.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    vec![("submit", median(submits)), ("choose, claim, complete", median(claims)), ("list of 50", median(lists))]
}

/// Adds so many queued jobs, so many that have ended and so many that must not start yet.
async fn fill(store: &Store, queued: usize, finished: usize, later: usize) {
    let far = Timestamp::from_second(4_000_000_000).expect("a moment in this century");
    for (count, ends, begin) in [(finished, true, None), (later, false, Some(far)), (queued, false, None)] {
        let mut left = count;
        while left > 0 {
            let size = left.min(scale_of_array(count));
            left -= size;
            let array = store.submit_array(array(size, begin)).await.expect("an array is kept").id;
            if ends {
                let cancel = Command::Cancel { by: USER };
                store.command_members(array, &["queued"], &cancel).await.expect("members are cancelled");
            }
        }
    }
}

/// Members of one array at most.
const fn scale_of_array(count: usize) -> usize {
    if count < 10_000 { count } else { 10_000 }
}

fn array(size: usize, begin: Option<Timestamp>) -> NewArray {
    let mut spec = spec();
    spec.time.begin = begin.map(|moment| moment.to_string());
    let key = key();
    NewArray {
        name: "bench".into(),
        priority: 50,
        labels: spec.labels.clone(),
        user: USER,
        asked: blake3::hash(key.as_bytes()),
        key,
        hold: None,
        design: Design { sweep: Sweep::default(), metric: None, halving: None, parallel: None },
        members: (0..size).map(|_| (spec.clone(), Params::new())).collect(),
    }
}
