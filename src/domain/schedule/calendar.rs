//! Which civil times a line names. The `cron` crate is the engine, on civil time alone: it is given normalised lists and a clock without zones. Its own syntax and its
//! own handling of zones are not used: the one reads crontab lines wrongly, the other loses and repeats runs where the offset changes.

use std::str::FromStr as _;

use chrono::{DateTime as FakeTime, Datelike as _, NaiveDate, Timelike as _, Utc};
use cron::Schedule;
use jiff::civil::DateTime;

use super::crontab::{Crontab, all, values};

/// The civil times of a line, up to the year 2100.
#[derive(Debug, Clone)]
pub(super) struct Calendar {
    /// A time fits when one of them says so. Two when either of day of month and day of week is enough: the engine only knows both.
    engines: Vec<Schedule>,
}

impl Calendar {
    pub(super) fn new(line: &Crontab) -> Self {
        let (any_day, any_weekday) = (all(1, 31), all(0, 6));
        let pairs: &[_] = match line.either_day {
            true => &[(line.days, any_weekday), (any_day, line.weekdays)],
            false => &[(line.days, line.weekdays)],
        };
        Self { engines: pairs.iter().map(|(days, weekdays)| engine(line, *days, *weekdays)).collect() }
    }

    /// The first time after `time`, from 1970 on: the engine knows no earlier years.
    pub(super) fn after(&self, time: DateTime) -> Option<DateTime> {
        let time = to_fake(time.max(DateTime::constant(1969, 12, 31, 23, 59, 59, 0)))?;
        self.engines.iter().filter_map(|engine| engine.after(&time).next()).min().and_then(from_fake)
    }

    /// The first time at or after `time`.
    pub(super) fn from(&self, time: DateTime) -> Option<DateTime> {
        self.after(time.checked_sub(jiff::SignedDuration::from_secs(1)).ok()?)
    }
}

fn engine(line: &Crontab, days: u64, weekdays: u64) -> Schedule {
    // In the engine's count Sunday is 1.
    let fields = [
        list(line.minutes, all(0, 59)),
        list(line.hours, all(0, 23)),
        list(days, all(1, 31)),
        list(line.months, all(1, 12)),
        list(weekdays << 1, all(1, 7)),
    ];
    Schedule::from_str(&format!("0 {}", fields.join(" "))).expect("lists of values in range are what the engine reads")
}

/// The engine is quicker with `*`.
fn list(bits: u64, every: u64) -> String {
    if bits == every {
        return "*".into();
    }
    values(bits).map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}

/// A civil time as a moment of a clock without zones.
fn to_fake(time: DateTime) -> Option<FakeTime<Utc>> {
    let positive = |value: i8| u32::from(value.unsigned_abs());
    let date = NaiveDate::from_ymd_opt(time.year().into(), positive(time.month()), positive(time.day()))?;
    let fake = date.and_hms_nano_opt(
        positive(time.hour()),
        positive(time.minute()),
        positive(time.second()),
        time.subsec_nanosecond().unsigned_abs(),
    )?;
    Some(fake.and_utc())
}

fn from_fake(fake: FakeTime<Utc>) -> Option<DateTime> {
    let small = |value: u32| i8::try_from(value).ok();
    let year = i16::try_from(fake.year()).ok()?;
    let (month, day) = (small(fake.month())?, small(fake.day())?);
    DateTime::new(year, month, day, small(fake.hour())?, small(fake.minute())?, 0, 0).ok()
}
