//! What a timetable says about a span of time does not depend on how one comes to ask.

use jiff::{SignedDuration, Timestamp};

use super::{super::Tick, Chance, moment, timetable};

const LINES: [&str; 8] = [
    "30 2 * * *",
    "0,30 1-3 * * *",
    "*/10 * * * *",
    "0 * * * *",
    "15 */2 * * 1",
    "* 1 * * *",
    "0 0 1 * *",
    "0 0 * * *",
];
const ZONES: [&str; 6] = [
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Antarctica/Troll",
    "Africa/Cairo",
    "America/Santiago",
];

/// A clock that jumps to and fro finds the ticks that are there, each once for each time it passes, and no others.
#[test]
fn clock_jumps_change_no_tick() {
    let mut chance = Chance::new();
    let begin = moment("2027-03-01T00:00:00Z");
    let end = moment("2027-05-05T00:00:00Z");
    let seconds = u64::try_from((end - begin).as_secs()).unwrap();
    for (line, zone) in LINES.iter().flat_map(|line| ZONES.map(|zone| (*line, zone))) {
        let table = timetable(line, zone);
        let all: Vec<Tick> = table.after(begin).take_while(|tick| tick.at <= end).collect();
        assert!(all.windows(2).all(|pair| pair[0].at < pair[1].at), "{line} {zone}: not in order");
        assert!(all.windows(2).all(|pair| (pair[0].nominal, pair[0].pass) != (pair[1].nominal, pair[1].pass)));
        let mut names: Vec<_> = all.iter().map(|tick| (tick.nominal, tick.pass)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len(), "{line} {zone}: two ticks have one name");
        for _ in 0..20 {
            let mut jump = || begin + SignedDuration::from_millis(i64::try_from(chance.below(seconds * 1000)).unwrap());
            let (a, b) = (jump(), jump());
            // Half the time to a moment at which there is a tick.
            let a =
                if chance.below(2) == 0 { all[usize::try_from(chance.below(all.len() as u64)).unwrap()].at } else { a };
            let (from, until) = (a.min(b), a.max(b));
            let expected: Vec<Tick> = all.iter().filter(|tick| tick.at > from && tick.at <= until).copied().collect();
            let found: Vec<Tick> = table.after(from).take_while(|tick| tick.at <= until).collect();
            assert_eq!(found, expected, "{line} {zone} from {from} until {until}");
            assert_eq!(table.last(from, until), expected.last().copied(), "{line} {zone} from {from} until {until}");
        }
    }
}

#[test]
fn the_last_tick_is_found_without_a_walk_through_all() {
    let (from, until) = (moment("1970-01-01T00:00:00Z"), moment("2026-11-25T12:00:30Z"));
    let last = |line, from: Timestamp| timetable(line, "Europe/Berlin").last(from, until).map(|tick| tick.at);
    assert_eq!(last("* * * * *", from), Some(moment("2026-11-25T12:00:00Z")));
    assert_eq!(last("0 0 29 2 *", from), Some(moment("2024-02-28T23:00:00Z")));
    assert_eq!(last("0 0 29 2 *", moment("2024-02-28T23:00:00Z")), None);
    assert_eq!(last("0 0 29 2 *", until), None);
    assert_eq!(last("0 0 29 2 *", moment("2026-11-25T13:00:00Z")), None, "a span that ends before it begins");
}
