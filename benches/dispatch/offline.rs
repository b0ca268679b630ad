//! What is done to a whole database while no daemon runs: how long a check, a backup and a restore of many jobs take, as `mld db` does them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Scale, program, queue, stats::Table};

/// Of a database with so many jobs that have ended, each with its events.
pub fn copies(table: &mut Table, disk: &Path, scale: &Scale) {
    let state = disk.join("state-offline");
    fs::create_dir_all(&state).expect("the disk can be written to");
    queue::finished(&state.join("mld.db"), scale.many);
    let bytes = fs::metadata(state.join("mld.db")).expect("the database is there").len();
    #[expect(clippy::cast_precision_loss, reason = "a size to read")]
    table.row(&format!("a database of {} jobs that have ended", scale.many), format!("{:.0} MB", bytes as f64 / 1e6));
    for (what, arguments) in [
        ("mld db check, wall", &["check"][..]),
        ("mld db backup, checked, sent to a folder and read back, wall", &["backup"]),
        ("mld db restore latest, wall", &["restore", "latest"]),
    ] {
        table.times(&format!("  {what}"), &[run(&state, arguments)]);
    }
}

fn run(state: &Path, arguments: &[&str]) -> Duration {
    let begun = Instant::now();
    let run = Command::new(program("mld"))
        .arg("db")
        .args(arguments)
        .arg("--state-dir")
        .arg(state)
        .stdin(Stdio::null())
        .output()
        .expect("mld can be started");
    let took = begun.elapsed();
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    took
}
