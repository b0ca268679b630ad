//! What becomes of a tick while jobs of its schedule's earlier ticks have not ended, and when failures pause a schedule. Called by the scheduler, which brings the jobs. Pure.
//!
//! The policies are those of Temporal's schedules. Jobs that wait for others to end do so as any job does that is submitted with `after`, so that no kill or restart loses one.

use mlctl_protocol::JobId;
use serde::{Deserialize, Serialize};

/// What becomes of a tick while jobs of earlier ones have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out.
    Skip,
    /// Its job waits for them, unless one waits already: then it is left out.
    BufferOne,
    /// Its job waits for them, and so does each that comes meanwhile, in order.
    BufferAll,
    /// They are asked to save their work and end, however long that takes, and its job starts then.
    CancelOther,
    /// They are cancelled, killed after the grace time if need be, and its job starts then.
    TerminateOther,
    /// Its job is submitted beside them, as those of all schedules were before there was a choice.
    #[default]
    Allow,
}

/// Jobs in line that another waits for, besides those that wait for none, at most: far more than anybody cancels out of the middle of a line.
const MOST_WAITED_FOR: usize = 100;

/// A job of a schedule's tick that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Which.
    pub id: JobId,
    /// Whether it waits for others to end.
    pub is_blocked: bool,
    /// Whether its tick had passed and a person had it made up for.
    pub is_backfill: bool,
}

/// What is done about a tick that is due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Course {
    /// Its job is submitted, whatever others do.
    #[default]
    Submit,
    /// Its job is submitted, and waits until these have ended.
    After(Vec<JobId>),
    /// The same, and some of them are to end.
    Instead {
        /// Which.
        of: Vec<JobId>,
        /// For which it waits.
        after: Vec<JobId>,
        /// Whether they are cancelled, without the time that it may take to save their work.
        at_once: bool,
    },
    /// Its job is not submitted, and why.
    Leave(String),
}

impl Overlap {
    /// What is done about a tick while these jobs of earlier ones are open, oldest first.
    #[must_use]
    pub fn course(self, open: &[Open]) -> Course {
        let Some(newest) = open.last() else { return Course::Submit };
        match self {
            Self::Allow => Course::Submit,
            Self::Skip => Course::Leave(format!("job {} has not ended, and overlapping runs are skipped", newest.id)),
            Self::BufferOne if newest.is_blocked || open.len() > 1 => {
                Course::Leave(format!("job {} waits for an earlier run to end, and no more than one may", newest.id))
            }
            Self::BufferOne | Self::BufferAll => Course::After(line(open)),
            Self::CancelOther | Self::TerminateOther => {
                // What a person asked for is not the clock's to end.
                let of: Vec<_> = open.iter().filter(|job| !job.is_backfill).map(|job| job.id).collect();
                let (after, at_once) = (line(open), self == Self::TerminateOther);
                if of.is_empty() { Course::After(after) } else { Course::Instead { of, after, at_once } }
            }
        }
    }

    /// How jobs of ticks that have passed are submitted when a person has them made up for: one after another, unless the schedule's runs may overlap.
    #[must_use]
    pub fn of_backfill(self) -> Self {
        if self == Self::Allow { Self::Allow } else { Self::BufferAll }
    }
}

/// Whom a new job waits for: the last in line, and those before it, should one between be cancelled.
fn line(open: &[Open]) -> Vec<JobId> {
    let far = open.len().saturating_sub(MOST_WAITED_FOR);
    let waited_for = open.iter().enumerate().filter(|(place, job)| *place >= far || !job.is_blocked);
    waited_for.map(|(_, job)| job.id).collect()
}

