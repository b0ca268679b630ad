//! Jobs that are being claimed. What is asked of one between the claim's commit and the moment from which on its attempt can be told is noted here, and the attempt then reads the job again; every other attempt
//! is spared that. Held by the supervisor.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mlctl_protocol::JobId;

/// The jobs being claimed, and whether something was asked of each.
#[derive(Default)]
pub(super) struct Claiming(Mutex<BTreeMap<JobId, bool>>);

impl Claiming {
    /// A job is about to be claimed.
    pub(super) fn begin(&self, job: JobId) {
        self.lock().insert(job, false);
    }

    /// Something was asked of a job, and is on record.
    pub(super) fn note(&self, job: JobId) {
        if let Some(is_asked) = self.lock().get_mut(&job) {
            *is_asked = true;
        }
    }

    /// Its attempt can be told from now on, or there is none. Returns whether something was asked of it meanwhile.
    pub(super) fn end(&self, job: JobId) -> bool {
        self.lock().remove(&job).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_while_a_job_is_claimed_is_noted_and_nothing_else() {
        let claiming = Claiming::default();
        claiming.note(JobId(1));
        claiming.begin(JobId(1));
        claiming.begin(JobId(2));
        claiming.note(JobId(2));
        claiming.note(JobId(3));
        assert_eq!([1, 2, 3].map(|job| claiming.end(JobId(job))), [false, true, false]);
        claiming.note(JobId(2));
        claiming.begin(JobId(2));
        assert!(!claiming.end(JobId(2)), "it is claimed anew");
    }
}
