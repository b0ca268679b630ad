//! Which of a job's checkpoints are kept, and why: the last n, the best k by a metric, one of each day and week, within a budget. Pure: called by the supervisor, which deletes the
//! others, and by who shows what is kept. The newest is always kept, and so is what anything else needs.
//!
//! Days and weeks are UTC's, and count where a checkpoint was taken in them: a job that rests for a month loses nothing by it.

#[cfg(test)]
mod tests;

use std::{cmp::Ordering, collections::BTreeSet};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use mlctl_protocol::{
    progress::Metrics,
    spec::{BestGoal, CheckpointPolicy},
};

use crate::domain::array::{Goal, Metric};

/// What holds for jobs that do not say it themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Days of each of which one is kept.
    pub nightly: u32,
    /// Weeks of each of which one is kept.
    pub weekly: u32,
    /// Bytes that a job's checkpoints may have together; 0 for any.
    pub max_bytes: u64,
}

/// What is kept of a job's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The newest, so many; at least one.
    pub last: u32,
    /// The best by a metric, so many.
    pub best: Option<(Metric, u32)>,
    /// The newest of each of so many days.
    pub nightly: u32,
    /// The newest of each of so many weeks.
    pub weekly: u32,
    /// Bytes that all of them may have; 0 for any.
    pub max_bytes: u64,
}

/// A checkpoint in question.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// When it was put on record; unknown of what an older version kept.
    pub at: Option<Timestamp>,
    /// Its size.
    pub size_bytes: u64,
    /// The metrics known when it was taken.
    pub metrics: &'a Metrics,
    /// Whether something else needs it.
    pub is_needed: bool,
}

/// Why one is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The next attempt starts from it.
    Newest,
    /// Something else needs it.
    Needed,
    /// One of the last.
    Last,
    /// One of the best.
    Best,
    /// The newest of a day.
    Nightly,
    /// The newest of a week.
    Weekly,
}

impl Why {
    /// The name used in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Needed => "needed",
            Self::Last => "last",
            Self::Best => "best",
            Self::Nightly => "nightly",
            Self::Weekly => "weekly",
        }
    }
}

/// What becomes of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays, for these reasons; never none.
    Stays(Vec<Why>),
    /// It goes. `over_budget`: rules would keep it, and there is no room for it.
    Goes {
        /// Whether it is for its bytes alone.
        over_budget: bool,
    },
}

impl Verdict {
    /// Whether it goes.
    #[must_use]
    pub const fn goes(&self) -> bool {
        matches!(self, Self::Goes { .. })
    }
}

impl Rules {
    /// What a job's spec says, and the settings where it says nothing.
    #[must_use]
    pub fn of(policy: &CheckpointPolicy, defaults: Defaults) -> Self {
        let best = policy.keep_best.as_ref().map(|best| {
            let goal = match best.goal {
                None => Goal::of(&best.metric),
                Some(BestGoal::Min) => Goal::Min,
                Some(BestGoal::Max) => Goal::Max,
            };
            (Metric { name: best.metric.clone(), goal }, best.count)
        });
        Self {
            last: policy.keep.max(1),
            best,
            nightly: policy.keep_nightly.unwrap_or(defaults.nightly),
            weekly: policy.keep_weekly.unwrap_or(defaults.weekly),
            max_bytes: policy.max_bytes.unwrap_or(defaults.max_bytes),
        }
    }

