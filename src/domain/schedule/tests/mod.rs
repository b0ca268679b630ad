//! Schedules against tables of known answers, against a simulation of Debian cron, and in every zone there is.

mod debian;
mod lines;
mod policies;
mod spans;
mod turns;
mod vectors;
mod zones;

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{Offset, TimeZone},
};

use super::{Crontab, Timetable};

fn timetable(line: &str, zone: &str) -> Timetable {
    let zone = TimeZone::get(zone).expect("the system has the zones of the IANA database (package tzdata)");
    Timetable::new(Crontab::parse(line).unwrap(), zone)
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn setting(name: &str) -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a failed random test is repeated with SEED, the long walk is asked for"
    )]
    std::env::var(name).ok()
}

/// Chance that can be had again.
struct Chance(u64);

impl Chance {
    /// From `SEED`, or else the same in every run.
    fn new() -> Self {
        let seed = setting("SEED").and_then(|text| text.parse().ok()).unwrap_or(20_261_125);
        println!("SEED={seed}");
        Self(seed)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn among<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}

/// A change of a zone's offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Change {
    at: Timestamp,
    from: Offset,
    to: Offset,
}

impl Change {
    /// The local time of the change, by the old and by the new offset.
    fn local(&self) -> (DateTime, DateTime) {
        (self.from.to_datetime(self.at), self.to.to_datetime(self.at))
    }
}

/// The changes of a zone's offset from 2020 to 2040.
fn changes(zone: &TimeZone) -> Vec<Change> {
    let (begin, end) = (moment("2019-12-25T00:00:00Z"), moment("2041-01-05T00:00:00Z"));
    let mut from = zone.to_offset(begin);
    let mut changes = Vec::new();
    for change in zone.following(begin).take_while(|change| change.timestamp() < end) {
        let to = change.offset();
        if to != from {
            changes.push(Change { at: change.timestamp(), from, to });
        }
        from = to;
    }
    changes
}
