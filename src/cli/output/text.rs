//! Values as people read them: durations, ages, sizes, numbers; and text from elsewhere made harmless. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use mlctl_protocol::progress::{Metrics, Progress};

/// What a terminal would obey shown as what it is: `^[` for escape. Line ends and tabs stay.
pub fn visible(text: &str) -> String {
    let is_harmless = |c: char| !is_obeyed(c) || matches!(c, '\n' | '\t');
    if text.chars().all(is_harmless) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    // A carriage return before a line's end is part of it; any other starts the line anew, as a progress bar does.
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            '\r' => shown.push('\n'),
            c if is_harmless(c) => shown.push(c),
            c if c.is_ascii() => {
                let _ = write!(shown, "^{}", char::from(c as u8 ^ 0x40));
            }
            _ => shown.push(char::REPLACEMENT_CHARACTER),
        }
    }
    shown
}

/// The same in one line.
pub fn visible_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

/// Whether a terminal acts on the character, or shows those around it in another order.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A duration in its two largest units: `3d 4h`, `2m 5s`, `7s`.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => pair(minutes, "m", seconds % 60, "s"),
        3600..86_400 => pair(hours, "h", minutes % 60, "m"),
        _ => pair(days, "d", hours % 24, "h"),
    }
}

fn pair(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit} {small}{small_unit}") }
}

/// The time from one moment to another; clocks may disagree by a little, so none is negative.
pub fn between(from: Timestamp, to: Timestamp) -> String {
    duration(u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0))
}

/// A moment with its distance from now: `2026-11-25 08:00:00 UTC (5m ago)`.
pub fn moment(at: Timestamp, now: Timestamp) -> String {
    let distance = if at > now { format!("in {}", between(now, at)) } else { format!("{} ago", between(at, now)) };
    format!("{} UTC ({distance})", at.strftime("%Y-%m-%d %H:%M:%S"))
}

/// A size in binary units: `1.5 MiB`.
#[expect(clippy::cast_precision_loss, reason = "read by people")]
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// So many MiB.
#[must_use]
pub fn mib(count: u32) -> String {
    bytes(u64::from(count) * 1024 * 1024)
}

/// A whole number with its thousands set apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A measured number in about four digits.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if (0.001..10_000.0).contains(&size) {
        let digits = if size >= 100.0 { 1 } else { 4 };
        format!("{value:.digits$}")
    } else if (10_000.0..1e12).contains(&size) {
        format!("{value:.0}")
    } else {
        format!("{value:.3e}")
    }
}

/// A rate of rows.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "read by people, and not negative")]
pub fn rate(rows_per_second: f64) -> String {
    format!("{} rows/s", count(rows_per_second.max(0.0).round() as u64))
}

/// How far a job is, in a few characters: `40 %`, `epoch 3/10`, `1,234 rows`.
pub fn progress(progress: &Progress) -> String {
    match (share(progress), progress.step, progress.records, progress.epoch) {
        (Some(share), ..) => format!("{share:.0} %"),
        (None, Some(step), ..) => format!("step {}", count(step)),
        (None, None, Some(records), _) => format!("{} rows", count(records)),
        (None, None, None, Some(epoch)) => format!("epoch {epoch}"),
        (None, None, None, None) => String::new(),
    }
}

/// How far a job is, in hundredths, where its end is known.
#[expect(clippy::cast_precision_loss, reason = "a percentage")]
pub fn share(progress: &Progress) -> Option<f64> {
    let share = |done: Option<u64>, all: Option<u64>| match (done, all) {
        (Some(done), Some(all)) if all > 0 => Some((done as f64 / all as f64 * 100.0).min(100.0)),
        _ => None,
    };
    share(progress.step, progress.steps).or_else(|| share(progress.records, progress.total)).map(f64::floor)
}

/// How far a job is, in full: `step 500 of 1,000, epoch 2 of 4`.
pub fn progress_in_full(progress: &Progress) -> String {
    let of = |noun: &str, done: Option<u64>, all: Option<u64>| {
        let all = all.map_or_else(String::new, |all| format!(" of {}", count(all)));
        done.map(|done| format!("{noun} {}{all}", count(done)))
    };
    let Progress { step, steps, epoch, epochs, records, total, rows_per_second, .. } = progress;
    let parts = [
        of("step", *step, *steps),
        of("epoch", *epoch, *epochs),
        of("row", *records, *total),
        rows_per_second.map(rate),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Metrics in a line: `train_loss 0.1234  val_accuracy 0.9711`.
pub fn metrics(metrics: &Metrics) -> String {
    let pairs: Vec<_> =
        metrics.iter().map(|(name, value)| format!("{} {}", visible_line(name), number(*value))).collect();
    pairs.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_comes_through() {
        for (text, shown) in [
            ("plain\ttext\nü", "plain\ttext\nü"),
            ("\x1b[31mred\x1b[0m", "^[[31mred^[[0m"),
            ("\x1b]0;title\x07", "^[]0;title^G"),
            ("10 %\r20 %\r\nend", "10 %\n20 %\nend"),
            ("a\0b\x7f", "a^@b^?"),
            ("\u{9b}31m \u{202e}", "\u{fffd}31m \u{fffd}"),
        ] {
            assert_eq!(visible(text), shown, "{text:?}");
        }
        assert_eq!(visible_line("a\nb\tc"), "a b c");
    }

    #[test]
    fn values_are_short() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (125, "2m 5s"),
            (3600, "1h"),
            (7260, "2h 1m"),
            (86_400, "1d"),
            (100_000, "1d 3h"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
        for (size, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (150 << 20, "150 MiB"),
            (5 << 30, "5.0 GiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(bytes(size), shown);
        }
        for (value, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), shown);
        }
        for (value, shown) in [
            (0.0, "0"),
            (0.12345, "0.1235"),
            (12.0, "12.0000"),
            (123.456, "123.5"),
            (1e-9, "1.000e-9"),
            (54_321.9, "54322"),
            (-2.5, "-2.5000"),
        ] {
            assert_eq!(number(value), shown);
        }
    }

    #[test]
    fn progress_says_what_is_known() {
        let of = |step, steps, records, total| Progress { step, steps, records, total, ..Progress::default() };
        for (known, short, full) in [
            (of(None, None, None, None), "", ""),
            (of(Some(5), Some(10), None, None), "50 %", "step 5 of 10"),
            (of(Some(1500), None, None, None), "step 1,500", "step 1,500"),
            (of(None, None, Some(999), Some(1000)), "99 %", "row 999 of 1,000"),
            (of(None, None, Some(7), None), "7 rows", "row 7"),
        ] {
            assert_eq!(progress(&known), short);
            assert_eq!(progress_in_full(&known), full);
        }
    }

    #[test]
    fn moments_have_a_distance() {
        let now: Timestamp = "2026-11-25T08:00:00Z".parse().unwrap();
        let at = |text: &str| moment(text.parse().unwrap(), now);
        assert_eq!(at("2026-11-25T07:55:00Z"), "2026-11-25 07:55:00 UTC (5m ago)");
        assert_eq!(at("2026-11-25T08:00:09.5Z"), "2026-11-25 08:00:09 UTC (in 9s)");
    }
}
