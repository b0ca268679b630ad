//! Random lines against a simulation, minute by minute, of what Debian's cron does when the clock changes. The simulation shares nothing with the code: it has sets of
//! numbers instead of a parser, and a minute hand instead of a calendar.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use super::{
    super::{Crontab, Timetable},
    Chance, Change, changes,
};

/// A jump of the clock that cron takes for lost minutes, and one that it takes for a change of the offset; in minutes.
const SMALL: i64 = 5;
const MEDIUM: i64 = 180;

/// A line as sets, with the text that should mean them.
#[derive(Debug)]
struct Line {
    text: String,
    minutes: Vec<i8>,
    hours: Vec<i8>,
    days: Vec<i8>,
    months: Vec<i8>,
    weekdays: Vec<i8>,
    both_days: bool,
    wildcard: bool,
}

impl Line {
    fn fits(&self, time: DateTime) -> bool {
        let day = self.days.contains(&time.day());
        let weekday = self.weekdays.contains(&time.weekday().to_sunday_zero_offset());
        self.minutes.contains(&time.minute())
            && self.hours.contains(&time.hour())
            && self.months.contains(&time.month())
            && (if self.both_days { day && weekday } else { day || weekday })
    }

    fn random(chance: &mut Chance, around: DateTime) -> Self {
        let minute = field(chance, 0, 59, Some(around.minute()), 3);
        let hour = field(chance, 0, 23, Some(around.hour()), 3);
        let day = field(chance, 1, 31, Some(around.day()), 1);
        let month = field(chance, 1, 12, Some(around.month()), 1);
        let (weekday_text, weekdays) = field(chance, 0, 6, None, 1);
        let both_days = day.0.starts_with('*') || weekday_text.starts_with('*');
        Self {
            text: format!("{} {} {} {} {weekday_text}", minute.0, hour.0, day.0, month.0),
            wildcard: minute.0.starts_with('*') || hour.0.starts_with('*'),
            minutes: minute.1,
            hours: hour.1,
            days: day.1,
            months: month.1,
            weekdays,
            both_days,
        }
    }
}

/// A random field and its values. `near` is in most of those that name values; `fixed` in 4 name values, the others begin with `*`.
fn field(chance: &mut Chance, low: i8, high: i8, near: Option<i8>, fixed: u64) -> (String, Vec<i8>) {
    let mut value = |low: i8| low + i8::try_from(chance.below(u64::try_from(high - low).unwrap() + 1)).unwrap();
    let (one, two, step) = (value(low), value(low), 1 + value(0) % 20);
    let near = near.unwrap_or(one);
    let (begin, end) = (one.min(near), one.max(near));
    let stepped = |begin: i8, end: i8, step: i8| (begin..=end).step_by(usize::try_from(step).unwrap()).collect();
    if chance.below(4) >= fixed {
        return match chance.below(3) {
            0 => (format!("*/{step}"), stepped(low, high, step)),
            _ => ("*".into(), stepped(low, high, 1)),
        };
    }
    match chance.below(6) {
        0 => (format!("{near}"), vec![near]),
        1 => (format!("{begin}-{end}"), stepped(begin, end, 1)),
        2 if begin < end => (format!("{begin}-{end}/{step}"), stepped(begin, end, step)),
        3 if high > 7 => (format!("{near}/{step}"), stepped(near, high, step)),
        4 => (format!("{near},{one}"), vec![near, one]),
        _ => (format!("{two},{near},{one}"), vec![two, near, one]),
    }
}

/// The moments at which cron starts something between two moments: its main loop, woken every minute.
fn simulate(line: &Line, zone: &TimeZone, begin: Timestamp, end: Timestamp) -> Vec<Timestamp> {
    // Minutes of the clock on the wall, counted as cron counts them.
    let clock = |at: Timestamp| (at.as_second() + i64::from(zone.to_offset(at).seconds())).div_euclid(60);
    let shows = |minute: i64| TimeZone::UTC.to_datetime(Timestamp::from_second(minute * 60).unwrap());
    let mut fired = Vec::new();
    let mut virtual_time = clock(begin) - 1;
    let mut at = begin;
    while at < end {
        let now = clock(at);
        let wildcards = line.wildcard && line.fits(shows(now));
        let named = |virtual_time: &mut i64, also_wildcards: bool| {
            let mut any = false;
            while *virtual_time < now {
                *virtual_time += 1;
                any |= (!line.wildcard || also_wildcards) && line.fits(shows(*virtual_time));
            }
            any
        };
        let fires = match now - virtual_time {
            1..=SMALL => named(&mut virtual_time, true),
            jump if jump > SMALL && jump <= MEDIUM => named(&mut virtual_time, false) | wildcards,
            jump if jump <= 0 && jump > -MEDIUM => wildcards,
            _ => {
                virtual_time = now;
                line.fits(shows(now))
            }
        };
        if fires {
            fired.push(at);
        }
        at += SignedDuration::from_mins(1);
    }
    fired
}

/// Changes of the offset of all sorts, each with a day before and two after.
fn nights() -> Vec<(TimeZone, Change)> {
    let zones = [
        "America/New_York",
        "Europe/London",
        "Australia/Lord_Howe",
        "Africa/Cairo",
        "America/Santiago",
        "Antarctica/Troll",
        "Asia/Tehran",
        "Africa/Casablanca",
        "America/Nuuk",
        "Asia/Beirut",
        "America/St_Johns",
        "Pacific/Chatham",
    ];
    let zones = zones.map(|zone| TimeZone::get(zone).unwrap());
    let nights = zones.iter().flat_map(|zone| {
        // Two of each zone: Tehran's last ones, and one each way elsewhere.
        changes(zone).into_iter().rev().take(2).map(|change| (zone.clone(), change))
    });
    nights.collect()
}

#[test]
fn random_lines_run_when_debian_cron_runs_them() {
    let mut chance = Chance::new();
    let nights = nights();
    assert!(
        nights.iter().any(|(_, change)| change.to > change.from)
            && nights.iter().any(|(_, change)| change.to < change.from)
    );
    let count = if super::setting("MLD_TEST_FULL").is_some() { 20_000 } else { 600 };
    let mut runs = 0;
    for index in 0..count {
        let (zone, change) = chance.among(&nights).clone();
        let wall = if chance.below(2) == 0 { change.local().0 } else { change.local().1 };
        let around =
            wall.checked_add(SignedDuration::from_mins(i64::try_from(chance.below(240)).unwrap() - 120)).unwrap();
        let line = Line::random(&mut chance, around);
        let Ok(crontab) = Crontab::parse(&line.text) else {
            assert!(line.both_days && line.days.iter().all(|day| *day > 28), "{} is refused", line.text);
            continue;
        };
        // From and until a whole minute at which nothing is repeated.
        let (begin, end) = (change.at - SignedDuration::from_hours(26), change.at + SignedDuration::from_hours(28));
        let expected = simulate(&line, &zone, begin, end);
        let table = Timetable::new(crontab, zone.clone());
        let just_before = begin - SignedDuration::from_nanos(1);
        let found: Vec<_> = table.after(just_before).map(|tick| tick.at).take_while(|at| *at < end).collect();
        let name = zone.iana_name().unwrap_or_default();
        assert_eq!(found, expected, "line {index}: `{}` in {name} around {}", line.text, change.at);
        runs += found.len();
    }
    assert!(runs > count, "the lines hardly ever run: {runs} runs of {count} lines");
}
