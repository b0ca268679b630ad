//! Checkpoints on record and in storage.

use bytes::Bytes;
use mlctl::{
    api::types::{CheckpointDetail, CheckpointList, ErrorCode, JobView, RemovedCheckpointView, VerifyView},
    domain::Fence,
};
use mlctl_artifacts::{
    Stores,
    checkpoint::{self, Header, Part},
    keys,
    manifest::Role,
};
use mlctl_protocol::{JobId, message::ReportBody, result::CheckpointRef};

use serde_json::json;

use crate::rig::{Rig, bad, spec, submission};

/// Writes a checkpoint and puts it on record, as a worker and the supervisor would.
async fn save(rig: &Rig, fence: Fence, seq: u64, step: u64) -> CheckpointRef {
    let prefix = format!("file://{}/objects", rig.dir.path().display());
    let uri = keys::attempt_uri(&prefix, &rig.store.instance().id, fence.job, fence.attempt);
    let header = Header {
        job: fence.job,
        attempt: fence.attempt,
        token: fence.token,
        step,
        epoch: 1,
        created_at: "2026-01-01T00:00:00Z".into(),
        spec_digest: "0".repeat(64),
        dataset_digest: "0".repeat(64),
        parent: None,
        metrics: [("train_loss".to_owned(), 0.25)].into(),
    };
    let bytes = Bytes::from(format!("state of step {step}"));
    let part = Part { name: keys::CHECKPOINT_STATE.into(), role: Role::State, bytes };
    let saved = checkpoint::write(&Stores::new().open(&uri).unwrap(), header, vec![part]).await.unwrap();
    rig.store.report(fence, seq, ReportBody::Checkpoint { checkpoint: saved.clone() }).await.unwrap();
    saved
}

async fn saved_job(rig: &Rig) -> (JobId, Vec<CheckpointRef>) {
    let id = rig.submit("one").await;
    let fence = rig.claim(id).await;
    let first = save(rig, fence, 1, 10).await;
    (id, vec![first, save(rig, fence, 2, 20).await])
}

#[tokio::test]
async fn checkpoints_are_listed_and_shown() {
    let rig = Rig::new().await;
    let (id, saved) = saved_job(&rig).await;
    let list: CheckpointList = rig.get("/v1/jobs/one/checkpoints").await;
    let listed: Vec<(u64, bool)> = list.checkpoints.iter().map(|found| (found.step, found.latest)).collect();
    assert_eq!((list.id, listed), (id, vec![(20, true), (10, false)]));
    let why: Vec<_> = list.checkpoints.iter().map(|found| (found.kept_as.join(" "), found.goes.clone())).collect();
    assert_eq!(why, [("newest last".to_owned(), None), ("last".to_owned(), None)]);
    assert!(list.checkpoints.iter().all(|found| found.kept_at.is_some()));
    let shown: CheckpointDetail = rig.get("/v1/jobs/one/checkpoints/10").await;
    assert_eq!((shown.checkpoint.uri.as_str(), shown.checkpoint.epoch), (saved[0].uri.as_str(), 1));
    assert_eq!(shown.checkpoint.metrics["train_loss"], 0.25);
    assert_eq!((shown.objects.len(), shown.objects[0].role.as_str()), (1, "state"));
    assert_eq!(shown.objects[0].size_bytes, "state of step 10".len() as u64);
    assert_eq!(rig.get_error("/v1/jobs/one/checkpoints/11").await.1, ErrorCode::NotFound);
    rig.end_server().await;
}

#[tokio::test]
async fn a_list_says_why_each_is_kept_and_what_goes() {
    let rig = Rig::new().await;
    let mut kept = spec("one");
    kept["checkpoint"] = json!({"keep": 1, "keep_best": {"metric": "train_loss"}, "keep_nightly": 2});
    let view: JobView = rig.post("/v1/jobs", submission(kept, "one")).await;
    let fence = rig.claim(view.id).await;
    let mut saved = Vec::new();
    for (seq, step) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
        rig.forward(43_200);
        saved.push(save(&rig, fence, seq, step).await);
    }
    let mut begins = spec("two");
    begins["train"]["init"] = json!({"from": saved[0].uri});
    let two: JobView = rig.post("/v1/jobs", submission(begins, "two")).await;
    let list: CheckpointList = rig.get("/v1/jobs/one/checkpoints").await;
    let why = list.checkpoints.iter().map(|found| {
        let goes = found.goes.as_deref().unwrap_or("stays");
        format!("{} {} {goes}", found.step, found.kept_as.join(","))
    });
    let why: Vec<_> = why.collect();
    // Of equal losses the newest is the best. Each two are of one day.
    let expected = ["40 newest,last,best,nightly stays", "30  now", "20 nightly stays", "10 needed stays"];
    assert_eq!(why, expected);
    assert_eq!(list.checkpoints[3].needed_by, Some(format!("job {}", two.id)));
    rig.end_server().await;
}

