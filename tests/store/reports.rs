//! What workers report: taken once, only from the attempt that holds the job, and replaced where a later attempt goes on.

use futures_util::future::join_all;
use mlctl::{
    domain::{Fence, Refusal},
    store::{Beat, StoreError, Used},
};
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId,
    message::ReportBody,
    progress::{MetricPoint, Progress},
    result::WorkerResult,
};

use crate::rig::{self, Rig};

fn points(steps: impl IntoIterator<Item = u64>, loss: f64) -> ReportBody {
    let point = |step| MetricPoint { step, epoch: step / 10, values: [("train_loss".to_owned(), loss)].into() };
    ReportBody::Metrics { points: steps.into_iter().map(point).collect() }
}

fn beat(fence: Fence, step: u64) -> Beat {
    let progress = Progress { step: Some(step), loss: Some(0.1 + 0.2), ..Progress::default() };
    let lease_until = "2026-11-25T08:00:00Z".parse().unwrap();
    Beat {
        fence,
        lease_until,
        progress,
        peak_rss_bytes: 1 << 40,
        used: Used { cpu_ms: 1_234, peak_vram_bytes: Some(5 << 30) },
        device: "cpu".into(),
        is_last: false,
    }
}

fn result(fence: Fence) -> WorkerResult {
    WorkerResult {
        v: 1,
        job: fence.job,
        attempt: fence.attempt,
        token: fence.token,
        class: ExitClass::Ok,
        message: None,
        hint: None,
        metrics: [("test_accuracy".to_owned(), 0.97)].into(),
        model: None,
        output: None,
    }
}

/// Steps and losses of a job's curve.
async fn curve(rig: &Rig, job: JobId) -> Vec<(u64, f64)> {
    let points = rig.store.metrics(job, 0, u32::MAX).await.unwrap();
    points.into_iter().map(|(_, point)| (point.step, point.values["train_loss"])).collect()
}

#[tokio::test]
async fn a_report_taken_twice_changes_nothing() {
    let rig = Rig::new().await;
    let fence = rig.claim(rig.submit("one").await).await;
    let reports = [
        points(1..4, 0.5),
        ReportBody::Checkpoint { checkpoint: rig::checkpoint("file:///c/3", 3) },
        ReportBody::Warning { message: "slow".into() },
        ReportBody::Resumed { from: rig::checkpoint("file:///c/3", 3), skipped: vec!["torn".into()] },
        ReportBody::Unknown,
        ReportBody::Finished { result: Box::new(result(fence)) },
    ];
    for (seq, body) in (1..).zip(&reports) {
        assert_eq!(rig.store.report(fence, seq, body.clone()).await.unwrap(), seq);
    }
    let now = rig.now();
    let before = rig::dump(&rig.store, now).await.unwrap();
    for (seq, body) in (1..).zip(&reports) {
        assert_eq!(rig.store.report(fence, seq, body.clone()).await.unwrap(), 6, "all six are durable");
    }
    // A number that was taken is taken, whatever comes under it.
    assert_eq!(rig.store.report(fence, 2, points(9..12, 0.1)).await.unwrap(), 6);
    assert_eq!(rig::dump(&rig.store, now).await.unwrap(), before);
    let attempt = rig.store.job(fence.job).await.unwrap().attempt.unwrap();
    assert_eq!((attempt.last_seq, attempt.result), (6, Some(result(fence))));
    rig.check().await;
}

#[tokio::test]
async fn the_same_report_twice_in_one_group_is_taken_once() {
    let rig = Rig::new().await;
    let fence = rig.claim(rig.submit("one").await).await;
    let answers = join_all([1, 1, 2, 1].map(|seq| rig.store.report(fence, seq, points([seq], 0.5)))).await;
    assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [1, 1, 2, 2]);
    assert_eq!(curve(&rig, fence.job).await, [(1, 0.5), (2, 0.5)]);
}

