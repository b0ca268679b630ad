//! Ticks of a span of time that has passed, to be made up for because a person says so: where a schedule is younger than its data, was paused, or skipped runs. Called by the API. Pure.

use jiff::{SignedDuration, Timestamp};

use super::{Tick, Timetable};

/// Ticks that are made up for at once, at most.
pub const MAX_BACKFILL: usize = 1000;

/// There are more ticks in a span than are made up for at once: it is to be done in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// The moment of the last tick that would be taken.
    pub last: Timestamp,
}

impl Timetable {
    /// The schedule's ticks from `from` to `to`, both included, in order. By their moments, which are their names, and not by when their jitter has them due.
    ///
    /// # Errors
    /// [`TooMany`] when there are more than [`MAX_BACKFILL`].
    pub fn between(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Tick>, TooMany> {
        let before = from.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MIN);
        // Of what is due from there on, the first may be a tick from before that its jitter brought in.
        let ticks = self.after(before).skip_while(|tick| tick.at < from).take_while(|tick| tick.at <= to);
        let mut ticks: Vec<_> = ticks.take(MAX_BACKFILL + 1).collect();
        if ticks.len() > MAX_BACKFILL {
            ticks.truncate(MAX_BACKFILL);
            return Err(TooMany { last: ticks.last().map_or(from, |tick| tick.at) });
        }
        Ok(ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::schedule::{Crontab, Policy, zone};

    fn at(moment: &str) -> Timestamp {
        moment.parse().unwrap()
    }

    fn with(line: &str, policy: Policy) -> Timetable {
        let zone = zone(jiff::tz::db(), "Europe/Berlin").unwrap();
        Timetable::new(Crontab::parse(line).unwrap(), zone).of("x", policy)
    }

    fn between(timetable: &Timetable, from: &str, to: &str) -> Vec<String> {
        let ticks = timetable.between(at(from), at(to)).unwrap();
        ticks.iter().map(|tick| format!("{} {}", tick.nominal, tick.at)).collect()
    }

    #[test]
    fn a_span_has_its_ticks_both_ends_included_over_a_change_of_the_clock() {
        let nightly = with("30 2 * * *", Policy::default());
        let expected = [
            "2026-03-28T02:30:00 2026-03-28T01:30:00Z",
            "2026-03-29T02:30:00 2026-03-29T01:00:00Z",
            "2026-03-30T02:30:00 2026-03-30T00:30:00Z",
        ];
        assert_eq!(between(&nightly, "2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"), expected);
        assert_eq!(between(&nightly, "2026-03-28T01:30:01Z", "2026-03-29T00:59:59Z"), [""; 0]);
        assert_eq!(between(&nightly, "2026-03-28T01:30:00Z", "2026-03-27T00:00:00Z"), [""; 0]);
        assert_eq!(nightly.between(Timestamp::MIN, at("1960-01-01T00:00:00Z")).map(|ticks| ticks.len()).ok(), Some(0));
    }

    #[test]
    fn a_spread_moves_no_tick_into_a_span_or_out_of_it() {
        let spread = with("0 * * * *", Policy { jitter_seconds: 3600, ..Policy::default() });
        let plain = with("0 * * * *", Policy::default());
        for hour in 0..24 {
            let (from, to) = (format!("2026-06-01T{hour:02}:00:00Z"), format!("2026-06-02T{hour:02}:30:00Z"));
            assert_eq!(between(&spread, &from, &to), between(&plain, &from, &to));
            assert_eq!(between(&spread, &from, &to).len(), 25);
        }
    }

    #[test]
    fn a_schedule_has_no_ticks_before_its_first_moment_or_after_its_last() {
        let (from, until) = (Some(at("2026-06-01T10:00:00Z")), Some(at("2026-06-01T12:00:00Z")));
        let bounded = with("0 * * * *", Policy { from, until, ..Policy::default() });
        assert_eq!(between(&bounded, "2026-01-01T00:00:00Z", "2026-07-01T00:00:00Z").len(), 3);
    }

    #[test]
    fn more_than_the_limit_are_refused_with_the_last_that_would_be_taken() {
        let minutely = with("* * * * *", Policy::default());
        let from = "2026-06-01T00:01:00Z";
        assert_eq!(between(&minutely, from, "2026-06-01T16:40:59Z").len(), MAX_BACKFILL);
        let refused = minutely.between(at(from), at("2026-06-01T16:41:00Z"));
        assert_eq!(refused, Err(TooMany { last: at("2026-06-01T16:40:00Z") }));
    }
}
