//! From the civil times of a line to moments, through every change of a zone's offset. Strictly forward: a tick is never at or before the one before it, so that nothing
//! that walks along can be caught in a repeated hour.

use std::fmt;

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, Offset, TimeZone},
};

use super::{calendar::Calendar, crontab::Crontab, policy::Policy};

/// When a schedule runs: a crontab line in a time zone, and the schedule's policy.
#[derive(Debug, Clone)]
pub struct Timetable {
    line: Crontab,
    calendar: Calendar,
    zone: TimeZone,
    name: String,
    policy: Policy,
}

/// A moment at which a schedule runs. Its nominal time and pass name it for ever, whatever becomes of the zone's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The local time that the line names.
    pub nominal: DateTime,
    /// Which time round, where the clock shows the nominal time twice.
    pub pass: Pass,
    /// When it is.
    pub at: Timestamp,
    /// When it is due: that moment, or later by its schedule's jitter.
    pub due: Timestamp,
    /// What a change of the offset did to it.
    pub effect: Option<Effect>,
}

/// Which of the two moments at which the clock shows the same time. The second is only taken by lines that follow the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// The first, or the only one.
    First,
    /// The second.
    Second,
}

/// What a change of the zone's offset did to a tick. `Display` says it in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The clock left the nominal time out: the tick is at the first moment after.
    Moved(Gap),
    /// The clock shows the nominal time twice: the tick is at the first.
    FirstOfTwo,
    /// The clock shows the nominal time twice, the line follows the clock, and this is one of the two.
    Both(Pass),
    /// The clock left out times of a line that follows the clock; this is the first tick after them.
    LeftOut(Gap),
}

/// Local times that the clock leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first time left out.
    pub from: DateTime,
    /// The first time that is there again.
    pub to: DateTime,
}

impl Timetable {
    /// The ticks of `line` in `zone`, with the policy of a schedule that says nothing.
    #[must_use]
    pub fn new(line: Crontab, zone: TimeZone) -> Self {
        Self { calendar: Calendar::new(&line), line, zone, name: String::new(), policy: Policy::default() }
    }

    /// The same for the schedule of this name, with its policy.
    #[must_use]
    pub fn of(self, name: &str, policy: Policy) -> Self {
        Self { name: name.to_owned(), policy, ..self }
    }

    /// The schedule's name; empty where there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schedule's policy.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The line.
    #[must_use]
    pub const fn line(&self) -> &Crontab {
        &self.line
    }

    /// The zone.
    #[must_use]
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The ticks whose moment is after `moment`, in order and without end but the engine's, whatever the policy says.
    pub(super) fn moments(&self, moment: Timestamp) -> Moments<'_> {
        let walk = if self.line.follows_the_clock() {
            let regime = Regime::at(self, moment);
            Walk::Clock { civil: regime.offset.to_datetime(moment), regime }
        } else {
            Walk::Named { civil: self.zone.to_datetime(moment) }
        };
        Moments { timetable: self, walk, last: moment }
    }
}

/// The moments of a line in order.
#[derive(Debug, Clone)]
pub(super) struct Moments<'a> {
    timetable: &'a Timetable,
    walk: Walk,
    last: Timestamp,
}

/// How a walk goes on from the civil time it has come to.
#[derive(Debug, Clone)]
enum Walk {
    /// From one named time to the next, each to its moment.
    Named { civil: DateTime },
    /// Along the clock, one offset at a time.
    Clock { civil: DateTime, regime: Regime },
}

/// A stretch of time in which a zone's offset stays the same.
#[derive(Debug, Clone)]
struct Regime {
    offset: Offset,
    /// Its end, exclusive.
    end: Option<Timestamp>,
    /// Times of the line that were left out when it began, and the first after them.
    left_out: Option<(Gap, DateTime)>,
}

