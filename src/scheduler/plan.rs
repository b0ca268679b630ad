//! The choice of the jobs to start: data in, data out. Called by the scheduler's loop. No clock, no store.
//!
//! The rule: jobs start strictly in the order given (see [`Ready::rank`]). The first one that does not fit into what is free holds back all behind it, so a large
//! job is never starved by small ones that would slip past it. A job that no empty machine could hold is skipped: it would hold everybody back for ever. (A
//! submit refuses such a job; one can still be there when the machine's limits were lowered later.)
//!
//! Nobody starves: an hour of waiting is worth a point of priority, so that a job is overtaken only by jobs that begin to wait within so many hours after it as they have points more,
//! which is 100 hours at most.

use mlctl_protocol::{JobId, spec::Resources};

use crate::store::Ready;

/// What to do with the jobs that are ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be started, in this order.
    pub start: Vec<JobId>,
    /// Too large for this machine even when it is empty.
    pub too_large: Vec<JobId>,
}

/// Chooses among `ready`, which is in the order in which jobs should start.
#[must_use]
pub fn plan(ready: &[Ready], mut free: Resources, machine: &Resources) -> Plan {
    let mut plan = Plan::default();
    for job in ready {
        if job.cpus > machine.cpus || job.gpus > machine.gpus {
            plan.too_large.push(job.id);
        } else if job.cpus > free.cpus || job.gpus > free.gpus {
            break;
        } else {
            free.cpus -= job.cpus;
            free.gpus -= job.gpus;
            plan.start.push(job.id);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Uid;

    fn ready(jobs: &[(u32, u32)]) -> Vec<Ready> {
        let numbered = (1..).zip(jobs);
        let of = |(id, (cpus, gpus)): (u64, &(u32, u32))| Ready {
            id: JobId(id),
            queue: "default".into(),
            user: Uid(0),
            priority: 50,
            rank: 0,
            cpus: *cpus,
            gpus: *gpus,
        };
        numbered.map(of).collect()
    }

    fn of(cpus: u32, gpus: u32) -> Resources {
        Resources { cpus, gpus }
    }

    fn ids(ids: &[u64]) -> Vec<JobId> {
        ids.iter().copied().map(JobId).collect()
    }

    #[test]
    fn jobs_start_in_order_until_one_does_not_fit() {
        // jobs, free -> started, too large; the machine has 4 cores and 1 GPU
        type Case<'a> = (&'a [(u32, u32)], (u32, u32), &'a [u64], &'a [u64]);
        let cases: [Case<'_>; 10] = [
            (&[], (4, 1), &[], &[]),
            (&[(1, 0)], (4, 1), &[1], &[]),
            (&[(2, 0), (2, 0)], (4, 1), &[1, 2], &[]),
            (&[(2, 0), (2, 0), (1, 0)], (4, 1), &[1, 2], &[]),
            (&[(3, 0), (2, 0), (1, 0)], (4, 1), &[1], &[]),
            (&[(1, 1), (1, 1), (1, 0)], (4, 1), &[1], &[]),
            (&[(4, 0)], (3, 1), &[], &[]),
            (&[(5, 0), (1, 0)], (4, 1), &[2], &[1]),
            (&[(1, 2), (5, 0), (4, 0), (1, 0)], (4, 1), &[3], &[1, 2]),
            (&[(1, 0)], (0, 0), &[], &[]),
        ];
        for (jobs, free, start, too_large) in cases {
            let expected = Plan { start: ids(start), too_large: ids(too_large) };
            assert_eq!(plan(&ready(jobs), of(free.0, free.1), &of(4, 1)), expected, "{jobs:?} {free:?}");
        }
    }

    proptest! {
        #[test]
        fn never_over_capacity_always_in_order_and_nobody_slips_past(
            jobs in prop::collection::vec((0_u32..12, 0_u32..4), 0..40),
            free in (0_u32..9, 0_u32..3),
            machine in (0_u32..9, 0_u32..3),
        ) {
            let (free, machine) = (of(free.0.min(machine.0), free.1.min(machine.1)), of(machine.0, machine.1));
            let jobs = ready(&jobs);
            let plan = plan(&jobs, free.clone(), &machine);
            let started: Vec<&Ready> = jobs.iter().filter(|job| plan.start.contains(&job.id)).collect();
            prop_assert!(started.iter().map(|job| job.cpus).sum::<u32>() <= free.cpus);
            prop_assert!(started.iter().map(|job| job.gpus).sum::<u32>() <= free.gpus);
            prop_assert_eq!(started.iter().map(|job| job.id).collect::<Vec<_>>(), plan.start.clone(), "in order");
            // All that could ever run, up to the last started, are started: nobody was overtaken.
            let possible: Vec<JobId> = jobs
                .iter()
                .filter(|job| job.cpus <= machine.cpus && job.gpus <= machine.gpus)
                .map(|job| job.id)
                .collect();
            prop_assert_eq!(&possible[..plan.start.len()], &plan.start[..]);
            // An empty machine always starts something, if there is anything it could ever run.
            if free == machine && !possible.is_empty() {
                prop_assert!(!plan.start.is_empty());
            }
        }
    }
}
