//! What is known of checkpoints besides themselves: when they were kept, and who begins with them, whom nobody takes them from.

use mlctl::{
    domain::{Command, Hold, Refusal, Uid, schedule::Policy},
    store::{Finished, KeptCheckpoint, NeededBy, NewJob, NewSchedule, StoreError},
};
use mlctl_protocol::{
    ExitClass, JobId,
    message::ReportBody,
    result::ModelRef,
    spec::{InitSpec, Work},
};

use crate::rig::{Rig, USER, checkpoint, exit, new_job};

/// A job that begins with these weights, and starts only when it is let go.
pub fn beginner(name: &str, from: &str) -> NewJob {
    let mut new = new_job(name, name);
    if let Work::Train(train) = &mut new.spec.work {
        train.init = Some(InitSpec { from: from.to_owned(), key: None });
    }
    NewJob { hold: Some(Hold { by: USER, reason: None, not_before: None }), ..new }
}

/// A job with two checkpoints and a model that has succeeded.
async fn trained(rig: &Rig, name: &str) -> JobId {
    let id = rig.submit(name).await;
    let fence = rig.claim(id).await;
    for step in [1, 2] {
        let uri = format!("file:///o/jobs/{id}-x/1/checkpoints/{step:012}");
        let body = ReportBody::Checkpoint { checkpoint: checkpoint(&uri, step) };
        rig.store.report(fence, step, body).await.unwrap();
        rig.clock.forward(86_400);
    }
    let model = Some(ModelRef { uri: format!("file:///o/jobs/{id}-x/model/1"), digest: "0".repeat(64) });
    let command = Command::End { exit: exit(ExitClass::Ok), model, output: None, jitter: 0.5 };
    rig.store.command(id, Some(fence), command).await.unwrap();
    id
}

async fn needed(rig: &Rig, id: JobId) -> Vec<(u64, Option<JobId>)> {
    let kept = rig.store.kept_checkpoints(id).await.unwrap();
    let job = |one: &KeptCheckpoint| match one.needed_by {
        Some(NeededBy::Job(job)) => Some(job),
        _ => None,
    };
    kept.iter().map(|one| (one.checkpoint.step, job(one))).collect()
}

