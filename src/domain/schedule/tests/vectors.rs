//! Known nights: what Debian cron does at changes of the offset, seen and written down.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{
    super::{Effect, Pass, Tick},
    timetable,
};

/// The ticks of some local days, in local time with the offset.
fn days(line: &str, zone: &str, first: &str, days: i64) -> Vec<String> {
    ticks(line, zone, first, days).into_iter().map(|(local, _)| local).collect()
}

fn ticks(line: &str, zone: &str, first: &str, days: i64) -> Vec<(String, Tick)> {
    let table = timetable(line, zone);
    let midnight = |date: Date| -> Timestamp { date.to_zoned_datetime(table.zone().clone()).unwrap().timestamp() };
    let first: Date = first.parse().unwrap();
    let (begin, end) = (midnight(first), midnight(first.saturating_add(jiff::Span::new().days(days))));
    let just_before = begin - jiff::SignedDuration::from_nanos(1);
    let local =
        |zone: &TimeZone, at: Timestamp| at.to_zoned_datetime(zone.clone()).strftime("%d %H:%M %:z").to_string();
    table.after(just_before).take_while(|tick| tick.at < end).map(|tick| (local(table.zone(), tick.at), tick)).collect()
}

#[test]
fn named_times_run_once_a_day_through_every_change() {
    let cases: &[(&str, &str, &str, &[&str])] = &[
        // New York, an hour left out at 2.
        ("America/New_York", "2027-03-14", "0 2 * * *", &["14 03:00 -04:00"]),
        ("America/New_York", "2027-03-14", "15 2 * * *", &["14 03:00 -04:00"]),
        ("America/New_York", "2027-03-14", "30 2 * * *", &["14 03:00 -04:00"]),
        ("America/New_York", "2027-03-14", "0,30 2 * * *", &["14 03:00 -04:00"]),
        ("America/New_York", "2027-03-14", "0 2,14 * * *", &["14 03:00 -04:00", "14 14:00 -04:00"]),
        ("America/New_York", "2027-03-14", "0 2,3 * * *", &["14 03:00 -04:00"]),
        ("America/New_York", "2027-03-14", "30 2,3 * * *", &["14 03:00 -04:00", "14 03:30 -04:00"]),
        ("America/New_York", "2027-03-14", "30 1 * * *", &["14 01:30 -05:00"]),
        ("America/New_York", "2027-03-14", "0 0 * * *", &["14 00:00 -05:00"]),
        // New York, an hour repeated from 1.
        ("America/New_York", "2026-11-01", "30 1 * * *", &["01 01:30 -04:00"]),
        ("America/New_York", "2026-11-01", "0 1 * * *", &["01 01:00 -04:00"]),
        ("America/New_York", "2026-11-01", "0 2 * * *", &["01 02:00 -05:00"]),
        ("America/New_York", "2026-11-01", "30 1,13 * * *", &["01 01:30 -04:00", "01 13:30 -05:00"]),
        ("America/New_York", "2026-11-01", "0-59/30 1 * * *", &["01 01:00 -04:00", "01 01:30 -04:00"]),
        // London and Berlin.
        ("Europe/London", "2027-03-28", "0 0 * * *", &["28 00:00 +00:00"]),
        ("Europe/Berlin", "2026-03-29", "30 2 * * *", &["29 03:00 +02:00"]),
        ("Europe/Berlin", "2026-10-25", "30 2 * * *", &["25 02:30 +02:00"]),
        // Half an hour at Lord Howe.
        ("Australia/Lord_Howe", "2026-10-04", "15 2 * * *", &["04 02:30 +11:00"]),
        ("Australia/Lord_Howe", "2027-04-04", "30 1 * * *", &["04 01:30 +11:00"]),
        // Gaps at midnight.
        ("Asia/Tehran", "2022-03-22", "0 0 * * *", &["22 01:00 +04:30"]),
        ("Asia/Tehran", "2026-03-22", "0 0 * * *", &["22 00:00 +03:30"]),
        ("Africa/Cairo", "2027-04-30", "0 0 * * *", &["30 01:00 +03:00"]),
        // The hour before midnight, repeated.
        ("America/Santiago", "2027-04-03", "30 23 * * *", &["03 23:30 -03:00"]),
        // Two hours left out.
        ("Antarctica/Troll", "2027-03-28", "30 1 * * *", &["28 03:00 +02:00"]),
        ("Antarctica/Troll", "2027-03-28", "30 2 * * *", &["28 03:00 +02:00"]),
    ];
    for (zone, date, line, expected) in cases {
        assert_eq!(days(line, zone, date, 1), *expected, "{zone} {date} {line}");
    }
}

