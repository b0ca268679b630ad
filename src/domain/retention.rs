//! How long finished jobs are kept, and in [`checkpoints`] which checkpoints of a job. Pure: called by the retention loop, which reads what there is and removes what is too old or too many. An array is removed as a whole: it
//! counts as one, and has ended with the last of its members.

pub mod checkpoints;

use jiff::{SignedDuration, Timestamp};

/// What the settings say of finished jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Days, of 24 hours, after which one is removed; 0 for never.
    pub days: u32,
    /// How many stay, an array counting as one: those that ended last; 0 for all.
    pub jobs: u32,
}

impl Retention {
    /// Whether none is ever removed.
    #[must_use]
    pub const fn keeps_all(&self) -> bool {
        self.days == 0 && self.jobs == 0
    }

    /// When a job that ended then is too old.
    #[must_use]
    pub fn ends(&self, finished: Timestamp) -> Option<Timestamp> {
        let age = SignedDuration::from_hours(i64::from(self.days) * 24);
        (self.days > 0).then(|| finished.saturating_add(age).unwrap_or(Timestamp::MAX))
    }

    /// How many of the oldest, which ended at these moments, are too old or too many now; `all` is how many there are.
    #[must_use]
    pub fn expired(&self, oldest: &[Timestamp], all: u64, now: Timestamp) -> usize {
        let too_old = oldest.iter().take_while(|at| self.ends(**at).is_some_and(|end| end <= now)).count();
        let too_many = if self.jobs == 0 { 0 } else { all.saturating_sub(self.jobs.into()) };
        too_old.max(usize::try_from(too_many).unwrap_or(usize::MAX)).min(oldest.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_by_age_and_by_number() {
        let day = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
        let oldest = [1, 2, 3, 4].map(day);
        for (days, jobs, all, now, expired) in [
            (0, 0, 4, 1000, 0),
            (1, 0, 4, 1, 0),
            (1, 0, 4, 2, 1),
            (1, 0, 4, 4, 3),
            (1, 0, 4, 1000, 4),
            (0, 4, 4, 1000, 0),
            (0, 3, 4, 0, 1),
            (0, 1, 1_000_000, 0, 4),
            (2, 3, 4, 5, 3),
            (100, 1, 4, 5, 3),
            (u32::MAX, 0, 4, 1000, 0),
        ] {
            let found = Retention { days, jobs }.expired(&oldest, all, day(now));
            assert_eq!(found, expired, "{days} days, {jobs} jobs of {all}, day {now}");
        }
        assert!(Retention::default().keeps_all() && !Retention { days: 0, jobs: 1 }.keeps_all());
        assert_eq!(Retention { days: 2, jobs: 0 }.ends(day(1)), Some(day(3)));
    }
}
