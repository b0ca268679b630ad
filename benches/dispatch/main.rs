//! What the queue costs: `ops/bench dispatch` and `ops/bench queue`. Durable submits, claims and ends a second, the wall time of the CLI, the time from a submit to the first message of its
//! worker, jobs a second with a process each, what an idle daemon takes, what all that costs beside a million jobs, and
//! how long it takes to check, back up and restore those. Real programs and a real disk; the worker is the fake one, which
//! computes nothing. Arguments name the parts that are wanted: store, api, starts, growth, backup.
//!
//! Client and daemon share the machine's cores. A table of medians over rounds, with the machine's facts; absolute values move with the machine, so compare within a run.

mod daemon;
mod machine;
mod offline;
mod queue;
mod rounds;
mod stats;

use std::path::{Path, PathBuf};

use daemon::Daemon;
use stats::Table;

/// Clients that submit at once.
const CLIENTS: usize = 64;

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn main() {
    // `cargo bench` hands flags to every bench, and `cargo test` runs them to see that they start.
    let is_quick = std::env::args().any(|argument| argument == "--test" || argument == "--quick");
    let scale = if is_quick { Scale::QUICK } else { Scale::FULL };
    let disk = tempfile::Builder::new().prefix("bench").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let disk = disk.expect("the build's folder can be written to");
    println!("{}", machine::facts(disk.path()));
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    let mut table = Table::default();
    if is_wanted("store") {
        queue::store(&mut table, disk.path(), &scale);
    }
    if is_wanted("api") {
        rounds::submits(&mut table, Daemon::start(disk.path(), 1), &scale);
    }
    if is_wanted("starts") {
        rounds::starts(&mut table, Daemon::start(disk.path(), 2), &scale);
    }
    if is_wanted("growth") {
        queue::growth(&mut table, disk.path(), &scale);
    }
    if is_wanted("backup") {
        offline::copies(&mut table, disk.path(), &scale);
    }
    println!("{}", table.text());
}

/// How much of everything.
struct Scale {
    rounds: usize,
    submits_each: usize,
    runs: usize,
    jobs: usize,
    idle_seconds: u64,
    /// Jobs in a small queue, and in a grown one: queued, as many finished, and to start later.
    few: usize,
    many: usize,
    later: usize,
}

impl Scale {
    const FULL: Self = Self {
        rounds: 5,
        submits_each: 200,
        runs: 100,
        jobs: 1_000,
        idle_seconds: 5,
        few: 1_000,
        many: 1_000_000,
        later: 100_000,
    };
    const QUICK: Self =
        Self { rounds: 1, submits_each: 2, runs: 3, jobs: 6, idle_seconds: 1, few: 5, many: 20, later: 5 };
}

/// The programs: beside each other, as they are installed.
fn program(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_mld")).parent().expect("a program is in a folder");
    let program = folder.join(name);
    assert!(program.is_file(), "{} is not built: use ops/bench", program.display());
    program
}
