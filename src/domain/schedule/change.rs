//! What a schedule has dealt with when its line, zone or policy becomes another, so that no tick is lost and none comes back. Called by the API. Pure.

use jiff::{SignedDuration, Timestamp};

use super::Timetable;

impl Timetable {
    /// Up to when a schedule has dealt with its ticks that has done so up to `settled` by this timetable and goes on by `next` from `now` on. A new line or zone begins now. Otherwise what it still has before
    /// it stays so, counted by the tick's own time and not by when it is due: another jitter neither loses it nor brings back the one before it.
    #[must_use]
    pub fn handed_over(&self, next: &Self, settled: Timestamp, now: Timestamp) -> Timestamp {
        let is_same = self.line().expression() == next.line().expression() && self.zone() == next.zone();
        let first = self.after(settled.min(now)).next().filter(|tick| is_same && tick.at <= now);
        let before = first.and_then(|tick| tick.at.checked_sub(SignedDuration::from_micros(1)).ok());
        let handed = before.unwrap_or(now);
        // A turn that was thought of by the timetable of before is told by this that it is no longer as it was.
        if handed == settled { handed.checked_sub(SignedDuration::from_micros(1)).unwrap_or(handed) } else { handed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::schedule::{Crontab, Policy, zone};

    fn at(moment: &str) -> Timestamp {
        moment.parse().unwrap()
    }

    fn with(line: &str, jitter_seconds: u32) -> Timetable {
        let zone = zone(jiff::tz::db(), "Europe/Berlin").unwrap();
        Timetable::new(Crontab::parse(line).unwrap(), zone).of("x", Policy { jitter_seconds, ..Policy::default() })
    }

    #[test]
    fn every_tick_comes_once_whatever_becomes_of_the_jitter_and_whenever() {
        for (before, after) in [(0, 0), (0, 3600), (3600, 0), (3600, 60), (60, 3600)] {
            let (before, after) = (with("0 * * * *", before), with("0 * * * *", after));
            let begin = at("2026-06-01T00:30:00Z");
            for minutes in 0..180 {
                let now = begin + SignedDuration::from_mins(minutes);
                let fired: Vec<_> =
                    before.after(begin).take_while(|tick| tick.due <= now).map(|tick| tick.at).collect();
                // Dealt with at the last tick, or just now.
                let last = before.last(begin, now).map_or(begin, |tick| tick.due);
                for settled in [last, now] {
                    let handed = before.handed_over(&after, settled, now);
                    assert!(handed <= now && handed != settled);
                    let coming = after.after(handed).map(|tick| tick.at).filter(|at| !fired.contains(at));
                    let all: Vec<_> = fired.iter().copied().chain(coming).take(6).collect();
                    let expected: Vec<_> = before.after(begin).map(|tick| tick.at).take(6).collect();
                    assert_eq!(all, expected, "{now} {settled}");
                }
            }
        }
    }

    #[test]
    fn another_line_begins_now() {
        let (now, settled) = (at("2026-06-01T12:00:00Z"), at("2026-06-01T00:30:00Z"));
        assert_eq!(with("30 2 * * *", 0).handed_over(&with("0 * * * *", 0), settled, now), now);
        let same = with("30 2 * * *", 0).handed_over(&with("30 2 * * *", 0), settled, now);
        assert_eq!(same, now, "nothing was left");
        let left = with("0 * * * *", 0).handed_over(&with("0 * * * *", 0), settled, now);
        assert_eq!(left, at("2026-06-01T00:59:59.999999Z"));
    }
}
