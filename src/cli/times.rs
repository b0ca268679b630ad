//! Durations and moments as people write them on a command line. Text in, value out: what a moment is counted from comes in. Called by clap, for the flags that take one.

use std::time::Duration;

use jiff::{
    Span, SpanRelativeTo, Timestamp, ToSpan as _,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};

use super::{Failure, exit::Exit};

/// A duration: `90s`, `10m`, `2h 30m`, `1d`; a day has 24 hours, and a bare number is seconds.
///
/// # Errors
/// What was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 90s, 10m, 2h or 1d".to_owned();
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let span: Span = text.parse().map_err(|_| expected())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| expected())?;
    Duration::try_from(duration).map_err(|_| "expected a duration that is not negative".into())
}

/// A duration in whole seconds, begun ones counted.
///
/// # Errors
/// As for [`duration`], and when it is longer than a hundred years.
pub fn whole_seconds(text: &str) -> Result<u32, String> {
    let duration = duration(text)?;
    let seconds = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(seconds).map_err(|_| "expected a duration of less than a hundred years".into())
}

/// A moment as written, before it is known what it is counted from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    /// A moment of its own.
    At(Timestamp),
    /// A local date and time.
    Local(DateTime),
    /// The next time at which clocks show this.
    Clock(Time),
    /// That long from now.
    In(Duration),
}

/// A moment: `2026-11-26T02:00:00Z`, `2026-11-26T02:00`, `02:00`, or a [`duration`] from now.
///
/// # Errors
/// What was expected.
pub fn moment(text: &str) -> Result<Moment, String> {
    let (at, local, clock) = (text.parse(), text.parse(), text.parse());
    // A date alone would be midnight, and a time with an offset would lose it.
    let has_time = text.contains(':');
    match (at, local, clock) {
        (Ok(at), ..) => Ok(Moment::At(at)),
        (_, Ok(local), _) if has_time && !text.ends_with(['Z', 'z']) => Ok(Moment::Local(local)),
        (_, _, Ok(clock)) if has_time && text.len() <= "00:00:00".len() => Ok(Moment::Clock(clock)),
        _ => duration(text).map(Moment::In).map_err(|_| {
            "expected a time such as 2026-11-26T02:00:00Z, 2026-11-26T02:00 or 02:00, or a duration such as 90m".into()
        }),
    }
}

/// A [`moment`], or a date, which stands for its beginning: `2026-11-26`. A bare number is neither: it could be a year.
///
/// # Errors
/// What was expected.
pub fn day_or_moment(text: &str) -> Result<Moment, String> {
    if text.len() == "2026-11-26".len()
        && !text.contains(':')
        && let Ok(date) = text.parse::<Date>()
    {
        return Ok(Moment::Local(date.to_datetime(Time::midnight())));
    }
    if text.parse::<u64>().is_ok() {
        return Err(
            "expected a date such as 2026-11-26, a time such as 2026-11-26T02:00, or a duration such as 90m".into()
        );
    }
    moment(text)
}

impl Moment {
    /// The moment meant, where clocks are those of `zone`. A local time that a clock change leaves out is an hour later, one that comes twice is the first.
    ///
    /// # Errors
    /// When it is too far away to be counted.
    pub fn resolve(self, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, jiff::Error> {
        match self {
            Self::At(at) => Ok(at),
            Self::Local(local) => zone.to_timestamp(local),
            Self::Clock(clock) => {
                let today = zone.to_datetime(now).date();
                let at = zone.to_timestamp(today.to_datetime(clock))?;
                if at > now {
                    return Ok(at);
                }
                zone.to_timestamp(today.checked_add(1.day())?.to_datetime(clock))
            }
            Self::In(duration) => now.checked_add(duration),
        }
    }
}

/// The moment that a flag means.
///
/// # Errors
/// When it is too far away to be counted.
pub fn resolved(
    flag: &str,
    moment: Option<Moment>,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Option<Timestamp>, Failure> {
    let resolved = moment.map(|moment| moment.resolve(now, zone)).transpose();
    resolved.map_err(|error| Failure::new(Exit::Usage, format!("{flag}: {error}")))
}

/// The same by the clocks of this machine. Their zone is looked up, which walks through the folders of all zones, only for a moment that is written in local time.
///
/// # Errors
/// As for [`resolved`].
pub fn resolved_here(flag: &str, moment: Option<Moment>, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    let is_local = matches!(moment, Some(Moment::Local(_) | Moment::Clock(_)));
    let zone = if is_local { TimeZone::system() } else { TimeZone::UTC };
    resolved(flag, moment, now, &zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("90", 90.0),
            ("0", 0.0),
            ("90s", 90.0),
            ("10m", 600.0),
            ("2h 30m", 9000.0),
            ("1d", 86_400.0),
            ("1.5s", 1.5),
            ("100ms", 0.1),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "soon", "-5s", "5 parsecs", "1 month"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!((whole_seconds("100ms"), whole_seconds("2m")), (Ok(1), Ok(120)));
        assert!(whole_seconds("99999999h").is_err());
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now: Timestamp = "2026-11-25T20:30:00Z".parse().unwrap();
        let berlin = TimeZone::get("Europe/Berlin").expect("the system has the zones of the IANA database");
        for (text, expected) in [
            ("2026-11-26T02:00:00Z", "2026-11-26T02:00:00Z"),
            ("2026-11-26 02:00:00+05:00", "2026-11-25T21:00:00Z"),
            ("2026-11-26T02:00", "2026-11-26T01:00:00Z"),
            ("2026-11-26 02:00:30", "2026-11-26T01:00:30Z"),
            ("02:00", "2026-11-26T01:00:00Z"),
            ("21:30", "2026-11-26T20:30:00Z"),
            ("21:31", "2026-11-25T20:31:00Z"),
            ("90m", "2026-11-25T22:00:00Z"),
            ("90", "2026-11-25T20:31:30Z"),
            ("1d", "2026-11-26T20:30:00Z"),
            // Left out by the clock change, and there twice.
            ("2027-03-28T02:30", "2027-03-28T01:30:00Z"),
            ("2026-10-25T02:30", "2026-10-25T00:30:00Z"),
        ] {
            let found = moment(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found.resolve(now, &berlin).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "tomorrow", "2026-11-26", "25:00", "02:00Z", "-5m", "2026-13-01T00:00"] {
            assert!(moment(text).is_err(), "{text}: {:?}", moment(text));
        }
        for (text, expected) in [
            ("2026-11-26", "2026-11-25T23:00:00Z"),
            ("2026-11-26T02:00", "2026-11-26T01:00:00Z"),
            ("90m", "2026-11-25T22:00:00Z"),
        ] {
            let found = day_or_moment(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found.resolve(now, &berlin).unwrap().to_string(), expected, "{text}");
        }
        for text in ["2027", "20261126", "2026-13-01", "2026-11-2"] {
            assert!(day_or_moment(text).is_err(), "{text}: {:?}", day_or_moment(text));
        }
    }
}
