//! Tables of jobs and what is said of them.

use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken,
    result::CheckpointRef,
    spec::{Concurrency, Resources, RetryPolicy, Wins},
};

use super::*;
use crate::{
    domain::{
        Exit, Fence, Gate, Hold, Intent,
        dependency::Need,
        queue::{Flow, Order, Queue, QueueLimits},
    },
    scheduler::Snapshot,
    store::{Ready, Running},
};

const NOW: i64 = 1_790_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// One of so many cores, 64 GiB of memory and no GPU.
fn machine(cpus: u32) -> Machine {
    Machine { cpus, memory_mib: 65_536, gpus: Vec::new() }
}

/// Two cores, taken by jobs 3 and 4.
fn scene() -> Scene {
    Scene {
        now: at(0),
        names: Names::new([(7, "ann".to_owned())].into()),
        machine: machine(2),
        free: Free::default(),
        occupants: vec![JobId(3), JobId(4)],
        through: Vec::new(),
        awaited: BTreeMap::new(),
        standing: Standing::default(),
        outlook: None,
        grace_seconds: 20,
        is_full: false,
    }
}

fn idle() -> Scene {
    Scene { free: machine(2).whole(), occupants: Vec::new(), ..scene() }
}

fn detail(state: JobState) -> JobDetail {
    let job = Job {
        id: JobId(5),
        name: "x".into(),
        kind: "train".into(),
        user: Uid(7),
        queue: "default".into(),
        priority: 50,
        labels: Default::default(),
        resources: Resources { cpus: 1, ..Resources::NONE },
        retry: RetryPolicy::default(),
        preemptible: false,
        deadline: None,
        time_limit_seconds: None,
        spec_digest: "d".into(),
        array: None,
        gate: None,
        waits: None,
        stopped_early: None,
        replaced_by: None,
        submitted_at: at(-100),
        state,
        attempt: 0,
        retries_used: 0,
        infrastructure_retries_used: 0,
        fruitless: 0,
        gpus: Vec::new(),
        started_at: None,
        finished_at: None,
        exit: None,
        checkpoint: None,
        model: None,
        output: None,
        conclusion: None,
    };
    JobDetail { job, attempt: None, metrics: Default::default(), is_gated: false }
}

fn replaced(mut detail: JobDetail) -> JobDetail {
    let policy = Concurrency { key: "prod".into(), limit: 1, wins: Wins::Newest };
    detail.job.gate = Some(Gate::chosen(&policy));
    detail.job.replaced_by = Some(JobId(8));
    detail
}

fn queued() -> JobDetail {
    detail(JobState::Queued { not_before: None })
}

fn exit(class: ExitClass) -> Option<Exit> {
    Some(Exit { class, message: Some("it was killed by signal 9\nmore".into()), hint: None })
}

/// Ended badly `used` times.
fn retried(state: JobState, used: u32, class: ExitClass) -> JobDetail {
    let mut detail = detail(state);
    detail.job.attempt = used + 1;
    detail.job.retries_used = used;
    detail.job.exit = exit(class);
    detail
}

fn running(intent: Option<Intent>, attempt: u32) -> JobDetail {
    let mut detail = detail(JobState::Running { token: FencingToken(1), intent });
    detail.job.attempt = attempt;
    detail.attempt = Some(Attempt {
        fence: Fence { job: JobId(5), attempt: AttemptNumber(attempt), token: FencingToken(1) },
        started_at: at(-50),
        ended_at: None,
        exit: None,
        process: None,
        secret_hash: [0; 32],
        device: None,
        progress: Progress::default(),
        heartbeat_at: None,
        lease_until: at(600),
        peak_rss_bytes: None,
        last_seq: 0,
        result: None,
        used: None,
    });
    detail
}

fn heard(mut detail: JobDetail, seconds_ago: i64) -> JobDetail {
    let attempt = detail.attempt.as_mut().unwrap();
    attempt.heartbeat_at = Some(at(-seconds_ago));
    attempt.device = Some("cpu".into());
    detail
}

