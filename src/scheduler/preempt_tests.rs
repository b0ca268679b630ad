//! Who makes way, in a table and by property.

use mlctl_protocol::FencingToken;
use proptest::prelude::*;

use mlctl_protocol::spec::Resources;

use super::*;
use crate::domain::{Event, Intent, Uid, state};
use crate::scheduler::plan;

const LEAST: SignedDuration = SignedDuration::from_secs(60);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

/// A job of a priority that needs so many cores and GPUs.
fn waiting(id: u64, priority: u8, (cpus, gpus): (u32, u32)) -> Job {
    let event = serde_json::json!({
        "event": "submitted", "name": "one", "kind": "train", "user": 1, "queue": "default", "priority": priority, "labels": {},
        "resources": {"cpus": cpus, "gpus": gpus}, "retry": {}, "spec_digest": "0".repeat(64), "preemptible": true
    });
    let event: Event = serde_json::from_value(event).unwrap();
    state::apply(JobId(id), None, &event, at(0)).unwrap()
}

fn needs((cpus, gpus): (u32, u32)) -> Resources {
    Resources { cpus, gpus, ..Resources::NONE }
}

/// A machine of many GPUs: of job N those from 3 N on, and the last ones free.
fn machine() -> Machine {
    plan::tests::machine(100, 40)
}

/// So many cores and GPUs are free, and those that run have the rest of what they may.
fn free_of((cpus, gpus): (u32, u32), running: &[Job]) -> Free {
    let mut free = Free { cpus, vram_mib: vec![0; 40], ..machine().whole() };
    assert!(running.iter().flat_map(|job| &job.gpus).all(|uuid| machine().places(std::slice::from_ref(uuid))[0] < 36));
    (0..gpus).for_each(|gpu| free.vram_mib[36 + gpu as usize] = 1000);
    free
}

/// The first in line, as one that began to wait at the beginning.
fn first(priority: u8, (cpus, gpus): (u32, u32)) -> Ready {
    let rank = at(0).as_microsecond() - i64::from(priority) * MICROSECONDS_A_POINT;
    Ready {
        id: JobId(99),
        kind: "train".into(),
        queue: "default".into(),
        user: Uid(1),
        priority,
        rank,
        needs: needs((cpus, gpus)),
        limit_seconds: None,
    }
}

/// One that runs since a moment, and may be asked.
fn running(id: u64, priority: u8, needs: (u32, u32), since: i64) -> Job {
    let state = JobState::Running { token: FencingToken(id), intent: None };
    let gpus = (0..u64::from(needs.1)).map(|gpu| format!("GPU-{}", 3 * id + gpu)).collect();
    Job { state, started_at: Some(at(since)), attempt: 1, gpus, ..waiting(id, priority, needs) }
}

fn leaving(job: Job) -> Job {
    Job { state: JobState::Running { token: FencingToken(1), intent: Some(Intent::Yield { to: JobId(9) }) }, ..job }
}

#[test]
fn the_least_are_asked_and_nobody_in_vain() {
    let fixed = |job| Job { preemptible: false, ..job };
    let old = |job| Job { submitted_at: at(-50 * 3600), ..job };
    let low = |id, since| running(id, 10, (1, 0), since);
    // what, what the first in line needs (at priority 50), what is free, who runs, who is asked, who could be later
    type Case<'a> = (&'a str, (u32, u32), (u32, u32), Vec<Job>, &'a [u64], Option<i64>);
    let cases: Vec<Case<'_>> = vec![
        ("what is free will do", (1, 0), (1, 0), vec![low(1, 0)], &[], None),
        ("one is enough: the one that has done the least", (1, 0), (0, 0), vec![low(1, 0), low(2, 5)], &[2], None),
        ("the lowest priority first", (1, 0), (0, 0), vec![low(1, 5), running(2, 5, (1, 0), 0)], &[2], None),
        ("two are needed", (2, 0), (0, 0), vec![low(1, 0), low(2, 5)], &[2, 1], None),
        ("of equal priority nobody is asked", (1, 0), (0, 0), vec![running(1, 50, (1, 0), 0)], &[], None),
        ("nor who did not offer it", (1, 0), (0, 0), vec![fixed(low(1, 0))], &[], None),
        ("nor who would be first in line again", (1, 0), (0, 0), vec![old(low(1, 0))], &[], None),
        ("nor in vain", (3, 0), (0, 0), vec![low(1, 0), low(2, 0)], &[], None),
        ("nor beside one that leaves already", (1, 0), (0, 0), vec![low(1, 0), leaving(low(2, 0))], &[], None),
        ("what leaves counts", (2, 0), (0, 0), vec![low(1, 0), low(3, 0), leaving(low(2, 0))], &[1], None),
        ("who has just begun is left alone for a while", (1, 0), (0, 0), vec![low(1, 80)], &[], Some(140)),
        ("nor is half of it asked before that", (2, 0), (0, 0), vec![low(1, 0), low(2, 80)], &[], Some(140)),
        ("who has no GPU frees none", (1, 1), (1, 0), vec![low(1, 0), running(2, 20, (1, 1), 0)], &[2], None),
        (
            "a small one is spared where a large one is needed",
            (2, 0),
            (0, 0),
            vec![low(1, 9), running(2, 20, (2, 0), 0)],
            &[2],
            None,
        ),
    ];
    for (what, needs, free, running, victims, later) in cases {
        let free = free_of(free, &running);
        let found = way(&first(50, needs), (&machine(), &free), &running, &BTreeMap::new(), (LEAST, at(100)));
        let expected = Way { victims: victims.iter().copied().map(JobId).collect(), later: later.map(at) };
        assert_eq!(found, expected, "{what}");
    }
}

proptest! {
    #[test]
    fn who_is_asked_is_enough_needed_and_may_be_asked(
        needs in (1_u32..6, 0_u32..3),
        free in (0_u32..3, 0_u32..2),
        runs in prop::collection::vec((0_u8..100, (1_u32..4, 0_u32..2), 0_i64..120, any::<bool>(), any::<bool>()), 0..8),
    ) {
        let jobs: Vec<Job> = (1..).zip(&runs).map(|(id, (priority, needs, since, may, leaves))| {
            let job = Job { preemptible: *may, ..running(id, *priority, *needs, *since) };
            if *leaves { leaving(job) } else { job }
        }).collect();
        let head = first(50, needs);
        let mut have = free_of(free, &jobs);
        let Way { victims, later } = way(&head, (&machine(), &have), &jobs, &BTreeMap::new(), (LEAST, at(120)));
        let fits = |have: &Free| have.place(&machine(), &head.needs, |_| true).is_some();
        let of = |job: &Job| machine().share(&job.resources, &job.gpus);
        prop_assert!(victims.is_empty() || later.is_none());
        jobs.iter().filter(|job| is_leaving(job)).for_each(|job| have.give(&of(job)));
        prop_assert!(victims.is_empty() || !fits(&have), "what is free would do");
        let chosen: Vec<&Job> = jobs.iter().filter(|job| victims.contains(&job.id)).collect();
        for job in &chosen {
            prop_assert!(job.preemptible && job.priority < 50 && !is_leaving(job) && job.started_at.unwrap() <= at(60));
            have.give(&of(job));
        }
        for job in &chosen {
            let mut without = have.clone();
            without.take(&of(job));
            prop_assert!(!fits(&without), "job {} is asked in vain", job.id);
        }
        prop_assert!(victims.is_empty() || fits(&have), "all that are asked are not enough");
    }
}
