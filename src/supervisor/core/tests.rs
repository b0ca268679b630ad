//! What the machine says to single events; whole lives under chance are played in `tests/simulation`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId, message::StopClass, progress::Progress, result::WorkerResult,
    spec::Resources,
};

use super::*;

const GRACE: Duration = Duration::from_secs(20);

fn origin() -> Origin {
    let (job, attempt) = (JobId(1), AttemptNumber(1));
    Origin {
        fence: Fence { job, attempt, token: FencingToken(1) },
        kind: "train".into(),
        resources: Resources::default(),
        storage: mlctl_artifacts::keys::storage("file:///o", "x", job, attempt),
        grace: GRACE,
        limits: Limits { lease: Duration::from_secs(600), hang: None },
        acked: 0,
        result: None,
        progress: Progress::default(),
    }
}

fn attempt(now: Instant) -> Attempt {
    Attempt::new(Arc::new(origin()), Times::default(), now)
}

fn result(class: ExitClass) -> WorkerResult {
    let fence = origin().fence;
    WorkerResult {
        v: 1,
        job: fence.job,
        attempt: fence.attempt,
        token: fence.token,
        class,
        message: None,
        hint: None,
        metrics: Default::default(),
        model: None,
        output: None,
    }
}

fn tick() -> Event {
    Event::Tick { wall: Timestamp::UNIX_EPOCH, age: None }
}

#[test]
fn the_gravest_reason_stays() {
    let now = Instant::now();
    let mut core = attempt(now);
    let preempted = Reason::Preempted { to: JobId(9) };
    for (reason, stays) in [
        (preempted.clone(), preempted.clone()),
        (Reason::Paused, Reason::Paused),
        (preempted, Reason::Paused),
        (Reason::Stopped, Reason::Stopped),
        (Reason::TimeLimit { seconds: 60 }, Reason::TimeLimit { seconds: 60 }),
        (Reason::Stopped, Reason::TimeLimit { seconds: 60 }),
        (Reason::Cancelled, Reason::Cancelled),
        (Reason::TimeLimit { seconds: 60 }, Reason::Cancelled),
        (Reason::Stopped, Reason::Cancelled),
        (Reason::Finished, Reason::Cancelled),
        (Reason::Stale, Reason::Stale),
        (Reason::Cancelled, Reason::Stale),
    ] {
        core.step(Event::Asked(reason), now);
        assert_eq!(core.reason(), Some(&stays));
    }
}

#[test]
fn only_steps_epochs_and_records_are_progress() {
    let begin = Instant::now();
    let mut core = attempt(begin);
    core.step(Event::Dialled { line: 1, started: true }, begin);
    let later = |seconds| begin + Duration::from_secs(seconds);
    let at = |step, loss| Progress { step: Some(step), loss: Some(loss), ..Progress::default() };
    for (seconds, progress, moved) in [(1, at(1, 0.5), 1), (2, at(1, 0.4), 1), (3, at(2, 0.4), 3)] {
        core.step(Event::Beat { line: 1, progress, rss_bytes: 1 }, later(seconds));
        assert_eq!((core.moved_at, core.heard_at), (later(moved), later(seconds)));
    }
    assert!(core.progressed);
}

#[test]
fn a_worker_is_told_what_to_do_only_once_it_is_on_record() {
    let now = Instant::now();
    let mut core = attempt(now);
    assert!(matches!(core.step(Event::Started, now)[..], [Effect::RecordLaunch]));
    assert!(core.step(Event::Dialled { line: 1, started: false }, now).is_empty());
    let told = core.step(Event::Launched(Answer::Done(())), now);
    assert!(matches!(told[..], [Effect::Attend, Effect::Say { line: 1, word: Word::Start }]), "{told:?}");
    // The other way round, and one that is to end is told so.
    let mut core = attempt(now);
    core.step(Event::Engaged, now);
    let told = core.step(Event::Dialled { line: 1, started: false }, now);
    assert!(matches!(told[..], [Effect::Say { word: Word::Start, .. }]), "{told:?}");
    core.step(Event::Asked(Reason::Cancelled), now);
    let told = core.step(Event::Dialled { line: 2, started: true }, now);
    let expected = Word::Stop { class: StopClass::Cancelled };
    assert!(
        matches!(told[..], [Effect::HangUp { line: 1, .. }, Effect::Say { word: Word::Welcome { acked: 0 }, .. }, Effect::Say { word, .. }] if word == expected),
        "{told:?}"
    );
    let told = core.step(Event::Dialled { line: 3, started: false }, now);
    assert!(
        matches!(told[..], [Effect::HangUp { line: 2, .. }, Effect::Say { word: Word::Refused(_), .. }]),
        "{told:?}"
    );
}

#[test]
fn a_process_that_nobody_could_record_is_gone_before_the_attempt_ends() {
    let now = Instant::now();
    let mut core = attempt(now);
    core.step(Event::Started, now);
    let effects = core.step(Event::Launched(Answer::Failed("full".into())), now);
    assert!(matches!(effects[..], [Effect::Signal(Signal::Kill), Effect::Reap]), "{effects:?}");
    let effects = core.step(Event::Reaped(Ended::Unknown), now);
    assert!(matches!(&effects[..], [Effect::Record(end)] if end.exit.class == ExitClass::Preempted), "{effects:?}");
    assert!(core.step(Event::Recorded(Answer::Failed("full".into())), now).is_empty() && !core.is_over());
    assert!(core.step(tick(), now).is_empty(), "it is not tried again at once");
    let at = core.alarm().expect("it is tried again");
    assert!(matches!(core.step(tick(), at)[..], [Effect::Record(_)]));
    assert!(matches!(core.step(Event::Recorded(Answer::Stale), at)[..], [Effect::Forget]));
    assert!(core.is_over());
}

