//! Whole lives of attempts under chance: the supervisor's machine and the worker's, a network that breaks and delays, a store that fails, processes that die, hang and are
//! stopped, a daemon that is killed between any two effects, a wall clock that jumps, deadlines that are changed, backups that are put back. Both machines are the ones that `mld` and the workers run.

mod conns;
mod daemon;
mod edits;
mod judge;
mod ledger;
mod network;
mod restore;
mod tasks;
mod worker;
mod world;

use mlctl_protocol::ExitClass;

use super::chance::{Chance, cases};
use world::{Tally, World};

/// Rules that a control breaks.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rules {
    /// The store takes what attempts say that lost their job.
    no_fences: bool,
    /// The store takes reports by whatever number.
    no_numbers: bool,
    /// A new daemon takes for dead what it cannot reach.
    no_proof: bool,
    /// A new daemon does not look at what was asked for.
    forgets_wishes: bool,
    /// Reports are acknowledged before they are durable.
    acks_early: bool,
    /// An attempt is not told that its job's deadline was changed.
    forgets_edits: bool,
    /// A new daemon goes on with what ran before a backup was put back.
    trusts_the_past: bool,
    /// Nobody changes a deadline, and no backup is put back.
    is_plain: bool,
}

/// Lives of the gate; `ops/soak` plays as many in each of its rounds.
const CASES: u64 = 10_000;

/// How attempts end in these lives.
const TRIED: [ExitClass; 8] = [
    ExitClass::Ok,
    ExitClass::Lost,
    ExitClass::Crash,
    ExitClass::Hang,
    ExitClass::Timeout,
    ExitClass::Cancelled,
    ExitClass::Preempted,
    ExitClass::Disk,
];

fn live(chance: Chance, rules: Rules) -> World {
    let mut world = World::new(chance, rules);
    world.live();
    world
}

#[test]
fn attempts_keep_their_promises_whatever_happens() {
    let mut all = Tally::default();
    cases(CASES, |chance| {
        let world = live(chance, Rules::default());
        assert_eq!(world.broken, Vec::<String>::new());
        all.add(&world.tally);
    });
    println!("{all:?}");
    let mut tried =
        vec![all.crashes, all.adoptions, all.redials, all.leases_lost, all.refused, all.repeated, all.kills];
    tried.extend([all.edits, all.reprieves, all.overdue, all.restores, all.lost, all.outdated]);
    tried.extend(TRIED.iter().map(|class| all.ends.get(class.as_str()).copied().unwrap_or_default()));
    assert!(tried.iter().all(|times| *times > 0), "all of it is tried: {all:?}");
}

#[test]
fn the_same_seed_gives_the_same_lives() {
    cases(20, |chance| {
        let (one, other) = (live(chance.clone(), Rules::default()), live(chance, Rules::default()));
        assert_eq!(one.ledger.story(), other.ledger.story());
    });
}

/// Seeds that once found a bug, and which; in plain lives, or with edits and restores.
const FOUND: &[(u64, bool, &str)] = &[
    (37, true, "a result in its file alone was dropped after a report whose answer was not heard"),
    (
        142_865,
        true,
        "a report was taken by a connection that was being closed, since the one before it could not be stored",
    ),
    (99_789_726_864_511, false, "the judge took a worker whose start the backup lacks for one that the daemon finds"),
];

#[test]
fn what_was_found_once_stays_away() {
    for (seed, is_plain, bug) in FOUND {
        let rules = Rules { is_plain: *is_plain, ..Rules::default() };
        assert_eq!(live(Chance(*seed), rules).broken, Vec::<String>::new(), "seed {seed}: {bug}");
    }
}

/// The controls: each broken rule is found within the cases of the gate.
#[test]
fn a_broken_rule_is_found_out() {
    for (rules, promise) in [
        (Rules { no_fences: true, ..Rules::default() }, "E2: a stale attempt"),
        (Rules { no_numbers: true, ..Rules::default() }, "were taken twice"),
        (Rules { no_proof: true, ..Rules::default() }, "E4"),
        (Rules { forgets_wishes: true, ..Rules::default() }, "E7"),
        (Rules { acks_early: true, ..Rules::default() }, "acknowledged and is lost"),
        (Rules { forgets_edits: true, ..Rules::default() }, "S5: the deadline that was set"),
        (Rules { forgets_edits: true, ..Rules::default() }, "S5: the deadline that was taken"),
        (Rules { trusts_the_past: true, ..Rules::default() }, "D6: a worker of before"),
        (Rules { trusts_the_past: true, ..Rules::default() }, "D6: an attempt of before"),
    ] {
        let found = (0..CASES).find(|seed| {
            let world = live(Chance(*seed), rules);
            world.broken.iter().any(|broken| broken.contains(promise))
        });
        println!("{rules:?} is found with seed {found:?}");
        assert!(found.is_some(), "{rules:?} is not found");
    }
}
