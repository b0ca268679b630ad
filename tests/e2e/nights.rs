//! Two months of nights, one after the other in seconds, with the real daemon and real workers on a clock that is moved: data that drifts, a poisoned night, a missing one, the night in which the clock changes, a kill in each stage and a
//! rollback. Each night runs once, what is worse is never promoted, and the alias is where the nights say it is.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use mlctl::{daemon::clock::SystemClock, domain::Clock as _};
use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, until};

/// The first night, at whose end the first of March begins; summer time begins within.
const FIRST: Date = jiff::civil::date(2027, 3, 1);
const NIGHTS: usize = 60;

/// Rows of the digits that no night trains on.
const HELD_OUT: usize = 297;
/// Rows of the first night, and how many more each has.
const ROWS: usize = 600;
const MORE: usize = 15;

/// What is peculiar about a night.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peculiar {
    Nothing,
    /// No new version of the data.
    Missing,
    /// Every label is another.
    Poisoned,
    /// The daemon is killed while this stage runs, and its worker with it.
    Killed(&'static str),
    /// By day, somebody goes back to the champion before.
    RolledBack,
}

fn peculiar(night: usize) -> Peculiar {
    match night {
        7 | 30 => Peculiar::Missing,
        12 | 13 | 45 => Peculiar::Poisoned,
        18 | 33 => Peculiar::Killed("train"),
        19 | 34 => Peculiar::Killed("evaluate"),
        25 => Peculiar::RolledBack,
        _ => Peculiar::Nothing,
    }
}

struct Nights {
    daemon: Daemon,
    /// Header and rows of the digits.
    digits: Vec<String>,
    champion: Value,
}

impl Nights {
    fn new(gate: &Value) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/jobs/data/digits.csv");
        let digits: Vec<_> = fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect();
        let daemon = Setup::of(Worker::Real).variable("MLD_CLOCK_OFFSET_SECONDS", &offset(noon(0)).to_string()).start();
        let nights = Self { daemon, digits, champion: Value::Null };
        let holdout = nights.digits[nights.digits.len() - HELD_OUT..].join("\n");
        nights.daemon.write("holdout.csv", format!("{}\n{holdout}\n", nights.digits[0]));
        nights.write_data(0, false);
        nights.daemon.mlctl(&["dataset", "add", "digits", "digits.csv"]).ok();
        let csv = |name: &str| json!({"format": "csv", "uri": nights.daemon.folder().join(name), "targets": ["label"]});
        let spec = json!({
            "version": 1, "name": "nightly", "resources": {"cpus": 1},
            "retrain": {
                "model": "digits", "holdout": {"data": csv("holdout.csv"), "slice": "label"},
                "gate": gate,
                "train": {
                    "seed": 7, "loss": "cross_entropy", "scaling": "min_max", "batch_size": 32, "max_epochs": 4,
                    "model": {"type": "mlp", "layers": [64, 16, 10]}, "optimizer": {"type": "adam", "learning_rate": 0.01},
                    "data": {"format": "dataset", "dataset": "digits", "targets": ["label"]},
                },
            }
        });
        nights.daemon.write("night.toml", toml::to_string(&spec).unwrap());
        let schedule = "cron = \"30 2 * * *\"\nzone = \"Europe/Berlin\"\njob = \"night.toml\"\nmisfire = \"once\"\ncatch_up = \"12h\"\n";
        nights.daemon.write("nightly.toml", schedule);
        nights.daemon.mlctl(&["schedule", "apply", "nightly.toml"]).ok();
        nights
    }

    /// What there is to train on in a night.
    fn write_data(&self, night: usize, poisoned: bool) {
        let rows = &self.digits[1..=ROWS + MORE * night];
        let poison = |row: &String| {
            let (values, label) = row.rsplit_once(',').unwrap();
            format!("{values},{}", (label.parse::<u32>().unwrap() + 1) % 10)
        };
        let rows: Vec<_> = if poisoned { rows.iter().map(poison).collect() } else { rows.to_vec() };
        self.daemon.write("digits.csv", format!("{}\n{}\n", self.digits[0], rows.join("\n")));
    }

    fn show(&self, job: &str) -> Value {
        self.daemon.mlctl(&["show", job, "-o", "json"]).json()
    }

    /// The daemon is off until the morning after a night, whose tick it makes up for.
    fn wake(&mut self, night: usize) {
        self.daemon.kill();
        self.daemon.set_variable("MLD_CLOCK_OFFSET_SECONDS", &offset(morning(night)).to_string());
        self.daemon.start();
    }

    /// The run of a night.
    fn run_of(&self, night: usize) -> String {
        let date = date(night).to_string();
        until(&format!("the run of {date}"), || {
            let list = self.daemon.mlctl(&["ls", "--all", "--label", "mlctl/schedule=nightly", "-o", "json"]).json();
            let jobs = list["jobs"].as_array().unwrap().clone();
            jobs.into_iter().find_map(|job| {
                let local = local_date(job["labels"]["mlctl/scheduled-at"].as_str()?);
                (job["kind"] == "retrain" && local == date).then(|| job["id"].as_str().unwrap().to_owned())
            })
        })
    }

    /// Kills the daemon and the worker of a stage once that has begun.
    fn kill_in(&mut self, run: &str, stage: &str) {
        until(&format!("a worker of stage {stage}"), || {
            let shown = self.show(run);
            let stages = shown["stages"].as_array().into_iter().flatten();
            let job = stages.filter(|one| one["stage"] == stage).map(|one| one["job"].as_str().unwrap()).next()?;
            let job = self.show(job);
            // Where it has ended before one could look, the daemon is killed all the same.
            (job["worker"]["pid"].is_u64() || job["state"] == "succeeded").then_some(job)
        })["worker"]["pid"]
            .as_i64()
            .and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()))
            .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        self.daemon.kill();
        std::thread::sleep(Duration::from_millis(50));
        self.daemon.start();
    }

    /// A night, and what is on record the morning after.
    fn night(&mut self, night: usize) -> Value {
        let peculiar = peculiar(night);
        if peculiar == Peculiar::RolledBack {
            self.daemon.mlctl(&["model", "rollback", "digits", "--reason", "complaints"]).ok();
            self.champion = self.alias();
        }
        if peculiar != Peculiar::Missing && night > 0 {
            self.write_data(night, peculiar == Peculiar::Poisoned);
            self.daemon.mlctl(&["dataset", "pin", "digits"]).ok();
        }
        self.wake(night);
        let run = self.run_of(night);
        if let Peculiar::Killed(stage) = peculiar {
            self.kill_in(&run, stage);
        }
        self.daemon.wait_for(&run, "succeeded");
        let conclusion = self.show(&run)["conclusion"].clone();
        match conclusion["outcome"].as_str().unwrap() {
            "promoted" => self.champion = conclusion["version"].clone(),
            _ => assert_eq!(conclusion["champion"].is_null(), conclusion["version"].is_null(), "{conclusion}"),
        }
        assert_eq!(self.alias(), self.champion, "night {night}: {conclusion}");
        let expected: &[&str] = match peculiar {
            _ if night == 0 => &["promoted"],
            Peculiar::Missing => &["no_new_data"],
            Peculiar::Poisoned => &["kept"],
            _ => &["promoted", "kept"],
        };
        let outcome = conclusion["outcome"].as_str().unwrap();
        assert!(expected.contains(&outcome), "night {night}, {peculiar:?}: {conclusion:#}");
        if peculiar == Peculiar::Poisoned {
            assert!(conclusion["told"].as_str().unwrap().contains("at least 0.5 is asked for"), "{conclusion}");
        }
        conclusion
    }

    fn alias(&self) -> Value {
        self.daemon.mlctl(&["model", "show", "digits@champion", "-o", "json"]).json()["version"].clone()
    }
}

