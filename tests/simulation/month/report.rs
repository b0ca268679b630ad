//! What came of a month: how much of the machine was in use, who waited how long, and how evenly.

use std::{collections::BTreeMap, fmt};

use super::{Job, MACHINE};

/// What is counted while it goes on.
#[derive(Debug, Clone, Default)]
pub struct Report {
    core_seconds: u64,
    gpu_seconds: u64,
    /// Seconds until the last of it had ended.
    lasted: i64,
    by_priority: BTreeMap<u8, Vec<u32>>,
    by_cores: BTreeMap<u32, Vec<u32>>,
    /// By user: the sum of how much longer than their run jobs took, and how many jobs.
    slowdown: BTreeMap<u32, (f64, u64)>,
}

impl Report {
    pub(super) fn started(&mut self, job: &Job, now: i64) {
        let waited = now - job.comes;
        let takes = job.takes.unsigned_abs();
        self.core_seconds += takes * u64::from(job.cpus);
        self.gpu_seconds += takes * u64::from(job.gpus);
        let waited_seconds = u32::try_from(waited).unwrap_or(u32::MAX);
        self.by_priority.entry(job.priority).or_default().push(waited_seconds);
        self.by_cores.entry(job.cpus).or_default().push(waited_seconds);
        let (slow, jobs) = self.slowdown.entry(job.user.0).or_default();
        // Bounded, so that the shortest do not count for everything.
        *slow += ((waited + job.takes) as f64 / job.takes.max(60) as f64).max(1.0);
        *jobs += 1;
    }

    pub(super) fn finished(mut self, now: i64) -> Self {
        self.lasted = now;
        self.by_priority.values_mut().chain(self.by_cores.values_mut()).for_each(|waits| waits.sort_unstable());
        self
    }

    /// Jobs that were started.
    pub fn jobs(&self) -> u64 {
        self.slowdown.values().map(|(_, jobs)| jobs).sum()
    }

    /// The part of the machine's GPUs in use, until all had ended.
    pub fn gpus_used(&self) -> f64 {
        self.gpu_seconds as f64 / (self.lasted as f64 * f64::from(MACHINE.1))
    }

    /// Jain's index over users' mean slowdowns: 1 where all are slowed down alike.
    pub fn fairness(&self) -> f64 {
        let means: Vec<f64> = self.slowdown.values().map(|(slow, jobs)| slow / *jobs as f64).collect();
        let (sum, squares) = (means.iter().sum::<f64>(), means.iter().map(|mean| mean * mean).sum::<f64>());
        sum * sum / (squares * means.len() as f64)
    }

    /// Mean seconds that jobs waited.
    pub fn mean_wait(&self) -> f64 {
        let all = || self.by_priority.values().flatten();
        all().map(|wait| f64::from(*wait)).sum::<f64>() / all().count() as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = self.core_seconds as f64 / (self.lasted as f64 * f64::from(MACHINE.0));
        writeln!(
            f,
            "{} jobs in {:.1} days; cores {:.1} %, GPUs {:.1} % in use; mean wait {:.0} s; fairness of slowdown {:.2}",
            self.jobs(),
            self.lasted as f64 / 86_400.0,
            cores * 100.0,
            self.gpus_used() * 100.0,
            self.mean_wait(),
            self.fairness()
        )?;
        let mut line = |what: String, waits: &[u32]| {
            let part = |of: usize| waits[(waits.len() * of / 100).min(waits.len() - 1)];
            writeln!(
                f,
                "  {what:<14} {:>8} jobs   wait p50 {:>7} s   p95 {:>7} s   most {:>7} s",
                waits.len(),
                part(50),
                part(95),
                part(100)
            )
        };
        for (priority, waits) in self.by_priority.iter().rev() {
            line(format!("priority {priority}"), waits)?;
        }
        for (cores, waits) in &self.by_cores {
            line(format!("{cores} cores"), waits)?;
        }
        Ok(())
    }
}
