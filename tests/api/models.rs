//! Models and the collection over the socket.

use hyper::Method;
use mlctl::{
    api::types::{ErrorCode, GcView, ModelList, VersionList, VersionView},
    domain::{Command, Exit},
};
use mlctl_artifacts::{Stores, keys};
use mlctl_protocol::{ExitClass, JobId, result::ModelRef};
use serde_json::json;

use crate::rig::{Rig, bad};

/// A job with a model in storage.
async fn trained(rig: &Rig, name: &str) -> (JobId, String) {
    let id = rig.submit(name).await;
    let fence = rig.claim(id).await;
    let prefix = format!("file://{}/objects", rig.dir.path().display());
    let uri = keys::model_uri(&prefix, &rig.store.instance().id, id, fence.attempt);
    for name in [keys::MODEL, keys::MODEL_CONFIG] {
        Stores::new().open(&format!("{uri}/{name}")).unwrap().put(name.as_bytes().to_vec().into()).await.unwrap();
    }
    let exit = Exit { class: ExitClass::Ok, message: None, hint: None };
    let model = Some(ModelRef { uri: uri.clone(), digest: "0".repeat(64) });
    rig.store.command(id, Some(fence), Command::End { exit, model, output: None, jitter: 0.5 }).await.unwrap();
    (id, uri)
}

#[tokio::test]
async fn a_version_lives_from_register_to_remove() {
    let rig = Rig::new().await;
    let (id, uri) = trained(&rig, "one").await;
    let made: VersionView = rig.post("/v1/models/digits", json!({"job": "one"}).to_string()).await;
    assert_eq!((made.version, made.job, made.uri.as_str(), made.size_bytes), (1, id, uri.as_str(), 28));
    let object = made.objects.iter().find(|object| object.name == keys::MODEL_CONFIG).unwrap();
    assert_eq!(object.blake3, mlctl_artifacts::blake3_hex(keys::MODEL_CONFIG.as_bytes()));
    let again: VersionView = rig.post("/v1/models/digits", json!({"job": id}).to_string()).await;
    assert_eq!(again, made);
    let models: ModelList = rig.get("/v1/models").await;
    assert_eq!((models.models.len(), models.models[0].newest.as_ref()), (1, Some(&made)));
    let versions: VersionList = rig.get("/v1/models/digits").await;
    assert_eq!(versions.versions, std::slice::from_ref(&made));
    let refused = [
        ("/v1/models/digits", json!({"job": "nobody"}), 404, ErrorCode::NotFound),
        ("/v1/models/digits", json!({"job": "one", "step": 7}), 404, ErrorCode::NotFound),
        ("/v1/models/17", json!({"job": "one"}), 400, ErrorCode::BadRequest),
        ("/v1/models/digits", json!({}), 400, ErrorCode::BadRequest),
    ];
    for (path, body, status, code) in refused {
        let found = rig.post_error(path, body.to_string()).await;
        assert_eq!((found.0, found.1), (status, code), "{body}");
    }
    let removed: VersionView = rig.delete("/v1/models/digits/versions/1").await;
    assert_eq!(removed, made);
    for version in ["1", "x", "0"] {
        let found = bad(rig.ask(Method::DELETE, &format!("/v1/models/digits/versions/{version}"), "").await);
        assert_eq!(found.0, if version == "x" { 400 } else { 404 });
    }
    rig.end_server().await;
}

async fn collect(rig: &Rig, body: serde_json::Value) -> GcView {
    let (status, text) = rig.ask(Method::POST, "/v1/gc", body.to_string()).await;
    assert_eq!(status, 200);
    let text = String::from_utf8(text.to_vec()).unwrap();
    let last: GcView = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last.is_done && last.error.is_none(), "{last:?}");
    last
}

#[tokio::test]
async fn nothing_is_registered_or_removed_while_the_database_is_damaged() {
    let rig = Rig::new().await;
    trained(&rig, "one").await;
    let _: VersionView = rig.post("/v1/models/digits", json!({"job": "one"}).to_string()).await;
    rig.dispatch.examined(&Ok(vec!["a row is wrong".to_owned()])).await;
    let refused = rig.post_error("/v1/models/other", json!({"job": "one"}).to_string()).await;
    assert_eq!(refused.1, ErrorCode::Damaged);
    let refused = bad(rig.ask(Method::DELETE, "/v1/models/digits/versions/1", "").await);
    assert_eq!(refused.1, ErrorCode::Damaged);
    rig.dispatch.examined(&Ok(Vec::new())).await;
    let _: VersionView = rig.delete("/v1/models/digits/versions/1").await;
    rig.end_server().await;
}

#[tokio::test]
async fn a_collection_says_what_it_would_do_and_does_it() {
    let rig = Rig::new().await;
    let (id, uri) = trained(&rig, "one").await;
    let prefix = format!("file://{}/objects", rig.dir.path().display());
    let stray = format!("{}/1/checkpoints/000000000009", keys::job_uri(&prefix, &rig.store.instance().id, id));
    let at = Stores::new().open(&format!("{stray}/state.json")).unwrap();
    at.put("half".into()).await.unwrap();
    // The clock of this test stands still in the year 2026, and may be behind that of the disk.
    rig.forward(60 * 24 * 3600 * 365);
    let dry = collect(&rig, json!({"dry_run": true})).await;
    assert_eq!((dry.garbage.objects, dry.deleted.objects, dry.needed.objects), (1, 0, 2), "{dry:?}");
    assert_eq!((dry.folders.len(), dry.folders[0].uri.as_str()), (1, stray.as_str()));
    let done = collect(&rig, json!({"grace_seconds": 0})).await;
    assert_eq!((done.deleted.objects, done.deleted.size_bytes, done.failed), (1, 4, 0));
    assert_eq!(at.size().await.unwrap(), None);
    let model = Stores::new().open(&format!("{uri}/{}", keys::MODEL)).unwrap();
    assert!(model.size().await.unwrap().is_some());
    assert_eq!(rig.post_error("/v1/gc", json!({"grace_seconds": u64::MAX}).to_string()).await.0, 400);
    rig.end_server().await;
}
