//! What will become of jobs that wait: the plan as it is now, and when each starts at the latest by the time limits of those before it. Asked by whoever explains; pure but for taking the snapshot.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::JobId;

use super::{
    plan::{Obstacle, Plan, Start, plan},
    snapshot::Snapshot,
};
use crate::store::{Ready, Running};

/// Rounds that are looked ahead at most.
const MOST_ROUNDS: usize = 500;

/// What the scheduler sees and means to do.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// What it sees.
    pub snapshot: Snapshot,
    /// What it means to do.
    pub plan: Plan,
}

/// Where a job that may start stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It starts now, after this one where that is another.
    Starts(JobId),
    /// Something is in its way.
    Waits(Obstacle),
    /// It is not among the heads that are looked at: this one, which needs the same, is before it.
    Behind(JobId),
    /// Nothing is known: it came a moment ago.
    Unknown,
}

impl Outlook {
    /// What is meant to be done with what is seen.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        let plan = plan(&snapshot);
        Self { snapshot, plan }
    }

    /// The same with one more job in the line, at its place.
    #[must_use]
    pub fn with(mut snapshot: Snapshot, job: Ready) -> Self {
        let place = snapshot.ready.partition_point(|ready| (ready.rank, ready.id) <= (job.rank, job.id));
        snapshot.ready.insert(place, job);
        Self::new(snapshot)
    }

    /// Where a job stands that may start as far as it is concerned.
    #[must_use]
    pub fn turn(&self, job: &Ready) -> Turn {
        if self.plan.start.iter().any(|start| start.job == job.id) {
            return Turn::Starts(self.plan.start.first().map_or(job.id, |start| start.job));
        }
        if let Some((_, obstacle)) = self.plan.wait.iter().find(|(id, _)| *id == job.id) {
            return Turn::Waits(*obstacle);
        }
        let same = |ready: &&Ready| (&ready.queue, ready.user, &ready.needs) == (&job.queue, job.user, &job.needs);
        self.snapshot.ready.iter().find(same).map_or(Turn::Unknown, |ready| Turn::Behind(ready.id))
    }

    /// When jobs start at the latest if nothing comes that is more urgent: everybody runs as long as its time limit allows. Who waits for one without a limit is not in it, nor who is too far behind.
    #[must_use]
    pub fn latest_starts(&self) -> BTreeMap<JobId, Timestamp> {
        let mut starts = BTreeMap::new();
        let mut world = self.snapshot.clone();
        // They free nothing that is not free already.
        world.running.retain(|job| !world.vacated.contains(&job.id));
        for _ in 0..MOST_ROUNDS {
            let plan = plan(&world);
            starts.extend(plan.start.iter().map(|start| (start.job, world.now)));
            for Start { job, gpus } in plan.start {
                let Some(place) = world.ready.iter().position(|ready| ready.id == job) else { continue };
                let job = world.ready.remove(place).running(gpus, world.now);
                world.free.take(&world.machine.share(&job.has, &job.gpus));
                world.running.push(job);
            }
            let next = world.running.iter().filter_map(|job| job.ends_by).min();
            let Some(next) = next.filter(|_| !world.ready.is_empty()) else { break };
            world.now = world.now.max(next);
            let ended = |job: &mut Running| job.ends_by.is_some_and(|end| end <= next);
            for job in world.running.extract_if(.., ended) {
                world.free.give(&world.machine.share(&job.has, &job.gpus));
                world.free.cap(&world.machine.whole());
            }
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mlctl_protocol::spec::Resources;

    use super::*;
    use crate::{
        domain::Uid,
        scheduler::plan::tests::{left, machine},
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).unwrap()
    }

    fn job(id: u64, cpus: u32, limit_seconds: Option<u32>) -> Ready {
        let (queue, user) = ("default".into(), Uid(1));
        let needs = Resources { cpus, ..Resources::NONE };
        Ready { id: JobId(id), kind: "train".into(), queue, user, priority: 50, rank: 0, needs, limit_seconds }
    }

    fn outlook(running: Vec<Running>, ready: Vec<Ready>) -> Outlook {
        let machine = machine(2, 0);
        let free = left(&machine, &running);
        Outlook::new(Snapshot {
            now: at(0),
            machine,
            free,
            running,
            vacated: BTreeSet::new(),
            ready,
            queues: BTreeMap::new(),
            setbacks: BTreeMap::new(),
        })
    }

    #[test]
    fn time_limits_tell_when_a_job_starts_at_the_latest() {
        let running = vec![job(90, 1, Some(100)).running(Vec::new(), at(0))];
        let ready =
            vec![job(1, 2, Some(50)), job(2, 1, Some(100)), job(3, 1, Some(10)), job(4, 2, None), job(5, 1, Some(1))];
        let starts = outlook(running, ready).latest_starts();
        // The second fills the gap at once; the fifth, of one second, fits beside the third.
        let expected = [(1, 100), (2, 0), (3, 150), (4, 160), (5, 150)].map(|(id, seconds)| (JobId(id), at(seconds)));
        assert_eq!(starts, expected.into());
    }

    #[test]
    fn behind_one_without_a_limit_nothing_is_known() {
        let endless = vec![job(90, 2, None).running(Vec::new(), at(0))];
        assert_eq!(outlook(endless, vec![job(1, 1, Some(5))]).latest_starts(), BTreeMap::new());
        let started = outlook(Vec::new(), vec![job(1, 2, None), job(2, 2, Some(5))]).latest_starts();
        assert_eq!(started, [(JobId(1), at(0))].into());
    }
}