#[tokio::test]
async fn a_stale_attempt_can_write_nothing() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let old = rig.claim(id).await;
    rig.end(old, ExitClass::Preempted).await;
    let other = rig.claim(rig.submit("other").await).await;
    let current = rig.claim(id).await;
    rig.store.heartbeat(beat(current, 3)).await.unwrap();
    let (now, before) = (rig.now(), rig::dump(&rig.store, rig.now()).await.unwrap());
    let stale = [
        old,
        Fence { token: old.token, ..current },
        Fence { attempt: old.attempt, ..current },
        Fence { job: other.job, ..current },
        Fence { token: FencingToken(u64::MAX), ..current },
        Fence { attempt: AttemptNumber(u32::MAX), ..current },
        Fence { job: JobId(u64::MAX), ..current },
    ];
    for fence in stale {
        let refused = |answer: Result<(), StoreError>| {
            assert!(matches!(answer, Err(StoreError::Refused(Refusal::Stale { .. }))), "{fence:?} {answer:?}");
        };
        refused(rig.store.heartbeat(beat(fence, 99)).await);
        refused(rig.store.report(fence, 50, points([99], 0.1)).await.map(drop));
        let checkpoint = rig::checkpoint("file:///stale", 99);
        refused(rig.store.report(fence, 50, ReportBody::Checkpoint { checkpoint }).await.map(drop));
        refused(rig.store.report(fence, 50, ReportBody::Finished { result: Box::new(result(fence)) }).await.map(drop));
        if fence.job != JobId(u64::MAX) {
            refused(rig.store.command(fence.job, Some(fence), rig::end(ExitClass::Ok)).await.map(drop));
        }
    }
    assert_eq!(rig::dump(&rig.store, now).await.unwrap(), before);
    rig.store.heartbeat(beat(current, 4)).await.unwrap();
    rig.check().await;
}

#[tokio::test]
async fn a_heartbeat_replaces_the_one_before_and_is_no_event() {
    let rig = Rig::new().await;
    let fence = rig.claim(rig.submit("one").await).await;
    let newest = *rig.store.changes().borrow();
    for answer in join_all((1..=50).map(|step| rig.store.heartbeat(beat(fence, step)))).await {
        answer.unwrap();
    }
    let attempt = rig.store.job(fence.job).await.unwrap().attempt.unwrap();
    assert_eq!(attempt.progress, beat(fence, 50).progress);
    assert_eq!((attempt.peak_rss_bytes, attempt.used), (Some(1 << 40), Some(beat(fence, 50).used)));
    assert_eq!(attempt.lease_until, beat(fence, 50).lease_until);
    assert!(attempt.heartbeat_at.is_some());
    assert_eq!(*rig.store.changes().borrow(), newest);
    rig.check().await;
}

#[tokio::test]
async fn points_after_the_checkpoint_are_replaced_when_an_attempt_resumes() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let first = rig.claim(id).await;
    rig.store.report(first, 1, points(1..=10, 0.5)).await.unwrap();
    let checkpoint = rig::checkpoint("file:///c/6", 6);
    rig.store.report(first, 2, ReportBody::Checkpoint { checkpoint: checkpoint.clone() }).await.unwrap();
    rig.end(first, ExitClass::Crash).await;
    assert_eq!(curve(&rig, id).await.len(), 10, "what is known stays until something better is there");
    let second = rig.claim(id).await;
    rig.store.report(second, 1, ReportBody::Resumed { from: checkpoint, skipped: Vec::new() }).await.unwrap();
    assert_eq!(curve(&rig, id).await, (1..=6).map(|step| (step, 0.5)).collect::<Vec<_>>());
    let newest = rig.store.metrics(id, 0, u32::MAX).await.unwrap().last().unwrap().0;
    rig.store.report(second, 2, points(7..=8, 0.4)).await.unwrap();
    let expected: Vec<_> = (1..=6).map(|step| (step, 0.5)).chain([(7, 0.4), (8, 0.4)]).collect();
    assert_eq!(curve(&rig, id).await, expected);
    // Who follows by row id sees the new ones and only them.
    let followed = rig.store.metrics(id, newest + 4, u32::MAX).await.unwrap();
    assert_eq!(followed.iter().map(|(_, point)| point.step).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(rig.store.metrics(id, 0, 3).await.unwrap().len(), 3);
    rig.check().await;
}