    /// What becomes of each, the newest first.
    #[must_use]
    pub fn judge(&self, newest_first: &[Candidate<'_>]) -> Vec<Verdict> {
        let mut reasons: Vec<Vec<Why>> = vec![Vec::new(); newest_first.len()];
        let mut note = |index: usize, why: Why| reasons[index].push(why);
        for (index, candidate) in newest_first.iter().enumerate() {
            if index == 0 {
                note(index, Why::Newest);
            }
            if candidate.is_needed {
                note(index, Why::Needed);
            }
            if index < size(self.last) {
                note(index, Why::Last);
            }
        }
        let best = self.best(newest_first);
        best.iter().for_each(|index| note(*index, Why::Best));
        firsts(newest_first, self.nightly, |day| day).into_iter().for_each(|index| note(index, Why::Nightly));
        let weekly = firsts(newest_first, self.weekly, |day| {
            let week = day.iso_week_date();
            (week.year(), week.week())
        });
        weekly.into_iter().for_each(|index| note(index, Why::Weekly));
        let given_up = self.beyond_budget(newest_first, &reasons, &best);
        let verdict = |(index, why): (usize, Vec<Why>)| match why.is_empty() || given_up.contains(&index) {
            true => Verdict::Goes { over_budget: !why.is_empty() },
            false => Verdict::Stays(why),
        };
        reasons.into_iter().enumerate().map(verdict).collect()
    }

    /// Which of those that stay would go if one more came at this moment, as large as the newest and better by no metric.
    #[must_use]
    pub fn go_next(&self, newest_first: &[Candidate<'_>], now: Timestamp) -> Vec<bool> {
        let none = Metrics::new();
        let size_bytes = newest_first.first().map_or(0, |newest| newest.size_bytes);
        let one_more = Candidate { at: Some(now), size_bytes, metrics: &none, is_needed: false };
        let with_it: Vec<_> = std::iter::once(one_more).chain(newest_first.iter().copied()).collect();
        let then = self.judge(&with_it);
        self.judge(newest_first).iter().zip(&then[1..]).map(|(now, then)| !now.goes() && then.goes()).collect()
    }

    /// The best, from the best to the worst; of equal ones the newer.
    fn best(&self, newest_first: &[Candidate<'_>]) -> Vec<usize> {
        let Some((metric, count)) = &self.best else { return Vec::new() };
        let value = |candidate: &Candidate<'_>| candidate.metrics.get(&metric.name).copied();
        let mut found: Vec<(usize, f64)> = newest_first
            .iter()
            .enumerate()
            .filter_map(|(index, candidate)| Some((index, value(candidate).filter(|value| value.is_finite())?)))
            .collect();
        // The sort is stable, and the newer is first.
        found.sort_by(|(_, one), (_, other)| match metric.goal {
            Goal::Min => one.partial_cmp(other).unwrap_or(Ordering::Equal),
            Goal::Max => other.partial_cmp(one).unwrap_or(Ordering::Equal),
        });
        found.into_iter().take(size(*count)).map(|(index, _)| index).collect()
    }

    /// Those that rules keep and for which there is no room: the oldest first, the best after all others, from the worst of them on.
    fn beyond_budget(&self, newest_first: &[Candidate<'_>], reasons: &[Vec<Why>], best: &[usize]) -> BTreeSet<usize> {
        let mut given_up = BTreeSet::new();
        if self.max_bytes == 0 {
            return given_up;
        }
        let kept = (0..reasons.len()).filter(|index| !reasons[*index].is_empty());
        let mut bytes = kept.fold(0_u64, |sum, index| sum.saturating_add(newest_first[index].size_bytes));
        let is_free = |index: &usize| {
            let why = &reasons[*index];
            !why.is_empty() && !why.iter().any(|why| matches!(why, Why::Newest | Why::Needed))
        };
        let others = (0..reasons.len()).rev().filter(|index| !best.contains(index));
        for index in others.chain(best.iter().rev().copied()).filter(is_free) {
            if bytes <= self.max_bytes {
                break;
            }
            bytes = bytes.saturating_sub(newest_first[index].size_bytes);
            given_up.insert(index);
        }
        given_up
    }
}

/// The newest of each of the last so many days, or of what days are put together to.
fn firsts<T: Ord>(newest_first: &[Candidate<'_>], most: u32, of: impl Fn(Date) -> T) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (index, candidate) in newest_first.iter().enumerate() {
        let Some(at) = candidate.at else { continue };
        if found.len() == size(most) {
            break;
        }
        if seen.insert(of(TimeZone::UTC.to_datetime(at).date())) {
            found.push(index);
        }
    }
    found
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
