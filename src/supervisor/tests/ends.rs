//! How attempts end, and what is left of them.

use std::time::Duration;

use mlctl_protocol::{
    AttemptNumber, ExitClass, JobId,
    message::{ReportBody, StopClass, ToWorker},
    progress::MetricPoint,
};

use super::stage::{Stage, in_time};
use crate::{
    domain::{Command, Hold, Intent, Uid, job::JobState},
    supervisor::{
        CheckpointError,
        executor::{Ended, Signal},
    },
};

#[tokio::test]
async fn a_job_runs_from_hello_to_result() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    assert_eq!(act.handle.free().cpus, 3);
    let (mut line, start) = puppet.begin().await;
    assert_eq!((start.threads, start.resume.len(), start.spec.name.as_str()), (1, 0, "puppet"));
    assert!(start.storage.attempt_uri.ends_with("/1"), "{:?}", start.storage);
    let points = vec![MetricPoint { step: 1, epoch: 0, values: [("train_loss".into(), 0.5)].into() }];
    line.report(ReportBody::Metrics { points }).await;
    let checkpoint = stage.checkpoint(&puppet, &start, 5).await;
    line.report(ReportBody::Checkpoint { checkpoint }).await;
    line.beat(10).await;
    stage.publish(&start).await;
    let result = puppet.result(&start, ExitClass::Ok);
    puppet.write_result(&result);
    line.report(ReportBody::Finished { result: Box::new(result) }).await;
    let mut freed = act.handle.freed();
    puppet.die(Ended::Code(0));
    drop(line);
    let (job, attempt) = stage.ended(job).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(attempt.exit.unwrap().class, ExitClass::Ok);
    assert_eq!(attempt.progress.step, Some(10), "the last heartbeat is kept");
    assert!(puppet.signals().is_empty());
    in_time(freed.changed()).await.unwrap();
    assert_eq!(act.handle.free().cpus, 4);
    act.end().await;
}

#[tokio::test]
async fn ends_without_a_word_are_named_by_what_the_process_did() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let cases = [
        (Ended::Signal { number: 9, out_of_memory: false }, ExitClass::Crash, "signal 9 (SIGKILL)"),
        (Ended::Signal { number: 9, out_of_memory: true }, ExitClass::OomHost, "out of memory"),
        (Ended::Code(101), ExitClass::Crash, "code 101"),
        (Ended::Code(0), ExitClass::Crash, "left no result"),
    ];
    for (ended, class, words) in cases {
        let job = stage.submit(0).await;
        let puppet = stage.start(&act, job).await;
        let (line, _) = puppet.begin().await;
        puppet.die(ended);
        drop(line);
        let (job, attempt) = stage.ended(job).await;
        let exit = attempt.exit.unwrap();
        assert_eq!((exit.class, job.state), (class, JobState::Failed));
        assert!(exit.message.as_deref().unwrap_or_default().contains(words), "{exit:?}");
    }
    act.end().await;
}

#[tokio::test]
async fn an_obeyed_cancel_takes_no_signal() {
    let mut stage = Stage::new().await;
    stage.grace = Duration::from_secs(600);
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    act.handle.cancel(job, Uid(1)).await.unwrap();
    assert_eq!(line.hear().await, Some(ToWorker::Stop { class: StopClass::Cancelled }));
    puppet.write_result(&puppet.result(&start, ExitClass::Cancelled));
    puppet.die(Ended::Code(1));
    drop(line);
    let (job, _) = stage.ended(job).await;
    assert_eq!(job.state, JobState::Cancelled);
    assert!(puppet.signals().is_empty());
    assert!(act.handle.cancel(job.id, Uid(1)).await.is_err(), "it is over");
    act.end().await;
}

#[tokio::test]
async fn an_ignored_cancel_ends_in_term_and_kill() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    puppet.hold(puppet.begin().await.0);
    act.handle.cancel(job, Uid(1)).await.unwrap();
    let (job, _) = stage.ended(job).await;
    assert_eq!(job.state, JobState::Cancelled);
    assert_eq!(puppet.signals(), [Signal::Term, Signal::Kill]);
    act.end().await;
}

