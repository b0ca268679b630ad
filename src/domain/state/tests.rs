//! The whole table of states and commands, and what must hold over any sequence of commands.

use mlctl_protocol::{
    FencingToken,
    result::{CheckpointRef, ModelRef},
    spec::{Resources, RetryPolicy},
};
use proptest::prelude::*;

use super::*;
use crate::domain::{Change, Edit, Hold, Terms, Uid, event::ProcessIdentity};

const JOB: JobId = JobId(7);
const TOKEN: FencingToken = FencingToken(70);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn fence(attempt: u32, token: FencingToken) -> Fence {
    Fence { job: JOB, attempt: AttemptNumber(attempt), token }
}

fn new(limit: u32) -> Job {
    let event = Event::Submitted {
        name: "one".into(),
        kind: "train".into(),
        user: Uid(1),
        queue: "default".into(),
        priority: 50,
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        resources: Resources { cpus: 1, ..Resources::NONE },
        retry: RetryPolicy {
            limit,
            backoff_seconds: 10,
            max_backoff_seconds: 60,
            infrastructure_limit: 2,
            ..RetryPolicy::default()
        },
        spec_digest: "0".repeat(64),
        not_before: None,
        preemptible: true,
        deadline: None,
        array: None,
        gate: None,
        after: None,
    };
    apply(JOB, None, &event, at(0)).unwrap()
}

fn checkpoint(step: u64) -> CheckpointRef {
    CheckpointRef {
        step,
        epoch: 1,
        uri: format!("file:///objects/{step}"),
        size_bytes: 10,
        manifest_digest: "0".repeat(64),
        metrics: [("train_loss".to_owned(), 0.1 + 0.2)].into(),
    }
}

fn end(class: ExitClass) -> Command {
    let model = ModelRef { uri: "file:///model".into(), digest: "0".repeat(64) };
    let exit = Exit { class, message: Some(format!("it was {class}")), hint: None };
    Command::End { exit, model: Some(model), output: None, jitter: 0.5 }
}

fn hold() -> Command {
    Command::Hold { hold: Hold { by: Uid(5), reason: Some("until the data is there".into()), not_before: None } }
}

fn pause() -> Command {
    Command::Pause { hold: Hold { by: Uid(6), reason: Some("the demo".into()), not_before: None } }
}

fn edit(priority: Option<u8>, label: Option<&str>) -> Command {
    let labels = [("team".to_owned(), label.map(str::to_owned))].into();
    let edit = Edit { priority, labels, ..Edit::default() };
    Command::Edit { by: Uid(5), edit }
}

fn launched() -> Command {
    let process = ProcessIdentity { pid: 1, start_ticks: 2, boot_id: "boot".into(), host: "here".into(), ahead: None };
    Command::Launched { process }
}

/// A job in the named state, with the last attempt (1) under [`TOKEN`] where there was one.
fn in_state(state: &str) -> Job {
    let mut job = new(2);
    if state == "queued" {
        return job;
    }
    ask(&mut job, &Command::Claim { token: TOKEN, gpus: Vec::new() });
    ask(&mut job, &Command::Checkpointed { checkpoint: checkpoint(5) });
    match state {
        "running" => {}
        "exhausted" => job.retries_used = 2,
        "held" => {
            job.retries_used = 1;
            ask(&mut job, &end(ExitClass::Crash));
            ask(&mut job, &hold());
        }
        "waiting" => {
            job.retries_used = 1;
            ask(&mut job, &end(ExitClass::Crash));
        }
        "yielding" => ask(&mut job, &Command::Yield { to: JobId(9) }),
        "pausing" => ask(&mut job, &pause()),
        "stopping" => ask(&mut job, &Command::Stop { by: Uid(1) }),
        "cancelling" => ask(&mut job, &Command::Cancel { by: Uid(1) }),
        "succeeded" => ask(&mut job, &end(ExitClass::Ok)),
        "failed" => ask(&mut job, &end(ExitClass::Spec)),
        "cancelled" => ask(&mut job, &end(ExitClass::Cancelled)),
        other => panic!("no state {other}"),
    }
    job
}

fn ask(job: &mut Job, command: &Command) {
    let fence = command.is_fenced().then_some(fence(1, TOKEN));
    for event in decide(job, fence, command, at(1)).unwrap() {
        *job = apply(JOB, Some(job.clone()), &event, at(1)).unwrap();
    }
}

/// What a command does: the event and the state after it, `nothing` when it was obeyed before, or why it is refused.
fn outcome(job: &Job, command: &Command) -> String {
    outcome_at(job, command, 2)
}