fn needs(mut detail: JobDetail, cpus: u32, gpus: u32) -> JobDetail {
    detail.job.resources = Resources { cpus, gpus, ..Resources::NONE };
    detail
}

/// Says `line`, and what to do.
fn check(detail: &JobDetail, scene: &Scene, line: &str) {
    assert_eq!(reason::of(detail, Planned::default(), scene).as_deref(), Some(line), "{:?}", detail.job.state);
    let (why, hint) = reason::why(detail, Planned::default(), scene);
    assert_eq!(why, line);
    assert!(hint.is_some_and(|hint| hint.contains('`') || detail.job.state == JobState::Failed), "{line}");
}

/// With what the scheduler would make of these jobs, of so many cores.
fn in_line(scene: Scene, jobs: &[(u64, u32)]) -> Scene {
    with_queues(scene, jobs, Vec::new(), Vec::new())
}

fn with_queues(scene: Scene, jobs: &[(u64, u32)], running: Vec<Running>, queues: Vec<Queue>) -> Scene {
    let ready = jobs.iter().map(|(id, cpus)| Ready {
        id: JobId(*id),
        kind: "train".into(),
        queue: "default".into(),
        user: Uid(7),
        priority: 50,
        rank: 0,
        needs: Resources { cpus: *cpus, ..Resources::NONE },
        limit_seconds: None,
    });
    let (machine, free) = (scene.machine.clone(), scene.free.clone());
    let queues = queues.into_iter().map(|queue| (queue.name.clone(), queue)).collect();
    let snapshot = Snapshot {
        now: at(0),
        machine,
        free,
        running,
        vacated: Default::default(),
        ready: ready.collect(),
        queues,
        setbacks: Default::default(),
    };
    Scene { outlook: Some(Box::new(Outlook::new(snapshot))), ..scene }
}

#[test]
fn a_job_that_waits_for_its_queue_says_so() {
    let default = || Queue::open("default");
    let limited = |limits| Queue { limits, ..default() };
    let none = QueueLimits::default();
    let runs = |id, ends_in: Option<i64>| Running {
        id: JobId(id),
        queue: "default".into(),
        user: Uid(7),
        has: Resources { cpus: 1, ..Resources::NONE },
        gpus: Vec::new(),
        started_at: at(-100),
        ends_by: ends_in.map(at),
    };
    let one = QueueLimits { running: Some(1), ..none };
    let one_running = |limits, ends_in, jobs: &[(u64, u32)]| {
        let free = Free { cpus: 1, ..machine(2).whole() };
        with_queues(Scene { free, ..idle() }, jobs, vec![runs(3, ends_in)], vec![limited(limits)])
    };
    let strict = Queue { order: Order::Strict, ..default() };
    let paused = Queue { flow: Flow::Paused, ..default() };
    let mine: &[(u64, u32)] = &[(5, 1)];
    let cases = [
        (one_running(one, None, mine), "queue default runs 1 job at once, now job 3"),
        (
            one_running(one, Some(7200), mine),
            "queue default runs 1 job at once, now job 3; it starts in 2 h at the latest",
        ),
        (one_running(one, None, &[(2, 1), (5, 1)]), "queue default runs 1 job at once, now job 3; job 2 is before it"),
        (
            one_running(QueueLimits { per_user: Some(1), ..none }, None, mine),
            "queue default runs 1 job of a user at once, now job 3",
        ),
        (
            one_running(QueueLimits { cpus: Some(1), gpus: Some(2), ..none }, None, mine),
            "queue default gives its jobs 1 core and 2 GPUs at once, now job 3",
        ),
        (
            one_running(QueueLimits { running: Some(1), cpus: Some(4), ..none }, None, mine),
            "queue default runs 1 job at once, with 4 cores, now job 3",
        ),
        (
            one_running(QueueLimits { cpus: Some(0), ..none }, None, mine),
            "needs 1 core, and queue default gives its jobs 0 cores at once",
        ),
        (with_queues(idle(), mine, Vec::new(), vec![paused.clone()]), "queue default is paused"),
        (with_queues(idle(), &[(2, 1)], Vec::new(), vec![paused]), "queue default is paused"),
        (
            with_queues(scene(), &[(2, 1), (5, 1)], Vec::new(), vec![strict]),
            "waits its turn: job 2 is before it, and queue default is strict",
        ),
        (
            one_running(none, Some(7200), &[(2, 2), (5, 1)]),
            "there is room for it, but it would delay job 2, which starts in 2 h at the latest",
        ),
    ];
    for (scene, line) in cases {
        check(&queued(), &scene, line);
    }
    let (_, hint) = reason::why(&queued(), Planned::default(), &one_running(none, Some(7200), &[(2, 2), (5, 1)]));
    assert_eq!(hint.unwrap(), "with a time limit of less than 2 h it could start now: `mlctl edit 5 --time`");
}

