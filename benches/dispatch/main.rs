//! What the queue costs: `ops/bench dispatch`. Durable submits a second, the wall time of the CLI, the time from a submit to the first message of its worker, jobs
//! a second with a process each, and what an idle daemon takes. Real programs and a real disk; the worker is the fake one, which computes nothing.
//!
//! Client and daemon share the machine's cores. A table of medians over rounds, with the machine's facts; absolute values move with the machine, so compare within a run.

mod daemon;
mod machine;
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
    let mut table = Table::default();
    rounds::store(&mut table, disk.path(), &scale);
    rounds::submits(&mut table, Daemon::start(disk.path(), 1), &scale);
    rounds::starts(&mut table, Daemon::start(disk.path(), 2), &scale);
    println!("{}", table.text());
}

/// How much of everything.
struct Scale {
    rounds: usize,
    submits_each: usize,
    runs: usize,
    jobs: usize,
    idle_seconds: u64,
}

impl Scale {
    const FULL: Self = Self { rounds: 5, submits_each: 200, runs: 100, jobs: 1_000, idle_seconds: 5 };
    const QUICK: Self = Self { rounds: 1, submits_each: 2, runs: 3, jobs: 6, idle_seconds: 1 };
}

/// The programs: beside each other, as they are installed.
fn program(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_mld")).parent().expect("a program is in a folder");
    let program = folder.join(name);
    assert!(program.is_file(), "{} is not built: use ops/bench", program.display());
    program
}
