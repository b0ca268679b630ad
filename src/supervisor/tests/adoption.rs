//! What a daemon finds when it comes back.

use mlctl_protocol::{
    AttemptNumber, ExitClass,
    message::{ReportBody, StopClass, ToWorker},
};

use super::stage::Stage;
use crate::{
    domain::{Uid, job::JobState},
    supervisor::executor::{Ended, Signal},
};

#[tokio::test]
async fn a_live_worker_is_adopted_and_no_report_is_lost() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    line.report(ReportBody::Warning { message: "before".into() }).await;
    act.end().await;
    assert_eq!(line.hear().await, None, "the daemon is gone");
    assert!(puppet.signals().is_empty(), "the worker is not");

    let checkpoint = stage.checkpoint(&puppet, &start, 3).await;
    let act = stage.act().await;
    assert_eq!(act.handle.free().cpus, 3, "it occupies what it did");
    let mut line = puppet.dial(puppet.hello(true)).await;
    assert_eq!(line.hear().await, Some(ToWorker::Welcome { acked: 1 }));
    line.count_from(1);
    line.report(ReportBody::Checkpoint { checkpoint }).await;
    stage.publish(&start).await;
    let result = puppet.result(&start, ExitClass::Ok);
    puppet.write_result(&result);
    line.report(ReportBody::Finished { result: Box::new(result) }).await;
    puppet.die(Ended::Code(0));
    drop(line);
    let (job, attempt) = stage.ended(job).await;
    assert_eq!((job.state, attempt.fence.attempt), (JobState::Succeeded, AttemptNumber(1)));
    assert_eq!(job.checkpoint.unwrap().step, 3);
    act.end().await;
}

#[tokio::test]
async fn a_worker_that_had_not_heard_its_start_gets_it_from_the_next_daemon() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    stage.when(job, |_, attempt| attempt.process.is_some()).await;
    act.end().await;
    let act = stage.act().await;
    let (line, start) = puppet.begin().await;
    assert_eq!(start.spec.name, "puppet");
    puppet.die(Ended::Code(1));
    drop(line);
    stage.ended(job).await;
    act.end().await;
}

#[tokio::test]
async fn a_worker_that_ended_unwatched_is_judged_by_its_result_file() {
    let stage = Stage::new().await;
    for has_result in [true, false] {
        let act = stage.act().await;
        let job = stage.submit(0).await;
        let puppet = stage.start(&act, job).await;
        let (_line, start) = puppet.begin().await;
        act.end().await;
        if has_result {
            stage.publish(&start).await;
            puppet.write_result(&puppet.result(&start, ExitClass::Ok));
        }
        puppet.die(Ended::Code(0));
        let act = stage.act().await;
        let (job, attempt) = stage.ended(job).await;
        let class = attempt.exit.unwrap().class;
        let expected =
            if has_result { (JobState::Succeeded, ExitClass::Ok) } else { (JobState::Failed, ExitClass::Lost) };
        assert_eq!((job.state, class), expected);
        act.end().await;
    }
}

#[tokio::test]
async fn steps_saved_while_no_daemon_listened_are_not_lost() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(1).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    let heard = stage.checkpoint(&puppet, &start, 1).await;
    line.report(ReportBody::Checkpoint { checkpoint: heard }).await;
    act.end().await;
    stage.checkpoint(&puppet, &start, 2).await;
    let last = stage.checkpoint(&puppet, &start, 3).await;
    puppet.die(Ended::Signal { number: 9, out_of_memory: false });
    let act = stage.act().await;
    let (after, _) = stage.ended(job).await;
    assert_eq!(after.checkpoint.unwrap().step, 3);
    let puppet = stage.start(&act, job).await;
    let (line, start) = puppet.begin().await;
    assert_eq!(start.resume.first(), Some(&last), "the next attempt goes on from there");
    puppet.die(Ended::Code(1));
    drop(line);
    stage.ended(job).await;
    act.end().await;
}

#[tokio::test]
async fn a_claim_whose_worker_was_never_recorded_uses_up_no_retry() {
    let stage = Stage::new().await;
    let job = stage.submit(0).await;
    let act = stage.act().await;
    let secret = act.handle.draw_secret();
    stage.store.claim(job, Vec::new(), *secret.hash().as_bytes(), act.handle.lease_until()).await.unwrap();
    act.end().await;
    let act = stage.act().await;
    let (after, attempt) = stage.ended(job).await;
    assert_eq!(attempt.exit.unwrap().class, ExitClass::Preempted);
    assert!(matches!(after.state, JobState::Queued { .. }) && after.retries_used == 0);
    act.end().await;
}

#[tokio::test]
async fn a_stop_survives_the_daemon_that_took_it() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (_line, start) = puppet.begin().await;
    act.handle.stop(job, Uid(1)).await.unwrap();
    act.end().await;
    let act = stage.act().await;
    tokio::time::sleep(stage.grace * 2).await;
    assert_eq!(puppet.signals(), [Signal::Term], "asked by the one way there is, and left the time to save its work");
    puppet.write_result(&puppet.result(&start, ExitClass::Preempted));
    puppet.die(Ended::Code(1));
    let (job, attempt) = stage.ended(job).await;
    assert_eq!((job.state, attempt.exit.unwrap().class), (JobState::Cancelled, ExitClass::Cancelled));
    act.end().await;
}

#[tokio::test]
async fn a_cancel_survives_the_daemon_that_took_it() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (_line, start) = puppet.begin().await;
    act.handle.cancel(job, Uid(1)).await.unwrap();
    act.end().await;
    let act = stage.act().await;
    let mut line = puppet.dial(puppet.hello(true)).await;
    assert_eq!(line.hear().await, Some(ToWorker::Welcome { acked: 0 }));
    assert_eq!(line.hear().await, Some(ToWorker::Stop { class: StopClass::Cancelled }));
    puppet.write_result(&puppet.result(&start, ExitClass::Cancelled));
    puppet.die(Ended::Code(1));
    drop(line);
    let (job, _) = stage.ended(job).await;
    assert_eq!(job.state, JobState::Cancelled);
    act.end().await;
}
