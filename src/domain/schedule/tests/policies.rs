//! Policies: what becomes of missed ticks against a plain model, the spread, the first and the last moment, and what is refused.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{GRACE, MAX_CATCH_UP_SECONDS, MAX_JITTER_SECONDS, Misfire, Policy, Tick, Timetable},
    Chance, moment, timetable,
};

const LINES: [(&str, &str); 5] = [
    ("*/5 * * * *", "Europe/Berlin"),
    ("30 2 * * *", "Europe/Berlin"),
    ("0 */3 * * *", "America/New_York"),
    ("* * * * *", "UTC"),
    ("0,30 1-3 * * *", "Australia/Lord_Howe"),
];

fn policy(chance: &mut Chance) -> Policy {
    let misfire = *chance.among(&[Misfire::Skip, Misfire::Once, Misfire::All]);
    let window = Some(*chance.among(&[30, 600, 7200, 90_000]));
    let catch_up_seconds = match misfire {
        Misfire::Skip => None,
        Misfire::Once => window.filter(|_| chance.below(2) == 0),
        Misfire::All => window,
    };
    Policy { misfire, catch_up_seconds, jitter_seconds: *chance.among(&[0, 0, 45, 600, 86_400]), ..Policy::default() }
}

/// The plain model: ticks that are known beforehand, each with a flag.
struct Model {
    ticks: Vec<Tick>,
    settled: Timestamp,
    fired: Vec<Timestamp>,
}

impl Model {
    /// What fires at `now`.
    fn wake(&mut self, policy: &Policy, now: Timestamp) {
        let coming = |tick: &&Tick| tick.due > self.settled && tick.due <= now;
        let due: Vec<_> =
            self.ticks.iter().filter(coming).map(|tick| (tick.at, now.duration_since(tick.due))).collect();
        let window = match policy.misfire {
            Misfire::Skip => GRACE,
            _ => policy.catch_up_seconds.map_or(SignedDuration::MAX, |window| SignedDuration::from_secs(window.into())),
        };
        let left = if policy.misfire == Misfire::Once { due.len().saturating_sub(1) } else { 0 };
        for (at, _) in due.into_iter().skip(left).filter(|(_, late)| *late <= window) {
            if !self.fired.contains(&at) {
                self.fired.push(at);
            }
        }
        self.settled = now;
    }
}

#[test]
fn whatever_is_missed_the_turns_do_what_the_plain_model_does() {
    let mut chance = Chance::new();
    for case in 0..120 {
        let (line, zone) = *chance.among(&LINES);
        let policy = policy(&mut chance);
        let table = timetable(line, zone).of("nightly", policy);
        let begin: &str =
            chance.among::<&str>(&["2026-03-28T09:00:00Z", "2026-10-24T09:00:00Z", "2026-11-01T00:00:00Z"]);
        let begin = moment(begin);
        let end = begin + SignedDuration::from_hours(72);
        let ticks = table.after(begin - SignedDuration::from_hours(30)).take_while(|tick| tick.due <= end).collect();
        let mut model = Model { ticks, settled: begin, fired: Vec::new() };
        let (mut now, mut settled, mut fired) = (begin, begin, Vec::new());
        while now < end {
            now = match chance.below(10) {
                // Set back; away for a while; at the very tick; a little later.
                0 => now - SignedDuration::from_secs(i64::try_from(chance.below(7200)).unwrap()),
                1 => now + SignedDuration::from_secs(i64::try_from(chance.below(40_000)).unwrap()),
                2..=4 => table.after(now).next().unwrap().due,
                _ => now + SignedDuration::from_secs(i64::try_from(chance.below(900)).unwrap()),
            }
            .min(end);
            loop {
                let turn = table.turn(settled, now);
                if let Some(tick) = turn.fire.filter(|tick| !fired.contains(&tick.at)) {
                    fired.push(tick.at);
                }
                settled = turn.settled;
                assert!(turn.next.is_none_or(|next| next > settled), "what the database holds to be true");
                if turn.next.is_none_or(|next| next > now) {
                    break;
                }
            }
            assert_eq!(settled, now);
            model.wake(&policy, now);
            assert_eq!(fired, model.fired, "case {case}: {line} {zone} {policy:?} at {now}");
        }
    }
}

#[test]
fn the_latest_tick_that_came_too_late_is_told_with_how_late_it_was() {
    let of = |misfire, catch_up_seconds| {
        let policy = Policy { misfire, catch_up_seconds, ..Policy::default() };
        let table = timetable("0 * * * *", "UTC").of("x", policy);
        let turn = table.turn(moment("2026-06-01T00:30:00Z"), moment("2026-06-01T05:30:00Z"));
        let text = |tick: Tick| tick.at.strftime("%H:%M").to_string();
        (turn.fire.map(text), turn.left_out.map(|(tick, late)| format!("{}: {}", text(tick), policy.reason(late))))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of(Misfire::Once, None), (some("05:00"), None));
    assert_eq!(of(Misfire::Skip, None), (None, some("05:00: it was 30m late, and missed runs are skipped")));
    let reason = some("05:00: it was 30m late, and no more than 10m is made up for");
    assert_eq!(of(Misfire::Once, Some(600)), (None, reason));
    let reason = some("03:00: it was 2h 30m late, and no more than 2h is made up for");
    assert_eq!(of(Misfire::All, Some(7200)), (some("04:00"), reason));
    assert_eq!(of(Misfire::All, Some(5400)).0, some("04:00"), "at the edge itself");
}

