//! The plan on machines with GPUs that are shared, drained, reserved or used by others: in tables, and by property.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mlctl_protocol::{JobId, spec::Resources};
use proptest::prelude::*;

use super::{
    Obstacle, Outlook, Plan, Shared, Snapshot, Start, plan,
    plan::tests::{left, machine},
};
use crate::{
    domain::{
        Machine, Uid,
        machine::{Foreign, Free, Standing},
    },
    store::{Ready, Running},
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

/// A job of user 1 that needs a core, so many GPUs, and of each so much; 0 for all of it.
fn job(id: u64, (gpus, vram_mib): (u32, u32), limit_seconds: Option<u32>) -> Ready {
    let needs = Resources { cpus: 1, gpus, vram_mib, ..Resources::NONE };
    let (kind, queue) = ("train".into(), "default".into());
    Ready { id: JobId(id), kind, queue, user: Uid(1), priority: 50, rank: 0, needs, limit_seconds }
}

fn running(id: u64, vram_mib: u32, gpus: &[&str], ends_in: Option<i64>) -> Running {
    let has = Resources { cpus: 1, gpus: u32::try_from(gpus.len()).unwrap(), vram_mib, ..Resources::NONE };
    let gpus = gpus.iter().map(|uuid| (*uuid).to_owned()).collect();
    let ends_by = ends_in.map(at);
    Running { id: JobId(id), queue: "default".into(), user: Uid(1), has, gpus, started_at: at(-100), ends_by }
}

fn snapshot(machine: Machine, running: Vec<Running>, ready: Vec<Ready>) -> Snapshot {
    let free = left(&machine, &running);
    let (queues, setbacks) = (BTreeMap::new(), BTreeMap::new());
    Snapshot { now: at(0), machine, free, running, vacated: BTreeSet::new(), ready, queues, setbacks }
}

/// Who starts where: `1: GPU-0, GPU-1`.
fn starts(plan: &Plan) -> Vec<String> {
    plan.start.iter().map(|Start { job, gpus }| format!("{job}: {}", gpus.join(", "))).collect()
}

#[test]
fn jobs_share_a_gpu_while_it_has_memory_left() {
    let ready = vec![job(1, (1, 600), None), job(2, (1, 600), None), job(3, (1, 400), None), job(4, (1, 500), None)];
    let found = plan(&snapshot(machine(8, 2), Vec::new(), ready));
    assert_eq!(starts(&found), ["1: GPU-0", "2: GPU-1", "3: GPU-0"]);
    let full = Obstacle::Full { of: Shared::Machine, first: JobId(4), at: None };
    assert_eq!(found.wait, [(JobId(4), full)]);
}

#[test]
fn one_that_wants_a_gpu_for_itself_is_not_starved_by_those_that_share() {
    let shared = vec![running(90, 500, &["GPU-0"], None)];
    let ready = vec![job(1, (1, 0), None), job(2, (1, 100), None), job(3, (0, 0), None)];
    let found = plan(&snapshot(machine(8, 1), shared, ready.clone()));
    assert_eq!(starts(&found), ["3: "], "the GPU is kept, and no core");
    // One that ends in time fills the gap.
    let shared = vec![running(90, 500, &["GPU-0"], Some(600))];
    let brief = [ready, vec![job(4, (1, 100), Some(600)), job(5, (1, 500), Some(500))]].concat();
    let found = plan(&snapshot(machine(8, 1), shared, brief));
    assert_eq!(starts(&found), ["3: ", "4: GPU-0"], "the last one has too little room beside it");
}

#[test]
fn drained_and_reserved_gpus_are_for_nobody_and_for_some() {
    let mut machine = machine(8, 4);
    machine.gpus[0].standing = Standing::Drained;
    machine.gpus[1].standing = Standing::Queue("night".into());
    machine.gpus[2].standing = Standing::User(Uid(2));
    let night = Ready { queue: "night".into(), ..job(2, (2, 0), None) };
    let theirs = Ready { user: Uid(2), ..job(3, (1, 0), None) };
    let ready = vec![job(1, (2, 0), None), night, theirs, job(4, (1, 0), None)];
    let found = plan(&snapshot(machine.clone(), Vec::new(), ready));
    assert_eq!(starts(&found), ["2: GPU-1, GPU-3", "3: GPU-2"]);
    let full = Obstacle::Full { of: Shared::Machine, first: JobId(4), at: None };
    assert_eq!(found.wait, [(JobId(1), Obstacle::TooLarge(Shared::Machine)), (JobId(4), full)]);
    // Who has one that is drained keeps it, and nobody gets it when he is done.
    machine.gpus.truncate(1);
    let found = plan(&snapshot(machine, vec![running(90, 0, &["GPU-0"], Some(5))], vec![job(1, (1, 0), None)]));
    assert_eq!(found.wait, [(JobId(1), Obstacle::TooLarge(Shared::Machine))]);
}

#[test]
fn gpus_that_others_use_are_left_to_them() {
    let mut machine = machine(8, 2);
    machine.gpus[0].foreign = Foreign { memory_mib: 700, processes: 1, is_busy: true };
    let ready = vec![job(1, (1, 0), None), job(2, (1, 0), None), job(3, (1, 300), None), job(4, (0, 0), None)];
    let found = plan(&snapshot(machine.clone(), Vec::new(), ready));
    assert_eq!(starts(&found), ["1: GPU-1", "3: GPU-0", "4: "]);
    assert!(matches!(found.wait[..], [(JobId(2), Obstacle::Full { at: None, .. })]), "{:?}", found.wait);
    // It is not known when they are done, and until then nobody is kept from what is left.
    let found = plan(&snapshot(machine, Vec::new(), vec![job(1, (2, 0), None), job(2, (1, 300), None)]));
    assert_eq!(starts(&found), ["2: GPU-0"]);
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let vram = || prop::sample::select(vec![0, 0, 250, 400, 600]);
    let standing = prop::sample::select(vec![
        Standing::Open,
        Standing::Open,
        Standing::Open,
        Standing::Drained,
        Standing::Queue("night".into()),
        Standing::User(Uid(2)),
    ]);
    let foreign = prop::sample::select(vec![(0, false), (0, false), (100, false), (500, true)]);
    let gpus = prop::collection::vec((standing, foreign), 0..5);
    let limit = || prop::option::of(1_u32..100);
    let who = || (any::<bool>(), 1_u32..3);
    let drawn = || ((1_u32..4, 0_u32..3, vram(), 0_u32..4), limit(), who());
    (gpus, 2_u32..8, prop::collection::vec(drawn(), 0..6), prop::collection::vec(drawn(), 1..12)).prop_map(
        |(gpus, cpus, at_work, waiting)| {
            let mut machine = machine(cpus, u32::try_from(gpus.len()).unwrap());
            let (mut free, mut runs) = (machine.whole(), Vec::new());
            let needs = |(cpus, gpus, vram, memory): (u32, u32, u32, u32)| Resources {
                cpus,
                gpus,
                vram_mib: if gpus > 0 { vram } else { 0 },
                memory_mib: memory * 100,
            };
            let queue = |night: bool| if night { "night" } else { "default" };
            for (id, (has, limit, (night, user))) in (900..).zip(at_work) {
                let has = needs(has);
                let Some(places) = free.place(&machine, &has, |_| true) else { continue };
                free.take(&machine.share_at(&has, places.iter().copied()));
                let gpus = places.iter().map(|place| machine.gpus[*place].uuid.clone()).collect();
                let (queue, user, ends_by) = (queue(night).into(), Uid(user), limit.map(|limit| at(limit.into())));
                runs.push(Running { id: JobId(id), queue, user, has, gpus, started_at: at(-9), ends_by });
            }
            for (gpu, (standing, (memory_mib, is_busy))) in machine.gpus.iter_mut().zip(gpus) {
                (gpu.standing, gpu.foreign) = (standing, Foreign { memory_mib, processes: is_busy.into(), is_busy });
            }
            let ready = (1..).zip(waiting).map(|(id, (wants, limit_seconds, (night, user)))| Ready {
                queue: queue(night).into(),
                user: Uid(user),
                needs: needs(wants),
                ..job(id, (0, 0), limit_seconds)
            });
            let ready = ready.collect();
            let (queues, setbacks) = (BTreeMap::new(), BTreeMap::new());
            Snapshot { now: at(0), machine, free, running: runs, vacated: BTreeSet::new(), ready, queues, setbacks }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nobody_has_what_is_not_there_or_not_his_and_the_first_is_not_delayed(snapshot in any_snapshot()) {
        let found = plan(&snapshot);
        let machine = &snapshot.machine;
        let mut left: Free = snapshot.free.clone();
        for Start { job, gpus } in &found.start {
            let job = snapshot.ready.iter().find(|ready| ready.id == *job).unwrap();
            prop_assert_eq!(gpus.len(), job.needs.gpus as usize);
            let share = machine.share(&job.needs, gpus);
            prop_assert!(share.cpus <= left.cpus && share.memory_mib <= left.memory_mib);
            for (place, _) in &share.vram_mib {
                let (gpu, free) = (&machine.gpus[*place], left.vram_mib[*place]);
                prop_assert!(gpu.standing.admits(&job.queue, job.user), "{:?} is not for job {}", gpu, job.id);
                if job.needs.vram_mib == 0 {
                    prop_assert!(!gpu.foreign.is_busy && free == i64::from(gpu.memory_mib), "job {} is not alone on {:?}", job.id, gpu);
                } else {
                    prop_assert!(i64::from(job.needs.vram_mib + gpu.foreign.memory_mib) <= free, "{:?} is full", gpu);
                }
            }
            left.take(&share);
        }

        // Without those behind it, the first that waits for the machine would start no earlier.
        if let Some(head) = found.head {
            let place = snapshot.ready.iter().position(|job| job.id == head).unwrap();
            let alone = Snapshot { ready: snapshot.ready[..=place].to_vec(), ..snapshot.clone() };
            let (with, without) = (Outlook::new(snapshot.clone()).latest_starts(), Outlook::new(alone).latest_starts());
            if let Some(without) = without.get(&head) {
                // Where it waited for GPUs alone and nobody knew until when, cores were not kept for it.
                let promised = found.wait.iter().any(|(id, obstacle)| *id == head && matches!(obstacle, Obstacle::Full { at: Some(_), .. }));
                prop_assert!(!promised || with.get(&head).is_some_and(|with| with <= without), "job {} is delayed", head);
            }
        }
    }
}