#[test]
fn a_job_that_waits_says_for_what() {
    let later = |seconds| JobState::Queued { not_before: Some(at(seconds)) };
    let one_free = Scene { free: Free { cpus: 1, ..machine(2).whole() }, occupants: vec![JobId(3)], ..scene() };
    let cases = [
        (queued(), idle(), "is about to start"),
        (queued(), scene(), "waits for 1 core: 2 of 2 in use by jobs 3, 4"),
        (queued(), in_line(scene(), &[(5, 1)]), "waits for 1 core: 2 of 2 in use by jobs 3, 4"),
        (
            queued(),
            in_line(scene(), &[(2, 1), (5, 1)]),
            "waits for 1 core: 2 of 2 in use by jobs 3, 4; job 2 is before it",
        ),
        (
            queued(),
            in_line(one_free.clone(), &[(2, 2), (5, 1)]),
            "there is room for it, but it would delay job 2, which needs 2 cores",
        ),
        (queued(), in_line(idle(), &[(2, 1), (5, 1)]), "is about to start, after job 2"),
        (queued(), in_line(idle(), &[(2, 1), (3, 1), (5, 1)]), "waits for what jobs before it are about to have"),
        (queued(), in_line(scene(), &[(2, 1), (3, 1)]), "waits its turn: job 2, which needs the same, is before it"),
        (needs(queued(), 2, 0), one_free, "waits for 2 cores: 1 of 2 in use by job 3"),
        (needs(queued(), 4, 1), idle(), "needs 4 cores and 1 GPU, and this machine gives 2 cores and no GPU to jobs"),
        (detail(later(90)), idle(), "starts in 90 s, not before 2026-09-21 14:14:50 UTC"),
        (
            retried(later(12), 2, ExitClass::Crash),
            scene(),
            "retry 2 of 3 in 12 s after crash: it was killed by signal 9",
        ),
        (
            retried(JobState::Queued { not_before: None }, 1, ExitClass::Crash),
            idle(),
            "is about to start; retry 1 of 3 after crash: it was killed by signal 9",
        ),
        (
            retried(later(-5), 2, ExitClass::Hang),
            idle(),
            "is about to start; retry 2 of 3 after hang: it was killed by signal 9",
        ),
        (
            retried(JobState::Queued { not_before: None }, 0, ExitClass::Preempted),
            idle(),
            "is about to start; goes on after preempted: it was killed by signal 9",
        ),
        // A person's retry: what went before is history.
        (retried(JobState::Queued { not_before: None }, 0, ExitClass::Crash), idle(), "is about to start"),
    ];
    for (detail, scene, line) in cases {
        check(&detail, &scene, line);
    }
}

