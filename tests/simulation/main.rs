//! A whole life of a queue without a database, a process or a clock: the state machine, the plan and the retries, driven by seeded chance over a played clock.
//! Thousands of schedules take seconds, and a failure comes back with its seed.

#[cfg(test)]
#[path = "../support/chance.rs"]
mod chance;
#[cfg(test)]
mod world;

use chance::{Chance, cases};
use mlctl::{
    scheduler::{Plan, plan},
    store::Ready,
};
use mlctl_protocol::spec::Resources;
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
    fn greedy(ready: &[Ready], mut free: Resources, machine: &Resources) -> Plan {
        let mut chosen = Plan::default();
        for job in ready {
            let one = plan(std::slice::from_ref(job), free.clone(), machine);
            if let [start] = one.start.as_slice() {
                chosen.start.push(*start);
                (free.cpus, free.gpus) = (free.cpus - job.cpus, free.gpus - job.gpus);
            }
        }
        chosen
    }
    assert!(broken_in(greedy).iter().any(|rule| rule.contains("overtaken")));
}

#[test]
fn a_plan_that_overfills_the_machine_or_forgets_jobs_is_found() {
    let full = broken_in(|ready, _, machine| plan(ready, machine.clone(), machine));
    assert!(full.iter().any(|rule| rule.contains("full machine")), "{full:?}");
    let idle = broken_in(|_, _, _| Plan::default());
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