/// The date at whose beginning a night ends.
fn date(night: usize) -> Date {
    FIRST + i64::try_from(night).unwrap().days()
}

fn berlin(date: Date, hour: i8) -> Timestamp {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    zone.to_timestamp(date.at(hour, 0, 0, 0)).unwrap()
}

/// The noon before a night.
fn noon(night: usize) -> Timestamp {
    berlin(date(night).yesterday().unwrap(), 12)
}

/// The morning after it.
fn morning(night: usize) -> Timestamp {
    berlin(date(night), 6)
}

/// How far the clock is moved for it to be this moment now.
fn offset(moment: Timestamp) -> i64 {
    let now = SystemClock::default().now();
    moment.duration_since(now).as_secs()
}

fn local_date(tick: &str) -> String {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    tick.parse::<Timestamp>().unwrap().to_zoned_datetime(zone).date().to_string()
}

#[test]
fn each_of_sixty_nights_runs_once_and_nothing_worse_is_promoted() {
    let mut nights = Nights::new(&json!({"metric": "accuracy", "floor": 0.5, "min_gain_low": -0.05}));
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for night in 0..NIGHTS {
        let conclusion = nights.night(night);
        *outcomes.entry(conclusion["outcome"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes["no_new_data"], 2);
    assert!(outcomes["kept"] >= 3 && outcomes["promoted"] >= 5, "{outcomes:?}");
    let list = nights
        .daemon
        .mlctl(&["ls", "--all", "--label", "mlctl/schedule=nightly", "-o", "json", "--limit", "1000"])
        .json();
    let mut dates: Vec<_> = list["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|job| job["kind"] == "retrain")
        .map(|job| local_date(job["labels"]["mlctl/scheduled-at"].as_str().unwrap()))
        .collect();
    dates.sort();
    let expected: Vec<_> = (0..NIGHTS).map(|night| date(night).to_string()).collect();
    assert_eq!(dates, expected, "each night ran once");
    assert_eq!(nights.daemon.mlctl(&["db", "check", "-o", "json"]).json()["problems"], json!([]));
}

/// The control: what the gate keeps out of the sixty nights is there to be kept out.
#[test]
fn a_gate_that_asks_nothing_lets_a_poisoned_night_through() {
    let mut nights = Nights::new(&json!({"metric": "accuracy", "min_gain": -1.0, "min_rows": 1}));
    for (night, poisoned) in [(0, false), (1, true)] {
        nights.write_data(night, poisoned);
        nights.daemon.mlctl(&["dataset", "pin", "digits"]).ok();
        nights.wake(night);
        let run = nights.run_of(night);
        nights.daemon.wait_for(&run, "succeeded");
        let conclusion = nights.show(&run)["conclusion"].clone();
        assert_eq!(
            (&conclusion["outcome"], &conclusion["version"]),
            (&json!("promoted"), &json!(night + 1)),
            "{conclusion}"
        );
    }
    let worse = nights.daemon.mlctl(&["model", "compare", "digits@previous", "digits@champion"]);
    assert_eq!(worse.code, 0, "{worse:?}");
}
