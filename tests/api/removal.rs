//! Removal through the API: what goes, what stays and is named, what is refused and why.

use hyper::Method;
use mlctl::api::types::{ArrayView, ErrorCode, JobList, JobView, RemovedView};
use mlctl_protocol::ExitClass;
use serde_json::{Value, json};

use crate::rig::{Rig, bad, number, spec};

#[tokio::test]
async fn a_finished_job_is_removed_and_nothing_else() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let other = rig.submit("other").await;
    let refused = |path: &'static str| async { bad(rig.ask(Method::DELETE, path, "").await) };
    let (status, code, message) = refused("/v1/jobs/one").await;
    assert_eq!((status, code), (409, ErrorCode::WrongState));
    assert!(message.contains("job 1 is queued, and only what has ended is removed"), "{message}");
    let fence = rig.claim(id).await;
    assert_eq!(refused("/v1/jobs/one").await.0, 409);
    let log = rig.log(id, 1, mlctl::supervisor::Stream::Stderr);
    std::fs::write(&log, "said").unwrap();
    rig.end(fence, ExitClass::Spec).await;
    let removed: RemovedView = rig.delete("/v1/jobs/one").await;
    assert_eq!((removed.id, removed.name.as_str(), removed.jobs), (id, "one", 1));
    assert_eq!((removed.kept.len(), removed.left.len()), (0, 0), "{removed:?}");
    assert!(!log.parent().unwrap().parent().unwrap().exists(), "its work folder is gone");
    assert_eq!(rig.get_error("/v1/jobs/1").await.0, 404);
    assert_eq!(refused("/v1/jobs/1").await.0, 404);
    assert_eq!(refused("/v1/jobs/other?object=1").await.0, 400);
    let list: JobList = rig.get("/v1/jobs").await;
    assert_eq!(list.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [other]);
    rig.end_server().await;
}

#[tokio::test]
async fn an_array_is_removed_as_one_when_all_of_it_has_ended() {
    let rig = Rig::new().await;
    let sweep = json!({"axes": [{"key": "train.batch_size", "values": [8, 16, 32]}]});
    let request = json!({"spec": spec("sweep"), "key": format!("array-{}", number()), "sweep": sweep});
    let array: ArrayView = rig.post("/v1/arrays", request.to_string()).await;
    let path = format!("/v1/arrays/{}", array.id);
    let (status, _, message) = bad(rig.ask(Method::DELETE, &path, "").await);
    assert!(status == 409 && message.contains("3 queued"), "{message}");
    let _: Value = rig.post(&format!("{path}/cancel"), "").await;
    let (status, _, message) = bad(rig.ask(Method::DELETE, &format!("/v1/jobs/{}.2", array.id), "").await);
    assert!(status == 409 && message.contains("is member 2 of array"), "{message}");
    let removed: RemovedView = rig.delete(&path).await;
    assert_eq!((removed.id, removed.jobs), (array.id, 3));
    assert_eq!(rig.get_error(&path).await.0, 404);
    let next: JobView = rig.get(&format!("/v1/jobs/{}", rig.submit("next").await)).await;
    assert_eq!(next.id.0, array.id.0 + 4, "ids are not used again");
    rig.end_server().await;
}
