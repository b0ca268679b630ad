//! Tables of what dependencies come to, and of what a job that waits takes.

use jiff::Timestamp;
use mlctl_protocol::{
    ExitClass, FencingToken,
    spec::{Resources, RetryPolicy},
};

use super::*;
use crate::domain::{Command, Event, Hold, NeverMet, Uid, retrain::Conclusion, state};

const JOB: JobId = JobId(7);
const ON: JobId = JobId(3);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn end(told: &str) -> End {
    End::plain(told.into())
}

#[test]
fn what_a_dependency_comes_to_by_where_the_other_stands() {
    let (open, doomed, well) = (Standing::Open, Standing::Doomed(end("d")), Standing::Well(end("w")));
    let (badly, gone) = (Standing::Badly(end("b")), Standing::Gone(ON));
    let never = |told: &str| Outcome::Never(end(told));
    for (need, standing, expected) in [
        (Need::Ok, &open, Outcome::Waits),
        (Need::Ok, &doomed, never("d")),
        (Need::Ok, &well, Outcome::Met),
        (Need::Ok, &badly, never("b")),
        (Need::Ok, &gone, never("job 3 was removed")),
        (Need::Any, &open, Outcome::Waits),
        (Need::Any, &doomed, Outcome::Waits),
        (Need::Any, &well, Outcome::Met),
        (Need::Any, &badly, Outcome::Met),
        (Need::Any, &gone, Outcome::Met),
        (Need::NotOk, &open, Outcome::Waits),
        (Need::NotOk, &doomed, Outcome::Waits),
        (Need::NotOk, &well, never("w, and was to fail")),
        (Need::NotOk, &badly, Outcome::Met),
        (Need::NotOk, &gone, never("job 3 was removed")),
    ] {
        assert_eq!(outcome(need, standing), expected, "{need:?} {standing:?}");
    }
}

#[test]
fn what_can_never_be_met_comes_first_and_is_what_is_waived() {
    let (open, well, badly) = (Standing::Open, Standing::Well(end("w")), Standing::Badly(end("b")));
    let on = |id| Dependency { on: JobId(id), need: Need::Ok };
    assert_eq!(verdict([(on(1), &well), (on(2), &well)]), Verdict::Starts);
    assert_eq!(verdict([(on(1), &well), (on(2), &open)]), Verdict::Waits);
    assert_eq!(verdict([(on(1), &open), (on(2), &badly), (on(3), &badly)]), Verdict::Never(JobId(2), end("b")));
    assert_eq!(waived([(on(1), &open), (on(2), &badly), (on(3), &well)]), [JobId(2)]);
    assert_eq!(verdict([]), Verdict::Starts);
}

#[test]
fn how_a_job_or_an_array_ended_is_told_in_a_line() {
    let exit = |class, message: &str| Exit { class, message: Some(message.into()), hint: None };
    let spec = exit(ExitClass::Spec, "there is no column y\nmore");
    let told = |standing: Standing| match standing {
        Standing::Well(end) | Standing::Badly(end) | Standing::Doomed(end) => (end.told, end.cause),
        other => panic!("{other:?}"),
    };
    let both = |text: &str| (text.to_owned(), text.to_owned());
    let failed = Standing::of_job(ON, "failed", Some(&spec), None);
    assert_eq!(told(failed), both("job 3 failed (spec): there is no column y"));
    let (told_long, _) = told(Standing::of_job(ON, "failed", Some(&exit(ExitClass::Crash, &"ü".repeat(500))), None));
    assert_eq!(told_long, format!("job 3 failed (crash): {}…", "ü".repeat(MAX_MESSAGE)));
    assert_eq!(told(Standing::of_job(ON, "cancelled", None, None)), both("job 3 was cancelled"));
    let unmet = Some(Unmet { on: JobId(2), cause: "job 1 failed (spec)".into() });
    let waits = Waits { if_failed: AfterFailed::Cancel, unmet };
    let (told_all, cause) = told(Standing::of_job(ON, "cancelled", Some(&spec), Some(&waits)));
    assert_eq!(
        (told_all.as_str(), cause.as_str()),
        ("job 3 was cancelled: job 1 failed (spec)", "job 1 failed (spec)")
    );
    for state in ["queued", "blocked", "held", "running"] {
        assert_eq!(Standing::of_job(ON, state, Some(&spec), None), Standing::Open, "{state}");
    }
    let counts = |counts: &[(&str, u64)]| counts.iter().map(|(tally, jobs)| ((*tally).to_owned(), *jobs)).collect();
    let of = |pairs: &[(&str, u64)]| Standing::of_array(ON, &counts(pairs));
    assert_eq!(of(&[("succeeded", 3), ("queued", 1)]), Standing::Open);
    assert_eq!(told(of(&[("succeeded", 3), ("stopped", 2), ("failed", 0)])), both("array 3 succeeded"));
    let text = "of the 4 jobs of array 3, 2 failed and 1 cancelled";
    assert_eq!(of(&[("failed", 2), ("cancelled", 1), ("succeeded", 1)]), Standing::Badly(end(text)));
    assert_eq!(of(&[("failed", 2), ("cancelled", 1), ("blocked", 1)]), Standing::Doomed(end(text)));
}

