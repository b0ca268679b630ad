//! The plan in tables, and by property against rules that are computed in another way.

use std::collections::{BTreeMap, BTreeSet};

use mlctl_protocol::spec::Resources;
use proptest::prelude::*;

use super::*;
use crate::domain::{
    machine::{Foreign, Gpu, Standing},
    queue::QueueLimits,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

/// A machine of so many cores, and GPUs of 1000 MiB.
pub(in crate::scheduler) fn machine(cpus: u32, gpus: u32) -> Machine {
    let gpu = |index: u32| Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: "a".into(),
        memory_mib: 1000,
        standing: Standing::Open,
        foreign: Foreign::default(),
    };
    Machine { cpus, memory_mib: 1000, gpus: (0..gpus).map(gpu).collect() }
}

/// What those that run leave.
pub(in crate::scheduler) fn left(machine: &Machine, running: &[Running]) -> Free {
    running.iter().fold(machine.whole(), |mut free, job| {
        free.take(&machine.share(&job.has, &job.gpus));
        free
    })
}

/// A job that needs cores and GPUs, and may run so many seconds.
fn job(id: u64, (cpus, gpus): (u32, u32), limit_seconds: Option<u32>) -> Ready {
    let (queue, user) = ("default".into(), Uid(1));
    let needs = Resources { cpus, gpus, ..Resources::NONE };
    Ready { id: JobId(id), kind: "train".into(), queue, user, priority: 50, rank: 0, needs, limit_seconds }
}

fn running(id: u64, (cpus, gpus): (u32, u32), ends_in: Option<i64>) -> Running {
    let (queue, user) = ("default".into(), Uid(1));
    let has = Resources { cpus, gpus, ..Resources::NONE };
    let gpus = (0..gpus).map(|index| format!("GPU-{index}")).collect();
    Running { id: JobId(id), queue, user, has, gpus, started_at: at(-100), ends_by: ends_in.map(at) }
}

/// A machine of 4 cores and 1 GPU.
fn snapshot(running: Vec<Running>, ready: Vec<Ready>, queues: Vec<Queue>) -> Snapshot {
    let machine = machine(4, 1);
    let free = left(&machine, &running);
    let queues = queues.into_iter().map(|queue| (queue.name.clone(), queue)).collect();
    Snapshot { now: at(0), machine, free, running, vacated: BTreeSet::new(), ready, queues, setbacks: BTreeMap::new() }
}

fn started(snapshot: &Snapshot) -> Vec<u64> {
    plan(snapshot).start.iter().map(|start| start.job.0).collect()
}

#[test]
fn jobs_start_in_order_until_one_does_not_fit() {
    // cores and GPUs of the jobs, and which of them start on an empty machine
    type Case<'a> = (&'a [(u32, u32)], &'a [u64]);
    let cases: [Case<'_>; 9] = [
        (&[], &[]),
        (&[(1, 0)], &[1]),
        (&[(2, 0), (2, 0)], &[1, 2]),
        (&[(2, 0), (2, 0), (1, 0)], &[1, 2]),
        // The second waits for cores, and the third would take one from it.
        (&[(3, 0), (2, 0), (1, 0)], &[1]),
        (&[(1, 1), (1, 1), (1, 0)], &[1, 3]),
        (&[(5, 0), (1, 0)], &[2]),
        (&[(1, 2), (5, 0), (4, 0), (1, 0)], &[3]),
        // Those without a GPU do not wait for one.
        (&[(1, 1), (1, 1), (1, 0), (1, 0), (1, 0)], &[1, 3, 4, 5]),
    ];
    for (jobs, start) in cases {
        let ready = (1..).zip(jobs).map(|(id, needs)| job(id, *needs, None)).collect();
        assert_eq!(started(&snapshot(Vec::new(), ready, Vec::new())), start, "{jobs:?}");
    }
}