impl Iterator for Moments<'_> {
    type Item = Tick;

    fn next(&mut self) -> Option<Tick> {
        let Self { timetable, walk, last } = self;
        loop {
            let tick = match walk {
                Walk::Named { civil } => {
                    *civil = timetable.calendar.after(*civil)?;
                    timetable.named(*civil)?
                }
                Walk::Clock { civil, regime } => {
                    let next = timetable.calendar.after(*civil)?;
                    let at = regime.offset.to_timestamp(next).ok()?;
                    if let Some(end) = regime.end.filter(|end| *end <= at) {
                        *regime = Regime::at(timetable, end);
                        *civil = before(regime.offset.to_datetime(end))?;
                        continue;
                    }
                    *civil = next;
                    timetable.on_the_clock(next, at, regime)
                }
            };
            if tick.at > *last {
                *last = tick.at;
                return Some(tick);
            }
        }
    }
}

impl Timetable {
    /// A named time's tick. Several that one gap left out have the same moment.
    fn named(&self, nominal: DateTime) -> Option<Tick> {
        let found = self.zone.to_ambiguous_timestamp(nominal);
        let (at, effect) = match found.offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset.to_timestamp(nominal).ok()?, None),
            AmbiguousOffset::Fold { before, .. } => (before.to_timestamp(nominal).ok()?, Some(Effect::FirstOfTwo)),
            AmbiguousOffset::Gap { before, after } => {
                // Read with the offset after the gap, a time in it is a moment before the gap.
                let early = after.to_timestamp(nominal).ok()?;
                let change = self.zone.following(early).find(|change| change.offset() == after)?.timestamp();
                (change, Some(Effect::Moved(Gap { from: before.to_datetime(change), to: after.to_datetime(change) })))
            }
        };
        Some(Tick { nominal, pass: Pass::First, at, due: at, effect })
    }

    fn on_the_clock(&self, nominal: DateTime, at: Timestamp, regime: &Regime) -> Tick {
        let pass = match self.zone.to_ambiguous_timestamp(nominal).offset() {
            AmbiguousOffset::Fold { before, .. } => {
                Some(if regime.offset == before { Pass::First } else { Pass::Second })
            }
            _ => None,
        };
        let left_out = regime.left_out.filter(|(_, first)| *first == nominal).map(|(gap, _)| Effect::LeftOut(gap));
        Tick { nominal, pass: pass.unwrap_or(Pass::First), at, due: at, effect: pass.map(Effect::Both).or(left_out) }
    }
}

impl Regime {
    /// The stretch that `moment` lies in.
    fn at(timetable: &Timetable, moment: Timestamp) -> Self {
        let zone = &timetable.zone;
        let offset = zone.to_offset(moment);
        let end = zone.following(moment).find(|change| change.offset() != offset).map(|change| change.timestamp());
        Self { offset, end, left_out: Self::left_out(timetable, moment, offset) }
    }

    fn left_out(timetable: &Timetable, moment: Timestamp, offset: Offset) -> Option<(Gap, DateTime)> {
        let Timetable { zone, calendar, .. } = timetable;
        // A change at this very moment counts, though it does not precede it.
        let next = moment.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
        let change = zone.preceding(next).next()?.timestamp();
        let before = zone.to_offset(change.checked_sub(jiff::SignedDuration::from_nanos(1)).ok()?);
        if before >= offset {
            return None;
        }
        let gap = Gap { from: before.to_datetime(change), to: offset.to_datetime(change) };
        calendar.from(gap.from).filter(|first| *first < gap.to)?;
        Some((gap, calendar.from(gap.to)?))
    }
}

/// A time after which `time` itself is found.
fn before(time: DateTime) -> Option<DateTime> {
    time.checked_sub(jiff::SignedDuration::from_secs(1)).ok()
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the clock goes from {} to {}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"))
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved(gap) => write!(f, "{gap}: runs at the first moment after"),
            Self::FirstOfTwo => f.write_str("this time comes twice: runs the first time"),
            Self::Both(Pass::First) => f.write_str("this time comes twice: the first"),
            Self::Both(Pass::Second) => f.write_str("this time comes twice: the second"),
            Self::LeftOut(gap) => write!(f, "{gap}: the runs between are left out"),
        }
    }
}
