//! The system's wall clock: the only place that reads it. Made by the programs' main functions and handed down as [`Clock`].

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};

use crate::domain::Clock;

/// The environment variable that moves the whole program's wall clock, in seconds, for tests of what happens over days.
pub const OFFSET_VARIABLE: &str = "MLD_CLOCK_OFFSET_SECONDS";

/// The environment variable that makes the whole program's wall clock run faster, for tests of what happens every minute: `12@2026-11-25T08:00:00Z` is twelve times as fast
/// from that moment on. It says the same after a restart.
pub const RATE_VARIABLE: &str = "MLD_CLOCK_RATE";

/// The fastest rate.
const MAX_RATE: u32 = 100_000;

/// The system's clock, but in tests neither moved nor hurried.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock {
    offset_seconds: i64,
    rate: Option<Rate>,
}

/// How fast the clock runs, and since when.
#[derive(Debug, Clone, Copy)]
struct Rate {
    times: u32,
    since: Timestamp,
}

impl SystemClock {
    /// The clock, moved as the value of [`OFFSET_VARIABLE`] says and as fast as that of [`RATE_VARIABLE`] says.
    ///
    /// # Errors
    /// When a value is not of its form.
    pub fn set(offset: Option<&str>, rate: Option<&str>) -> Result<Self, String> {
        let offset_seconds = offset.map_or(Ok(0), |value| {
            value.parse().map_err(|_| format!("{OFFSET_VARIABLE}={value:?} is not a whole number of seconds"))
        })?;
        let rate = rate.map(|value| {
            parse(value).ok_or_else(|| {
                format!("{RATE_VARIABLE}={value:?} is not TIMES@MOMENT, with TIMES up to {MAX_RATE}, such as 12@2026-11-25T08:00:00Z")
            })
        });
        Ok(Self { offset_seconds, rate: rate.transpose()? })
    }

    fn times(&self) -> u32 {
        self.rate.map_or(1, |rate| rate.times)
    }
}

fn parse(rate: &str) -> Option<Rate> {
    let (times, since) = rate.split_once('@')?;
    let times = times.parse().ok().filter(|times| (1..=MAX_RATE).contains(times))?;
    Some(Rate { times, since: since.parse().ok()? })
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        let hurried = self.rate.and_then(|Rate { times, since }| {
            let passed = now.duration_since(since).checked_mul(i32::try_from(times).ok()?)?;
            since.checked_add(passed).ok()
        });
        let now = hurried.unwrap_or(now);
        let moved = now.checked_add(SignedDuration::from_secs(self.offset_seconds)).unwrap_or(now);
        moved.round(Unit::Microsecond).unwrap_or(moved)
    }

    fn until(&self, moment: Timestamp) -> Duration {
        Duration::try_from(moment.duration_since(self.now())).unwrap_or_default() / self.times()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_moves_the_clock() {
        let now = SystemClock::default().now();
        assert_eq!(now.subsec_nanosecond() % 1000, 0, "microseconds, as stored");
        for (value, seconds) in [("0", 0_i64), ("86400", 86_400), ("-3600", -3600)] {
            let moved = SystemClock::set(Some(value), None).unwrap().now();
            assert!((moved.as_second() - now.as_second() - seconds).abs() < 60, "{value}");
        }
        for value in ["", "1h", "1.5", "99999999999999999999"] {
            assert!(SystemClock::set(Some(value), None).is_err(), "{value}");
        }
        let far = SystemClock::set(Some("9223372036854775807"), None).unwrap();
        assert!((far.now().as_second() - now.as_second()).abs() < 60, "no moment so far away");
    }

    #[test]
    fn the_rate_hurries_the_clock_and_its_timers() {
        let now = SystemClock::default().now();
        let an_hour_ago = now - SignedDuration::from_hours(1);
        let clock = SystemClock::set(Some("60"), Some(&format!("12@{an_hour_ago}"))).unwrap();
        let hurried = clock.now().duration_since(an_hour_ago).as_secs();
        assert!((12 * 3600 + 60..12 * 3600 + 60 + 720).contains(&hurried), "{hurried}");
        let until = clock.until(clock.now() + SignedDuration::from_mins(12));
        assert!((50..=60).contains(&until.as_secs()), "{until:?}");
        assert_eq!(clock.until(an_hour_ago), Duration::ZERO);
        for value in
            ["12", "0@2026-11-25T08:00:00Z", "100001@2026-11-25T08:00:00Z", "12@noon", "@", "-1@2026-11-25T08:00:00Z"]
        {
            let error = SystemClock::set(None, Some(value)).unwrap_err();
            assert!(error.contains(value) && error.contains("TIMES@MOMENT"), "{error}");
        }
    }
}