fn submitted(if_failed: AfterFailed) -> Job {
    submitted_as("train", Dependencies { on: vec![Dependency { on: ON, need: Need::Ok }], if_failed })
}

fn submitted_as(kind: &str, after: Dependencies) -> Job {
    let event = Event::Submitted {
        name: "one".into(),
        kind: kind.into(),
        user: Uid(1),
        queue: "default".into(),
        priority: 50,
        labels: BTreeMap::new(),
        resources: Resources { cpus: 1, ..Resources::NONE },
        retry: RetryPolicy::default(),
        spec_digest: "0".repeat(64),
        not_before: Some(at(100)),
        preemptible: false,
        deadline: None,
        array: None,
        gate: None,
        after: Some(after),
    };
    // As the log keeps it.
    let stored = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
    state::apply(JOB, None, &stored, at(0)).unwrap()
}

/// The job after a command, as the log keeps its events.
fn ask(job: &Job, command: &Command) -> Option<Job> {
    let events = state::decide(job, None, command, at(1)).ok()?;
    Some(events.iter().fold(job.clone(), |job, event| {
        let stored = serde_json::from_str(&serde_json::to_string(event).unwrap()).unwrap();
        state::apply(JOB, Some(job), &stored, at(1)).unwrap()
    }))
}

fn unmet() -> Command {
    Command::Unmet(NeverMet { on: ON, message: "job 3 failed".into(), cause: "job 2 failed".into() })
}

fn hold() -> Command {
    Command::Hold { hold: Hold { by: Uid(5), reason: None, not_before: None } }
}

#[test]
fn a_job_that_waits_is_blocked_and_then_waits_for_its_turn_and_its_start_time() {
    let job = submitted(AfterFailed::Cancel);
    let blocked = JobState::Blocked { not_before: Some(at(100)) };
    assert_eq!(job.state, blocked);
    assert!(ask(&job, &Command::Claim { token: FencingToken(1), gpus: Vec::new() }).is_none(), "it cannot be started");
    let free = ask(&job, &Command::Unblock).unwrap();
    assert_eq!((&free.state, &free.waits), (&JobState::Queued { not_before: Some(at(100)) }, &None));
    let held = ask(&job, &hold()).unwrap();
    assert_eq!(held.state, JobState::Held(Hold { by: Uid(5), reason: None, not_before: Some(at(100)) }));
    assert_eq!(ask(&held, &Command::Release { by: Uid(5) }).unwrap().state, blocked, "as it was");
    let held = ask(&free, &hold()).unwrap();
    let released = ask(&held, &Command::Release { by: Uid(5) }).unwrap();
    assert_eq!(released.state, free.state, "what has come about once is not waited for again");
    for command in [Command::Unblock, unmet(), Command::Waive { on: vec![ON] }] {
        assert!(ask(&free, &command).is_none() && ask(&held, &command).is_none(), "{command:?}");
    }
}

