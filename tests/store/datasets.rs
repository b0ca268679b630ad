//! Versions of datasets: numbered once, never changed, not used again, and none is removed under who reads it.

use mlctl::{
    domain::registry::Dataset,
    store::{DatasetVersion, NewDataset, StoreError},
};
use mlctl_protocol::{
    ExitClass,
    spec::{DataFormat, DataSource, JobSpec, Work},
};

use crate::rig::{Rig, USER, new_job};

fn content(digest: &str) -> Dataset {
    Dataset {
        manifest: format!("file:///o/datasets/x/{digest}.json"),
        digest: digest.to_owned(),
        format: DataFormat::Csv,
        uri: "file:///d/x.csv".into(),
        targets_uri: None,
        rows: Some(7),
        columns: 2,
        objects: 1,
        size_bytes: 70,
    }
}

async fn add(rig: &Rig, digest: &str) -> (u32, bool) {
    let new = NewDataset { dataset: "digits".into(), content: content(digest), by: USER };
    let (version, existed) = rig.store.add_dataset(new).await.unwrap();
    assert_eq!(version.content, content(digest));
    (version.version, existed)
}

async fn numbers(rig: &Rig) -> Vec<u32> {
    rig.store.dataset_versions("digits").await.unwrap().iter().map(|version| version.version).collect()
}

fn pin(spec: &mut JobSpec, digest: &str) {
    if let Work::Train(train) = &mut spec.work {
        train.data = DataSource::Dataset {
            dataset: "digits/1".into(),
            targets: vec!["y".into()],
            features: Vec::new(),
            tokenizer: None,
            pinned: Some(content(digest).pinned()),
        };
    }
}

#[tokio::test]
async fn versions_are_counted_and_a_number_is_not_used_again() {
    let mut rig = Rig::new().await;
    assert!(matches!(rig.store.dataset_versions("digits").await, Err(StoreError::NoDataset(_))));
    assert!(matches!(rig.store.dataset_version("digits", None).await, Err(StoreError::NoDataset(_))));
    assert_eq!(add(&rig, "a").await, (1, false));
    assert_eq!(add(&rig, "a").await, (1, true), "the newest is of the same");
    assert_eq!(add(&rig, "b").await, (2, false));
    assert_eq!(add(&rig, "a").await, (3, false), "back to what it was is a version of its own");
    let removed: DatasetVersion = rig.store.remove_dataset("digits", 3, USER).await.unwrap();
    assert_eq!((removed.version, removed.removed.map(|(by, _)| by)), (3, Some(USER)));
    for _ in 0..2 {
        assert_eq!(numbers(&rig).await, [2, 1]);
        assert_eq!(rig.store.dataset_version("digits", None).await.unwrap().version, 2);
        let gone = rig.store.dataset_version("digits", Some(3)).await;
        assert!(matches!(gone, Err(StoreError::NoDatasetVersion { version: Some(3), .. })), "{gone:?}");
        let gone = rig.store.remove_dataset("digits", 3, USER).await;
        assert!(matches!(gone, Err(StoreError::NoDatasetVersion { .. })), "{gone:?}");
        rig.check().await;
        rig.reopen().await;
    }
    assert_eq!(add(&rig, "b").await, (2, true));
    assert_eq!(add(&rig, "a").await, (4, false));
    let all = rig.store.datasets().await.unwrap();
    assert_eq!((all.len(), all[0].versions, all[0].newest.as_ref().unwrap().version), (1, 3, 4));
    for version in [1, 2, 4] {
        rig.store.remove_dataset("digits", version, USER).await.unwrap();
    }
    assert_eq!(rig.store.datasets().await.unwrap()[0].newest, None);
    let none = rig.store.dataset_version("digits", None).await;
    assert!(matches!(none, Err(StoreError::NoDatasetVersion { version: None, .. })), "{none:?}");
    rig.check().await;
}

#[tokio::test]
async fn several_of_one_group_are_counted_in_turn() {
    let rig = Rig::new().await;
    let new = |digest: &str| NewDataset { dataset: "digits".into(), content: content(digest), by: USER };
    let all = tokio::join!(
        rig.store.add_dataset(new("a")),
        rig.store.add_dataset(new("a")),
        rig.store.add_dataset(new("b")),
        rig.store.remove_dataset("digits", 1, USER),
    );
    assert_eq!((all.0.unwrap().0.version, all.1.unwrap().1, all.2.unwrap().0.version), (1, true, 2));
    assert_eq!((all.3.unwrap().version, numbers(&rig).await), (1, vec![2]));
    rig.check().await;
}

#[tokio::test]
async fn a_version_that_is_read_is_not_removed_and_its_manifest_is_needed() {
    let rig = Rig::new().await;
    add(&rig, "a").await;
    let manifest = content("a").manifest;
    let needed =
        async || !rig.store.needed_manifests(vec![manifest.clone(), "file:///o/x".into()]).await.unwrap().is_empty();
    let folder = async |uri: &str| !rig.store.needed_folders(vec![uri.to_owned()]).await.unwrap().is_empty();
    assert!(folder("file:///d").await && !folder("file:///d/y").await && !folder("file:///e").await);
    let mut new = new_job("reads", "reads");
    pin(&mut new.spec, "a");
    let id = rig.store.submit(new).await.unwrap().id;
    let in_use = rig.store.remove_dataset("digits", 1, USER).await;
    assert!(matches!(in_use, Err(StoreError::DatasetInUse { version: 1, .. })), "{in_use:?}");
    let fence = rig.claim(id).await;
    rig.end(fence, ExitClass::Spec).await;
    rig.store.remove_dataset("digits", 1, USER).await.unwrap();
    assert!(needed().await && folder("file:///d").await, "the job may be tried again");
    rig.store.remove(&[id], USER, false).await.unwrap().remove(0).unwrap();
    assert!(!needed().await && !folder("file:///d").await);
    add(&rig, "a").await;
    assert!(needed().await);
    rig.check().await;
}