async fn remove(rig: &Rig, id: JobId, with_objects: bool) -> Result<(), &'static str> {
    match rig.store.remove_with(&[id], USER, false, with_objects).await.unwrap().remove(0) {
        Ok(_) => Ok(()),
        Err(StoreError::Refused(Refusal::WrongState { verb, .. })) => Err(verb),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_checkpoint_is_needed_by_who_begins_with_it_and_has_not_succeeded() {
    let mut rig = Rig::new().await;
    let id = trained(&rig, "one").await;
    let kept = rig.store.kept_checkpoints(id).await.unwrap();
    let days = kept[0].at.unwrap().duration_since(kept[1].at.unwrap()).as_hours();
    assert_eq!((kept[0].checkpoint.step, days), (2, 24));
    assert_eq!(needed(&rig, id).await, [(2, None), (1, None)]);
    let first = &kept[1].checkpoint.uri;
    // The folder, a file in it; not what is merely called alike.
    let whole = rig.store.submit(beginner("whole", first)).await.unwrap().id;
    let file = rig.store.submit(beginner("file", &format!("{first}/model.safetensors"))).await.unwrap().id;
    rig.store.submit(beginner("alike", &format!("{first}1"))).await.unwrap();
    assert_eq!(needed(&rig, id).await, [(2, None), (1, Some(whole))]);
    rig.store.command(whole, None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(needed(&rig, id).await, [(2, None), (1, Some(whole))], "it can be tried again");
    assert!(remove(&rig, whole, false).await.is_ok());
    assert_eq!(needed(&rig, id).await, [(2, None), (1, Some(file))]);
    rig.store.command(file, None, Command::Release { by: USER }).await.unwrap();
    let fence = rig.claim(file).await;
    assert_eq!(needed(&rig, id).await, [(2, None), (1, Some(file))]);
    rig.end(fence, ExitClass::Ok).await;
    assert_eq!(needed(&rig, id).await, [(2, None), (1, None)]);
    rig.check().await;
    rig.reopen().await;
    rig.check().await;
}

#[tokio::test]
async fn a_job_stays_while_one_is_to_begin_with_what_it_has_stored() {
    let rig = Rig::new().await;
    let id = trained(&rig, "one").await;
    let other = trained(&rig, "other").await;
    let uri = rig.store.kept_checkpoints(id).await.unwrap().remove(0).checkpoint.uri;
    let model = rig.store.job(other).await.unwrap().job.model.unwrap().uri;
    let waits = rig.store.submit(beginner("waits", &uri)).await.unwrap().id;
    let models = rig.store.submit(beginner("models", &model)).await.unwrap().id;
    let refused =
        Err("removed while a job that has not ended, or one of a schedule, is to begin with what it has stored");
    assert_eq!(remove(&rig, id, false).await, refused);
    assert_eq!(remove(&rig, other, true).await, refused, "its model would be deleted");
    // What removes jobs by itself passes over it.
    let (oldest, all) = rig.store.oldest_finished(10).await.unwrap();
    assert_eq!((oldest.iter().map(|(one, _)| *one).collect::<Vec<_>>(), all), (vec![Finished::Job(other)], 2));
    rig.store.command(waits, None, Command::Cancel { by: Uid(0) }).await.unwrap();
    assert_eq!((remove(&rig, id, true).await, remove(&rig, other, false).await), (Ok(()), Ok(())), "the model stays");
    rig.store.command(models, None, Command::Cancel { by: Uid(0) }).await.unwrap();
    rig.check().await;
}

/// A schedule whose jobs begin with these weights.
pub async fn schedule(rig: &Rig, name: &str, from: &str) {
    let spec = beginner(name, from).spec;
    let (cron, zone, created_at) = ("@daily".to_owned(), "UTC".to_owned(), rig.now());
    let new = NewSchedule {
        name: name.into(),
        cron,
        zone,
        spec,
        user: USER,
        created_at,
        next: None,
        policy: Policy::default(),
    };
    rig.store.add_schedule(new).await.unwrap();
}

#[tokio::test]
async fn what_the_jobs_of_a_schedule_begin_with_stays() {
    let rig = Rig::new().await;
    let (id, other) = (trained(&rig, "one").await, trained(&rig, "other").await);
    let uri = rig.store.kept_checkpoints(id).await.unwrap().remove(1).checkpoint.uri;
    let model = rig.store.job(other).await.unwrap().job.model.unwrap().uri;
    schedule(&rig, "file", &format!("{uri}/model.safetensors")).await;
    schedule(&rig, "models", &model).await;
    schedule(&rig, "alike", &format!("{uri}1")).await;
    let needed: Vec<_> = rig.store.kept_checkpoints(id).await.unwrap().into_iter().map(|one| one.needed_by).collect();
    assert_eq!(needed, [None, Some(NeededBy::Schedule("file".into()))]);
    let refused =
        Err("removed while a job that has not ended, or one of a schedule, is to begin with what it has stored");
    assert_eq!((remove(&rig, id, false).await, remove(&rig, other, true).await), (refused, refused));
    let (oldest, _) = rig.store.oldest_finished(10).await.unwrap();
    assert_eq!(oldest.iter().map(|(one, _)| *one).collect::<Vec<_>>(), [Finished::Job(other)]);
    for name in ["file", "models"] {
        rig.store.remove_schedule(name).await.unwrap();
    }
    assert_eq!(rig.store.oldest_finished(10).await.unwrap().0.len(), 2);
    assert_eq!((remove(&rig, id, false).await, remove(&rig, other, true).await), (Ok(()), Ok(())));
    rig.check().await;
}
