//! The facts of the machine without which no figure means anything: processor, kernel, disk, what one sync costs, versions.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Instant,
};

use super::stats::Sample;

/// Syncs measured.
const SYNCS: usize = 200;

/// A few lines.
pub fn facts(disk: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).and_then(|rest| rest.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let syncs = syncs(disk);
    format!(
        "machine   {} x {cores}, Linux {}, load {}\ndisk      {}, 4 KiB write + fdatasync: p50 {:.2} ms, p99 {:.2} ms\nbuild     mlctl {}, SQLite {}, {}\n",
        cpu.map_or("unknown processor", |(_, name)| name),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or("?"),
        filesystem(disk, &read("/proc/self/mounts")),
        syncs.at(0.5),
        syncs.at(0.99),
        env!("CARGO_PKG_VERSION"),
        mlctl::store::sqlite_version(),
        if cfg!(debug_assertions) { "debug: figures mean nothing" } else { "release" },
    )
}

/// The processor time that a process has taken, in seconds.
pub fn cpu(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    // USER_HZ is 100 on every Linux that this runs on.
    ticks.iter().sum::<f64>() / 100.0
}

fn syncs(disk: &Path) -> Sample {
    let mut file = File::create(disk.join("sync")).expect("the disk can be written to");
    let page = [7_u8; 4096];
    let times: Vec<_> = (0..SYNCS)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&page).and_then(|()| file.sync_data()).expect("the disk takes a page");
            begun.elapsed()
        })
        .collect();
    Sample::of(&times)
}

/// The type of the file system that holds a folder.
fn filesystem(folder: &Path, mounts: &str) -> String {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 2 && folder.starts_with(fields[1]));
    holding.max_by_key(|fields| fields[1].len()).map_or_else(|| "unknown".into(), |fields| fields[2].to_owned())
}
