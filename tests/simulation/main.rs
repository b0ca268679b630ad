//! A whole life of a queue without a database, a process or a clock: the state machine, the plan and the retries, driven by seeded chance over a played clock.
//! Thousands of schedules take seconds, and a failure comes back with its seed.

#[cfg(test)]
mod attempts;
#[cfg(test)]
#[path = "../support/chance.rs"]
mod chance;
#[cfg(test)]
mod month;
#[cfg(test)]
mod world;

use std::thread;

use chance::{Chance, cases};
use mlctl::{
    domain::{
        Machine,
        machine::{Foreign, Gpu, Standing},
    },
    scheduler::{Plan, Snapshot, Start, plan},
    store::Ready,
};
use month::Gaps;
use world::{Choose, World};

/// How long submits, faults, cancels, holds and shutdowns go on; then all that is held is released.
const TROUBLE_SECONDS: i64 = 2_000;

/// Far beyond what happens in a life that ends.
const MOST_HAPPENINGS: u64 = 50_000;

fn live(mut chance: Chance, choose: Choose) -> World {
    let mut world = World::new(&mut chance, TROUBLE_SECONDS, choose);
    let mut happened = 0;
    while let Some(happening) = world.next() {
        world.happen(happening, &mut chance);
        world.dispatch(&mut chance);
        happened += 1;
        assert!(happened < MOST_HAPPENINGS, "it never ends: {world:?}");
    }
    // What can run has run to its end; what never can still waits.
    let left = world.jobs().filter(|job| !job.state.is_terminal() && world.can_ever_run(job));
    let left: Vec<String> = left.map(|job| format!("job {} is left, {}", job.id, job.state.name())).collect();
    world.broken.extend(left);
    world.check_logs();
    world
}

#[test]
fn the_queue_drains_when_faults_stop_and_nobody_is_starved() {
    let (mut starts, mut retries, mut zombies, mut holds) = (0, 0, 0, 0);
    cases(2_000, |chance| {
        let world = live(chance, plan);
        assert_eq!(world.broken, Vec::<String>::new());
        holds += world.holds;
        (starts, retries, zombies) = (starts + world.starts, retries + world.retries, zombies + world.zombies_refused);
    });
    assert!(holds > 1_000, "holds are tried: {holds}");
    println!("{holds} holds, {starts} starts, {retries} of them again, {zombies} ends of stale attempts refused");
}

#[test]
fn the_same_seed_gives_the_same_life() {
    cases(20, |chance| {
        let (one, other) = (live(chance.clone(), plan), live(chance, plan));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    });
}

/// The controls: a scheduler that breaks a rule is found out.
#[test]
fn a_plan_that_lets_small_jobs_slip_past_is_found() {
    fn greedy(snapshot: &Snapshot) -> Plan {
        let mut chosen = Plan::default();
        let mut free = snapshot.free.clone();
        for job in &snapshot.ready {
            let alone = Snapshot { ready: vec![job.clone()], free: free.clone(), ..snapshot.clone() };
            if let [start] = plan(&alone).start.as_slice() {
                chosen.start.push(start.clone());
                free.take(&snapshot.machine.share(&job.needs, &start.gpus));
            }
        }
        chosen
    }
    assert!(broken_in(greedy).iter().any(|rule| rule.contains("overtaken")));
}

#[test]
fn a_plan_that_overfills_the_machine_or_forgets_jobs_is_found() {
    let full = broken_in(|snapshot| {
        plan(&Snapshot { free: snapshot.machine.whole(), running: Vec::new(), ..snapshot.clone() })
    });
    assert!(full.iter().any(|rule| rule.contains("full machine")), "{full:?}");
    let idle = broken_in(|_| Plan::default());
    assert!(idle.iter().any(|rule| rule.contains("is left")), "{idle:?}");
    assert!(idle.iter().any(|rule| rule.contains("idle")), "{idle:?}");
}

