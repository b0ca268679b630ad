//! When a schedule runs: a crontab line ([`Crontab`]) read in a time zone ([`Timetable`]) gives ticks ([`Tick`]), and what is to be done about them at a moment ([`Turn`]). Called by the scheduler's cron loop, by the API when a
//! schedule is added, and by `mlctl schedule preview`. Pure: the zone and every moment come in as arguments, and what a timetable says about a span of time depends on
//! nothing but the line, the zone's rules and the span: not on when it is asked, how often, or where the clock jumped.
//!
//! The rules are Debian cron's. A line whose minute or hour field begins with `*` follows the clock on the wall: it skips the hour that spring leaves out, and runs in
//! both passes of the hour that autumn repeats. Any other line names times of day, and each named time of each date runs once: left out by the clock, at the first moment
//! after the gap; repeated, in the first pass. Day of month and day of week both given mean either of them, unless one begins with `*`: then both must fit.

mod backfill;
mod calendar;
mod change;
mod crontab;
mod due;
mod field;
mod overlap;
mod policy;
mod ticks;
mod turn;
mod zone;

#[cfg(test)]
mod tests;

pub use backfill::{MAX_BACKFILL, TooMany};
pub use crontab::{Crontab, CrontabError, MAX_EXPRESSION_BYTES};
pub use due::Ticks;
pub use overlap::{Course, Open, Overlap, failing};
pub use policy::{GRACE, MAX_CATCH_UP_SECONDS, MAX_FAILURES, MAX_JITTER_SECONDS, Misfire, Policy};
pub use ticks::{Effect, Gap, Pass, Tick, Timetable};
pub use turn::{KEY_PREFIX, SCHEDULE_LABEL, TICK_LABEL, Turn, labelled};
pub use zone::{ZoneError, zone};
