//! A nightly schedule in every zone, 2020 to 2040: each local date has exactly one run, where a clock would be looked at.

use std::collections::BTreeMap;

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime, Time, date},
    tz::{TimeZone, TimeZoneDatabase},
};

use super::{
    super::{Crontab, Pass, Tick, Timetable, zone},
    Change, changes, setting,
};

/// Zones by their rules, so that links and twins are walked once.
fn rules() -> BTreeMap<(i32, Vec<Change>), (String, TimeZone)> {
    let mut rules = BTreeMap::new();
    let mut zones = 0;
    for name in jiff::tz::db().available() {
        let zone = TimeZone::get(name.as_str()).unwrap();
        let offset = zone.to_offset(Timestamp::from_second(1_577_000_000).unwrap()).seconds();
        zones += 1;
        rules.entry((offset, changes(&zone))).or_insert_with(|| (name.as_str().to_owned(), zone));
    }
    assert!(zones > 300, "only {zones} zones: the system's tzdata is missing or cut");
    rules
}

/// The first moment at which the clock shows `time` or has gone beyond it.
fn reached(time: DateTime, offset_seconds: i32, changes: &[Change]) -> Timestamp {
    let first = jiff::tz::Offset::from_seconds(offset_seconds).unwrap();
    let mut begin = Timestamp::MIN;
    let mut offset = first;
    for change in changes {
        if time < offset.to_datetime(change.at) {
            break;
        }
        (begin, offset) = (change.at, change.to);
    }
    offset.to_timestamp(time).unwrap().max(begin)
}

/// The local dates worth a look: around each change, or all.
fn stretches(changes: &[Change], all: bool) -> Vec<(Date, Date)> {
    if all {
        return vec![(date(2020, 1, 1), date(2040, 12, 31))];
    }
    let around = changes.iter().map(|change| {
        let date = change.local().0.date();
        (date.saturating_sub(jiff::Span::new().days(2)), date.saturating_add(jiff::Span::new().days(2)))
    });
    around.collect()
}

/// Times of day: at the edges of what is left out or repeated, in the middle of it, and some others.
fn times(changes: &[Change]) -> Vec<Time> {
    let mut times: Vec<Time> = ["00:00", "00:01", "02:30", "12:00", "23:59"].map(|time| time.parse().unwrap()).into();
    for (from, to) in changes.iter().map(Change::local) {
        let (low, high) = (from.min(to), from.max(to));
        let middle = low.checked_add((high.duration_since(low)) / 2).unwrap();
        for edge in [low, middle, high] {
            for minutes in [-1, 0] {
                times.push(edge.checked_add(SignedDuration::from_mins(minutes)).unwrap().time());
            }
        }
    }
    times.sort_unstable();
    times.dedup();
    times
}

fn walk(table: &Timetable, dates: (Date, Date), time: Time) -> Vec<Tick> {
    let begin = dates.0.to_datetime(time).checked_sub(SignedDuration::from_hours(48)).unwrap();
    let begin = TimeZone::UTC.to_timestamp(begin).unwrap();
    let ticks = table.after(begin).skip_while(|tick| tick.nominal.date() < dates.0);
    ticks.take_while(|tick| tick.nominal.date() <= dates.1).collect()
}

#[test]
fn every_date_has_one_run_in_every_zone() {
    let all = setting("MLD_TEST_FULL").is_some();
    let mut nights = 0_u64;
    for ((offset, changes), (name, zone)) in rules() {
        for time in times(&changes) {
            let line = format!("{} {} * * *", time.minute(), time.hour());
            let table = Timetable::new(Crontab::parse(&line).unwrap(), zone.clone());
            for dates in stretches(&changes, all) {
                let ticks = walk(&table, dates, time);
                let mut expected = dates.0;
                let mut before = Timestamp::MIN;
                for tick in ticks {
                    assert_eq!((tick.nominal, tick.pass), (expected.to_datetime(time), Pass::First), "{name} `{line}`");
                    assert_eq!(tick.at, reached(tick.nominal, offset, &changes), "{name} `{line}` {}", tick.nominal);
                    assert!(tick.at > before, "{name} `{line}` {}", tick.nominal);
                    (expected, before) = (expected.tomorrow().unwrap(), tick.at);
                    nights += 1;
                }
                assert_eq!(expected.yesterday().unwrap(), dates.1, "{name} `{line}`: dates are missing");
            }
        }
    }
    println!("{nights} nights");
    assert!(nights > 50_000, "only {nights} nights were walked");
}

#[test]
fn a_zone_is_found_by_name_or_the_name_is_refused() {
    let database = jiff::tz::db();
    for (name, proper) in [("Europe/Berlin", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("UTC", "UTC")] {
        assert_eq!(zone(database, name).unwrap().iana_name(), Some(proper));
    }
    let long = "Europe/".repeat(1000);
    for (name, hint) in [
        ("Europe/Berln", "`Europe/Berlin`"),
        ("berlin", "`Europe/Berlin`"),
        ("America/New York", "`America/New_York`"),
        ("Mars/Olympus", "such as Europe/Berlin"),
        ("+02:00", "Etc/GMT-2"),
        ("", "such as Europe/Berlin"),
        ("../../../etc/passwd", "such as Europe/Berlin"),
        ("Etc/Unknown", ""),
        (long.as_str(), "such as Europe/Berlin"),
    ] {
        let error = zone(database, name).expect_err(name);
        assert!(error.message.contains("is no time zone") && error.message.len() < 200, "{error}");
        assert!(error.hint.contains(hint), "{name}: {}", error.hint);
    }
    assert!(zone(&TimeZoneDatabase::none(), "Europe/Berlin").unwrap_err().hint.contains("tzdata"));
}