#[test]
fn a_job_that_runs_or_is_over_says_how_it_goes_or_went() {
    let mut cancelled = retried(JobState::Cancelled, 0, ExitClass::Cancelled);
    let mut waiting_cancelled = retried(JobState::Cancelled, 1, ExitClass::Crash);
    for detail in [&mut cancelled, &mut waiting_cancelled] {
        detail.job.checkpoint = Some(CheckpointRef {
            step: 40,
            epoch: 1,
            uri: "file:///c".into(),
            size_bytes: 1,
            manifest_digest: String::new(),
            metrics: Default::default(),
        });
    }
    let cases = [
        (running(None, 1), "its worker is being started"),
        (heard(running(None, 1), 2), "runs on cpu"),
        (heard(running(None, 3), 2), "runs on cpu, attempt 3"),
        (heard(running(None, 1), 240), "its worker was last heard of 4 min ago"),
        (running(Some(Intent::Stop), 1), "was asked to save its work and stop"),
        (
            running(Some(Intent::Pause(Hold { by: Uid(7), reason: Some("the demo".into()), not_before: None })), 1),
            "was asked by ann to save its work and pause: the demo",
        ),
        (running(Some(Intent::Yield { to: JobId(8) }), 1), "was asked to save its work and make way for job 8"),
        (detail(JobState::Held(Hold { by: Uid(7), reason: None, not_before: None })), "held by ann"),
        (
            detail(JobState::Held(Hold { by: Uid::SYSTEM, reason: Some("it died".into()), not_before: None })),
            "quarantined: it died",
        ),
        (
            detail(JobState::Held(Hold { by: Uid(8), reason: Some("no data".into()), not_before: None })),
            "held by 8: no data",
        ),
        (running(Some(Intent::Cancel), 1), "was asked to stop, and is killed if it has not after 20 s"),
        (
            replaced(running(Some(Intent::Cancel), 1)),
            "replaced by job 8 with the same concurrency key \"prod\": was asked to stop, and is killed if it has not after 20 s",
        ),
        (replaced(detail(JobState::Cancelled)), "replaced by job 8 with the same concurrency key \"prod\""),
        (retried(JobState::Failed, 0, ExitClass::Spec), "spec: it was killed by signal 9"),
        (retried(JobState::Failed, 3, ExitClass::Crash), "crash: it was killed by signal 9 (after 3 retries)"),
        (detail(JobState::Cancelled), "cancelled before it was started"),
        (cancelled, "cancelled in attempt 1, last checkpoint at step 40"),
        (waiting_cancelled, "cancelled while it waited, after attempt 2, last checkpoint at step 40"),
    ];
    for (detail, line) in cases {
        check(&detail, &scene(), line);
    }
    let succeeded = detail(JobState::Succeeded);
    assert_eq!(reason::of(&succeeded, Planned::default(), &scene()), None);
    assert_eq!(
        reason::why(&succeeded, Planned::default(), &scene()),
        ("succeeded: there is nothing to wait for".into(), None)
    );
}

#[test]
fn many_jobs_are_counted_and_long_messages_cut() {
    let crowd = Scene { occupants: (1..=12).map(JobId).collect(), ..scene() };
    assert_eq!(
        reason::of(&queued(), Planned::default(), &crowd).unwrap(),
        "waits for 1 core: 2 of 2 in use by jobs 1, 2, 3, 4, 5 and 7 more"
    );
    let mut failed = retried(JobState::Failed, 1, ExitClass::Crash);
    failed.job.exit.as_mut().unwrap().message = Some("ü".repeat(500));
    assert_eq!(
        reason::of(&failed, Planned::default(), &scene()).unwrap(),
        format!("crash: {}… (after 1 retry)", "ü".repeat(200))
    );
}

#[test]
fn spans() {
    let cases = [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ];
    for (seconds, text) in cases {
        assert_eq!(reason::span(seconds), text);
    }
}

