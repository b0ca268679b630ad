//! Versions of models: numbered once, never changed, not used again, and nothing is removed under them.

use mlctl::{
    domain::{
        Refusal, Uid,
        registry::{Content, Object},
    },
    store::{ModelVersion, NewVersion, StoreError},
};
use mlctl_protocol::{
    ExitClass, JobId,
    message::ReportBody,
    result::ModelRef,
    spec::{InitSpec, Work},
};

use crate::{
    kept,
    rig::{Rig, USER, checkpoint, exit, new_job},
};

fn content(job: JobId, step: Option<u64>) -> Content {
    Content {
        uri: format!(
            "file:///o/jobs/{job}-x/{}",
            step.map_or("model/1".into(), |step| format!("1/checkpoints/{step}"))
        ),
        objects: vec![Object { name: "config.json".into(), size_bytes: 7, blake3: "ab".repeat(32) }],
        job,
        attempt: step.map(|_| 1),
        step,
        digest: None,
        spec_digest: "0".repeat(64),
        dataset_digest: None,
        metrics: [("val_loss".to_owned(), 0.1 + 0.2)].into(),
    }
}

pub async fn trained(rig: &Rig, name: &str, register: Option<&str>) -> JobId {
    let mut new = new_job(name, name);
    if let Work::Train(train) = &mut new.spec.work {
        train.register = register.map(str::to_owned);
    }
    let id = rig.store.submit(new).await.unwrap().id;
    let fence = rig.claim(id).await;
    let body = ReportBody::Checkpoint { checkpoint: checkpoint(&content(id, Some(5)).uri, 5) };
    rig.store.report(fence, 1, body).await.unwrap();
    let model = Some(ModelRef { uri: format!("file:///o/jobs/{id}-x/model/1"), digest: "0".repeat(64) });
    let command = mlctl::domain::Command::End { exit: exit(ExitClass::Ok), model, output: None, jitter: 0.5 };
    rig.store.command(id, Some(fence), command).await.unwrap();
    id
}

pub async fn register(rig: &Rig, job: JobId, step: Option<u64>, by: Uid) -> (u32, bool) {
    let new = NewVersion { model: "digits".into(), content: content(job, step), by, once: by == Uid::SYSTEM };
    let (version, existed) = rig.store.register_version(new).await.unwrap();
    assert_eq!(version.content, content(job, step));
    (version.version, existed)
}

async fn numbers(rig: &Rig) -> Vec<u32> {
    rig.store.model_versions("digits").await.unwrap().iter().map(|version| version.version).collect()
}

