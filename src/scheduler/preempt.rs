//! Who makes way for a more urgent job: data in, data out, and the scheduler's step around it. Called by the loop when nothing more fits. No process, no SQL; that a job may be asked at all,
//! and only once, is the state machine's to know.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::JobId;
use tracing::info;

use super::{
    Plan, Scheduler, Snapshot,
    plan::{open_to_jobs, want},
};
use crate::{
    domain::{Job, JobState, MICROSECONDS_A_POINT, Machine, Uid, machine::Free},
    store::{Ready, StoreError},
};

/// Who is to make way now, and when somebody else could be asked who has not run long enough yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// To be asked, all of them.
    pub victims: Vec<JobId>,
    /// Not before this moment.
    pub later: Option<Timestamp>,
}

/// Chooses who makes way for `head` among the jobs that run. Nobody, when what is free and what those have that are leaving already will do, or when all together would not do: nobody is
/// disturbed in vain. Else preemptible jobs of lower priority that have run for `least`, the lowest priority first and of these the one that was started last, which has done the least; and none that turns
/// out not to be needed.
#[must_use]
pub fn way(
    head: &Ready,
    (machine, free): (&Machine, &Free),
    running: &[Job],
    setbacks: &BTreeMap<Uid, i64>,
    (least, now): (SignedDuration, Timestamp),
) -> Way {
    let mut have = free.clone();
    for job in running.iter().filter(|job| is_leaving(job)) {
        have.give(&machine.share(&job.resources, &job.gpus));
    }
    let fits = |have: &Free| {
        open_to_jobs(machine, have.clone()).place(machine, &head.needs, |gpu| want(head).may(gpu)).is_some()
    };
    let mut may: Vec<&Job> = running.iter().filter(|job| !is_leaving(job) && goes_after(job, setbacks, head)).collect();
    let all = may.iter().fold(have.clone(), |mut all, job| {
        all.give(&machine.share(&job.resources, &job.gpus));
        all
    });
    if fits(&have) || !fits(&all) {
        return Way::default();
    }
    may.sort_by_key(|job| (job.priority, std::cmp::Reverse(job.started_at), job.id));
    let ripe =
        |job: &&Job| job.started_at.is_some_and(|started| started.saturating_add(least).is_ok_and(|at| at <= now));
    let mut victims: Vec<&Job> = Vec::new();
    for job in may.iter().copied().filter(ripe) {
        if fits(&have) {
            break;
        }
        have.give(&machine.share(&job.resources, &job.gpus));
        victims.push(job);
    }
    if !fits(&have) {
        let started = may.iter().filter(|job| !ripe(job)).filter_map(|job| job.started_at).min();
        return Way { victims: Vec::new(), later: started.and_then(|started| started.checked_add(least).ok()) };
    }
    // Those go on without whom it is enough too.
    victims.retain(|job| {
        let mut without = have.clone();
        without.take(&machine.share(&job.resources, &job.gpus));
        let is_needed = !fits(&without);
        if !is_needed {
            have = without;
        }
        is_needed
    });
    Way { victims: victims.iter().map(|job| job.id).collect(), later: None }
}

/// Whether it may be asked, and would be behind `head` when it waits again. It has waited since its submit at the earliest: its place is this one or a later one.
fn goes_after(job: &Job, setbacks: &BTreeMap<Uid, i64>, head: &Ready) -> bool {
    let points = i64::from(job.priority).saturating_mul(MICROSECONDS_A_POINT);
    let rank = job.submitted_at.as_microsecond().saturating_sub(points);
    let rank = rank.saturating_add(setbacks.get(&job.user).copied().unwrap_or_default());
    job.preemptible && job.priority < head.priority && rank > head.rank
}

/// Whether what it has will be free, since it was asked to save its work or to end.
const fn is_leaving(job: &Job) -> bool {
    matches!(job.state, JobState::Running { intent: Some(_), .. })
}

impl Scheduler {
    /// Asks jobs to make way for the first in line, where it does not fit and they may be asked. Returns when somebody could be asked who has not run long enough yet.
    pub(super) async fn make_way(&self, snapshot: &Snapshot, plan: &Plan) -> Result<Option<Timestamp>, StoreError> {
        let head = snapshot.ready.iter().find(|job| plan.head == Some(job.id));
        let Some(head) = head.filter(|_| self.supervisor.has_preemptible()) else { return Ok(None) };
        let vacated = self.supervisor.vacated();
        let mut running: Vec<Job> = self.store.running().await?.into_iter().map(|(job, _)| job).collect();
        // What they had is free already.
        running.retain(|job| !vacated.contains(&job.id));
        let least = SignedDuration::try_from(*self.min_run.borrow()).unwrap_or(SignedDuration::MAX);
        let Way { victims, later } = way(
            head,
            (&snapshot.machine, &self.supervisor.free()),
            &running,
            &snapshot.setbacks,
            (least, snapshot.now),
        );
        for victim in victims {
            match self.supervisor.preempt(victim, head.id).await {
                Ok(_) => {
                    info!(job_id = %victim, to = %head.id, "job {victim} is asked to make way for job {}", head.id);
                }
                // It ended a moment ago.
                Err(StoreError::Refused(_) | StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(later)
    }
}

#[cfg(test)]
#[path = "preempt_tests.rs"]
mod tests;
