//! Models and the collection over the socket.

use hyper::Method;
use mlctl::{
    api::types::{ErrorCode, GcView, JobView, ModelList, MovedView, VersionList, VersionView},
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

#[tokio::test]
async fn aliases_are_moved_shown_and_resolved_at_the_submit() {
    let rig = Rig::new().await;
    let mut homes = Vec::new();
    for name in ["one", "two"] {
        homes.push(trained(&rig, name).await);
        let _: VersionView = rig.post("/v1/models/digits", json!({"job": name}).to_string()).await;
    }
    let champion = "/v1/models/digits/aliases/champion";
    let first: MovedView =
        rig.post(champion, json!({"version": "1", "expect": 0, "reason": "the first"}).to_string()).await;
    assert_eq!((first.version, first.moves.len(), first.moves[0].before), (Some(1), 1, None));
    let second: MovedView = rig.post(champion, json!({"job": "two"}).to_string()).await;
    assert_eq!((second.version, second.moves[0].job), (Some(2), Some(homes[1].0)), "the newest, where none is named");
    let again: MovedView = rig.post(champion, json!({"version": "champion", "expect": 1}).to_string()).await;
    assert_eq!((again.version, again.moves.len()), (Some(2), 0));
    let shown: VersionList = rig.get("/v1/models/digits").await;
    let of: Vec<_> = shown.versions.iter().map(|one| (one.version, one.aliases.join(" "))).collect();
    assert_eq!(of, [(2, "champion".to_owned()), (1, "previous".to_owned())]);
    assert_eq!((shown.aliases["champion"], shown.moves.len()), (2, 3));
    assert_eq!((shown.moves[2].reason.as_deref(), shown.moves[2].job), (Some("the first"), None));
    let list: ModelList = rig.get("/v1/models").await;
    assert_eq!(list.models[0].aliases, shown.aliases);
    let spec = |from: &str| {
        let data = json!({"format": "randn", "rows": 4, "features": 2, "targets": 1});
        json!({"version": 1, "name": "predicts", "infer": {"model": {"from": from}, "data": data}})
    };
    for (key, from, uri) in [
        ("a", "model:digits@champion", &homes[1].1),
        ("b", "model:digits@previous", &homes[0].1),
        ("c", "model:digits/1", &homes[0].1),
        ("d", "model:digits", &homes[1].1),
    ] {
        let job: JobView = rig.post("/v1/jobs", json!({"spec": spec(from), "key": key}).to_string()).await;
        let kept: serde_json::Value = rig.get(&format!("/v1/jobs/{}/spec", job.id)).await;
        assert_eq!(kept["spec"]["infer"]["model"]["from"], json!(uri), "{from}");
    }
    for from in ["model:digits@challenger", "model:digits/9", "model:nobody", "model:digits@v3", "model:"] {
        let (status, text) =
            rig.ask(Method::POST, "/v1/jobs", json!({"spec": spec(from), "key": "e"}).to_string()).await;
        let told: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (status.as_u16(), &told["error"]["problems"][0]["path"]),
            (422, &json!("infer.model.from")),
            "{told}"
        );
    }
    // A schedule names the alias still, and each run of it what that means by then.
    let nightly = json!({"cron": "@yearly", "spec": spec("model:digits@champion")});
    let _: serde_json::Value = rig.post("/v1/schedules", nightly.to_string()).await;
    let again: serde_json::Value = rig.post("/v1/schedules", nightly.to_string()).await;
    assert_eq!(again["name"], "predicts", "the same is the same, whatever the champion is by now");
    for (key, version) in [("run 1", 1), ("run 2", 2)] {
        let _: MovedView = rig.post(champion, json!({"version": version.to_string()}).to_string()).await;
        let run: JobView = rig.post("/v1/schedules/predicts/run", json!({"key": key}).to_string()).await;
        let kept: serde_json::Value = rig.get(&format!("/v1/jobs/{}/spec", run.id)).await;
        assert_eq!(kept["spec"]["infer"]["model"]["from"], json!(homes[version - 1].1), "{key}");
    }
    let back: MovedView = rig.post("/v1/models/digits/rollback", json!({"expect": 2}).to_string()).await;
    assert_eq!((back.version, back.moves.len()), (Some(1), 2));
    let cleared: MovedView = rig.delete("/v1/models/digits/aliases/champion?expect=1&reason=none%20is%20fit").await;
    assert_eq!((cleared.version, cleared.moves[0].reason.as_deref()), (None, Some("none is fit")));
    rig.end_server().await;
}

#[tokio::test]
async fn a_move_that_cannot_be_is_refused_in_words() {
    let rig = Rig::new().await;
    trained(&rig, "one").await;
    let _: VersionView = rig.post("/v1/models/digits", json!({"job": "one"}).to_string()).await;
    let _: MovedView = rig.post("/v1/models/digits/aliases/champion", json!({"version": "1"}).to_string()).await;
    for (path, body, status, code) in [
        ("/v1/models/digits/aliases/v3", json!({"version": "1"}), 400, ErrorCode::BadRequest),
        ("/v1/models/digits/aliases/3", json!({"version": "1"}), 400, ErrorCode::BadRequest),
        ("/v1/models/digits/aliases/eu", json!({"version": "0"}), 400, ErrorCode::BadRequest),
        ("/v1/models/digits/aliases/eu", json!({"version": "1", "reason": "a\nb"}), 400, ErrorCode::BadRequest),
        ("/v1/models/digits/aliases/eu", json!({"version": "1", "because": "x"}), 400, ErrorCode::BadRequest),
        ("/v1/models/digits/aliases/eu", json!({"version": "9"}), 404, ErrorCode::NotFound),
        ("/v1/models/digits/aliases/eu", json!({"version": "nobody"}), 404, ErrorCode::NotFound),
        ("/v1/models/digits/aliases/eu", json!({"version": "1", "job": "nobody"}), 404, ErrorCode::NotFound),
        ("/v1/models/nobody/aliases/eu", json!({"version": "1"}), 404, ErrorCode::NotFound),
        ("/v1/models/digits/aliases/eu", json!({"version": "1", "expect": 1}), 409, ErrorCode::WrongState),
        ("/v1/models/digits/rollback", json!({}), 409, ErrorCode::WrongState),
    ] {
        let found = rig.post_error(path, body.to_string()).await;
        assert_eq!((found.0, found.1), (status, code), "{path} {body} {}", found.2);
    }
    let refused = bad(rig.ask(Method::DELETE, "/v1/models/digits/versions/1", "").await);
    assert_eq!((refused.0, refused.1), (409, ErrorCode::WrongState));
    assert!(refused.2.contains("champion"), "{}", refused.2);
    assert_eq!(bad(rig.ask(Method::DELETE, "/v1/models/digits/aliases/eu", "").await).0, 404);
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
