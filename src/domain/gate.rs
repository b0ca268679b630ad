//! Gates: how many of the jobs with one key are let through at once, and which of them make way for a newer one. Who is let through is the store's to keep.

use mlctl_protocol::{
    JobId,
    spec::{Concurrency, Wins},
};
use serde::{Deserialize, Serialize};

/// Keeps jobs with the same key of the same user from running all at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// What they have in common.
    pub key: String,
    /// How many at most run or wait to be started at once.
    pub limit: u32,
    /// Whether it makes way for newer ones, and has older ones that do so too make way for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub newest: bool,
}

impl Gate {
    /// What stands before the concurrency keys that users choose, so that none of them is an array's.
    const CHOSEN: &str = "key:";

    /// How many a gate lets through at most whose newest jobs win: as many may be cancelled at once.
    pub const MOST_NEWEST: u32 = 100;

    /// The gate of a concurrency key.
    #[must_use]
    pub fn chosen(Concurrency { key, limit, wins }: &Concurrency) -> Self {
        Self { key: format!("{}{key}", Self::CHOSEN), limit: *limit, newest: *wins == Wins::Newest }
    }

    /// The concurrency key that a user chose, where it is that.
    #[must_use]
    pub fn chosen_key(&self) -> Option<&str> {
        self.key.strip_prefix(Self::CHOSEN)
    }
}

/// A job that runs or waits for a place at a gate, and was not asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InLine {
    /// Which.
    pub id: JobId,
    /// Whether it makes way for newer ones.
    pub newest: bool,
}

/// Who makes way for a job that comes to wait for a place at a gate and lets so many through. `before` are the others, those that came first before those that came later; of those
/// that make way for nobody, no more than `limit` need be named.
#[must_use]
pub fn replaced(before: &[InLine], limit: u32) -> Vec<JobId> {
    let others = usize::try_from(limit.saturating_sub(1)).unwrap_or(usize::MAX);
    let too_many = before.len().saturating_sub(others);
    before.iter().filter(|other| other.newest).take(too_many).map(|other| other.id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(ids: &[(u64, bool)]) -> Vec<InLine> {
        ids.iter().map(|(id, newest)| InLine { id: JobId(*id), newest: *newest }).collect()
    }

    #[test]
    fn the_oldest_make_way_and_only_those_that_say_so() {
        for (before, limit, expected) in [
            (&[][..], 1, &[][..]),
            (&[(1, true)], 1, &[1]),
            (&[(1, true)], 2, &[]),
            (&[(1, true), (2, true)], 2, &[1]),
            (&[(1, false)], 1, &[]),
            (&[(1, false), (2, true)], 1, &[2]),
            (&[(1, false), (2, true), (3, true)], 2, &[2, 3]),
            (&[(2, true), (1, true), (3, false)], 2, &[2, 1]),
        ] {
            let expected: Vec<_> = expected.iter().map(|id| JobId(*id)).collect();
            assert_eq!(replaced(&line(before), limit), expected, "{before:?} {limit}");
        }
    }

    proptest! {
        /// After it, there are as many as the limit says at most, or none of those left that make way; and nobody goes for nothing, and none before an older one.
        #[test]
        fn as_many_go_as_must_and_no_more(agree in prop::collection::vec(any::<bool>(), 0..12), limit in 1_u32..6) {
            let before: Vec<_> = (1..).zip(&agree).map(|(id, newest)| InLine { id: JobId(id), newest: *newest }).collect();
            let gone = replaced(&before, limit);
            let left: Vec<_> = before.iter().filter(|other| !gone.contains(&other.id)).collect();
            let (there, most) = (left.len() + 1, limit as usize);
            prop_assert!(there <= most || left.iter().all(|other| !other.newest));
            prop_assert!(gone.is_empty() || there >= most);
            let first_left = left.iter().filter(|other| other.newest).map(|other| other.id).min();
            prop_assert!(gone.iter().all(|id| first_left.is_none_or(|left| *id < left)));
        }
    }
}
