//! Attempts that run into their own time limit.

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use mlctl_protocol::{
    ExitClass,
    message::{ReportBody, StopClass, ToWorker},
};

use super::stage::{Act, Stage};
use crate::{
    domain::{Change, Command, Edit, Terms, Uid, job::JobState},
    supervisor::executor::{Ended, Signal},
};

const ASKED: ToWorker = ToWorker::Stop { class: StopClass::Timeout };

/// Of grace, for workers that obey in it however busy the disk is to which they save.
const PLENTY: Duration = Duration::from_secs(60);

async fn limited(seconds: u32) -> Stage {
    let mut stage = Stage::new().await;
    stage.time_limit = Some(seconds);
    stage
}

#[tokio::test]
async fn a_worker_is_asked_before_the_limit_and_the_job_fails_as_timeout_with_its_work_saved() {
    let mut stage = limited(1).await;
    stage.grace = PLENTY;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    assert_eq!(line.hear().await, Some(ASKED));
    let asked = puppet.born.elapsed();
    assert!(asked >= Duration::from_millis(900), "a tenth before the limit, and no sooner: {asked:?}");
    let checkpoint = stage.checkpoint(&puppet, &start, 7).await;
    line.report(ReportBody::Checkpoint { checkpoint }).await;
    puppet.write_result(&puppet.result(&start, ExitClass::Timeout));
    puppet.die(Ended::Code(1));
    drop(line);
    let (after, attempt) = stage.ended(job).await;
    let exit = attempt.exit.unwrap();
    assert_eq!(
        (exit.class, exit.message.unwrap().as_str()),
        (ExitClass::Timeout, "stopped at its time limit; the limit is 1 seconds")
    );
    assert_eq!((after.state, after.retries_used), (JobState::Failed, 0), "three retries are left, and none is taken");
    assert!(puppet.signals().is_empty());

    stage.store.command(job, None, Command::Retry { by: Uid(1) }).await.unwrap();
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    assert_eq!(start.resume[0].step, 7, "a retry goes on");
    assert_eq!(line.hear().await, Some(ASKED), "for as long again");
    puppet.die(Ended::Code(1));
    drop(line);
    stage.ended(job).await;
    act.end().await;
}

#[tokio::test]
async fn a_worker_that_does_not_obey_is_signalled_then_killed() {
    let stage = limited(1).await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, _) = puppet.begin().await;
    assert_eq!(line.hear().await, Some(ASKED));
    puppet.hold(line);
    let (after, attempt) = stage.ended(job).await;
    let took = puppet.born.elapsed();
    assert_eq!(puppet.signals(), [Signal::Term, Signal::Kill]);
    assert!(took >= Duration::from_millis(1300), "it had the grace time: {took:?}");
    let exit = attempt.exit.unwrap();
    assert_eq!((after.state, exit.class), (JobState::Failed, ExitClass::Timeout));
    assert!(exit.message.unwrap().contains("had not stopped"));
    act.end().await;
}

#[tokio::test]
async fn work_that_is_done_in_time_counts_though_the_worker_was_asked_to_stop() {
    let stage = limited(1).await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    assert_eq!(line.hear().await, Some(ASKED));
    stage.publish(&start).await;
    puppet.write_result(&puppet.result(&start, ExitClass::Ok));
    puppet.die(Ended::Code(0));
    drop(line);
    assert_eq!(stage.ended(job).await.0.state, JobState::Succeeded);
    act.end().await;
}

#[tokio::test]
async fn an_adopted_worker_keeps_its_limit() {
    let stage = limited(2).await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (line, _) = puppet.begin().await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    act.end().await;
    drop(line);
    let (act, adopted) = (stage.act().await, Instant::now());
    let mut line = puppet.dial(puppet.hello(true)).await;
    assert_eq!(line.hear().await, Some(ToWorker::Welcome { acked: 0 }));
    assert_eq!(line.hear().await, Some(ASKED));
    assert!(puppet.born.elapsed() >= Duration::from_millis(1800));
    assert!(adopted.elapsed() < Duration::from_millis(1800), "what it had run before counts");
    puppet.die(Ended::Code(1));
    drop(line);
    let (after, attempt) = stage.ended(job).await;
    assert_eq!((after.state, attempt.exit.unwrap().class), (JobState::Failed, ExitClass::Timeout));
    act.end().await;
}

#[tokio::test]
async fn a_cancel_outweighs_a_limit() {
    let stage = limited(1).await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    assert_eq!(line.hear().await, Some(ASKED));
    act.handle.cancel(job, Uid(1)).await.unwrap();
    puppet.write_result(&puppet.result(&start, ExitClass::Timeout));
    puppet.die(Ended::Code(1));
    drop(line);
    let (after, attempt) = stage.ended(job).await;
    assert_eq!((after.state, attempt.exit.unwrap().class), (JobState::Cancelled, ExitClass::Cancelled));
    act.end().await;
}

#[tokio::test]
async fn a_stop_leaves_the_time_that_saving_takes_within_the_limit() {
    let stage = limited(2).await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, _) = puppet.begin().await;
    act.handle.stop(job, Uid(1)).await.unwrap();
    assert_eq!(line.hear().await, Some(ToWorker::Stop { class: StopClass::Cancelled }));
    puppet.hold(line);
    let (after, _) = stage.ended(job).await;
    let took = puppet.born.elapsed();
    assert!(took >= Duration::from_millis(1800), "it is left alone until its limit is near: {took:?}");
    assert!(took < Duration::from_secs(60), "and no longer: {took:?}");
    assert_eq!(puppet.signals(), [Signal::Term, Signal::Kill]);
    assert_eq!(after.state, JobState::Cancelled, "as it was asked");
    act.end().await;
}