#[test]
fn one_that_has_ended_has_nothing_of_the_machine_and_counts_in_its_queue_until_that_is_on_record() {
    let ended = |queues| {
        let snapshot = snapshot(vec![running(90, (4, 0), None)], vec![job(1, (4, 0), None)], queues);
        Snapshot { free: snapshot.machine.whole(), vacated: BTreeSet::from([JobId(90)]), ..snapshot }
    };
    assert_eq!(started(&ended(Vec::new())), [1]);
    assert_eq!(started(&Snapshot { vacated: BTreeSet::new(), ..ended(Vec::new()) }), [0; 0]);
    let limits = QueueLimits { running: Some(1), ..QueueLimits::default() };
    assert_eq!(started(&ended(vec![Queue { limits, ..Queue::open("default") }])), [0; 0]);
}

#[test]
fn gaps_are_filled_by_those_that_end_before_the_reserved_start() {
    let at_work = |ends_in| vec![running(90, (3, 0), ends_in)];
    // when the running job ends, the jobs (the first waits for 4 cores), who starts, when the first starts at the latest
    let long = job(1, (4, 0), None);
    let cases = [
        ("short enough", Some(600), vec![job(2, (1, 0), Some(600))], vec![2], Some(600)),
        ("too long", Some(600), vec![job(2, (1, 0), Some(601))], vec![], Some(600)),
        ("without end", Some(600), vec![job(2, (1, 0), None)], vec![], Some(600)),
        (
            "behind one that is too long",
            Some(600),
            vec![job(2, (1, 0), None), job(3, (1, 0), Some(60))],
            vec![3],
            Some(600),
        ),
        ("nobody knows when", None, vec![job(2, (1, 0), Some(1))], vec![], None),
        ("it should have ended", Some(-5), vec![job(2, (1, 0), Some(1))], vec![], Some(0)),
    ];
    for (what, ends_in, behind, start, starts_in) in cases {
        let ready = [long.clone()].into_iter().chain(behind).collect();
        let snapshot = snapshot(at_work(ends_in), ready, Vec::new());
        let plan = plan(&snapshot);
        assert_eq!(plan.start.iter().map(|start| start.job.0).collect::<Vec<_>>(), start, "{what}");
        let full = Obstacle::Full { of: Shared::Machine, first: JobId(1), at: starts_in.map(at) };
        assert_eq!((plan.head, plan.wait[0]), (Some(JobId(1)), (JobId(1), full)), "{what}");
    }
    // What is left beside the reserved one may be had for ever.
    let ready = vec![job(1, (3, 0), None), job(2, (1, 0), None), job(3, (1, 0), None)];
    assert_eq!(started(&snapshot(vec![running(90, (2, 0), Some(60))], ready, Vec::new())), [2]);
}

#[test]
fn a_queue_has_what_it_may_and_no_more() {
    let queue = |limits, order| Queue { limits, order, ..Queue::open("default") };
    let limits = QueueLimits::default();
    let ones = |ids: &[u64]| ids.iter().map(|id| job(*id, (1, 0), None)).collect::<Vec<_>>();
    let other = |id| Ready { queue: "other".into(), ..job(id, (1, 0), None) };
    let two = QueueLimits { running: Some(2), ..limits };
    assert_eq!(started(&snapshot(vec![], ones(&[1, 2, 3]), vec![queue(two, Order::BestEffort)])), [1, 2]);
    let mixed = [ones(&[1, 2, 3]), vec![other(4)]].concat();
    assert_eq!(started(&snapshot(vec![], mixed.clone(), vec![queue(two, Order::BestEffort)])), [1, 2, 4]);
    assert_eq!(started(&snapshot(vec![], mixed, vec![queue(two, Order::Strict)])), [1, 2, 4]);
    let busy = snapshot(vec![running(90, (1, 0), None)], ones(&[1, 2]), vec![queue(two, Order::Strict)]);
    assert_eq!(started(&busy), [1]);
    // Its jobs too need room for the largest of them: within the queue, nobody slips past either.
    let cores = QueueLimits { cpus: Some(2), ..limits };
    let large = vec![job(1, (2, 0), None), job(2, (1, 0), None), other(3)];
    let busy = snapshot(vec![running(90, (1, 0), None)], large, vec![queue(cores, Order::BestEffort)]);
    assert_eq!(started(&busy), [3]);
    // One user's jobs keep nobody else waiting, strict or not.
    let each = QueueLimits { per_user: Some(1), ..limits };
    let theirs = Ready { user: Uid(2), ..job(3, (1, 0), None) };
    let ready = [ones(&[1, 2]), vec![theirs]].concat();
    assert_eq!(started(&snapshot(vec![], ready, vec![queue(each, Order::Strict)])), [1, 3]);
    // Paused: nothing. Draining: all that is there.
    let with = |flow| vec![Queue { flow, ..Queue::open("default") }];
    let paused = snapshot(vec![], [ones(&[1]), vec![other(2)]].concat(), with(Flow::Paused));
    assert_eq!(
        plan(&paused),
        Plan {
            start: vec![Start { job: JobId(2), gpus: Vec::new() }],
            wait: vec![(JobId(1), Obstacle::Paused)],
            head: None
        }
    );
    assert_eq!(started(&snapshot(vec![], ones(&[1]), with(Flow::Draining))), [1]);
}