#[tokio::test]
async fn a_stop_is_left_the_time_that_saving_takes_and_a_cancel_after_it_is_not() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, _) = puppet.begin().await;
    let asked = act.handle.stop(job, Uid(1)).await.unwrap();
    assert!(matches!(asked.state, JobState::Running { intent: Some(Intent::Stop), .. }));
    assert_eq!(line.hear().await, Some(ToWorker::Stop { class: StopClass::Cancelled }));
    act.handle.stop(job, Uid(1)).await.unwrap();
    tokio::time::sleep(stage.grace * 3).await;
    assert!(puppet.signals().is_empty(), "the grace time is long over");
    puppet.hold(line);
    act.handle.cancel(job, Uid(1)).await.unwrap();
    let (job, attempt) = stage.ended(job).await;
    assert_eq!((job.state, attempt.exit.unwrap().class), (JobState::Cancelled, ExitClass::Cancelled));
    assert_eq!(puppet.signals(), [Signal::Term, Signal::Kill]);
    act.end().await;
}

#[tokio::test]
async fn a_paused_job_is_held_and_a_preempted_one_queued_once_its_work_is_saved() {
    let mut stage = Stage::new().await;
    stage.preemptible = true;
    let act = stage.act().await;
    for is_pause in [true, false] {
        let job = stage.submit(0).await;
        let puppet = stage.start(&act, job).await;
        let (mut line, start) = puppet.begin().await;
        let hold = Hold { by: Uid(1), reason: Some("the demo".into()), not_before: None };
        act.handle.preempt(job, JobId(99)).await.unwrap();
        if is_pause {
            act.handle.pause(job, hold.clone()).await.unwrap();
        }
        assert_eq!(line.hear().await, Some(ToWorker::Stop { class: StopClass::Preempted }));
        tokio::time::sleep(stage.grace * 2).await;
        assert!(puppet.signals().is_empty(), "it is left the time that saving takes");
        let checkpoint = stage.checkpoint(&puppet, &start, 7).await;
        line.report(ReportBody::Checkpoint { checkpoint }).await;
        puppet.write_result(&puppet.result(&start, ExitClass::Preempted));
        puppet.die(Ended::Code(0));
        drop(line);
        let (after, attempt) = stage.ended(job).await;
        let exit = attempt.exit.unwrap();
        let words = if is_pause { "paused on request" } else { "made way for job 99" };
        assert_eq!((exit.class, exit.message.as_deref()), (ExitClass::Preempted, Some(words)));
        let state = if is_pause { JobState::Held(hold) } else { JobState::Queued { not_before: None } };
        assert_eq!((after.state, after.retries_used), (state, 0));
        if is_pause {
            stage.store.command(job, None, Command::Release { by: Uid(1) }).await.unwrap();
        }
        let puppet = stage.start(&act, job).await;
        let (line, start) = puppet.begin().await;
        assert_eq!(start.resume[0].step, 7, "it goes on from there");
        puppet.die(Ended::Code(1));
        drop(line);
        stage.ended(job).await;
    }
    act.end().await;
}

#[tokio::test]
async fn a_worker_preempted_before_it_dialled_waits_again() {
    let mut stage = Stage::new().await;
    stage.preemptible = true;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    act.handle.preempt(job, JobId(99)).await.unwrap();
    let mut line = puppet.dial(puppet.hello(false)).await;
    assert!(matches!(line.hear().await, Some(ToWorker::Refused { .. })));
    assert_eq!(line.hear().await, None);
    puppet.die(Ended::Code(1));
    let (after, _) = stage.ended(job).await;
    assert_eq!((after.state, after.retries_used), (JobState::Queued { not_before: None }, 0));
    act.end().await;
}

#[tokio::test]
async fn a_worker_cancelled_before_it_dialled_is_refused() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(3).await;
    let puppet = stage.start(&act, job).await;
    act.handle.cancel(job, Uid(1)).await.unwrap();
    let mut line = puppet.dial(puppet.hello(false)).await;
    assert!(matches!(line.hear().await, Some(ToWorker::Refused { .. })));
    assert_eq!(line.hear().await, None);
    let (job, _) = stage.ended(job).await;
    assert_eq!(job.state, JobState::Cancelled);
    act.end().await;
}

#[tokio::test]
async fn no_progress_is_a_hang_and_no_heartbeat_a_lost_lease() {
    let mut stage = Stage::new().await;
    stage.limits.hang = Some(Duration::from_millis(300));
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, _) = puppet.begin().await;
    line.beat(7).await;
    stage.when(job, |_, attempt| attempt.progress.step == Some(7)).await;
    assert_eq!(line.hear().await, Some(ToWorker::Stop { class: StopClass::Preempted }));
    puppet.hold(line);
    let (_, attempt) = stage.ended(job).await;
    let exit = attempt.exit.unwrap();
    assert_eq!(exit.class, ExitClass::Hang);
    assert!(exit.message.unwrap().contains("after step 7"));
    act.end().await;

    stage.limits.hang = None;
    stage.limits.lease = Duration::from_millis(300);
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    puppet.hold(puppet.begin().await.0);
    let (_, attempt) = stage.ended(job).await;
    assert_eq!(attempt.exit.unwrap().class, ExitClass::Lost);
    assert_eq!(puppet.signals(), [Signal::Kill], "the evidence of its death");
    act.end().await;
}

