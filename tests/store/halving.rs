//! Successive halving: decided from rows, once for each member and rung, in the transaction that keeps the checkpoint.

use mlctl::{
    domain::{
        Command, Fence, Intent, JobState,
        array::{Goal, Halving, Metric},
    },
    store::NewArray,
};
use mlctl_protocol::{ExitClass, JobId, message::ReportBody};

use crate::{
    arrays::array,
    rig::{Rig, USER, checkpoint},
};

fn halved(size: u32) -> NewArray {
    let metric = Metric { name: "train_loss".into(), goal: Goal::Min };
    let mut new = array("sweep", size, "k");
    new.design.halving = Some(Halving { metric, eta: 3, min_steps: 100 });
    new
}

/// A worker's checkpoint of a step and with a loss. Whether the job is asked to stop afterwards.
async fn save(rig: &Rig, fence: Fence, seq: u64, step: u64, loss: Option<f64>) -> bool {
    let mut saved = checkpoint(&format!("u/{}/{step}", fence.job), step);
    saved.metrics = loss.map(|loss| ("train_loss".to_owned(), loss)).into_iter().collect();
    rig.store.report(fence, seq, ReportBody::Checkpoint { checkpoint: saved }).await.unwrap();
    matches!(rig.state(fence.job).await, JobState::Running { intent: Some(Intent::Stop), .. })
}

#[tokio::test]
async fn members_are_stopped_at_rungs_and_counted_apart() {
    let mut rig = Rig::new().await;
    let id = rig.store.submit_array(halved(4)).await.unwrap().id;
    let mut fences = Vec::new();
    for member in 1..=4 {
        fences.push(rig.claim(JobId(id.0 + member)).await);
    }
    assert!(!save(&rig, fences[0], 1, 50, Some(9.0)).await, "below the first rung");
    assert!(!save(&rig, fences[0], 2, 100, None).await, "without a value nothing is decided");
    assert!(!save(&rig, fences[0], 3, 120, Some(0.2)).await);
    assert!(!save(&rig, fences[1], 1, 100, Some(0.5)).await, "fewer than three have come");
    rig.reopen().await;
    assert!(save(&rig, fences[2], 1, 100, Some(0.3)).await, "from rows, not from memory");
    assert!(!save(&rig, fences[3], 1, 100, Some(0.1)).await, "the best of four");
    assert!(!save(&rig, fences[1], 2, 200, Some(5.0)).await, "it came to this rung before");
    let stopped = rig.store.job(fences[2].job).await.unwrap().job;
    assert_eq!(stopped.stopped_early.as_deref(), Some("stopped early: rank 2 of 3 at 100 steps by train_loss"));
    rig.end(fences[2], ExitClass::Cancelled).await;
    let counts = rig.store.array(id).await.unwrap().counts;
    assert_eq!((counts.get("stopped"), counts.get("cancelled"), counts.get("running")), (Some(&1), None, Some(&3)));
    rig.check().await;
    let again = Command::Retry { by: USER };
    let (taken, _) = rig.store.command_members(id, &["failed", "cancelled"], &again).await.unwrap();
    assert!(taken.is_empty(), "who was stopped early is not tried again with the others");
    rig.store.command(fences[2].job, None, again).await.unwrap();
    let retried = rig.claim(fences[2].job).await;
    assert!(!save(&rig, retried, 1, 110, Some(7.0)).await, "nor compared at the same rung again");
    assert_eq!(rig.store.job(retried.job).await.unwrap().job.stopped_early, None);
    rig.check().await;
}

#[tokio::test]
async fn what_is_done_or_asked_to_end_is_not_stopped_early() {
    let rig = Rig::new().await;
    let id = rig.store.submit_array(halved(4)).await.unwrap().id;
    for (member, loss) in [(1, 0.1), (2, 0.2)] {
        let fence = rig.claim(JobId(id.0 + member)).await;
        assert!(!save(&rig, fence, 1, 100, Some(loss)).await);
    }
    let done = rig.claim(JobId(id.0 + 3)).await;
    assert!(save(&rig, done, 1, 100, Some(0.9)).await);
    rig.end(done, ExitClass::Ok).await;
    assert_eq!(rig.store.job(done.job).await.unwrap().job.stopped_early, None, "work that is done counts");
    let cancelled = rig.claim(JobId(id.0 + 4)).await;
    rig.store.command(cancelled.job, None, Command::Cancel { by: USER }).await.unwrap();
    assert!(!save(&rig, cancelled, 1, 100, Some(0.9)).await);
    rig.end(cancelled, ExitClass::Cancelled).await;
    let counts = rig.store.array(id).await.unwrap().counts;
    assert_eq!((counts.get("cancelled"), counts.get("stopped")), (Some(&1), None), "a person's wish is told as one");
    rig.check().await;
}