#[test]
fn a_strict_queue_fills_no_gaps() {
    let strict = Queue { order: Order::Strict, ..Queue::open("default") };
    let ready = vec![job(1, (4, 0), None), job(2, (1, 0), Some(1))];
    let snapshot = snapshot(vec![running(90, (3, 0), Some(600))], ready, vec![strict]);
    assert_eq!(plan(&snapshot).wait[1], (JobId(2), Obstacle::Behind(JobId(1))));
}

#[test]
fn who_waits_for_the_machine_keeps_its_place_in_its_queue() {
    // One at a time; the first waits for the GPU, and nobody takes its place for longer than that.
    let one = Queue { limits: QueueLimits { running: Some(1), ..QueueLimits::default() }, ..Queue::open("default") };
    let elsewhere = Running { queue: "other".into(), ..running(90, (1, 1), Some(600)) };
    let ready = |limit| vec![job(1, (1, 1), None), job(2, (1, 0), limit)];
    assert_eq!(started(&snapshot(vec![elsewhere.clone()], ready(None), vec![one.clone()])), Vec::<u64>::new());
    assert_eq!(started(&snapshot(vec![elsewhere], ready(Some(600)), vec![one])), [2]);
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let limit = || prop::option::of(1_u32..100);
    let names = || prop::sample::select(vec!["a", "b", "c"]);
    let at_work = prop::collection::vec((1_u32..4, 0_u32..2, prop::option::of(-10_i64..100), names(), 0_u32..2), 0..6);
    let waiting = prop::collection::vec((1_u32..7, 0_u32..3, limit(), names(), 0_u32..2), 0..16);
    let limits = || (limit(), limit(), prop::option::of(0_u32..3), limit());
    let flow = prop::sample::select(vec![Flow::Open, Flow::Open, Flow::Paused, Flow::Draining]);
    let queue = (limits(), any::<bool>(), flow);
    (at_work, waiting, prop::collection::vec(queue, 0..3), (4_u32..9, 0_u32..3)).prop_map(
        |(at_work, waiting, queues, (cpus, gpus))| {
            let machine = machine(cpus, gpus);
            let mut free = machine.whole();
            let mut running = Vec::new();
            for (id, (cpus, gpus, ends_in, queue, user)) in (900..).zip(at_work) {
                let has = Resources { cpus, gpus, ..Resources::NONE };
                if let Some(places) = free.place(&machine, &has, |_| true) {
                    free.take(&machine.share_at(&has, places.iter().copied()));
                    running.push(Running {
                        id: JobId(id),
                        queue: queue.into(),
                        user: Uid(user),
                        has,
                        gpus: places.iter().map(|place| machine.gpus[*place].uuid.clone()).collect(),
                        started_at: at(-100),
                        ends_by: ends_in.map(at),
                    });
                }
            }
            let ready = (1..).zip(waiting).map(|(id, (cpus, gpus, limit, queue, user))| Ready {
                queue: queue.into(),
                user: Uid(user),
                ..job(id, (cpus, gpus), limit)
            });
            let queues =
                ["a", "b", "c"].into_iter().zip(queues).map(|(name, ((jobs, cpus, gpus, users), strict, flow))| {
                    let few = |limit: Option<u32>| limit.map(|limit| 1 + limit % 5);
                    let limits = QueueLimits { running: few(jobs), cpus: few(cpus), gpus, per_user: few(users) };
                    let order = if strict { Order::Strict } else { Order::BestEffort };
                    (name.to_owned(), Queue { name: name.into(), limits, order, flow })
                });
            let queues = queues.collect();
            Snapshot {
                now: at(0),
                machine,
                free,
                running,
                vacated: BTreeSet::new(),
                ready: ready.collect(),
                queues,
                setbacks: BTreeMap::new(),
            }
        },
    )
}