/// Why a schedule is paused after so many `failures` in a row: its last jobs that succeeded or failed are these, newest first, each with whether it failed.
#[must_use]
pub fn failing(failures: u32, last: &[(JobId, bool)]) -> Option<String> {
    let most = usize::try_from(failures).unwrap_or(usize::MAX).max(1);
    let (newest, _) = last.first()?;
    let all_failed = last.len() >= most && last.iter().take(most).all(|(_, failed)| *failed);
    all_failed.then(|| match most {
        1 => format!("job {newest} failed"),
        _ => format!("{most} jobs in a row failed, the last of them job {newest}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(jobs: &[(u64, bool)]) -> Vec<Open> {
        let open =
            |(id, is_blocked): &(u64, bool)| Open { id: JobId(*id), is_blocked: *is_blocked, is_backfill: false };
        jobs.iter().map(open).collect()
    }

    fn ids(jobs: &[u64]) -> Vec<JobId> {
        jobs.iter().copied().map(JobId).collect()
    }

    #[test]
    fn with_nothing_open_every_policy_submits() {
        let all = [Overlap::Skip, Overlap::BufferOne, Overlap::BufferAll, Overlap::CancelOther];
        for overlap in all.into_iter().chain([Overlap::TerminateOther, Overlap::Allow]) {
            assert_eq!(overlap.course(&[]), Course::Submit, "{overlap:?}");
        }
    }

    #[test]
    fn each_policy_does_about_open_jobs_what_it_says() {
        let (one, two) = (open(&[(3, false)]), open(&[(3, false), (4, true)]));
        let three = open(&[(3, false), (4, true), (5, true)]);
        assert_eq!(Overlap::Allow.course(&two), Course::Submit);
        let skipped = "job 3 has not ended, and overlapping runs are skipped";
        assert_eq!(Overlap::Skip.course(&one), Course::Leave(skipped.into()));
        assert_eq!(Overlap::BufferOne.course(&one), Course::After(ids(&[3])));
        let full = "job 4 waits for an earlier run to end, and no more than one may";
        assert_eq!(Overlap::BufferOne.course(&two), Course::Leave(full.into()));
        assert_eq!(Overlap::BufferAll.course(&one), Course::After(ids(&[3])));
        assert_eq!(Overlap::BufferAll.course(&three), Course::After(ids(&[3, 4, 5])));
        let line: Vec<_> = (0..500).map(|id| (id, id > 0)).collect();
        let Course::After(last) = Overlap::BufferAll.course(&open(&line)) else { panic!("it waits") };
        assert_eq!((last.len(), last[0], last[1], last[100]), (101, JobId(0), JobId(400), JobId(499)));
        let instead = |jobs: &[u64], at_once| Course::Instead { of: ids(jobs), after: ids(jobs), at_once };
        assert_eq!(Overlap::CancelOther.course(&two), instead(&[3, 4], false));
        assert_eq!(Overlap::TerminateOther.course(&one), instead(&[3], true));
    }

    #[test]
    fn what_a_person_has_made_up_for_is_waited_for_and_not_ended() {
        let mut two = open(&[(3, false), (4, true)]);
        two[0].is_backfill = true;
        let course = Course::Instead { of: ids(&[4]), after: ids(&[3, 4]), at_once: true };
        assert_eq!(Overlap::TerminateOther.course(&two), course);
        two[1].is_backfill = true;
        assert_eq!(Overlap::CancelOther.course(&two), Course::After(ids(&[3, 4])));
        assert!(matches!(Overlap::Skip.course(&two), Course::Leave(_)));
    }

    #[test]
    fn what_is_made_up_for_comes_one_by_one_unless_runs_may_overlap() {
        for overlap in [Overlap::Skip, Overlap::BufferOne, Overlap::BufferAll, Overlap::CancelOther] {
            assert_eq!(overlap.of_backfill(), Overlap::BufferAll);
        }
        assert_eq!(Overlap::Allow.of_backfill(), Overlap::Allow);
    }

    #[test]
    fn so_many_failures_in_a_row_are_told_and_fewer_are_not() {
        let last = |failed: &[bool]| (0..9).rev().map(JobId).zip(failed.iter().copied()).collect::<Vec<_>>();
        assert_eq!(failing(1, &last(&[true])), Some("job 8 failed".into()));
        assert_eq!(failing(1, &last(&[false, true])), None);
        assert_eq!(failing(1, &[]), None);
        let two = "2 jobs in a row failed, the last of them job 8";
        assert_eq!(failing(2, &last(&[true, true, false])), Some(two.into()));
        for last in [last(&[true]), last(&[true, false, true]), last(&[false, true, true])] {
            assert_eq!(failing(2, &last), None, "{last:?}");
        }
    }
}
