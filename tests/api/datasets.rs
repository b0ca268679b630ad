//! Datasets over the socket.

use hyper::Method;
use mlctl::api::types::{DatasetDetail, DatasetList, DatasetVersionList, DatasetVersionView, ErrorCode, JobView};
use mlctl_protocol::dataset::MAX_MANIFEST_BYTES;
use serde_json::{Value, json};

use crate::rig::{Rig, bad};

/// A manifest of one file, which lies in the rig's folder.
fn manifest(rig: &Rig, rows: u64) -> Value {
    let file = rig.dir.path().join("x.csv");
    std::fs::write(&file, "a,y\n1,0\n").unwrap();
    json!({
        "v": 1,
        "format": "csv",
        "uri": format!("file://{}", file.display()),
        "rows": rows,
        "columns": [{"name": "a", "kind": "number"}, {"name": "y", "kind": "number"}],
        "objects": [{"name": "x.csv", "size_bytes": 8, "blake3": "ab".repeat(32), "rows": rows}],
    })
}

fn spec(data: Value) -> Value {
    json!({
        "version": 1,
        "name": "reads",
        "train": {
            "model": {"type": "mlp", "layers": [1, 2]},
            "data": data,
            "loss": "cross_entropy",
            "optimizer": {"type": "adam"},
            "batch_size": 1,
            "max_epochs": 1,
        },
    })
}

#[tokio::test]
async fn a_version_lives_from_add_to_remove() {
    let rig = Rig::new().await;
    let one = manifest(&rig, 1).to_string();
    let added: DatasetVersionView = rig.post("/v1/datasets/d", one.clone()).await;
    assert_eq!((added.version, added.rows, added.objects, added.size_bytes), (1, Some(1), 1, 8));
    assert_eq!(added.digest, mlctl_artifacts::blake3_hex(one.as_bytes()));
    let stored = std::fs::read(added.manifest_uri.strip_prefix("file://").unwrap()).unwrap();
    assert_eq!(stored, one.as_bytes(), "it is stored as it came");
    let again: DatasetVersionView = rig.post("/v1/datasets/d", one).await;
    assert_eq!(again, added);
    let second: DatasetVersionView = rig.post("/v1/datasets/d", manifest(&rig, 2).to_string()).await;
    assert_eq!(second.version, 2);
    let list: DatasetList = rig.get("/v1/datasets").await;
    assert_eq!((list.datasets[0].versions, list.datasets[0].newest.as_ref()), (2, Some(&second)));
    let versions: DatasetVersionList = rig.get("/v1/datasets/d").await;
    assert_eq!(versions.versions, [second, added.clone()]);
    let detail: DatasetDetail = rig.get("/v1/datasets/d/versions/1").await;
    assert_eq!((&detail.version, detail.manifest.columns.len()), (&added, 2));
    let removed: DatasetVersionView = rig.delete("/v1/datasets/d/versions/1").await;
    assert_eq!(removed, added);
    for (method, path, status) in [
        (Method::GET, "/v1/datasets/d/versions/1", 404),
        (Method::DELETE, "/v1/datasets/d/versions/1", 404),
        (Method::GET, "/v1/datasets/d/versions/x", 400),
        (Method::GET, "/v1/datasets/e", 404),
    ] {
        assert_eq!(bad(rig.ask(method, path, "").await).0, status, "{path}");
    }
    // One that was damaged in storage is told of.
    let uri = versions.versions[0].manifest_uri.strip_prefix("file://").unwrap();
    std::fs::write(uri, "{}").unwrap();
    assert_eq!(bad(rig.ask(Method::GET, "/v1/datasets/d/versions/2", "").await).1, ErrorCode::Storage);
    rig.end_server().await;
}

#[tokio::test]
async fn what_no_job_could_go_by_is_refused() {
    let rig = Rig::new().await;
    let mut other = manifest(&rig, 1);
    other["v"] = 9.into();
    for (path, body, code) in [
        ("/v1/datasets/d", other.to_string(), ErrorCode::BadRequest),
        ("/v1/datasets/d", "{}".to_owned(), ErrorCode::BadRequest),
        ("/v1/datasets/17", manifest(&rig, 1).to_string(), ErrorCode::BadRequest),
        ("/v1/datasets/d", " ".repeat(MAX_MANIFEST_BYTES + 1), ErrorCode::TooLarge),
    ] {
        assert_eq!(rig.post_error(path, body).await.1, code, "{path}");
    }
    rig.dispatch.examined(&Ok(vec!["a row is wrong".to_owned()])).await;
    assert_eq!(rig.post_error("/v1/datasets/d", manifest(&rig, 1).to_string()).await.1, ErrorCode::Damaged);
    rig.end_server().await;
}

#[tokio::test]
async fn a_job_is_pinned_at_the_submit_whatever_the_client_says_of_it() {
    let rig = Rig::new().await;
    let added: DatasetVersionView = rig.post("/v1/datasets/d", manifest(&rig, 1).to_string()).await;
    let lie = json!({"manifest": "file:///etc/x", "digest": "0", "format": "npy", "uri": "file:///etc/shadow"});
    let data = json!({"format": "dataset", "dataset": "d", "targets": ["y"], "pinned": lie});
    let submit = |data: Value, key: &str| json!({"spec": spec(data), "key": key}).to_string();
    let job: JobView = rig.post("/v1/jobs", submit(data.clone(), "1")).await;
    assert_eq!(job.dataset.as_deref(), Some("d/1"));
    let kept: Value = rig.get(&format!("/v1/jobs/{}/spec", job.id)).await;
    let kept = &kept["spec"]["train"]["data"];
    assert_eq!((&kept["dataset"], &kept["pinned"]["digest"]), (&json!("d/1"), &json!(added.digest)));
    assert_eq!((&kept["pinned"]["uri"], &kept["pinned"]["format"]), (&json!(added.uri), &json!("csv")));
    // The same key is the same job, whatever is the newest by now.
    let _: DatasetVersionView = rig.post("/v1/datasets/d", manifest(&rig, 2).to_string()).await;
    let again: JobView = rig.post("/v1/jobs", submit(data, "1")).await;
    assert_eq!((again.id, again.dataset.as_deref()), (job.id, Some("d/1")));
    let newer = json!({"format": "dataset", "dataset": "d", "targets": ["y"]});
    let newer: JobView = rig.post("/v1/jobs", submit(newer, "2")).await;
    assert_eq!(newer.dataset.as_deref(), Some("d/2"));
    for (data, path) in [
        (json!({"format": "dataset", "dataset": "e", "targets": ["y"]}), "train.data.dataset"),
        (json!({"format": "dataset", "dataset": "d/3", "targets": ["y"]}), "train.data.dataset"),
        (json!({"format": "dataset", "dataset": "d/x", "targets": ["y"]}), "train.data.dataset"),
        (json!({"format": "dataset", "dataset": "d", "targets": ["y"], "tokenizer": "bytes"}), "train.data.tokenizer"),
        (json!({"format": "dataset", "dataset": "d"}), "train.data"),
    ] {
        let (status, text) = rig.ask(Method::POST, "/v1/jobs", submit(data.clone(), "3")).await;
        let problems: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (status.as_u16(), &problems["error"]["problems"][0]["path"]),
            (422, &json!(path)),
            "{data} {problems}"
        );
    }
    rig.end_server().await;
}