fn count(jobs: usize) -> u32 {
    u32::try_from(jobs).unwrap()
}

/// Cores, GPUs and, by their limits, ends of those that occupy something.
type Occupied = Vec<(u32, u32, Option<Timestamp>)>;

/// When so much of the machine is free by the limits of those that occupy it: looked for moment by moment.
fn opens_at((cpus, gpus): (u32, u32), machine: &Machine, occupied: &Occupied) -> Option<Timestamp> {
    let fits = |moment: Timestamp| {
        let there = occupied.iter().filter(|(.., end)| end.is_none_or(|end| end > moment));
        let (used_cpus, used_gpus) = there.fold((0, 0), |(c, g), (cpus, gpus, _)| (c + cpus, g + gpus));
        used_cpus + cpus <= machine.cpus && used_gpus + gpus <= machine.totals().gpus
    };
    let ends = occupied.iter().filter_map(|(.., end)| *end).filter(|end| *end >= at(0));
    let mut moments: Vec<Timestamp> = ends.chain([at(0)]).collect();
    moments.sort_unstable();
    moments.into_iter().find(|moment| fits(*moment))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_overfilled_nobody_forgotten_and_the_reserved_one_not_delayed(snapshot in any_snapshot()) {
        let plan = plan(&snapshot);
        let (start, wait): (Vec<JobId>, BTreeMap<JobId, Obstacle>) = (plan.start.iter().map(|start| start.job).collect(), plan.wait.iter().copied().collect());
        let chosen: Vec<&Ready> = snapshot.ready.iter().filter(|job| start.contains(&job.id)).collect();
        prop_assert_eq!(chosen.iter().map(|job| job.id).collect::<Vec<_>>(), start.clone(), "in order");
        prop_assert_eq!(chosen.len() + wait.len(), snapshot.ready.len(), "each is started or waits");

        let mut free = snapshot.free.clone();
        for (job, start) in chosen.iter().zip(&plan.start) {
            let share = snapshot.machine.share(&job.needs, &start.gpus);
            prop_assert!(share.cpus <= free.cpus && share.vram_mib.len() == job.needs.gpus as usize);
            prop_assert!(share.vram_mib.iter().all(|(place, mib)| i64::from(*mib) <= free.vram_mib[*place]), "{:?}", start);
            free.take(&share);
        }
        for Queue { name, limits, flow, order } in snapshot.queues.values() {
            let new: Vec<&&Ready> = chosen.iter().filter(|job| job.queue == *name).collect();
            let old: Vec<&Running> = snapshot.running.iter().filter(|job| job.queue == *name).collect();
            prop_assert!(*flow != Flow::Paused || new.is_empty());
            // What ran already may be more than a limit that was lowered since.
            let within = |limit: Option<u32>, old: u32, new: u32| new == 0 || limit.is_none_or(|limit| old + new <= limit);
            prop_assert!(within(limits.running, count(old.len()), count(new.len())));
            prop_assert!(within(limits.cpus, old.iter().map(|job| job.has.cpus).sum(), new.iter().map(|job| job.needs.cpus).sum()));
            prop_assert!(within(limits.gpus, old.iter().map(|job| job.has.gpus).sum(), new.iter().map(|job| job.needs.gpus).sum()));
            for user in [Uid(0), Uid(1)] {
                let of_old = count(old.iter().filter(|job| job.user == user).count());
                prop_assert!(within(limits.per_user, of_old, count(new.iter().filter(|job| job.user == user).count())));
            }
            if *order == Order::Strict {
                let holds = |obstacle: &Obstacle| !matches!(obstacle, Obstacle::TooLarge(_) | Obstacle::Paused | Obstacle::Full { of: Shared::User, .. } | Obstacle::Kept { of: Shared::User, .. });
                let mut of_it = snapshot.ready.iter().filter(|job| job.queue == *name);
                let first = of_it.position(|job| wait.get(&job.id).is_some_and(holds));
                prop_assert!(first.is_none() || of_it.all(|job| !start.contains(&job.id)), "nobody slips past in a strict queue");
            }
        }

        if let Some(head) = plan.head {
            let place = snapshot.ready.iter().position(|job| job.id == head).unwrap();
            let needs = (snapshot.ready[place].needs.cpus, snapshot.ready[place].needs.gpus);
            let now = |job: &Running| (job.has.cpus, job.has.gpus, job.ends_by.map(|end| end.max(at(0))));
            let then = |job: &&Ready| (job.needs.cpus, job.needs.gpus, job.limit_seconds.map(|limit| at(limit.into())));
            let before: Occupied = snapshot.running.iter().map(now)
                .chain(snapshot.ready[..place].iter().filter(|job| start.contains(&job.id)).map(|job| then(&job))).collect();
            let after: Occupied = snapshot.running.iter().map(now).chain(chosen.iter().map(then)).collect();
            let (without, with) = (opens_at(needs, &snapshot.machine, &before), opens_at(needs, &snapshot.machine, &after));
            if let Some(without) = without {
                prop_assert!(with.is_some_and(|with| with <= without), "job {} is delayed: {:?} became {:?}", head, without, with);
            } else {
                // Whenever those in its way end: who was started behind it has nothing of what it waits for.
                let used = |of: &Occupied, what: fn(&(u32, u32, Option<Timestamp>)) -> u32| of.iter().map(what).sum::<u32>();
                let gpus = snapshot.machine.totals().gpus;
                let waits_for_gpus_alone = used(&before, |job| job.0) + needs.0 <= snapshot.machine.cpus && used(&before, |job| job.1) + needs.1 > gpus;
                let cores = (needs.0, snapshot.machine.cpus, (|job: &(u32, u32, Option<Timestamp>)| job.0) as fn(&_) -> u32);
                for (needed, whole, what) in [(needs.1, gpus, (|job: &(u32, u32, Option<Timestamp>)| job.1) as fn(&_) -> u32)].into_iter().chain((!waits_for_gpus_alone).then_some(cores)) {
                    let (before, after) = (used(&before, what), used(&after, what));
                    prop_assert!(after == before || after + needed <= whole, "job {} could be delayed", head);
                }
            }
        }

        let may = |job: &Ready| snapshot.machine.could_hold(&job.needs) && snapshot.queues.get(&job.queue).is_none_or(|queue| {
            let fits = |limit: Option<u32>, needed| limit.is_none_or(|limit| needed <= limit);
            queue.flow != Flow::Paused && fits(queue.limits.cpus, job.needs.cpus) && fits(queue.limits.gpus, job.needs.gpus)
        });
        prop_assert!(!snapshot.running.is_empty() || !snapshot.ready.iter().any(may) || !start.is_empty(), "an empty machine starts something");
    }
}
