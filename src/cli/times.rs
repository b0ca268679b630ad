//! Durations as people write them on a command line. Text in, value out: no clock here. Called by clap, for the flags that take one.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

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
}