/// A deadline so many milliseconds from now.
fn due(act: &Act, millis: i64) -> Terms {
    // The lease is one of 600 seconds.
    let deadline = act.handle.lease_until() + SignedDuration::from_millis(millis - 600_000);
    Terms { deadline: Some(Change::Set(deadline)), ..Terms::default() }
}

fn edit(terms: Terms) -> Edit {
    Edit { terms, ..Edit::default() }
}

#[tokio::test]
async fn a_deadline_given_to_a_running_job_is_kept_with_its_work_saved() {
    let mut stage = Stage::new().await;
    stage.grace = PLENTY;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    assert_eq!(start.ends_at, None);
    act.handle.edit(job, Uid(1), edit(due(&act, 1000))).await.unwrap();
    let given = Instant::now();
    assert_eq!(line.hear().await, Some(ASKED));
    assert!(given.elapsed() >= Duration::from_millis(500), "a tenth of its time before, and no sooner");
    let checkpoint = stage.checkpoint(&puppet, &start, 7).await;
    line.report(ReportBody::Checkpoint { checkpoint }).await;
    puppet.write_result(&puppet.result(&start, ExitClass::Timeout));
    puppet.die(Ended::Code(1));
    drop(line);
    let (after, attempt) = stage.ended(job).await;
    let exit = attempt.exit.unwrap();
    assert_eq!((after.state, exit.class), (JobState::Failed, ExitClass::Timeout));
    assert!(exit.message.as_deref().unwrap().starts_with("stopped at its deadline; the deadline is 20"), "{exit:?}");
    assert!(puppet.signals().is_empty());

    stage.store.command(job, None, Command::Edit { by: Uid(1), edit: edit(due(&act, 60_000)) }).await.unwrap();
    stage.store.command(job, None, Command::Retry { by: Uid(1) }).await.unwrap();
    let puppet = stage.start(&act, job).await;
    let (line, start) = puppet.begin().await;
    assert_eq!(start.resume[0].step, 7, "a retry goes on");
    assert!(start.ends_at.is_some(), "and the worker is told until when");
    puppet.die(Ended::Code(1));
    drop(line);
    stage.ended(job).await;
    act.end().await;
}

#[tokio::test]
async fn a_limit_can_be_given_moved_and_taken_away_while_a_job_runs() {
    let stage = limited(1).await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, _) = puppet.begin().await;
    let limit = |change| edit(Terms { time_limit_seconds: Some(change), ..Terms::default() });
    act.handle.edit(job, Uid(1), limit(Change::Clear)).await.unwrap();
    act.handle.edit(job, Uid(1), edit(due(&act, 60_000))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    line.beat(3).await;
    act.handle.edit(job, Uid(1), limit(Change::Set(2))).await.unwrap();
    assert_eq!(line.hear().await, Some(ASKED));
    let asked = puppet.born.elapsed();
    assert!(asked >= Duration::from_millis(1800), "counted from its start: {asked:?}");
    puppet.die(Ended::Code(1));
    drop(line);
    let (_, attempt) = stage.ended(job).await;
    assert!(attempt.exit.unwrap().message.unwrap().contains("limit of 2 seconds"));
    act.end().await;
}

#[tokio::test]
async fn an_adopted_worker_keeps_the_deadline_of_its_job() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (line, _) = puppet.begin().await;
    act.handle.edit(job, Uid(1), edit(due(&act, 1500))).await.unwrap();
    act.end().await;
    drop(line);
    let act = stage.act().await;
    let mut line = puppet.dial(puppet.hello(true)).await;
    assert_eq!(line.hear().await, Some(ToWorker::Welcome { acked: 0 }));
    assert_eq!(line.hear().await, Some(ASKED));
    puppet.die(Ended::Code(1));
    drop(line);
    let (after, attempt) = stage.ended(job).await;
    assert_eq!((after.state, attempt.exit.unwrap().class), (JobState::Failed, ExitClass::Timeout));
    act.end().await;
}

/// It used to go by the deadline that its job had when it was claimed.
#[tokio::test]
async fn a_deadline_that_is_set_while_the_job_is_being_claimed_holds() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let secret = act.handle.draw_secret();
    let (hash, lease) = (*secret.hash().as_bytes(), act.handle.lease_until());
    let claimed = stage.store.claim(job, Vec::new(), hash, lease).await.unwrap();
    let at = claimed.job.submitted_at + SignedDuration::from_millis(1500);
    let terms = Terms { deadline: Some(Change::Set(at)), ..Terms::default() };
    act.handle.edit(job, Uid(1), Edit { terms, ..Edit::default() }).await.unwrap();
    act.handle.start(claimed, secret);
    let puppet = stage.started().await;
    let (mut line, _) = puppet.begin().await;
    assert_eq!(line.hear().await, Some(ASKED));
    puppet.die(Ended::Code(1));
    drop(line);
    let (after, attempt) = stage.ended(job).await;
    assert_eq!((after.state, attempt.exit.unwrap().class), (JobState::Failed, ExitClass::Timeout));
    act.end().await;
}