#[tokio::test]
async fn a_checkpoint_is_removed_unless_something_goes_on_from_it() {
    let rig = Rig::new().await;
    let (id, saved) = saved_job(&rig).await;
    let remove =
        async |step: u64| rig.ask(hyper::Method::DELETE, &format!("/v1/jobs/one/checkpoints/{step}"), "").await;
    let newest = bad(remove(20).await);
    assert!(newest.1 == ErrorCode::WrongState && newest.2.contains("it is the newest"), "{newest:?}");
    assert_eq!(bad(remove(30).await).1, ErrorCode::NotFound);
    let mut begins = spec("two");
    begins["train"]["init"] = json!({"from": saved[0].uri});
    let two: JobView = rig.post("/v1/jobs", submission(begins, "two")).await;
    let needed = bad(remove(10).await);
    assert!(needed.1 == ErrorCode::WrongState && needed.2.contains(&format!("job {} needs it", two.id)), "{needed:?}");
    let _: JobView = rig.post(&format!("/v1/jobs/{}/cancel", two.id), "").await;
    let _: serde_json::Value = rig.delete(&format!("/v1/jobs/{}", two.id)).await;
    let removed: RemovedCheckpointView = rig.delete("/v1/jobs/one/checkpoints/10").await;
    assert_eq!((removed.id, removed.step, removed.uris), (id, 10, vec![saved[0].uri.clone()]));
    assert!(!std::path::Path::new(saved[0].uri.strip_prefix("file://").unwrap()).exists());
    let list: CheckpointList = rig.get("/v1/jobs/one/checkpoints").await;
    assert_eq!(list.checkpoints.iter().map(|found| found.step).collect::<Vec<_>>(), [20]);
    rig.end_server().await;
}

#[tokio::test]
async fn damage_is_found_and_named() {
    let rig = Rig::new().await;
    let (_, saved) = saved_job(&rig).await;
    let all: VerifyView = rig.post("/v1/jobs/one/checkpoints/verify", "").await;
    assert!(all.ok && all.checkpoints.len() == 2 && all.checkpoints[0].step == 20, "{all:?}");
    let folder = saved[1].uri.strip_prefix("file://").unwrap();
    let object = format!("{folder}/{}", keys::CHECKPOINT_STATE);
    std::fs::write(&object, "state of step 21").unwrap();
    let all: VerifyView = rig.post("/v1/jobs/one/checkpoints/verify", "{}").await;
    assert!(!all.ok && all.checkpoints[0].problems[0].contains("checksum"), "{all:?}");
    assert!(all.checkpoints[1].problems.is_empty());
    let one: VerifyView = rig.post("/v1/jobs/one/checkpoints/verify", r#"{"step": 10}"#).await;
    assert!(one.ok && one.checkpoints.len() == 1);
    std::fs::remove_file(format!("{folder}/{}", keys::MANIFEST)).unwrap();
    let gone: VerifyView = rig.post("/v1/jobs/one/checkpoints/verify", r#"{"step": 20}"#).await;
    assert!(!gone.ok && gone.checkpoints[0].problems[0].contains("does not exist"), "{gone:?}");
    let none = rig.post_error("/v1/jobs/one/checkpoints/verify", r#"{"step": 30}"#).await;
    assert_eq!((none.0, none.1), (404, ErrorCode::NotFound));
    rig.end_server().await;
}

#[tokio::test]
async fn only_a_running_job_takes_a_checkpoint() {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let (status, code, _) = rig.post_error("/v1/jobs/one/checkpoint", "").await;
    assert_eq!((status, code), (409, ErrorCode::WrongState));
    rig.end_server().await;
}

async fn text(rig: &Rig, path: &str) -> (u16, String) {
    let (status, body) = rig.ask(hyper::Method::GET, path, "").await;
    (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn objects_are_handed_over_from_any_byte_on() {
    let rig = Rig::new().await;
    let (_, saved) = saved_job(&rig).await;
    let at = |rest: &str| format!("/v1/jobs/one/checkpoints/10/objects/{rest}");
    let state = at(keys::CHECKPOINT_STATE);
    assert_eq!(text(&rig, &state).await, (200, "state of step 10".to_owned()));
    assert_eq!(text(&rig, &format!("{state}?offset=14")).await, (200, "10".to_owned()));
    assert_eq!(text(&rig, &format!("{state}?offset=16")).await, (200, String::new()));
    assert_eq!(text(&rig, &format!("{state}?offset=17")).await.0, 400);
    let (status, manifest) = text(&rig, &at(keys::MANIFEST)).await;
    assert_eq!((status, mlctl_artifacts::blake3_hex(manifest.as_bytes())), (200, saved[0].manifest_digest.clone()));
    // What the manifest does not list is not handed over, whatever lies there; and no name is a path.
    let folder = saved[0].uri.strip_prefix("file://").unwrap();
    std::fs::write(format!("{folder}/secret.txt"), "x").unwrap();
    for (name, status) in [("secret.txt", 404), ("absent", 404), ("..%2F..%2Fx", 400), (".hidden", 400), ("%00", 400)] {
        assert_eq!(text(&rig, &at(name)).await.0, status, "{name}");
    }
    assert_eq!(text(&rig, "/v1/jobs/one/checkpoints/11/objects/state.json").await.0, 404);
    for path in ["/v1/jobs/one/model", "/v1/jobs/one/model/objects/model.safetensors"] {
        assert_eq!(rig.get_error(path).await.1, ErrorCode::NotFound, "{path}: it has published none");
    }
    rig.end_server().await;
}
