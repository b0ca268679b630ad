//! What is to be done about a schedule at a moment, and what each tick submits. Pure: called by the scheduler's cron loop, which brings the clock, and when a schedule is
//! added.
//!
//! The policy for missed ticks, those that came while nobody looked (the daemon was down, the clock was set forward, the queue was full), is the schedule's: by default they are made up for by one
//! run, of the latest of them, however many there were and however long it took; or each runs, oldest first, one a turn; or none does that is later than a minute. Where it has a window, what is later than that is left out.
//!
//! A clock that is set back makes ticks come again. That each fires once is not decided here: the store keeps a row for each that did, and a tick with a row submits nothing.

use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::JobSpec;

use super::{Misfire, Pass, Tick, Timetable};

/// The label that names the schedule of a job.
pub const SCHEDULE_LABEL: &str = "mlctl/schedule";

/// The label that says for which moment a schedule submitted a job.
pub const TICK_LABEL: &str = "mlctl/scheduled-at";

/// What every key that the daemon makes itself begins with; clients may not use such keys.
pub const KEY_PREFIX: &str = "mlctl:";

/// What is to be done about a schedule now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The tick that fires, unless it has before.
    pub fire: Option<Tick>,
    /// The latest of the ticks that came too late to fire, and how late.
    pub left_out: Option<(Tick, SignedDuration)>,
    /// All ticks that were due up to this moment are dealt with.
    pub settled: Timestamp,
    /// When the nearest tick after it is due: not after now, if there is another turn to be taken at once.
    pub next: Option<Timestamp>,
}

impl Timetable {
    /// What is to be done at `now`, when all ticks that were due up to `settled` are dealt with.
    #[must_use]
    pub fn turn(&self, settled: Timestamp, now: Timestamp) -> Turn {
        // After `now` when the clock was set back: what lies between comes again, and has its row if it fired.
        let begin = settled.min(now);
        let earliest = self.policy().window().and_then(|window| now.checked_sub(window).ok());
        let is_in_time = |tick: &Tick| earliest.is_none_or(|earliest| tick.due >= earliest);
        let late = |tick: Tick| (tick, now.duration_since(tick.due));
        if self.policy().misfire != Misfire::Once {
            // What is due at the edge of the window itself is in it.
            let edge = earliest.and_then(|earliest| earliest.checked_sub(SignedDuration::from_nanos(1)).ok());
            let edge = edge.map_or(begin, |edge| edge.max(begin));
            let left_out = self.last(begin, edge).map(late);
            let mut due = self.after(edge);
            let first = due.next();
            if let Some(tick) = first.filter(|tick| tick.due <= now) {
                let next = due.next().map(|tick| tick.due);
                let settled = if next.is_some_and(|next| next <= now) { tick.due } else { now };
                return Turn { fire: Some(tick), left_out, settled, next };
            }
            return Turn { fire: None, left_out, settled: now, next: first.map(|tick| tick.due) };
        }
        let latest = self.last(begin, now);
        let next = self.after(now).next().map(|tick| tick.due);
        Turn {
            fire: latest.filter(is_in_time),
            left_out: latest.filter(|tick| !is_in_time(tick)).map(late),
            settled: now,
            next,
        }
    }
}

impl Tick {
    /// The idempotency key of the job that this tick of a schedule submits. It holds the tick's lasting name.
    #[must_use]
    pub fn key(&self, schedule: i64) -> String {
        format!("{KEY_PREFIX}schedule:{schedule}:{}:{}", self.nominal, self.pass.number())
    }

    /// The job that this tick of a schedule submits: the schedule's, with the tick on it.
    #[must_use]
    pub fn job(&self, schedule: &str, spec: &JobSpec) -> JobSpec {
        labelled(spec, schedule, self.at)
    }

    /// Its moment as its zone's clock shows it, with the offset.
    #[must_use]
    pub fn local(&self, timetable: &Timetable) -> String {
        self.at.to_zoned_datetime(timetable.zone().clone()).to_string()
    }
}

/// A schedule's job with the tick on it.
#[must_use]
pub fn labelled(spec: &JobSpec, schedule: &str, tick: Timestamp) -> JobSpec {
    let mut spec = spec.clone();
    spec.labels.insert(SCHEDULE_LABEL.to_owned(), schedule.to_owned());
    spec.labels.insert(TICK_LABEL.to_owned(), tick.to_string());
    spec
}

impl Pass {
    /// 1 or 2.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }
}
