//! A wall clock that jumps by hours and by years under the real daemon and the real worker (libfaketime; the monotonic clock is left alone): no lease and no time limit notices, a schedule
//! fires each tick once, a deadline is a moment of that clock, and nothing is lost.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mlctl::{daemon::clock::SystemClock, domain::Clock as _};
use serde_json::{Value, json};

use crate::support::{
    Daemon, Setup, Worker,
    daemon::worker_pid,
    specs::{Length, training, written},
    until,
};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// The clock of a daemon and its workers.
struct Lying {
    dir: tempfile::TempDir,
    library: PathBuf,
}

impl Lying {
    fn new() -> Self {
        let folders = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
        let library = folders.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
        let library = library.expect("libfaketime is needed for a clock that jumps: apt-get install faketime");
        let clock = Self { dir: tempfile::tempdir().unwrap(), library };
        clock.set(0);
        clock
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("offset")
    }

    /// Sets it so many seconds off the real one.
    fn set(&self, seconds: i64) {
        let next = self.dir.path().join("next");
        std::fs::write(&next, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(next, self.file()).unwrap();
    }

    fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// A worker's program under this clock: the daemon's environment is not its own.
    fn worker(&self) -> PathBuf {
        let script = self.dir.path().join("worker");
        let set: Vec<String> = self.variables().iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        let text = format!("#!/bin/sh\n{} exec '{}' \"$@\"\n", set.join(" "), Worker::Real.program().display());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
        script
    }

    fn start(&self) -> Daemon {
        let setup = Setup { worker: self.worker(), ..Setup::of(Worker::Real) };
        let setup = setup.set("workers.lease_seconds=10").set("workers.hang_seconds=10");
        self.variables().iter().fold(setup, |setup, (name, value)| setup.variable(name, value)).start()
    }
}

/// How many jobs each tick submitted.
fn fired(daemon: &Daemon) -> BTreeMap<String, usize> {
    let list = daemon.client.get("/v1/jobs?state=queued,running,succeeded,failed,cancelled&limit=10000").ok();
    let mut fired = BTreeMap::new();
    for job in list["jobs"].as_array().unwrap() {
        if let Some(tick) = job["labels"]["mlctl/scheduled-at"].as_str() {
            *fired.entry(tick.to_owned()).or_default() += 1;
        }
    }
    fired
}

/// Has the daemon look at its schedules now: it would notice a jump within a minute by itself.
fn look_at_schedules(daemon: &Daemon, spec: &Path, number: usize) {
    let name = format!("never-{number}");
    let args = ["schedule", "add", spec.to_str().unwrap(), "--cron", "0 0 29 2 *", "--zone", "UTC", "-n", &name];
    daemon.mlctl(&args).ok();
}

/// The training goes on in the same process.
fn goes_on(daemon: &Daemon, id: &str, pid: u32) {
    let step = |job: &Value| job["progress"]["step"].as_u64();
    let before = step(&daemon.job(id));
    let job = daemon.wait_until(id, "goes on", |job| step(job) > before);
    assert_eq!((&job["attempt"], worker_pid(&job)), (&json!(1), Some(pid)), "{job:#}");
}

#[test]
fn a_clock_that_jumps_ends_nothing_and_fires_each_tick_once() {
    let clock = Lying::new();
    let mut daemon = clock.start();
    let mut spec = training(Worker::Real, "endless", Length::Endless);
    spec["time"] = json!({"limit_seconds": 3000});
    let id = daemon.submit(&spec);
    let pid = daemon.wait_for_checkpoint(&id, 1);
    let mut brief = training(Worker::Real, "brief", Length::Endless);
    brief["time"] = json!({"limit_seconds": 25});
    let brief = daemon.submit(&brief);
    daemon.wait_until(&brief, "runs", |job| job["state"] == "running");
    let began = Instant::now();
    let spec = daemon.write("tick.toml", written("name = \"tick\"", 1));
    let args =
        ["schedule", "add", spec.to_str().unwrap(), "--cron", "* * * * *", "--overlap", "allow", "-n", "minutely"];
    daemon.mlctl(&args).ok();
    // What waits for a person, and has until the deadline to do so.
    let until_deadline = |daemon: &Daemon, at: Timestamp| {
        let args = ["submit", "-q", "--hold", "--deadline", &at.to_string(), spec.to_str().unwrap()];
        daemon.mlctl(&args).ok().trim().to_owned()
    };
    let passed = until_deadline(&daemon, in_seconds(HOUR));
    let (mut put_off, mut ticks) = (None, 0);
    for (number, offset) in [2 * HOUR, -HOUR, YEAR - HOUR, -HOUR, -YEAR, 0].into_iter().enumerate() {
        println!("the clock is {offset} seconds off");
        clock.set(offset);
        // That it is, is seen in what is written from now on.
        let probe = daemon.mlctl(&["submit", "-q", "--hold", spec.to_str().unwrap()]).ok().trim().to_owned();
        let at: Timestamp = daemon.job(&probe)["submitted_at"].as_str().unwrap().parse().unwrap();
        assert!((at.as_second() - in_seconds(offset).as_second()).abs() < 120, "{at} at an offset of {offset}");
        look_at_schedules(&daemon, &spec, number);
        goes_on(&daemon, &id, pid);
        if number == 0 || number == 2 {
            // Of the ticks that the clock jumped over the latest is made up for.
            ticks = until("a tick fires", || Some(fired(&daemon).len()).filter(|count| *count > ticks));
        }
        if number == 0 {
            // A deadline is a moment of this clock; that it has passed would be noticed within a minute.
            until_deadline(&daemon, in_seconds(10 * YEAR));
            assert_eq!(daemon.wait_for(&passed, "failed")["exit_class"], "timeout");
        }
        if number == 3 {
            put_off = Some((until_deadline(&daemon, in_seconds(offset + 15)), Instant::now()));
        }
        if number == 4 {
            // A clock that is set back gives longer.
            let (id, since) = put_off.take().unwrap();
            std::thread::sleep(Duration::from_secs(16).saturating_sub(since.elapsed()));
            assert_eq!(daemon.job(&id)["state"], "held");
        }
        if number == 1 {
            // A new daemon on a clock that goes behind all that it finds.
            daemon.kill();
            daemon.start();
            goes_on(&daemon, &id, pid);
        }
    }
    let fired = fired(&daemon);
    assert!(fired.values().all(|jobs| *jobs == 1), "{fired:?}");
    let job = daemon.wait_for(&brief, "failed");
    assert_eq!((&job["exit_class"], &job["attempt"]), (&json!("timeout"), &json!(1)), "{job:#}");
    assert!(began.elapsed() > Duration::from_secs(20), "its time is counted on a clock that nobody sets");
    daemon.mlctl(&["db", "check"]).ok();
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}

/// So many seconds from now on by the real clock.
fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_second(SystemClock::default().now().as_second() + seconds).unwrap()
}
