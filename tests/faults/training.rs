//! A training that is killed every minute, as long as one likes: what the kills cost, and whether the model is the same to the bit. `ops/soak training` runs it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    chance::{Chance, cases, number},
    support::{Daemon, Setup, Worker, daemon::worker_pid, processes},
};

/// How long the undisturbed training is to take, about, in minutes.
const MINUTES: u64 = 10;

/// From one kill to the next.
const BETWEEN_KILLS: Duration = Duration::from_secs(60);

/// The part of the time that must be of use.
const USEFUL: f64 = 0.97;

/// About half a second of work between checkpoints is what a kill costs, besides a new process and the wait before a retry.
fn digits(name: &str, steps: u64, every: u64) -> Value {
    json!({
        "version": 1,
        "name": name,
        "checkpoint": {"every_steps": every, "keep": 3},
        "retry": {"limit": 100, "backoff_seconds": 1, "max_backoff_seconds": 1},
        "train": {
            "seed": 11,
            "model": {"type": "mlp", "layers": [64, 512, 512, 10], "dropout": 0.2},
            "data": {
                "format": "csv",
                "uri": format!("file://{}/config/jobs/data/digits.csv", env!("CARGO_MANIFEST_DIR")),
                "targets": ["label"],
            },
            "split": {"validation": 0.1, "test": 0.1, "seed": 2},
            "scaling": "standard",
            "loss": "cross_entropy",
            "optimizer": {"type": "adamw"},
            "batch_size": 128,
            "max_steps": steps,
        },
    })
}

/// Runs a job to its end, and what is to happen to it meanwhile. How long it took from its first start.
fn run(daemon: &mut Daemon, spec: &Value, mut meanwhile: impl FnMut(&mut Daemon, &str)) -> (Value, Duration) {
    let id = daemon.submit(spec);
    let began = Instant::now();
    loop {
        let job = daemon.job(&id);
        if job["state"] == "succeeded" {
            return (job, began.elapsed());
        }
        assert!(matches!(job["state"].as_str(), Some("queued" | "running")), "{job:#}");
        meanwhile(daemon, &id);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills, and measures what it costs: the time until the training is further than it was.
struct Killer<'a> {
    chance: &'a mut Chance,
    next: Instant,
    kills: u64,
    lost: Vec<Duration>,
    /// When it killed last, and in which attempt, while that is not made up for.
    since: Option<(Instant, u64)>,
    /// The newest measurement.
    newest: i64,
}

impl<'a> Killer<'a> {
    fn new(chance: &'a mut Chance) -> Self {
        Self { chance, next: Instant::now() + BETWEEN_KILLS, kills: 0, lost: Vec::new(), since: None, newest: 0 }
    }

    fn act(&mut self, daemon: &mut Daemon, id: &str) {
        let list = daemon.client.get(&format!("/v1/jobs/{id}/metrics?after={}&limit=10000", self.newest)).ok();
        // A step that is done again is measured once.
        let newest = list["points"].as_array().unwrap().last().and_then(|point| point["id"].as_i64());
        let job = daemon.job(id);
        if let Some((killed, attempt)) = self.since {
            // Until another attempt runs, what comes is the last that the dead one had said.
            if newest.is_some() && job["attempt"].as_u64() > Some(attempt) {
                self.lost.push(killed.elapsed());
                self.since = None;
            }
        }
        self.newest = newest.unwrap_or(self.newest);
        let Some(pid) = worker_pid(&job).filter(|_| self.since.is_none() && Instant::now() >= self.next) else {
            return;
        };
        let attempt = job["attempt"].as_u64().unwrap();
        self.since = Some((Instant::now(), attempt));
        // Every third time the daemon as well.
        if self.chance.once_in(3) {
            daemon.kill();
            processes::kill(pid);
            daemon.start();
        } else {
            processes::kill(pid);
        }
        self.kills += 1;
        self.next += BETWEEN_KILLS;
    }
}

#[test]
#[ignore = "takes twice as long as it is told to: `ops/soak training` runs it"]
fn a_training_that_is_killed_every_minute_loses_little_time_and_no_bit() {
    let minutes = number("MLCTL_SOAK_MINUTES").unwrap_or(MINUTES);
    cases(1, |mut chance| {
        let mut daemon = Setup::of(Worker::Real).set("workers.cpus=1").set("log.level='info'").start();
        let (_, tried) = run(&mut daemon, &digits("tried", 400, 1_000_000), |_, _| {});
        let each = tried / 400;
        let steps = 60_000 * minutes / u64::try_from(each.as_millis()).unwrap().max(1);
        let every = (500 / u64::try_from(each.as_millis()).unwrap().max(1)).max(1);
        let (alone, undisturbed) = run(&mut daemon, &digits("alone", steps, every), |_, _| {});
        println!("{steps} steps, a checkpoint every {every}: {undisturbed:?} when left alone");
        let mut killer = Killer::new(&mut chance);
        let (killed, disturbed) =
            run(&mut daemon, &digits("killed", steps, every), |daemon, id| killer.act(daemon, id));
        let lost: Duration = killer.lost.iter().sum();
        let useful = 1.0 - lost.as_secs_f64() / disturbed.as_secs_f64();
        println!(
            "{disturbed:?} with {} kills, which cost {:?}: {:.2} % of the time was of use",
            killer.kills,
            killer.lost,
            useful * 100.0
        );
        assert_eq!(killed["model"]["digest"], alone["model"]["digest"], "the same bits");
        assert!(killer.lost.len() as u64 >= minutes.saturating_sub(1).max(1), "{} kills", killer.lost.len());
        assert!(useful >= USEFUL, "{useful}");
    });
}
