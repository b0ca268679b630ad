//! From the moments of a line to when a schedule's ticks are due: between its first and its last moment, and spread by its jitter. A tick's name stays the time that the line says.
//!
//! The spread follows from the schedule's name and the tick's nominal time alone, so that it is the same before and after a restart, in a preview, and on a day that comes again as the
//! clock was set back. It never reaches the next tick: ticks are due in the order of their moments, each before the next one's moment.

use jiff::{SignedDuration, Timestamp};

use super::ticks::{Moments, Tick, Timetable};

/// What the spread is derived under: another use of the same hash has another one.
const CONTEXT: &str = "mlctl 2026-11-28 jitter of a schedule's tick";

/// Ticks in the order in which they are due.
#[derive(Debug, Clone)]
pub struct Ticks<'a> {
    timetable: &'a Timetable,
    moments: Moments<'a>,
    /// The tick after the last that was returned, where it had to be looked at.
    coming: Option<Tick>,
    after: Timestamp,
}

impl Timetable {
    /// The ticks that are due after `moment`, which is itself left out, in order and without end but the policy's and the engine's, in the year 2100.
    #[must_use]
    pub fn after(&self, moment: Timestamp) -> Ticks<'_> {
        let earliest = self.earliest(moment);
        let before = |from: Timestamp| from.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MIN);
        let begin = self.policy().from.map_or(earliest, |from| earliest.max(before(from)));
        Ticks { timetable: self, moments: self.moments(begin), coming: None, after: moment }
    }

    /// A moment before all ticks that are due after `moment`. No spread reaches the next tick, so that those before the last one up to there are due by then: a line of every minute is not
    /// walked through its spread.
    fn earliest(&self, moment: Timestamp) -> Timestamp {
        let spread = i64::from(self.policy().jitter_seconds);
        let mut seconds = spread.min(60);
        loop {
            let begin = moment.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
            if seconds == spread || self.moments(begin).next().is_some_and(|tick| tick.at <= moment) {
                return begin;
            }
            seconds = (seconds * 8).min(spread);
        }
    }

    /// The last tick that is due after `from` and up to `until`, that moment included.
    #[must_use]
    pub fn last(&self, from: Timestamp, until: Timestamp) -> Option<Tick> {
        // In growing steps backwards, so that a line of every minute is not walked through a year.
        let mut hours = 1;
        loop {
            let begin = until.checked_sub(SignedDuration::from_hours(hours)).unwrap_or(Timestamp::MIN).max(from);
            let last = self.after(begin).take_while(|tick| tick.due <= until).last();
            if last.is_some() || begin == from {
                return last;
            }
            hours *= 8;
        }
    }

    /// When a tick is due that another one follows at `next`.
    fn due(&self, tick: &Tick, next: Option<Timestamp>) -> Timestamp {
        let spread = i64::from(self.policy().jitter_seconds);
        let room = next.map_or(spread, |next| next.duration_since(tick.at).as_secs().clamp(0, spread));
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(format!("{} {} {}", tick.nominal, tick.pass.number(), self.name()).as_bytes());
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        // A number of 32 bits times at most a day's seconds: it fits.
        let seconds = (i64::from(u32::from_le_bytes([a, b, c, d])) * room) >> 32;
        tick.at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(tick.at)
    }
}

impl Iterator for Ticks<'_> {
    type Item = Tick;

    fn next(&mut self) -> Option<Tick> {
        let Self { timetable, moments, coming, after } = self;
        loop {
            let mut tick = coming.take().or_else(|| moments.next())?;
            if timetable.policy().until.is_some_and(|until| tick.at > until) {
                return None;
            }
            if timetable.policy().jitter_seconds > 0 {
                *coming = moments.next();
                tick.due = timetable.due(&tick, coming.map(|next| next.at));
            }
            if tick.due > *after {
                return Some(tick);
            }
        }
    }
}