#[test]
fn what_an_older_connection_brings_late_is_not_taken_and_no_number_goes_back() {
    let now = Instant::now();
    let mut core = attempt(now);
    core.step(Event::Engaged, now);
    core.step(Event::Dialled { line: 1, started: false }, now);
    let body = || ReportBody::Warning { message: "w".into() };
    let report = |line, seq| Event::Report { line, seq, body: body(), in_file: false };
    assert!(matches!(core.step(report(1, 1), now)[..], [Effect::KeepReport { seq: 1, .. }]));
    core.step(Event::Dialled { line: 2, started: true }, now);
    assert!(core.step(report(1, 2), now).is_empty(), "another connection took its place");
    core.step(report(2, 1), now);
    core.step(Event::Kept { line: 2, seq: 1, answer: Answer::Done(1) }, now);
    core.step(report(2, 2), now);
    core.step(Event::Kept { line: 2, seq: 2, answer: Answer::Done(2) }, now);
    core.step(Event::Kept { line: 1, seq: 1, answer: Answer::Done(1) }, now);
    assert!(matches!(core.step(report(2, 2), now)[..], [Effect::Say { word: Word::Ack { seq: 2 }, .. }]));
}

#[test]
fn a_worker_that_does_not_read_is_not_waited_for() {
    let now = Instant::now();
    let mut core = attempt(now);
    core.step(Event::Engaged, now);
    core.step(Event::Dialled { line: 1, started: false }, now);
    core.step(Event::Asked(Reason::Cancelled), now);
    assert!(core.step(tick(), now).is_empty(), "it was asked, and has half the grace time");
    assert_eq!(core.alarm(), Some(now + GRACE / 2));
    core.step(Event::Unheard { line: 1 }, now);
    assert!(matches!(core.step(tick(), now)[..], [Effect::Signal(Signal::Term)]));
}

#[test]
fn all_that_a_dead_worker_had_said_is_heard_before_it_is_judged() {
    let now = Instant::now();
    let mut core = attempt(now);
    core.step(Event::Engaged, now);
    core.step(Event::Dialled { line: 1, started: false }, now);
    core.step(Event::Exited, now);
    let effects = core.step(Event::Reaped(Ended::Code(0)), now);
    assert!(matches!(effects[..], [Effect::Vacate]), "{effects:?}");
    let body = ReportBody::Finished { result: Box::new(result(ExitClass::Spec)) };
    core.step(Event::Report { line: 1, seq: 1, body, in_file: true }, now);
    assert!(matches!(core.step(Event::Closed { line: 1 }, now)[..], [Effect::Wake]));
    assert!(matches!(core.step(tick(), now)[..], [Effect::ReadResult]));
    assert!(matches!(core.step(Event::Read(Ok(None)), now)[..], [Effect::Salvage]));
    let effects = core.step(Event::Salvaged, now);
    let [Effect::Record(end)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((end.exit.class, end.report.as_ref().map(|(seq, _)| *seq)), (ExitClass::Spec, Some(1)));
}

/// The store had taken the report, and nobody was there any more to hear it: the result must not be taken for that report once more.
#[test]
fn a_result_in_its_file_alone_is_kept_after_a_report_whose_answer_was_not_heard() {
    let now = Instant::now();
    let mut core = attempt(now);
    core.step(Event::Engaged, now);
    core.step(Event::Dialled { line: 1, started: false }, now);
    let body = ReportBody::Warning { message: "w".into() };
    core.step(Event::Report { line: 1, seq: 1, body, in_file: false }, now);
    core.step(Event::Exited, now);
    core.step(Event::Reaped(Ended::Code(1)), now);
    core.step(Event::HungUp { line: 1, unkept: None }, now);
    core.step(Event::Closed { line: 1 }, now);
    core.step(tick(), now);
    core.step(Event::Read(Ok(Some(Box::new(result(ExitClass::Spec))))), now);
    let effects = core.step(Event::Salvaged, now);
    let [Effect::Record(end)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(end.report.as_ref().map(|(seq, _)| *seq), Some(2));
}

#[test]
fn nothing_is_taken_after_what_could_not_be_stored() {
    let now = Instant::now();
    let mut core = attempt(now);
    core.step(Event::Engaged, now);
    core.step(Event::Dialled { line: 1, started: false }, now);
    let report =
        |line, seq| Event::Report { line, seq, body: ReportBody::Warning { message: "w".into() }, in_file: false };
    core.step(report(1, 1), now);
    let effects = core.step(Event::Kept { line: 1, seq: 1, answer: Answer::Failed("full".into()) }, now);
    assert!(matches!(effects[..], [Effect::HangUp { line: 1, why: Why::NotStored(_) }]), "{effects:?}");
    assert!(core.step(report(1, 2), now).is_empty(), "the first is not on record");
    core.step(Event::Dialled { line: 2, started: true }, now);
    assert!(matches!(core.step(report(2, 1), now)[..], [Effect::KeepReport { line: 2, seq: 1, .. }]));
}
