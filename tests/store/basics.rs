//! What each operation does, one at a time.

use mlctl::{
    domain::{Command, Exit, Intent, JobState, Refusal, Uid, event::ProcessIdentity},
    store::{Beat, ListFilter, NewJob, StoreError},
};
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId,
    message::ReportBody,
    progress::{MetricPoint, Progress},
    result::WorkerResult,
};

use crate::rig::{self, Rig, USER};

#[tokio::test]
async fn a_job_goes_through_its_life() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    assert_eq!(id, JobId(1));
    let ready = rig.store.ready(rig.now(), 10).await.unwrap();
    assert_eq!(ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [id]);
    let fence = rig.claim(id).await;
    assert_eq!((fence.attempt, fence.token), (AttemptNumber(1), FencingToken((1 << 40) + 1)));
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty());
    let (job, attempt) = rig.store.running().await.unwrap().remove(0);
    assert_eq!((job.id, attempt.fence, attempt.secret_hash), (id, fence, [7; 32]));
    rig.end(fence, ExitClass::Ok).await;
    let detail = rig.store.job(id).await.unwrap();
    assert_eq!(detail.job.state, JobState::Succeeded);
    assert_eq!(detail.job.exit, Some(Exit { class: ExitClass::Ok, message: None, hint: None }));
    assert!(detail.attempt.unwrap().ended_at.is_some());
    assert_eq!(rig.store.events(Some(id), 0, 10).await.unwrap().len(), 3);
    rig.check().await;
}
