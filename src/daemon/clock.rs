//! The system's wall clock: the only place that reads it. Made by `mld`'s main function and handed down as [`Clock`].

use jiff::{Timestamp, Unit};

use crate::domain::Clock;

/// The environment variable that moves the whole program's wall clock, in seconds, for tests of what happens over days.
pub const OFFSET_VARIABLE: &str = "MLD_CLOCK_OFFSET_SECONDS";

/// The system's clock, moved by a fixed offset that is zero but in tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock {
    offset_seconds: i64,
}

impl SystemClock {
    /// The clock, moved as the value of [`OFFSET_VARIABLE`] says.
    ///
    /// # Errors
    /// When the value is not a whole number of seconds.
    pub fn with_offset(value: Option<&str>) -> Result<Self, String> {
        let Some(value) = value else { return Ok(Self::default()) };
        match value.parse() {
            Ok(offset_seconds) => Ok(Self { offset_seconds }),
            Err(_) => Err(format!("{OFFSET_VARIABLE}={value:?} is not a whole number of seconds")),
        }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        let moved = now.checked_add(jiff::SignedDuration::from_secs(self.offset_seconds)).unwrap_or(now);
        moved.round(Unit::Microsecond).unwrap_or(moved)
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
            let moved = SystemClock::with_offset(Some(value)).unwrap().now();
            assert!((moved.as_second() - now.as_second() - seconds).abs() < 60, "{value}");
        }
        for value in ["", "1h", "1.5", "99999999999999999999"] {
            assert!(SystemClock::with_offset(Some(value)).is_err(), "{value}");
        }
        let far = SystemClock::with_offset(Some("9223372036854775807")).unwrap();
        assert!((far.now().as_second() - now.as_second()).abs() < 60, "no moment so far away");
    }
}