#[tokio::test]
async fn versions_are_counted_and_a_number_is_not_used_again() {
    let mut rig = Rig::new().await;
    let (one, two) = (trained(&rig, "one", None).await, trained(&rig, "two", None).await);
    assert!(matches!(rig.store.model_versions("digits").await, Err(StoreError::NoModel(_))));
    assert_eq!(register(&rig, one, None, USER).await, (1, false));
    assert_eq!(register(&rig, one, None, USER).await, (1, true), "the same is the same version");
    assert_eq!(register(&rig, one, Some(5), USER).await, (2, false));
    assert_eq!(register(&rig, two, None, USER).await, (3, false));
    assert_eq!(numbers(&rig).await, [3, 2, 1]);
    let removed: ModelVersion = rig.store.remove_version("digits", 3, USER).await.unwrap();
    assert_eq!((removed.version, removed.removed.map(|(by, _)| by)), (3, Some(USER)));
    for _ in 0..2 {
        assert_eq!(numbers(&rig).await, [2, 1]);
        assert!(matches!(rig.store.remove_version("digits", 3, USER).await, Err(StoreError::NoVersion { .. })));
        rig.check().await;
        rig.reopen().await;
    }
    assert_eq!(register(&rig, two, None, Uid::SYSTEM).await, (3, true), "a spec asks for it once");
    assert_eq!(register(&rig, two, None, USER).await, (4, false), "a person may want it back");
    let models = rig.store.models().await.unwrap();
    let newest = models[0].newest.as_ref().unwrap();
    assert_eq!((models.len(), models[0].versions, newest.version), (1, 3, 4));
    for version in [1, 2, 4] {
        rig.store.remove_version("digits", version, USER).await.unwrap();
    }
    assert_eq!(rig.store.models().await.unwrap()[0].newest, None);
    assert_eq!(numbers(&rig).await, Vec::<u32>::new());
    rig.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_never_seen_without_its_first_version() {
    let rig = Rig::new().await;
    let job = trained(&rig, "one", None).await;
    for number in 0..100 {
        let model = format!("m{number}");
        let (store, wanted) = (rig.store.clone(), model.clone());
        let reader = tokio::spawn(async move {
            loop {
                match store.model_versions(&wanted).await {
                    Err(StoreError::NoModel(_)) => {}
                    seen => return seen.unwrap().len(),
                }
            }
        });
        let new = NewVersion { model, content: content(job, None), by: USER, once: false };
        rig.store.register_version(new).await.unwrap();
        assert_eq!(reader.await.unwrap(), 1, "m{number}");
    }
}

#[tokio::test]
async fn what_a_version_holds_is_not_removed_and_a_version_in_use_neither() {
    let rig = Rig::new().await;
    let id = trained(&rig, "one", None).await;
    register(&rig, id, None, USER).await;
    let remove = async |with_objects| rig.store.remove_with(&[id], USER, false, with_objects).await.unwrap().remove(0);
    let refused = remove(true).await.unwrap_err();
    let StoreError::Refused(Refusal::WrongState { verb, .. }) = refused else { panic!("{refused}") };
    assert_eq!(verb, "removed with what a version of a model holds");
    let mut new = new_job("begins", "begins");
    if let Work::Train(train) = &mut new.spec.work {
        train.init = Some(InitSpec { from: content(id, None).uri, key: None });
    }
    let begins = rig.store.submit(new).await.unwrap().id;
    let in_use = rig.store.remove_version("digits", 1, USER).await;
    assert!(matches!(in_use, Err(StoreError::VersionInUse { version: 1, .. })), "{in_use:?}");
    assert!(remove(false).await.is_ok(), "its model stays in storage");
    assert_eq!(numbers(&rig).await, [1], "a version outlives its job");
    let fence = rig.claim(begins).await;
    rig.end(fence, ExitClass::Ok).await;
    kept::schedule(&rig, "nightly", &content(id, None).uri).await;
    let in_use = rig.store.remove_version("digits", 1, USER).await;
    assert!(matches!(in_use, Err(StoreError::VersionInUse { version: 1, .. })), "{in_use:?}");
    rig.store.remove_schedule("nightly").await.unwrap();
    rig.store.remove_version("digits", 1, USER).await.unwrap();
    let gone = NewVersion { model: "digits".into(), content: content(id, None), by: USER, once: false };
    assert!(matches!(rig.store.register_version(gone).await, Err(StoreError::NotFound(_))));
    rig.check().await;
}

#[tokio::test]
async fn jobs_whose_spec_names_a_model_are_found_until_they_have_a_version() {
    let rig = Rig::new().await;
    let (one, _) = (trained(&rig, "one", Some("digits")).await, trained(&rig, "other", None).await);
    let two = trained(&rig, "two", Some("digits")).await;
    let mut waits = new_job("waits", "waits");
    if let Work::Train(train) = &mut waits.spec.work {
        train.register = Some("digits".into());
    }
    rig.store.submit(waits).await.unwrap();
    register(&rig, two, Some(5), USER).await;
    let found = async |after| rig.store.unregistered(JobId(after), 10).await.unwrap();
    assert_eq!(found(0).await, [(one, "digits".to_owned()), (two, "digits".to_owned())]);
    assert_eq!(found(one.0).await, [(two, "digits".to_owned())]);
    register(&rig, one, None, Uid::SYSTEM).await;
    rig.store.remove_version("digits", 2, USER).await.unwrap();
    assert_eq!(found(0).await, [(two, "digits".to_owned())], "one that was removed is not made again");
}

#[tokio::test]
async fn a_checkpoint_is_registered_or_forgotten_and_never_both() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let fence = rig.claim(id).await;
    let uri = |step| content(id, Some(step)).uri;
    for step in 1..=5 {
        let body = ReportBody::Checkpoint { checkpoint: checkpoint(&uri(step), step) };
        rig.store.report(fence, step, body).await.unwrap();
    }
    register(&rig, id, Some(1), USER).await;
    kept::schedule(&rig, "nightly", &uri(2)).await;
    let begins = kept::beginner("begins", &format!("{}/model.safetensors", uri(3)));
    rig.store.submit(begins).await.unwrap();
    let forgotten = rig.store.forget_checkpoints(id, (1..=5).map(uri).collect()).await.unwrap();
    assert_eq!(forgotten, [uri(4)], "a version, a schedule and a job need others, and the newest stays");
    let late = NewVersion { model: "digits".into(), content: content(id, Some(4)), by: USER, once: false };
    let refused = rig.store.register_version(late).await;
    assert!(matches!(refused, Err(StoreError::NoCheckpoint { step: 4, .. })), "{refused:?}");
    // In one group, in either order.
    let new = |step| NewVersion { model: "digits".into(), content: content(id, Some(step)), by: USER, once: false };
    rig.store.remove_schedule("nightly").await.unwrap();
    let (forgotten, refused) =
        tokio::join!(rig.store.forget_checkpoints(id, vec![uri(2)]), rig.store.register_version(new(2)));
    assert!(forgotten.unwrap() == [uri(2)] && matches!(refused, Err(StoreError::NoCheckpoint { step: 2, .. })));
    rig.store.remove_version("digits", 1, USER).await.unwrap();
    let (registered, forgotten) =
        tokio::join!(rig.store.register_version(new(1)), rig.store.forget_checkpoints(id, vec![uri(1)]));
    assert!(registered.is_ok() && forgotten.unwrap().is_empty());
    rig.check().await;
}