#[tokio::test]
async fn an_attempt_that_begins_anew_replaces_the_whole_curve() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let first = rig.claim(id).await;
    rig.store.report(first, 1, points(1..=10, 0.5)).await.unwrap();
    rig.end(first, ExitClass::Crash).await;
    let second = rig.claim(id).await;
    assert_eq!(rig.store.job(id).await.unwrap().metrics["train_loss"], 0.5, "the last known value stays");
    rig.store.report(second, 1, points(1..=2, 0.7)).await.unwrap();
    rig.store.report(second, 2, points(3..=4, 0.6)).await.unwrap();
    assert_eq!(curve(&rig, id).await, [(1, 0.7), (2, 0.7), (3, 0.6), (4, 0.6)]);
    assert_eq!(rig.store.job(id).await.unwrap().metrics["train_loss"], 0.6);
    rig.check().await;
}

#[tokio::test]
async fn two_jobs_curves_do_not_meet() {
    let rig = Rig::new().await;
    let (one, other) = (rig.submit("one").await, rig.submit("other").await);
    let (first, theirs) = (rig.claim(one).await, rig.claim(other).await);
    rig.store.report(first, 1, points(1..=3, 0.5)).await.unwrap();
    rig.store.report(theirs, 1, points(1..=3, 0.9)).await.unwrap();
    rig.end(first, ExitClass::Crash).await;
    let again = rig.claim(one).await;
    rig.store.report(again, 1, points([1], 0.1)).await.unwrap();
    assert_eq!(curve(&rig, one).await, [(1, 0.1)]);
    assert_eq!(curve(&rig, other).await, [(1, 0.9), (2, 0.9), (3, 0.9)]);
}

#[tokio::test]
async fn checkpoints_are_offered_newest_first_and_the_newest_is_never_forgotten() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let first = rig.claim(id).await;
    for step in 1..=3 {
        let checkpoint = rig::checkpoint(&format!("file:///c/{step}"), step);
        rig.store.report(first, step, ReportBody::Checkpoint { checkpoint }).await.unwrap();
    }
    // Found once more in storage: no second row, no second event.
    let events = rig.store.events(Some(id), 0, 100).await.unwrap().len();
    let found = mlctl::domain::Command::Checkpointed { checkpoint: rig::checkpoint("file:///c/3", 3) };
    rig.store.command(id, Some(first), found).await.unwrap();
    assert_eq!(rig.store.events(Some(id), 0, 100).await.unwrap().len(), events);
    let uris = ["file:///c/1", "file:///c/3", "file:///none"].map(str::to_owned);
    rig.store.forget_checkpoints(id, uris.to_vec()).await.unwrap();
    let kept = rig.store.checkpoints(id).await.unwrap();
    assert_eq!(kept.iter().map(|(attempt, kept)| (attempt.0, kept.step)).collect::<Vec<_>>(), [(1, 3), (1, 2)]);
    rig.end(first, ExitClass::Crash).await;
    let resume = rig.store.claim(id, Vec::new(), [1; 32], rig.now()).await.unwrap().resume;
    assert_eq!(resume.iter().map(|checkpoint| checkpoint.step).collect::<Vec<_>>(), [3, 2]);
    rig.check().await;
}

#[tokio::test]
async fn numbers_beyond_what_sqlite_can_keep_are_survived() {
    let mut rig = Rig::new().await;
    let fence = rig.claim(rig.submit("one").await).await;
    rig.store.report(fence, 1, points([u64::MAX], f64::MAX)).await.unwrap();
    rig.store.heartbeat(Beat { peak_rss_bytes: u64::MAX, ..beat(fence, u64::MAX) }).await.unwrap();
    let checkpoint = rig::checkpoint("file:///c", u64::MAX);
    rig.store.report(fence, 2, ReportBody::Resumed { from: checkpoint, skipped: Vec::new() }).await.unwrap();
    rig.store.report(fence, u64::MAX, points([1], f64::MIN_POSITIVE)).await.unwrap();
    rig.reopen().await;
    assert_eq!(curve(&rig, fence.job).await, [(u64::MAX, f64::MAX), (1, f64::MIN_POSITIVE)]);
    rig.check().await;
}
