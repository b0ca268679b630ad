//! Who submits what in a month, by chance: a few users who want much and some who want little, more by day than by night, mostly short jobs and some long ones, most with a time limit that is generous.

use mlctl::{
    domain::{
        Uid,
        queue::{Queue, QueueLimits},
    },
    store::Ready,
};
use mlctl_protocol::{JobId, spec::Resources};

use super::{Class, MACHINE};
use crate::chance::Chance;

/// Seconds of the month.
const MONTH: i64 = 30 * 86_400;

/// The part of the machine, of whatever of it is in most demand, that all jobs together need.
const LOAD: f64 = 0.8;

/// A job that will come.
#[derive(Debug, Clone)]
pub struct Job {
    pub comes: i64,
    pub user: Uid,
    pub queue: &'static str,
    pub priority: u8,
    pub cpus: u32,
    pub gpus: u32,
    /// Seconds that it runs.
    pub takes: i64,
    /// Seconds that it may.
    pub limit: Option<i64>,
}

impl Job {
    pub fn class(&self) -> Class {
        // As the store has it.
        let about =
            self.limit.map_or(6, |limit| [60, 600, 3600, 14_400, 86_400].iter().filter(|most| limit > **most).count());
        (self.queue, self.user, self.cpus, self.gpus, about)
    }

    pub fn ready(&self, id: JobId, rank: i64) -> Ready {
        let limit_seconds = self.limit.map(|limit| u32::try_from(limit).expect("some seconds"));
        let Self { user, priority, cpus, gpus, .. } = *self;
        let needs = Resources { cpus, gpus, ..Resources::NONE };
        Ready { id, kind: "train".into(), queue: self.queue.to_owned(), user, priority, rank, needs, limit_seconds }
    }
}

/// The queues of the box: one that is open, and one that has a part of the machine.
pub fn queues() -> [Queue; 2] {
    let limits = QueueLimits { running: Some(24), cpus: Some(40), gpus: None, per_user: Some(6) };
    [Queue::open("default"), Queue { limits, ..Queue::open("batch") }]
}

/// Cores, GPUs, and how many of a thousand jobs need so much.
const SHAPES: [(u32, u32, u64); 6] = [(1, 0, 430), (4, 0, 200), (8, 1, 260), (16, 2, 90), (32, 4, 17), (64, 8, 3)];

const PRIORITIES: [u8; 10] = [10, 50, 50, 50, 50, 50, 50, 50, 50, 90];

pub fn jobs(chance: &mut Chance, count: usize) -> Vec<Job> {
    let mut jobs: Vec<Job> = (0..count).map(|_| job(chance)).collect();
    jobs.sort_by_key(|job| job.comes);
    let seconds =
        |of: fn(&Job) -> u32| jobs.iter().map(|job| job.takes as f64 * f64::from(of(job))).sum::<f64>() / MONTH as f64;
    let most = (seconds(|job| job.cpus) / f64::from(MACHINE.0)).max(seconds(|job| job.gpus) / f64::from(MACHINE.1));
    for job in &mut jobs {
        job.takes = whole(job.takes as f64 * LOAD / most);
        job.limit = job.limit.map(|limit| whole(limit as f64 * LOAD / most).max(job.takes));
    }
    jobs
}

/// Seconds, at least one.
#[expect(clippy::cast_possible_truncation, reason = "a few months at most")]
fn whole(seconds: f64) -> i64 {
    (seconds as i64).max(1)
}

fn job(chance: &mut Chance) -> Job {
    let mut drawn = chance.below(1000);
    let shape = SHAPES.into_iter().find(|(_, _, of)| {
        let found = drawn < *of;
        drawn = drawn.saturating_sub(*of);
        found
    });
    let (cpus, gpus, _) = shape.unwrap_or(SHAPES[0]);
    // About every e-fold from 20 seconds to 5 hours as likely.
    let takes = whole(20.0 * (chance.below(1_000_000) as f64 / 1_000_000.0 * 6.8).exp());
    let generous = 1 + i64::try_from(chance.below(4)).expect("a digit");
    let user = (chance.below(12) * chance.below(12)) / 12;
    Job {
        comes: comes(chance),
        user: Uid(1000 + u32::try_from(user).expect("a small number")),
        queue: if chance.once_in(4) && cpus <= 32 { "batch" } else { "default" },
        priority: chance.pick(&PRIORITIES),
        cpus,
        gpus,
        takes,
        limit: (!chance.once_in(5)).then_some(takes * generous),
    }
}

/// A second of the month: three times as often from 8 to 20 o'clock as at night.
fn comes(chance: &mut Chance) -> i64 {
    loop {
        let second = i64::try_from(chance.below(MONTH.unsigned_abs())).expect("a second");
        let hour = second / 3600 % 24;
        if (8..20).contains(&hour) || chance.once_in(3) {
            return second;
        }
    }
}