#[tokio::test]
async fn a_success_that_is_not_in_storage_is_a_lie() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (line, start) = puppet.begin().await;
    puppet.write_result(&puppet.result(&start, ExitClass::Ok));
    puppet.die(Ended::Code(0));
    drop(line);
    let (job, attempt) = stage.ended(job).await;
    assert_eq!(job.state, JobState::Failed);
    let exit = attempt.exit.unwrap();
    assert_eq!(exit.class, ExitClass::Crash);
    assert!(exit.message.unwrap().contains("not in storage"));
    act.end().await;
}

#[tokio::test]
async fn a_result_file_is_input_like_any_other() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    for kind in ["garbage", "huge", "folder", "fifo"] {
        let job = stage.submit(0).await;
        let puppet = stage.start(&act, job).await;
        let (line, _) = puppet.begin().await;
        let dir = &puppet.launch.attempt_dir;
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join(mlctl_protocol::result::RESULT_FILE);
        match kind {
            "garbage" => std::fs::write(&path, "not json").unwrap(),
            "huge" => std::fs::write(&path, vec![b' '; 300 * 1024]).unwrap(),
            "folder" => std::fs::create_dir(&path).unwrap(),
            _ => assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()),
        }
        puppet.die(Ended::Code(0));
        drop(line);
        let (_, attempt) = stage.ended(job).await;
        let exit = attempt.exit.unwrap();
        assert_eq!(exit.class, ExitClass::Crash, "{kind}");
        assert!(exit.message.unwrap().contains("result file is not understood"), "{kind}");
    }
    act.end().await;
}

#[tokio::test]
async fn a_worker_that_finished_and_does_not_end_is_ended_and_its_result_holds() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    stage.publish(&start).await;
    let result = puppet.result(&start, ExitClass::Ok);
    line.report(ReportBody::Finished { result: Box::new(result) }).await;
    puppet.hold(line);
    let (job, _) = stage.when(job, |job, _| job.state.is_terminal()).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(puppet.signals(), [Signal::Term, Signal::Kill]);
    act.end().await;
}

#[tokio::test]
async fn old_checkpoints_go_once_a_newer_one_is_verified() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    let first = stage.checkpoint(&puppet, &start, 1).await;
    line.report(ReportBody::Checkpoint { checkpoint: first.clone() }).await;
    assert!(stage.exists(&first).await);
    let second = stage.checkpoint(&puppet, &start, 2).await;
    line.report(ReportBody::Checkpoint { checkpoint: second.clone() }).await;
    let forgotten = async {
        while stage.steps_on_record(job).await != [(AttemptNumber(1), 2)] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(forgotten).await;
    // The row goes first.
    let deleted = async {
        while stage.exists(&first).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(deleted).await;
    assert!(stage.exists(&second).await);

    // A third that is damaged: nothing is deleted on its word.
    let third = stage.checkpoint(&puppet, &start, 3).await;
    let path = third.uri.strip_prefix("file://").unwrap();
    std::fs::write(format!("{path}/{}", mlctl_artifacts::keys::CHECKPOINT_STATE), "step X").unwrap();
    line.report(ReportBody::Checkpoint { checkpoint: third }).await;
    puppet.die(Ended::Code(1));
    drop(line);
    stage.ended(job).await;
    act.end().await;
    assert!(stage.exists(&second).await);
}

#[tokio::test]
async fn a_checkpoint_on_demand_is_the_next_durable_one() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    assert!(matches!(act.handle.checkpoint(job).await, Err(CheckpointError::NotRunning(_))));
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    let handle = act.handle.clone();
    let asked = tokio::spawn(async move { handle.checkpoint(job).await });
    assert_eq!(line.hear().await, Some(ToWorker::Checkpoint));
    let checkpoint = stage.checkpoint(&puppet, &start, 4).await;
    line.report(ReportBody::Checkpoint { checkpoint: checkpoint.clone() }).await;
    assert_eq!(in_time(asked).await.unwrap().unwrap(), checkpoint);

    let handle = act.handle.clone();
    let asked = tokio::spawn(async move { handle.checkpoint(job).await });
    assert_eq!(line.hear().await, Some(ToWorker::Checkpoint));
    puppet.die(Ended::Code(1));
    drop(line);
    assert!(matches!(in_time(asked).await.unwrap(), Err(CheckpointError::Ended(_))));
    act.end().await;
}
