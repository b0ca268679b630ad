//! Who may speak, and what may be said.

use mlctl_protocol::{
    AttemptNumber, ExitClass, JobId,
    message::{FromWorker, Hello, ReportBody, ToWorker},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::stage::{Stage, in_time};
use crate::{
    domain::{Command, Exit},
    supervisor::executor::{Ended, Signal},
};

#[tokio::test]
async fn only_the_attempt_with_its_secret_is_let_in() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let right = puppet.hello(false);
    let wrong = [
        Hello { secret: "0".repeat(64), ..right.clone() },
        Hello { secret: String::new(), ..right.clone() },
        Hello { attempt: AttemptNumber(2), ..right.clone() },
        Hello { job: JobId(99), ..right.clone() },
        Hello { attempt: AttemptNumber(2), started: true, ..right },
    ];
    for hello in wrong {
        let mut line = puppet.dial(hello.clone()).await;
        assert!(matches!(line.hear().await, Some(ToWorker::Refused { .. })), "{hello:?}");
        assert_eq!(line.hear().await, None);
    }
    let (line, _) = puppet.begin().await;
    assert!(puppet.signals().is_empty(), "the attempt does not suffer for it");
    puppet.die(Ended::Code(1));
    drop(line);
    stage.ended(job).await;
    act.end().await;
}

#[tokio::test]
async fn what_is_no_frame_is_hung_up_on_and_harms_nobody() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, _) = puppet.begin().await;
    let huge = u32::MAX.to_be_bytes();
    let deep = [&8000_u32.to_be_bytes()[..], &[b'['; 8000]].concat();
    for bytes in [&b"\0\0\0\x05hello"[..], b"GET / HTTP/1.1\r\n\r\n", &huge, &deep, b"\0\0\0\0"] {
        let mut stream = UnixStream::connect(&puppet.launch.socket).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Closed, with or without a reset.
        let _ = in_time(stream.read_to_end(&mut answer)).await;
        assert_eq!(answer, b"");
    }
    line.report(ReportBody::Warning { message: "still here".into() }).await;
    line.say(FromWorker::Unknown).await;
    line.report(ReportBody::Unknown).await;
    puppet.die(Ended::Code(1));
    drop(line);
    stage.ended(job).await;
    act.end().await;
}

#[tokio::test]
async fn a_report_is_taken_once() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    let checkpoint = stage.checkpoint(&puppet, &start, 1).await;
    let body = ReportBody::Checkpoint { checkpoint };
    line.report(body.clone()).await;
    line.count_from(0);
    line.report(body.clone()).await;
    drop(line);
    let mut line = puppet.dial(puppet.hello(true)).await;
    assert_eq!(line.hear().await, Some(ToWorker::Welcome { acked: 1 }));
    line.report(body).await;
    assert_eq!(stage.steps_on_record(job).await, [(AttemptNumber(1), 1)]);
    puppet.die(Ended::Code(1));
    drop(line);
    stage.ended(job).await;
    act.end().await;
}

#[tokio::test]
async fn reports_of_a_worker_that_died_at_once_are_still_heard() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    for step in 1..=20 {
        let checkpoint = stage.checkpoint(&puppet, &start, step).await;
        line.send(ReportBody::Checkpoint { checkpoint }).await;
    }
    puppet.die(Ended::Signal { number: 9, out_of_memory: false });
    drop(line);
    let (job, _) = stage.ended(job).await;
    assert_eq!(job.checkpoint.unwrap().step, 20);
    act.end().await;
}

#[tokio::test]
async fn a_checkpoint_elsewhere_ends_the_attempt() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, start) = puppet.begin().await;
    let mut checkpoint = stage.checkpoint(&puppet, &start, 1).await;
    checkpoint.uri = checkpoint.uri.replace("/1/checkpoints", "/2/checkpoints");
    line.send(ReportBody::Checkpoint { checkpoint }).await;
    let (job, attempt) = stage.ended(job).await;
    let exit = attempt.exit.unwrap();
    assert_eq!(exit.class, ExitClass::Crash);
    assert!(exit.message.unwrap().contains("outside its own folder"));
    assert_eq!(puppet.signals(), [Signal::Kill]);
    assert_ne!(job.checkpoint.map(|checkpoint| checkpoint.uri.contains("/2/")), Some(true));
    act.end().await;
}

#[tokio::test]
async fn an_attempt_that_lost_the_job_is_refused_and_killed() {
    let stage = Stage::new().await;
    let act = stage.act().await;
    let job = stage.submit(0).await;
    let puppet = stage.start(&act, job).await;
    let (mut line, _) = puppet.begin().await;
    let (_, attempt) = stage.when(job, |_, attempt| attempt.process.is_some()).await;
    let exit = Exit { class: ExitClass::Lost, message: None, hint: None };
    let command = Command::End { exit, model: None, output: None, jitter: 0.5 };
    stage.store.command(job, Some(attempt.fence), command).await.unwrap();
    line.beat(3).await;
    assert!(matches!(line.hear().await, Some(ToWorker::Refused { .. })));
    let killed = async {
        while puppet.signals() != [Signal::Kill] {
            tokio::task::yield_now().await;
        }
    };
    in_time(killed).await;
    act.end().await;
}