#[test]
fn lines_that_follow_the_clock_skip_and_repeat_with_it() {
    let spring = days("*/30 * * * *", "America/New_York", "2027-03-14", 1);
    assert_eq!(
        spring[..6],
        [
            "14 00:00 -05:00",
            "14 00:30 -05:00",
            "14 01:00 -05:00",
            "14 01:30 -05:00",
            "14 03:00 -04:00",
            "14 03:30 -04:00"
        ]
    );
    assert_eq!(spring.len(), 46);
    let autumn = days("*/30 * * * *", "America/New_York", "2026-11-01", 1);
    assert_eq!(
        autumn[..7],
        [
            "01 00:00 -04:00",
            "01 00:30 -04:00",
            "01 01:00 -04:00",
            "01 01:30 -04:00",
            "01 01:00 -05:00",
            "01 01:30 -05:00",
            "01 02:00 -05:00"
        ]
    );
    assert_eq!(autumn.len(), 50);
    assert_eq!(days("*/30 2 * * *", "America/New_York", "2027-03-14", 1), Vec::<String>::new());
    assert_eq!(
        days("30 */2 * * *", "Australia/Lord_Howe", "2026-10-04", 1)[..3],
        ["04 00:30 +10:30", "04 02:30 +11:00", "04 04:30 +11:00"]
    );
    assert_eq!(
        days("*/15 1 * * *", "Australia/Lord_Howe", "2027-04-04", 1),
        [
            "04 01:00 +11:00",
            "04 01:15 +11:00",
            "04 01:30 +11:00",
            "04 01:45 +11:00",
            "04 01:30 +10:30",
            "04 01:45 +10:30"
        ]
    );
}

#[test]
fn the_repeated_hour_never_leads_back() {
    // Every half minute of the two passes, as a daemon may be started at any of them.
    let table = timetable("*/10 * * * *", "America/New_York");
    let begin: Timestamp = "2026-11-01T05:00:00Z".parse().unwrap();
    for probe in 0..240 {
        let now = begin + jiff::SignedDuration::from_secs(probe * 30);
        let next = table.after(now).next().unwrap().at;
        assert!(next > now, "{now}: {next}");
        assert!(next <= now + jiff::SignedDuration::from_mins(10), "{now}: {next}");
    }
    assert_eq!(
        table
            .after(begin - jiff::SignedDuration::from_secs(1))
            .take_while(|tick| tick.at < begin + jiff::SignedDuration::from_hours(2))
            .count(),
        12
    );
}

#[test]
fn a_whole_day_left_out_is_run_at_the_first_moment_after() {
    // Samoa went from 29 to 31 December 2011.
    assert_eq!(
        days("30 2 * * *", "Pacific/Apia", "2011-12-29", 3),
        ["29 02:30 -10:00", "31 00:00 +14:00", "31 02:30 +14:00"]
    );
}

#[test]
fn ticks_say_what_the_change_did_to_them() {
    let note = |line: &str, zone: &str, date: &str, index: usize| {
        let (_, tick) = ticks(line, zone, date, 1)[index].clone();
        (tick.nominal.strftime("%H:%M").to_string(), tick.pass, tick.effect.map(|effect| effect.to_string()))
    };
    let some = |text: &str| Some(text.to_owned());
    let ny = "America/New_York";
    assert_eq!(
        note("30 2 * * *", ny, "2027-03-14", 0),
        ("02:30".into(), Pass::First, some("the clock goes from 02:00 to 03:00: runs at the first moment after"))
    );
    assert_eq!(
        note("30 1 * * *", ny, "2026-11-01", 0),
        ("01:30".into(), Pass::First, some("this time comes twice: runs the first time"))
    );
    assert_eq!(note("0 2 * * *", ny, "2026-11-01", 0), ("02:00".into(), Pass::First, None));
    assert_eq!(
        note("*/30 * * * *", ny, "2026-11-01", 3),
        ("01:30".into(), Pass::First, some("this time comes twice: the first"))
    );
    assert_eq!(
        note("*/30 * * * *", ny, "2026-11-01", 4),
        ("01:00".into(), Pass::Second, some("this time comes twice: the second"))
    );
    assert_eq!(
        note("*/30 * * * *", ny, "2027-03-14", 4),
        ("03:00".into(), Pass::First, some("the clock goes from 02:00 to 03:00: the runs between are left out"))
    );
    assert_eq!(note("*/30 * * * *", ny, "2027-03-14", 5).2, None);
    assert_eq!(note("10 */3 * * *", ny, "2027-03-14", 1), ("03:10".into(), Pass::First, None), "nothing was left out");
    assert!(matches!(ticks("*/30 2 * * *", ny, "2027-03-15", 1)[0].1.effect, Some(Effect::LeftOut(_))));
}