#[test]
fn the_spread_is_the_same_wherever_one_begins_and_never_reaches_the_next_tick() {
    for (line, zone) in LINES {
        for jitter_seconds in [1, 45, 600, 86_400] {
            let of = |name: &str| timetable(line, zone).of(name, Policy { jitter_seconds, ..Policy::default() });
            let (table, other, plain) = (of("a"), of("b"), timetable(line, zone));
            let begin = moment("2026-10-24T20:00:00Z");
            let all: Vec<_> = table.after(begin).take(300).collect();
            for pair in all.windows(2) {
                assert!(pair[0].at <= pair[0].due && pair[0].due < pair[1].at, "{pair:?}");
                assert!(pair[0].due.duration_since(pair[0].at).as_secs() < i64::from(jitter_seconds), "{pair:?}");
                assert_eq!(table.after(pair[0].due).next(), Some(pair[1]), "and none is lost or comes twice");
                assert_eq!(table.after(pair[1].due - SignedDuration::from_nanos(1)).next(), Some(pair[1]));
            }
            let names: Vec<_> = all.iter().map(|tick| (tick.nominal, tick.pass, tick.at)).collect();
            let unspread = plain.after(all[0].at - SignedDuration::from_nanos(1)).take(300);
            assert_eq!(names, unspread.map(|tick| (tick.nominal, tick.pass, tick.at)).collect::<Vec<_>>());
            let others: BTreeMap<_, _> = other.after(begin).take(300).map(|tick| (tick.at, tick.due)).collect();
            let differs = |tick: &&Tick| others.get(&tick.at).is_some_and(|due| *due != tick.due);
            let differ = all.iter().filter(differs).count();
            assert!(jitter_seconds < 45 || differ > 200, "{differ} of 300 have another spread under another name");
        }
    }
    // For ever the same: a daemon that is updated submits when the one before it said.
    let policy = Policy { jitter_seconds: 600, ..Policy::default() };
    let table = timetable("30 2 * * *", "Europe/Berlin").of("nightly", policy);
    let dues: Vec<_> = table.after(moment("2026-06-01T12:00:00Z")).take(3).map(|tick| tick.due.to_string()).collect();
    assert_eq!(dues, PINNED);
}

/// As computed by another implementation of BLAKE3.
const PINNED: [&str; 3] = ["2026-06-02T00:36:56Z", "2026-06-03T00:31:10Z", "2026-06-04T00:37:19Z"];

#[test]
fn ticks_lie_between_the_first_and_the_last_moment_both_included() {
    let of = |from: &str, until: &str, jitter_seconds| {
        let (from, until) = (Some(moment(from)), Some(moment(until)));
        timetable("0 * * * *", "UTC").of("x", Policy { from, until, jitter_seconds, ..Policy::default() })
    };
    let hours = |table: &Timetable, after: &str| -> Vec<i8> {
        table.after(moment(after)).map(|tick| tick.nominal.hour()).collect()
    };
    let exact = of("2026-06-01T03:00:00Z", "2026-06-01T05:00:00Z", 0);
    assert_eq!(hours(&exact, "2026-01-01T00:00:00Z"), [3, 4, 5]);
    assert_eq!(hours(&exact, "2026-06-01T04:00:00Z"), [5]);
    assert_eq!(hours(&exact, "2026-06-01T05:00:00Z"), [0_i8; 0]);
    let within = of("2026-06-01T03:00:01Z", "2026-06-01T04:59:59Z", 0);
    assert_eq!(hours(&within, "2026-01-01T00:00:00Z"), [4]);
    // A spread may go beyond the end: the tick's moment does not.
    assert_eq!(hours(&of("2026-06-01T03:00:00Z", "2026-06-01T05:00:00Z", 1800), "2026-01-01T00:00:00Z"), [3, 4, 5]);
    let turn = exact.turn(moment("2026-06-01T04:30:00Z"), moment("2026-07-01T00:00:00Z"));
    assert_eq!((turn.fire.map(|tick| tick.nominal.hour()), turn.next), (Some(5), None), "missed, and the last");
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    let plain = Policy::default();
    let all = Policy { misfire: Misfire::All, ..plain };
    let (early, late) = (Some(moment("2026-06-01T00:00:00Z")), Some(moment("2026-07-01T00:00:00Z")));
    for (policy, paths) in [
        (plain, &[][..]),
        (all, &["policy.catch_up_seconds"]),
        (Policy { catch_up_seconds: Some(21_600), ..all }, &[]),
        (Policy { catch_up_seconds: Some(0), ..all }, &["policy.catch_up_seconds"]),
        (Policy { catch_up_seconds: Some(MAX_CATCH_UP_SECONDS + 1), ..plain }, &["policy.catch_up_seconds"]),
        (Policy { misfire: Misfire::Skip, catch_up_seconds: Some(60), ..plain }, &["policy.catch_up_seconds"]),
        (Policy { jitter_seconds: MAX_JITTER_SECONDS + 1, ..plain }, &["policy.jitter_seconds"]),
        (Policy { from: late, until: early, ..plain }, &["policy.until"]),
        (Policy { from: early, until: early, ..plain }, &[]),
    ] {
        let found: Vec<_> = policy.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(found, paths, "{policy:?}");
    }
}
