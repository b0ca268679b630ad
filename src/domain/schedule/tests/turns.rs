//! What is done at a moment: on time, late, and with a clock that jumps.

use jiff::{SignedDuration, Timestamp};

use super::{super::Turn, moment, timetable};

fn turn(line: &str, zone: &str, settled: &str, now: &str) -> (Option<String>, Option<String>) {
    let Turn { fire, settled, next, .. } = timetable(line, zone).turn(moment(settled), moment(now));
    assert_eq!(settled, moment(now));
    (fire.map(|tick| tick.at.to_string()), next.map(|at| at.to_string()))
}

#[test]
fn the_latest_missed_tick_fires_and_no_other() {
    let nightly = |settled, now| turn("30 2 * * *", "UTC", settled, now);
    let some = |text: &str| Some(text.to_owned());
    let (today, tomorrow) = ("2026-06-02T02:30:00Z", some("2026-06-03T02:30:00Z"));
    for (settled, now, fire, next) in [
        // On time, to the microsecond before and after.
        ("2026-06-01T12:00:00Z", "2026-06-02T02:29:59.999999Z", None, some(today)),
        ("2026-06-01T12:00:00Z", today, some(today), tomorrow.clone()),
        (today, today, None, tomorrow.clone()),
        (today, "2026-06-02T02:30:00.000001Z", None, tomorrow.clone()),
        // A month without a daemon.
        ("2026-05-01T12:00:00Z", "2026-06-02T09:00:00Z", some(today), tomorrow.clone()),
        // Set back by an hour: the tick comes again, and its row keeps it from firing.
        ("2026-06-02T03:00:00Z", "2026-06-02T02:00:00Z", None, some(today)),
        // Set back from far in the future: nothing waits until then.
        ("2099-01-01T00:00:00Z", "2026-06-02T02:31:00Z", None, tomorrow),
    ] {
        assert_eq!(nightly(settled, now), (fire, next), "{settled} {now}");
    }
}

/// However often and whenever it is looked, a clock that only goes forward fires what was not missed, each once.
#[test]
fn every_tick_fires_once_through_both_changes_of_the_offset() {
    for (line, zone, begin) in [
        ("30 2 * * *", "Europe/Berlin", "2026-03-27T00:00:00Z"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-23T00:00:00Z"),
        ("*/15 * * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"),
        ("*/15 * * * *", "America/New_York", "2026-10-31T12:00:00Z"),
        ("*/20 * * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z"),
    ] {
        let (table, begin) = (timetable(line, zone), moment(begin));
        let end = begin + SignedDuration::from_hours(72);
        let expected: Vec<Timestamp> = table.after(begin).map(|tick| tick.at).take_while(|at| *at <= end).collect();
        // Woken at each tick, and by chance between.
        for step in [SignedDuration::from_mins(1), SignedDuration::from_secs(37), SignedDuration::from_mins(5)] {
            let (mut now, mut settled, mut fired) = (begin, begin, Vec::new());
            let mut next = table.after(begin).next().map(|tick| tick.at);
            while now < end {
                now = (now + step).min(next.unwrap_or(end)).min(end);
                let turn = table.turn(settled, now);
                fired.extend(turn.fire.map(|tick| tick.at));
                (settled, next) = (turn.settled, turn.next);
            }
            assert_eq!(fired, expected, "{line} {zone} {step:?}");
        }
    }
}

#[test]
fn a_tick_has_one_key_and_one_job_for_ever() {
    let table = timetable("*/30 * * * *", "Europe/Berlin");
    let ticks: Vec<_> = table.after(moment("2026-10-24T22:00:00Z")).take(60).collect();
    let mut keys: Vec<_> = ticks.iter().map(|tick| tick.key(7)).collect();
    assert_eq!(keys[0], "mlctl:schedule:7:2026-10-25T00:30:00:1");
    assert!(keys.contains(&"mlctl:schedule:7:2026-10-25T02:00:00:1".to_owned()));
    assert!(keys.contains(&"mlctl:schedule:7:2026-10-25T02:00:00:2".to_owned()));
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), ticks.len());
    assert_eq!(ticks[0].local(&table), "2026-10-25T00:30:00+02:00[Europe/Berlin]");
}