fn broken_in(choose: Choose) -> Vec<String> {
    let mut broken = Vec::new();
    // These seeds, whatever was asked for: a control must not depend on chance.
    for mut chance in (0..20).map(Chance) {
        let mut world = World::new(&mut chance, TROUBLE_SECONDS, choose);
        for _ in 0..300 {
            let Some(happening) = world.next() else { break };
            world.happen(happening, &mut chance);
            world.dispatch(&mut chance);
        }
        broken.append(&mut world.broken);
        broken.extend(world.jobs().filter(|job| !job.state.is_terminal()).map(|job| format!("job {} is left", job.id)));
    }
    broken
}

#[test]
fn in_a_month_of_jobs_every_promise_is_kept_and_gaps_are_worth_filling() {
    cases(3, |mut chance| {
        let seed = chance.next();
        let filled = month::play(seed, 1_500, month::as_planned, Gaps::Filled);
        assert_eq!(filled.broken, Vec::<String>::new());
        let left = month::play(seed, 1_500, month::without_backfill, Gaps::Left);
        assert_eq!(left.broken, Vec::<String>::new());
        let (filled, left) = (filled.report(), left.report());
        println!("gaps filled: {filled}gaps left: {left}");
        assert_eq!((filled.jobs(), left.jobs()), (1_500, 1_500));
        assert!(filled.mean_wait() < left.mean_wait(), "{filled}{left}");
    });
}

/// `ops/bench month`: what filling gaps is worth.
#[test]
#[ignore = "a million jobs take minutes"]
fn a_month_of_a_busy_box() {
    let jobs = chance::number("MLCTL_MONTH_JOBS").map_or(1_000_000, |jobs| usize::try_from(jobs).expect("they fit"));
    cases(1, |Chance(seed)| {
        let [filled, left] =
            [(month::as_planned as month::Choose, Gaps::Filled), (month::without_backfill, Gaps::Left)]
                .map(|(choose, gaps)| thread::spawn(move || month::play(seed, jobs, choose, gaps)))
                .map(|playing| playing.join().expect("it is played to its end"));
        for (name, month) in [("gaps filled", filled), ("gaps left", left)] {
            println!("\n{name}, seed {seed}: {}", month.report());
            assert_eq!(month.broken, Vec::<String>::new());
        }
    });
}

#[test]
fn a_month_repeats_from_its_seed() {
    let report = |seed| month::play(seed, 1_000, month::as_planned, Gaps::Filled).report().to_string();
    assert_eq!(report(7), report(7));
    assert_ne!(report(7), report(8));
}

/// The controls: what breaks a promise, and what leaves jobs waiting that could start, is found.
#[test]
fn a_month_without_rules_is_found_out() {
    fn greedy(snapshot: &Snapshot, _: &Plan) -> Plan {
        let start = |job: &Ready| {
            let places = snapshot.free.place(&snapshot.machine, &job.needs, |_| true)?;
            let gpus = places.into_iter().map(|place| snapshot.machine.gpus[place].uuid.clone()).collect();
            Some(Start { job: job.id, gpus })
        };
        // Whoever is small enough, the last first.
        Plan { start: snapshot.ready.iter().rev().find_map(start).into_iter().collect(), ..Plan::default() }
    }
    // Those of low priority never.
    let lazy = |snapshot: &Snapshot, plan: &Plan| {
        let mut chosen = plan.clone();
        let is_urgent = |start: &Start| snapshot.ready.iter().any(|job| job.id == start.job && job.priority > 10);
        chosen.start.retain(is_urgent);
        chosen
    };
    let unfair =
        |snapshot: &Snapshot, plan: &Plan| if plan.head.is_some() { plan.clone() } else { greedy(snapshot, plan) };
    let broken = |choose| month::play(1, 1_500, choose, Gaps::Filled).broken;
    for (broken, rule) in
        [(broken(greedy), "was to start by"), (broken(unfair), "overtook"), (broken(lazy), "could start")]
    {
        assert!(broken.iter().any(|found| found.contains(rule)), "{rule}: {broken:#?}");
    }
}

/// A machine of so many cores, and GPUs of 1 GiB.
fn machine(cpus: u32, gpus: u32) -> Machine {
    let gpu = |index: u32| Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: "simulated".into(),
        memory_mib: 1024,
        standing: Standing::Open,
        foreign: Foreign::default(),
    };
    Machine { cpus, memory_mib: 1024, gpus: (0..gpus).map(gpu).collect() }
}