#[test]
fn the_time_left() {
    let progress = |step, steps, rate| Progress { step, steps, rows_per_second: rate, ..Progress::default() };
    let records = |records, total, rate| Progress { records, total, rows_per_second: rate, ..Progress::default() };
    let cases = [
        (progress(Some(10), Some(100), Some(64.0)), Some(32), Some(45)),
        (progress(Some(100), Some(100), Some(64.0)), Some(32), Some(0)),
        (progress(Some(101), Some(100), Some(64.0)), Some(32), Some(0)),
        (progress(Some(10), Some(100), Some(64.0)), None, None),
        (progress(Some(10), Some(100), None), Some(32), None),
        (progress(Some(10), Some(100), Some(0.0)), Some(32), None),
        (progress(Some(10), Some(100), Some(f64::NAN)), Some(32), None),
        (progress(Some(10), None, Some(64.0)), Some(32), None),
        (progress(Some(0), Some(u64::MAX), Some(0.001)), Some(u64::MAX), None),
        (records(Some(25), Some(100), Some(10.0)), None, Some(8)),
        (records(None, Some(100), Some(10.0)), None, None),
    ];
    for (progress, rows, seconds) in cases {
        assert_eq!(eta(&progress, rows), seconds, "{progress:?} {rows:?}");
    }
}

#[test]
fn only_a_running_job_has_time_left_and_users_without_a_name_are_numbers() {
    let mut detail = heard(running(None, 1), 1);
    detail.attempt.as_mut().unwrap().progress =
        Progress { step: Some(1), steps: Some(3), rows_per_second: Some(8.0), ..Progress::default() };
    let view = job(&detail, Planned { rows_per_step: Some(8), time_limit_seconds: None }, &scene());
    assert_eq!((view.eta_seconds, view.user.as_str(), view.attempt), (Some(2), "ann", Some(1)));
    detail.job.state = JobState::Failed;
    detail.job.user = Uid(8);
    let view = job(&detail, Planned { rows_per_step: Some(8), time_limit_seconds: None }, &scene());
    assert_eq!((view.eta_seconds, view.user.as_str()), (None, "8"));
    assert_eq!(job(&queued(), Planned::default(), &scene()).attempt, None);
}

#[test]
fn a_time_limit_is_told_while_it_runs_and_when_it_has_ended_the_job() {
    let limited = Planned { time_limit_seconds: Some(600), rows_per_step: None };
    let mut runs = heard(running(None, 1), 2);
    for (started, left) in [(-60, "9 min"), (-500, "100 s"), (-700, "0 s"), (60, "10 min")] {
        runs.job.started_at = Some(at(started));
        let expected = format!("runs on cpu; {left} left of its time limit of 10 min");
        assert_eq!(reason::of(&runs, limited, &scene()), Some(expected));
    }
    assert_eq!(job(&runs, limited, &scene()).time_limit_seconds, Some(600));

    let mut over = retried(JobState::Failed, 0, ExitClass::Timeout);
    let hint = |detail: &JobDetail| reason::why(detail, limited, &scene()).1.unwrap();
    assert_eq!(hint(&over), "`mlctl retry 5` begins again, for as long again");
    over.job.checkpoint = Some(CheckpointRef {
        step: 40,
        epoch: 1,
        uri: "file:///c".into(),
        size_bytes: 1,
        manifest_digest: String::new(),
        metrics: Default::default(),
    });
    assert_eq!(hint(&over), "`mlctl retry 5` goes on from step 40, for as long again");
}

#[test]
fn what_a_blocked_job_waits_for_is_named_up_to_a_few() {
    let blocked = detail(JobState::Blocked { not_before: Some(at(60)) });
    let awaited = |on| {
        let (need, state) = (Need::NotOk, Some("running".to_owned()));
        Awaited { on: JobId(on), need, is_array: on == 2, state, is_open: true, is_waived: false }
    };
    let scene = |count| Scene { awaited: [(JobId(5), (1..=count).map(awaited).collect())].into(), ..idle() };
    let reason = |scene| reason::of(&blocked, Planned::default(), &scene).unwrap();
    let begin = "; starts in 60 s at the earliest";
    assert_eq!(reason(scene(2)), format!("waits for job 1 (running) to fail, array 2 (running) to fail{begin}"));
    assert!(reason(scene(7)).ends_with(&format!("job 5 (running) to fail and 2 more{begin}")));
    assert_eq!(reason(idle()), format!("waits for other jobs{begin}"));
}