fn outcome_at(job: &Job, command: &Command, now: i64) -> String {
    let fence = command.is_fenced().then_some(fence(1, TOKEN));
    match decide(job, fence, command, at(now)) {
        Ok(events) => match events.as_slice() {
            [] => "nothing".to_owned(),
            [event] => {
                format!("{} {}", name(event), apply(JOB, Some(job.clone()), event, at(now)).unwrap().state.name())
            }
            more => panic!("{more:?}"),
        },
        Err(Refusal::Stale { .. }) => "stale".to_owned(),
        Err(Refusal::WrongState { .. }) => "wrong".to_owned(),
    }
}

const STATES: [&str; 10] =
    ["queued", "waiting", "held", "running", "exhausted", "stopping", "cancelling", "succeeded", "failed", "cancelled"];

/// A command's title, itself, and its outcome in each of [`STATES`].
type Line = (&'static str, Command, [&'static str; 10]);

/// Outcomes of what only an attempt under way may ask: with retries left, without, and once its job was asked to end.
const fn of_attempt(running: &'static str, exhausted: &'static str, leaving: &'static str) -> [&'static str; 10] {
    let stale = "stale";
    [stale, stale, stale, running, exhausted, leaving, leaving, stale, stale, stale]
}

/// Outcomes while it waits, is held, runs, is asked to stop, is asked to cancel, and when it is over, with and without success.
const fn of_person(states: [&'static str; 7]) -> [&'static str; 10] {
    let [waits, held, runs, stopping, cancelling, done, undone] = states;
    [waits, waits, held, runs, runs, stopping, cancelling, done, undone, undone]
}

fn check(table: &[Line]) {
    for (title, command, outcomes) in table {
        for (state, expected) in STATES.iter().zip(outcomes) {
            assert_eq!(&outcome(&in_state(state), command), expected, "{title} in {state}");
        }
    }
}

#[test]
fn the_table_of_all_states_and_what_attempts_ask() {
    let running = |event| of_attempt(event, event, event);
    let (requeued, failed, cancelled) = ("requeued queued", "failed failed", "cancelled cancelled");
    let mut table = vec![
        (
            "claim",
            Command::Claim { token: FencingToken(71), gpus: Vec::new() },
            ["claimed running", "wrong", "wrong", "wrong", "wrong", "wrong", "wrong", "wrong", "wrong", "wrong"],
        ),
        ("launched", launched(), running("launched running")),
        ("resumed", Command::Resumed { step: 5, skipped: Vec::new() }, running("resumed running")),
        ("checkpointed", Command::Checkpointed { checkpoint: checkpoint(6) }, running("checkpointed running")),
        ("checkpointed again", Command::Checkpointed { checkpoint: checkpoint(5) }, running("nothing")),
        ("warned", Command::Warned { message: "slow".into() }, running("warned running")),
    ];
    for class in ExitClass::ALL {
        let outcomes = match class {
            ExitClass::Ok => running("succeeded succeeded"),
            ExitClass::Spec | ExitClass::Timeout => of_attempt(failed, failed, cancelled),
            ExitClass::Cancelled => running(cancelled),
            ExitClass::Preempted => of_attempt(requeued, requeued, cancelled),
            ExitClass::Disk | ExitClass::Storage | ExitClass::Device | ExitClass::Lost => {
                of_attempt(requeued, requeued, cancelled)
            }
            ExitClass::OomHost | ExitClass::OomDevice | ExitClass::Hang | ExitClass::Crash => {
                of_attempt(requeued, failed, cancelled)
            }
        };
        table.push((class.as_str(), end(class), outcomes));
    }
    check(&table);
}

#[test]
fn the_table_of_all_states_and_what_persons_ask() {
    let (cancelled, intended, wrong, nothing) = ("cancelled cancelled", "intended running", "wrong", "nothing");
    let by = Uid(2);
    check(&[
        (
            "cancel",
            Command::Cancel { by },
            of_person([cancelled, cancelled, intended, intended, nothing, wrong, wrong]),
        ),
        ("stop", Command::Stop { by }, of_person([cancelled, cancelled, intended, nothing, nothing, wrong, wrong])),
        (
            "replace",
            Command::Replace { by: JobId(9) },
            of_person(["replaced cancelled", wrong, "replaced running", "replaced running", nothing, wrong, wrong]),
        ),
        ("pause", pause(), of_person(["held held", nothing, "pausing running", nothing, nothing, wrong, wrong])),
        (
            "yield",
            Command::Yield { to: JobId(9) },
            of_person([wrong, wrong, "yielding running", nothing, nothing, wrong, wrong]),
        ),
        ("hold", hold(), of_person(["held held", nothing, wrong, wrong, wrong, wrong, wrong])),
        ("release", Command::Release { by }, of_person([wrong, "released queued", wrong, wrong, wrong, wrong, wrong])),
        (
            "edit the priority",
            edit(Some(90), Some("vision")),
            of_person(["edited queued", "edited held", wrong, wrong, wrong, wrong, wrong]),
        ),
        (
            "edit the labels",
            edit(None, Some("audio")),
            of_person([
                "edited queued",
                "edited held",
                "edited running",
                "edited running",
                "edited running",
                wrong,
                wrong,
            ]),
        ),
        (
            "edit nothing",
            edit(Some(50), Some("vision")),
            of_person([nothing, nothing, nothing, nothing, nothing, wrong, wrong]),
        ),
        ("retry", Command::Retry { by }, of_person([wrong, wrong, wrong, wrong, wrong, wrong, "retried queued"])),
    ]);
}

#[test]
fn a_fence_must_match_in_every_part_and_holds_for_any_command() {
    let job = in_state("running");
    let others = [
        Fence { job: JobId(8), ..fence(1, TOKEN) },
        fence(2, TOKEN),
        fence(0, TOKEN),
        fence(1, FencingToken(69)),
        fence(1, FencingToken(71)),
    ];
    for stale in others {
        for command in [launched(), end(ExitClass::Ok), Command::Cancel { by: Uid(1) }] {
            let refused = Refusal::Stale { job: JOB, attempt: stale.attempt };
            assert_eq!(decide(&job, Some(stale), &command, at(2)), Err(refused), "{stale:?} {command:?}");
        }
    }
    assert_eq!(
        decide(&job, None, &end(ExitClass::Ok), at(2)),
        Err(Refusal::Stale { job: JOB, attempt: AttemptNumber(1) })
    );
    assert!(decide(&job, Some(fence(1, TOKEN)), &Command::Cancel { by: Uid(1) }, at(2)).is_ok());
}

#[test]
fn retries_wait_longer_each_time_and_a_preemption_not_at_all() {
    use ExitClass as C;
    let (mut job, mut now, mut waits) = (new(4), at(0), Vec::new());
    for class in [C::Crash, C::Preempted, C::Storage, C::OomDevice, C::Hang, C::Lost, C::Preempted] {
        for command in [Command::Claim { token: TOKEN, gpus: Vec::new() }, end(class)] {
            let fence = command.is_fenced().then(|| fence(job.attempt, TOKEN));
            let events = decide(&job, fence, &command, now).unwrap();
            job = apply(JOB, Some(job), &events[0], now).unwrap();
        }
        let JobState::Queued { not_before } = job.state else { panic!("{:?}", job.state) };
        let wait = not_before.map(|time| time.duration_since(now).as_secs());
        waits.push((wait, job.retries_used, job.infrastructure_retries_used));
        now = not_before.unwrap_or(now);
    }
    let (first, second, third) = (None, Some(10), Some(20));
    let expected =
        [(first, 1, 0), (None, 1, 0), (first, 1, 1), (second, 2, 1), (third, 3, 1), (second, 3, 2), (None, 3, 2)];
    assert_eq!(waits, expected, "the infrastructure's faults have a budget and waits of their own");
    assert_eq!((job.attempt, job.fruitless), (7, 2), "a hang and a loss in a row");
}

fn exit() -> Exit {
    Exit { class: ExitClass::Crash, message: None, hint: None }
}

/// Has an attempt made and end, with a checkpoint where it says so.
fn attempt(job: &mut Job, checkpointed: Option<u64>, class: ExitClass) {
    let now = at(1_000_000 * i64::from(job.attempt + 1));
    let mut commands = vec![Command::Claim { token: TOKEN, gpus: Vec::new() }];
    commands.extend(checkpointed.map(|step| Command::Checkpointed { checkpoint: checkpoint(step) }));
    commands.push(end(class));
    for command in commands {
        let fence = command.is_fenced().then(|| fence(job.attempt, TOKEN));
        for event in decide(job, fence, &command, now).unwrap() {
            *job = apply(JOB, Some(job.clone()), &event, now).unwrap();
        }
    }
}

#[test]
fn a_job_that_may_harm_the_machine_is_quarantined_and_a_person_lets_it_go_on() {
    let mut job = new(100);
    for (checkpointed, class, fruitless) in [
        (None, ExitClass::OomHost, 1),
        (None, ExitClass::Preempted, 1),
        (None, ExitClass::Hang, 2),
        (Some(1), ExitClass::OomHost, 1),
        (None, ExitClass::Hang, 2),
        (None, ExitClass::Crash, 0),
        (None, ExitClass::Hang, 1),
        (None, ExitClass::Lost, 2),
    ] {
        attempt(&mut job, checkpointed, class);
        assert!(matches!(job.state, JobState::Queued { .. }), "{class}: {job:?}");
        assert_eq!(job.fruitless, fruitless, "{class}");
    }
    attempt(&mut job, None, ExitClass::OomHost);
    let JobState::Held(hold) = &job.state else { panic!("{job:?}") };
    assert!(hold.is_quarantine(), "{hold:?}");
    assert_eq!(
        hold.reason.as_deref(),
        Some("it died 3 times in a row, the last time as oom_host, without a checkpoint between")
    );
    assert!(matches!(
        decide(&job, None, &Command::Claim { token: TOKEN, gpus: Vec::new() }, at(9)),
        Err(Refusal::WrongState { .. })
    ));
    let retries_used = job.retries_used;
    let mut released = job.clone();
    ask(&mut released, &Command::Release { by: Uid(1) });
    assert_eq!((&released.state, released.fruitless), (&JobState::Queued { not_before: None }, 0));
    assert_eq!((released.retries_used, released.infrastructure_retries_used), (retries_used, 0));
    ask(&mut job, &Command::Retry { by: Uid(1) });
    assert_eq!((job.state, job.retries_used, job.fruitless), (JobState::Queued { not_before: None }, 0, 0));
}

#[test]
fn faults_of_the_infrastructure_are_no_job_s_fault() {
    let mut job = new(0);
    for used in 1..=2 {
        attempt(&mut job, None, ExitClass::Storage);
        assert!(matches!(job.state, JobState::Queued { .. }), "{job:?}");
        assert_eq!((job.retries_used, job.infrastructure_retries_used), (0, used));
    }
    attempt(&mut job, None, ExitClass::Storage);
    assert!(matches!(&job.state, JobState::Held(hold) if hold.is_quarantine()), "{job:?}");
    ask(&mut job, &Command::Release { by: Uid(1) });
    attempt(&mut job, None, ExitClass::Storage);
    assert_eq!(job.infrastructure_retries_used, 1, "the budget is new");
    attempt(&mut job, None, ExitClass::Crash);
    assert_eq!(job.state, JobState::Failed, "its own retries are another matter");
}

#[test]
fn what_is_asked_of_a_running_job_only_grows_graver() {
    let by = Uid(2);
    let commands = [Command::Yield { to: JobId(9) }, pause(), Command::Stop { by }, Command::Cancel { by }];
    let names = ["yield", "pause", "stop", "cancel"];
    for (first, command) in commands.iter().enumerate() {
        for (second, other) in commands.iter().enumerate() {
            let mut job = in_state("running");
            ask(&mut job, command);
            ask(&mut job, other);
            let JobState::Running { intent: Some(intent), .. } = &job.state else { panic!("{job:?}") };
            assert_eq!(intent.name(), names[first.max(second)], "{command:?}, then {other:?}");
        }
    }
    let mut job = Job { preemptible: false, ..in_state("running") };
    let refused = decide(&job, None, &commands[0], at(2)).expect_err("nobody said that it may be asked");
    assert_eq!(refused.to_string(), "job 7 is running and cannot be made to yield: it is not preemptible");
    ask(&mut job, &pause());
    let refused = decide(&job, None, &Command::Release { by }, at(2)).expect_err("it has not saved its work yet");
    assert_eq!(refused.to_string(), "job 7 is running and cannot be released: it is still saving its work");
}

#[test]
fn a_paused_job_is_held_and_a_preempted_one_waits_whatever_they_end_of_and_no_retry_is_used_up() {
    for class in ExitClass::ALL {
        let (of_pause, of_yield) = match class {
            ExitClass::Ok => ("succeeded succeeded", "succeeded succeeded"),
            ExitClass::Spec => ("failed failed", "failed failed"),
            ExitClass::Cancelled => ("cancelled cancelled", "cancelled cancelled"),
            ExitClass::Timeout => ("paused held", "failed failed"),
            _ => ("paused held", "requeued queued"),
        };
        assert_eq!(outcome(&in_state("pausing"), &end(class)), of_pause, "paused, ends of {class}");
        assert_eq!(outcome(&in_state("yielding"), &end(class)), of_yield, "preempted, ends of {class}");
    }
    let mut paused = in_state("pausing");
    ask(&mut paused, &end(ExitClass::Preempted));
    let JobState::Held(hold) = &paused.state else { panic!("{paused:?}") };
    assert_eq!((hold.by, hold.reason.as_deref(), paused.retries_used), (Uid(6), Some("the demo"), 0));
    ask(&mut paused, &Command::Release { by: Uid(1) });
    assert_eq!((&paused.state, paused.checkpoint.unwrap().step), (&JobState::Queued { not_before: None }, 5));
    let mut preempted = in_state("yielding");
    ask(&mut preempted, &end(ExitClass::Preempted));
    assert_eq!((preempted.state, preempted.retries_used), (JobState::Queued { not_before: None }, 0));
}

fn terms(terms: Terms) -> Command {
    Command::Edit { by: Uid(5), edit: Edit { terms, ..Edit::default() } }
}

fn due(seconds: i64) -> Terms {
    Terms { deadline: Some(Change::Set(at(seconds))), ..Terms::default() }
}

#[test]
fn a_job_that_waits_beyond_its_deadline_has_failed_and_one_that_runs_has_not() {
    for state in ["queued", "waiting", "held"] {
        let mut job = in_state(state);
        ask(&mut job, &terms(due(100)));
        for (now, expected) in [(99, "wrong"), (100, "expired failed"), (101, "expired failed")] {
            assert_eq!(outcome_at(&job, &Command::Expire, now), expected, "{state} at {now}");
        }
        let claim = Command::Claim { token: FencingToken(71), gpus: Vec::new() };
        assert_eq!(outcome_at(&job, &claim, 100), "wrong", "{state}: it could not be done in time");
        let events = decide(&job, None, &Command::Expire, at(100)).unwrap();
        let failed = apply(JOB, Some(job.clone()), &events[0], at(100)).unwrap();
        let exit = failed.exit.clone().unwrap();
        let what = if state == "queued" { "start" } else { "go on" };
        let message = format!("its deadline, 2026-09-21 14:15:00 UTC, passed before it could {what}");
        assert_eq!((exit.class, exit.message), (ExitClass::Timeout, Some(message)));
        let refused = decide(&failed, None, &Command::Retry { by: Uid(1) }, at(100)).expect_err("it is late");
        assert!(refused.to_string().contains("cannot be retried: its deadline has passed"), "{refused}");
        let mut again = failed;
        let none = Terms { deadline: Some(Change::Clear), ..Terms::default() };
        for command in [terms(none), Command::Retry { by: Uid(1) }] {
            for event in decide(&again, None, &command, at(200)).unwrap() {
                again = apply(JOB, Some(again), &event, at(200)).unwrap();
            }
        }
        assert_eq!((again.state, again.deadline), (JobState::Queued { not_before: None }, None));
    }
    for state in ["running", "pausing", "succeeded", "failed", "cancelled"] {
        let late = Job { deadline: Some(at(1)), ..in_state(state) };
        assert_eq!(outcome_at(&late, &Command::Expire, 500), "wrong", "{state}");
    }
    let early = apply(JOB, Some(in_state("queued")), &Event::Expired { exit: exit() }, at(5));
    assert!(early.is_err(), "a log that fails a job without a deadline");
}

#[test]
fn the_terms_of_a_job_can_be_changed_where_they_still_matter() {
    let begin = |seconds| Terms { begin: Some(Change::Set(at(seconds))), ..Terms::default() };
    let limit = |change| Terms { time_limit_seconds: Some(change), ..Terms::default() };
    let retries = |retries| Terms { retries: Some(retries), ..Terms::default() };
    for (name, change, expected) in [
        ("deadline", due(50), ["edited queued", "edited held", "edited running", "wrong", "edited failed"]),
        ("past deadline", due(2), ["wrong", "wrong", "wrong", "wrong", "wrong"]),
        ("start time", begin(50), ["edited queued", "edited held", "wrong", "wrong", "wrong"]),
        ("limit", limit(Change::Set(60)), ["edited queued", "edited held", "edited running", "wrong", "edited failed"]),
        (
            "no limit",
            limit(Change::Clear),
            ["edited queued", "edited held", "edited running", "wrong", "edited failed"],
        ),
        ("retries", retries(9), ["edited queued", "edited held", "edited running", "wrong", "edited failed"]),
        ("the retries it has", retries(2), ["nothing", "nothing", "nothing", "wrong", "nothing"]),
    ] {
        for (state, expected) in ["queued", "held", "running", "succeeded", "failed"].into_iter().zip(expected) {
            assert_eq!(outcome(&in_state(state), &terms(change.clone())), expected, "{name} of a job that is {state}");
        }
    }
    let refused = decide(&in_state("exhausted"), None, &terms(retries(1)), at(2)).expect_err("two are used up");
    assert_eq!(refused.to_string(), "job 7 is running and cannot be given so few retries: it has used up more");
    let mut job = in_state("held");
    ask(&mut job, &terms(begin(50)));
    ask(&mut job, &terms(limit(Change::Set(60))));
    ask(&mut job, &Command::Release { by: Uid(1) });
    assert_eq!(job.state, JobState::Queued { not_before: Some(at(50)) }, "a start time outlasts the hold");
    assert_eq!((job.time_limit_seconds(Some(5)), in_state("held").time_limit_seconds(Some(5))), (Some(60), Some(5)));
    ask(&mut job, &terms(limit(Change::Clear)));
    assert_eq!(job.time_limit_seconds(Some(5)), None);
}

#[test]
fn an_edit_changes_what_it_names_and_leaves_the_rest() {
    let held = in_state("held");
    let both = Edit {
        priority: Some(7),
        labels: [("team".into(), None), ("stage".into(), Some("final".into()))].into(),
        ..Edit::default()
    };
    let events = decide(&held, None, &Command::Edit { by: Uid(1), edit: both }, at(9)).unwrap();
    let after = apply(JOB, Some(held.clone()), &events[0], at(9)).unwrap();
    assert_eq!((after.priority, after.labels.clone()), (7, [("stage".to_owned(), "final".to_owned())].into()));
    assert_eq!(Job { priority: held.priority, labels: held.labels.clone(), ..after }, held);
}

#[test]
fn a_person_s_retry_begins_again_from_the_checkpoint() {
    let failed = in_state("failed");
    let events = decide(&failed, None, &Command::Retry { by: Uid(1) }, at(9)).unwrap();
    let again = apply(JOB, Some(failed.clone()), &events[0], at(9)).unwrap();
    assert_eq!(again.state, JobState::Queued { not_before: None });
    assert_eq!((again.attempt, again.retries_used, again.finished_at), (1, 0, None));
    assert_eq!(again.checkpoint, failed.checkpoint);
}

#[test]
fn attempts_run_out_before_their_number_overflows() {
    let mut job = in_state("queued");
    job.attempt = u32::MAX;
    let refused = decide(&job, None, &Command::Claim { token: TOKEN, gpus: Vec::new() }, at(2));
    assert!(matches!(refused, Err(Refusal::WrongState { .. })), "{refused:?}");
}

#[test]
fn a_log_that_cannot_be_is_refused() {
    let attempt = AttemptNumber(1);
    let again = |retries_used, infrastructure_retries_used| Event::Requeued {
        attempt,
        exit: exit(),
        not_before: None,
        retries_used,
        infrastructure_retries_used,
        fruitless: 0,
    };
    let requeued = |retries_used| again(retries_used, None);
    let second = || Event::Claimed { attempt: AttemptNumber(2), token: TOKEN, gpus: Vec::new() };
    let cases = [
        ("queued", second(), "skips an attempt"),
        ("waiting", second(), "starts before its time"),
        ("running", second(), "runs twice"),
        ("running", Event::Succeeded { attempt: AttemptNumber(2), model: None, output: None }, "of another attempt"),
        ("running", requeued(2), "uses two retries at once"),
        ("running", requeued(0), "uses no retry"),
        ("exhausted", requeued(3), "uses a retry that it does not have"),
        ("running", again(1, Some(1)), "uses a retry of both budgets"),
        ("running", again(0, Some(2)), "uses two retries of the infrastructure at once"),
        ("held", Event::Retried { by: Uid(1) }, "is tried again though a person holds it"),
        ("held", Event::Quarantined { attempt, exit: exit(), reason: "r".into() }, "dies while it is held"),
        ("running", Event::Cancelled { by: None, exit: None }, "ends an attempt without saying how"),
        ("queued", Event::Cancelled { by: None, exit: Some(exit()) }, "ends an attempt that is not there"),
        ("cancelling", Event::Intended { intent: Intent::Cancel, by: Uid(1), reason: None }, "is asked twice"),
        (
            "cancelling",
            Event::Intended { intent: Intent::Stop, by: Uid(1), reason: None },
            "is given time after a cancel",
        ),
        ("stopping", Event::Intended { intent: Intent::Stop, by: Uid(1), reason: None }, "is stopped twice"),
        ("pausing", Event::Yielding { to: JobId(9) }, "is given to another after a pause"),
        ("running", Event::Paused { attempt, exit: exit() }, "is held though nobody paused it"),
        ("queued", Event::Yielding { to: JobId(9) }, "gives up what it does not have"),
        ("held", second(), "starts in spite of a hold"),
        ("held", Event::Held { hold: Hold { by: Uid(1), reason: None, not_before: None } }, "is held twice"),
        ("running", Event::Held { hold: Hold { by: Uid(1), reason: None, not_before: None } }, "is held while it runs"),
        ("queued", Event::Released { by: Uid(1) }, "is released from nothing"),
        (
            "running",
            Event::Edited { by: Uid(1), priority: Some(1), queue: None, labels: None, terms: Terms::default() },
            "waits while it runs",
        ),
        (
            "failed",
            Event::Edited {
                by: Uid(1),
                priority: None,
                queue: None,
                labels: Some(Default::default()),
                terms: Terms::default(),
            },
            "changes its end",
        ),
        ("succeeded", Event::Retried { by: Uid(1) }, "does done work again"),
        ("failed", Event::Failed { attempt, exit: exit() }, "fails twice"),
    ];
    for (state, event, why) in cases {
        let error = apply(JOB, Some(in_state(state)), &event, at(2)).expect_err(why);
        assert_eq!((error.event, error.job), (name(&event), JOB), "{why}");
    }
    let orphan = apply(JOB, None, &Event::Retried { by: Uid(1) }, at(2)).expect_err("begins in the middle");
    assert_eq!(orphan.to_string(), "job 7 cannot take the event retried while it is absent");
    let twice = Event::Retried { by: Uid(1) };
    assert!(apply(JOB, Some(in_state("queued")), &twice, at(2)).is_err());
}

/// What is asked next, with how right a fence, and how long after what was asked before.
#[derive(Debug, Clone)]
struct Step {
    command: Command,
    fence: Aim,
    seconds: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Aim {
    Right,
    Absent,
    WrongToken,
    WrongAttempt,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop::sample::select(ExitClass::ALL.to_vec());
    // Claims and ends most often, or hardly anything ever runs.
    let command = prop_oneof![
        6 => (1_u64..1_000_000).prop_map(|token| Command::Claim { token: FencingToken(token), gpus: Vec::new() }),
        4 => (class, any::<f64>()).prop_map(|(class, chance)| {
            let Command::End { exit, model, output, .. } = end(class) else { unreachable!() };
            Command::End { exit, model, output, jitter: chance }
        }),
        1 => Just(launched()),
        1 => (0_u64..3).prop_map(|step| Command::Resumed { step, skipped: vec!["torn".into()] }),
        1 => (0_u64..3).prop_map(|step| Command::Checkpointed { checkpoint: checkpoint(step) }),
        1 => Just(Command::Warned { message: "ü \0 \u{202e}".into() }),
        1 => Just(Command::Cancel { by: Uid(3) }),
        1 => Just(Command::Stop { by: Uid(3) }),
        1 => Just(Command::Replace { by: JobId(9) }),
        1 => Just(hold()),
        1 => Just(pause()),
        1 => Just(Command::Expire),
        1 => (1_i64..900).prop_map(|seconds| terms(due(seconds))),
        1 => Just(terms(Terms { deadline: Some(Change::Clear), retries: Some(3), ..Terms::default() })),
        1 => Just(Command::Yield { to: JobId(9) }),
        1 => Just(Command::Release { by: Uid(3) }),
        1 => (0_u8..100).prop_map(|priority| edit(Some(priority), None)),
        1 => Just(edit(None, Some("ü \u{1}"))),
        1 => Just(Command::Retry { by: Uid(4) }),
    ];
    let aim = prop_oneof![8 => Just(Aim::Right), 1 => Just(Aim::Absent), 1 => Just(Aim::WrongToken), 1 => Just(Aim::WrongAttempt)];
    let step = (command, aim, 0_i64..30).prop_map(|(command, fence, seconds)| Step { command, fence, seconds });
    prop::collection::vec(step, 0..80)
}

/// What the rules say of a job, kept beside the real one.
#[derive(Debug, Default)]
struct Model {
    /// A cancel or a stop.
    cancel_acknowledged: bool,
    infrastructure: u32,
    expired: bool,
    held: bool,
    tokens: u32,
    retries: u32,
}

impl Model {
    fn follow(&mut self, step: &Step, before: &Job, after: &Job, now: Timestamp) {
        let running = |job: &Job| matches!(job.state, JobState::Running { .. });
        if before.state.is_terminal() && before.state != after.state {
            assert!(matches!(step.command, Command::Retry { .. }), "{before:?} changed by {step:?}");
        }
        match &step.command {
            Command::Claim { .. } => {
                let JobState::Queued { not_before } = before.state else { panic!("claimed {before:?}") };
                assert!(not_before.is_none_or(|time| time <= now), "claimed before its time");
                self.tokens += 1;
            }
            Command::Cancel { .. } | Command::Stop { .. } | Command::Replace { .. } => {
                (self.cancel_acknowledged, self.held) = (true, false);
            }
            Command::Hold { .. } => self.held = true,
            Command::Pause { .. } => self.held = !running(after),
            Command::End { .. } if matches!(after.state, JobState::Held(_)) => {
                let paused = matches!(before.state, JobState::Running { intent: Some(Intent::Pause(_)), .. });
                let quarantined = matches!(&after.state, JobState::Held(hold) if hold.is_quarantine());
                assert!(paused || quarantined, "held by nobody: {after:?}");
                self.held = true;
            }
            Command::Expire => {
                assert!(before.deadline.is_some_and(|deadline| deadline <= now), "failed before its time");
                (self.held, self.expired) = (false, true);
            }
            Command::Release { .. } => {
                self.held = false;
                if matches!(&before.state, JobState::Held(hold) if hold.is_quarantine()) {
                    self.infrastructure = 0;
                }
            }
            Command::Retry { .. } => {
                (self.cancel_acknowledged, self.held, self.expired) = (false, false, false);
                (self.retries, self.infrastructure) = (0, 0);
            }
            Command::End { exit, .. } if matches!(after.state, JobState::Queued { .. }) => {
                let is_infrastructure = exit.class.is_infrastructure();
                self.infrastructure += u32::from(is_infrastructure);
                self.retries += u32::from(exit.class != ExitClass::Preempted && !is_infrastructure);
            }
            _ => {}
        }
        assert_eq!(after.attempt, self.tokens, "attempts count the starts and never go back");
        assert_eq!(after.retries_used, self.retries, "only a death that is followed by another attempt uses a retry");
        assert!(after.retries_used <= after.retry.limit);
        assert_eq!(after.infrastructure_retries_used, self.infrastructure);
        assert!(after.infrastructure_retries_used <= after.retry.infrastructure_limit);
        if self.cancel_acknowledged {
            assert!(!matches!(after.state, JobState::Queued { .. } | JobState::Failed), "a cancel was lost: {after:?}");
            assert!(!running(after) || running(before), "started in spite of a cancel");
        }
        assert_eq!(self.held, matches!(after.state, JobState::Held(_)), "a hold stays until a person ends it");
        assert_eq!(after.finished_at.is_some(), after.state.is_terminal());
        if after.replaced_by.is_some() {
            let is_going = matches!(after.state, JobState::Running { intent: Some(Intent::Cancel), .. });
            assert!(is_going || after.state == JobState::Cancelled, "replaced and goes on: {after:?}");
        }
        assert_eq!(after.exit.is_none(), (after.attempt == 0 && !self.expired) || running(after));
    }
}

/// Runs the steps on a job and returns it with its log.
fn play(limit: u32, steps: &[Step]) -> (Job, Vec<(Event, Timestamp)>) {
    let (mut job, mut now, mut model, mut log) = (new(limit), at(0), Model::default(), Vec::new());
    for step in steps {
        now = now.checked_add(SignedDuration::from_secs(step.seconds)).unwrap();
        let token = match job.state {
            JobState::Running { token, .. } => token,
            _ => TOKEN,
        };
        let aimed = match step.fence {
            Aim::Right => step.command.is_fenced().then(|| fence(job.attempt, token)),
            Aim::Absent => None,
            Aim::WrongToken => Some(fence(job.attempt, FencingToken(token.0 + 1))),
            Aim::WrongAttempt => Some(fence(job.attempt + 1, token)),
        };
        let Ok(events) = decide(&job, aimed, &step.command, now) else { continue };
        assert!(!matches!(step.fence, Aim::WrongToken | Aim::WrongAttempt), "a stale fence got through: {step:?}");
        assert!(!step.command.is_fenced() || aimed.is_some_and(|fence| holds(&job, fence)), "no fence: {step:?}");
        let before = job.clone();
        for event in &events {
            // As the log keeps it.
            let stored: Event = serde_json::from_str(&serde_json::to_string(event).unwrap()).unwrap();
            job = apply(JOB, Some(job), &stored, now).expect("what was decided can be applied");
            log.push((stored, now));
        }
        model.follow(step, &before, &job, now);
    }
    (job, log)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_keeps_the_rules_and_replays_to_the_same_job(limit in 0_u32..4, steps in steps()) {
        let (job, log) = play(limit, &steps);
        let replayed = log.iter().fold(new(limit), |job, (event, at)| apply(JOB, Some(job), event, *at).unwrap());
        prop_assert_eq!(replayed, job);
    }

    #[test]
    fn a_job_that_ran_dies_at_most_limit_times_without_a_person(limit in 0_u32..4, steps in steps()) {
        let is_alone = |step: &Step| !matches!(step.command, Command::Retry { .. } | Command::Release { .. });
        let steps: Vec<Step> = steps.into_iter().filter(is_alone).collect();
        let (job, log) = play(limit, &steps);
        let counted = |event: &&(Event, Timestamp)| {
            matches!(&event.0, Event::Requeued { exit, .. } if exit.class != ExitClass::Preempted)
        };
        let most = usize::try_from(limit.max(job.retry.limit) + job.retry.infrastructure_limit).unwrap();
        prop_assert!(log.iter().filter(counted).count() <= most);
    }
}