#[test]
fn a_job_that_waits_in_vain_is_cancelled_or_kept_and_started_anew_by_a_person() {
    let cancelled = ask(&submitted(AfterFailed::Cancel), &unmet()).unwrap();
    assert_eq!((&cancelled.state, cancelled.finished_at), (&JobState::Cancelled, Some(at(1))));
    let exit = cancelled.exit.clone().unwrap();
    assert_eq!((exit.class, exit.message.as_deref()), (ExitClass::Cancelled, Some("job 3 failed")));
    assert_eq!(cancelled.unmet(), Some(&Unmet { on: ON, cause: "job 2 failed".into() }));
    let anew = ask(&cancelled, &Command::Retry { by: Uid(1) }).unwrap();
    assert_eq!((&anew.state, &anew.exit, anew.unmet()), (&JobState::Blocked { not_before: None }, &None, None));
    assert_eq!(ask(&anew, &Command::Waive { on: vec![ON] }).unwrap(), anew, "that is kept beside it");
    let kept = ask(&submitted(AfterFailed::Keep), &unmet()).unwrap();
    let reason = Some("job 3 failed".to_owned());
    assert_eq!(
        kept.state,
        JobState::Held(Hold { by: Uid(1), reason, not_before: Some(at(100)) }),
        "by who submitted it"
    );
    for command in [Command::Release { by: Uid(1) }, Command::Retry { by: Uid(1) }] {
        let anew = ask(&kept, &command).unwrap();
        assert!(matches!(anew.state, JobState::Blocked { .. }) && anew.unmet().is_none(), "{command:?}");
    }
    let given_up = ask(&kept, &Command::Cancel { by: Uid(1) }).unwrap();
    assert_eq!(
        (given_up.state.name(), given_up.unmet()),
        ("cancelled", None),
        "by a person and not for what it waited for"
    );
    let by_person = ask(&submitted(AfterFailed::Cancel), &Command::Cancel { by: Uid(1) }).unwrap();
    assert_eq!((by_person.state.name(), by_person.unmet(), by_person.waits.is_some()), ("cancelled", None, true));
}

#[test]
fn a_retraining_waits_until_it_is_concluded_and_is_never_started() {
    let job = submitted_as("retrain", Dependencies { on: Vec::new(), if_failed: AfterFailed::Cancel });
    let blocked = JobState::Blocked { not_before: Some(at(100)) };
    assert_eq!(job.state, blocked);
    assert_eq!(ask(&job, &Command::Unblock).unwrap().state, blocked, "it waits for its stages");
    assert!(ask(&job, &Command::Claim { token: FencingToken(1), gpus: Vec::new() }).is_none());
    let exit = |class, message: Option<&str>| Exit { class, message: message.map(str::to_owned), hint: None };
    let conclusion = Box::new(Conclusion::without_news("digits", 3));
    let well = Command::Conclude { exit: exit(ExitClass::Ok, None), conclusion: Some(conclusion.clone()) };
    let over = ask(&job, &well).unwrap();
    assert_eq!(
        (&over.state, &over.conclusion, over.finished_at),
        (&JobState::Succeeded, &Some(conclusion), Some(at(1)))
    );
    assert!(ask(&over, &well).is_none() && ask(&over, &Command::Retry { by: Uid(1) }).is_none(), "once and for all");
    let badly = Command::Conclude { exit: exit(ExitClass::Spec, Some("its stage")), conclusion: None };
    let failed = ask(&job, &badly).unwrap();
    assert_eq!((&failed.state, failed.exit.as_ref().unwrap().class), (&JobState::Failed, ExitClass::Spec));
    let anew = ask(&failed, &Command::Retry { by: Uid(1) }).unwrap();
    assert_eq!((&anew.state, &anew.exit, anew.finished_at), (&JobState::Blocked { not_before: None }, &None, None));
    let held = ask(&job, &hold()).unwrap();
    assert!(ask(&held, &well).is_none(), "who holds it wants no more of it");
    assert_eq!(ask(&held, &Command::Release { by: Uid(5) }).unwrap().state, blocked);
    assert!(ask(&submitted(AfterFailed::Cancel), &well).is_none(), "no other job is concluded");
}
