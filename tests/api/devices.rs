//! GPUs over the socket: listed, drained, reserved, opened; and what jobs that want them are told.

use hyper::Method;
use mlctl::api::types::{
    DaemonView, DeviceList, DeviceState, DeviceView, DryRunView, ErrorBody, ErrorCode, JobView, WhyView,
};
use mlctl_protocol::JobId;
use serde_json::{Value, json};

use crate::rig::{Rig, spec};

/// Two GPUs, of 10 and 20 GiB; on the second one a process of somebody else's.
const GPUS: &str = r#"
[[gpu]]
uuid = "GPU-aa-1"
name = "Small"
memory_mib = 10240

[[gpu]]
uuid = "GPU-ab-2"
memory_mib = 20480
used_mib = 100
process = [{ pid = 1, memory_mib = 5000 }]
"#;

async fn rig() -> Rig {
    Rig::on(GPUS, |_, _| {}).await
}

async fn assign(rig: &Rig, device: &str, request: Value) -> DeviceView {
    rig.post(&format!("/v1/devices/{device}"), request.to_string()).await
}

fn submit(name: &str, resources: Value) -> Value {
    let mut spec = spec(name);
    spec["resources"] = resources;
    json!({"spec": spec, "key": name})
}

async fn refused(rig: &Rig, path: &str, body: Value) -> (u16, ErrorBody) {
    let (status, body) = rig.ask(Method::POST, path, body.to_string()).await;
    (status.as_u16(), serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{status} {body:?}")))
}

#[tokio::test]
async fn gpus_are_listed_with_who_may_have_them_and_who_does() {
    let rig = rig().await;
    let DeviceList { devices, .. } = rig.get("/v1/devices").await;
    let [small, large] = devices.as_slice() else { panic!("{devices:?}") };
    assert_eq!((small.index, small.uuid.as_str(), small.name.as_str()), (0, "GPU-aa-1", "Small"));
    assert_eq!((small.memory_mib, small.free_mib, small.busy, small.state), (10_240, 10_240, false, DeviceState::Open));
    assert_eq!((large.foreign_mib, large.foreign_processes, large.busy, large.free_mib), (5100, 1, true, 15_380));
    assert_eq!((&large.reason, &large.changed_by), (&None, &None));
    let daemon: DaemonView = rig.get("/v1/daemon").await;
    assert_eq!((daemon.machine.gpus, daemon.machine.memory_mib, daemon.used.gpus), (2, 4096, 0));

    let drained = assign(&rig, "0", json!({"state": "drained", "reason": "a new fan"})).await;
    assert_eq!((drained.state, drained.reason.as_deref()), (DeviceState::Drained, Some("a new fan")));
    assert!(drained.changed_by.is_some() && drained.changed_at.is_some());
    let night = assign(&rig, "GPU-ab", json!({"state": "reserved", "queue": "night"})).await;
    assert_eq!((night.state, night.queue.as_deref(), night.user), (DeviceState::Reserved, Some("night"), None));
    let root = assign(&rig, "GPU-ab-2", json!({"state": "reserved", "user": "0"})).await;
    assert_eq!((root.state, root.queue, root.user.as_deref()), (DeviceState::Reserved, None, Some("root")));
    let open = assign(&rig, "0", json!({"state": "open"})).await;
    assert_eq!((open.state, open.reason), (DeviceState::Open, None));

    for (path, body, status, words) in [
        ("/v1/devices/2", json!({"state": "open"}), 404, "there is no GPU \"2\""),
        ("/v1/devices/GPU-a", json!({"state": "open"}), 400, "several GPUs"),
        ("/v1/devices/0", json!({"state": "reserved"}), 400, "for a queue or for a user"),
        ("/v1/devices/0", json!({"state": "open", "queue": "a"}), 400, "is nobody's"),
        ("/v1/devices/0", json!({"state": "reserved", "queue": "a", "user": "b"}), 400, "for a queue or for a user"),
        ("/v1/devices/0", json!({"state": "reserved", "user": "nobody-here"}), 400, "there is no user"),
        ("/v1/devices/0", json!({"state": "reserved", "queue": "../x"}), 400, "is no name of a queue"),
        ("/v1/devices/0", json!({"state": "drained", "reason": "two\nlines"}), 400, "a reason is a line"),
    ] {
        let (found, ErrorBody { error }) = refused(&rig, path, body).await;
        assert_eq!(found, status, "{path} {error:?}");
        assert!(error.message.contains(words), "{error:?}");
    }
}

#[tokio::test]
async fn more_than_the_machine_has_is_refused_with_what_there_is() {
    let rig = rig().await;
    for (resources, path, words) in [
        (
            json!({"gpus": 3}),
            "resources.gpus",
            "needs 1 core and 3 GPUs, and this machine gives 2 cores and 2 GPUs to jobs",
        ),
        (
            json!({"gpus": 2, "vram_mib": 12_288}),
            "resources.vram_mib",
            "needs 1 core and 2 GPUs with 12 GiB each, and this machine gives 2 cores and 2 GPUs of 20 GiB at most to jobs",
        ),
        (
            json!({"memory_mib": 4097}),
            "resources.memory_mib",
            "needs 1 core and 4 GiB of memory, and this machine gives 2 cores and 4 GiB of memory to jobs",
        ),
        (json!({"vram_mib": 1}), "resources.vram_mib", "1 MiB of each GPU are asked for, and no GPU"),
    ] {
        let (status, ErrorBody { error }) = refused(&rig, "/v1/jobs", submit("large", resources)).await;
        assert_eq!((status, error.code), (422, ErrorCode::SpecInvalid), "{error:?}");
        let [problem] = error.problems.as_slice() else { panic!("{error:?}") };
        assert_eq!(problem.path, path);
        assert!(problem.message.contains(words), "{}", problem.message);
    }
}

#[tokio::test]
async fn who_waits_for_a_gpu_is_told_which_and_why() {
    let rig = rig().await;
    let placement = async |resources: Value| {
        let mut body = submit("dry", resources);
        body["dry_run"] = true.into();
        let checked: DryRunView = rig.post("/v1/jobs", body.to_string()).await;
        checked.placement.unwrap().reason
    };
    assert_eq!(placement(json!({"gpus": 1})).await, "is about to start");
    assert_eq!(placement(json!({"gpus": 2})).await, "waits for 2 GPUs: GPU 1 is used by others (1 process, 5 GiB)");
    assert_eq!(placement(json!({"gpus": 1, "vram_mib": 15_000})).await, "is about to start");
    assert_eq!(
        placement(json!({"gpus": 1, "vram_mib": 16_000})).await,
        "waits for 1 GPU with 15.6 GiB free: GPU 1 is used by others (1 process, 5 GiB)"
    );
    assign(&rig, "0", json!({"state": "drained"})).await;
    let job: JobView = rig.post("/v1/jobs", submit("both", json!({"gpus": 2})).to_string()).await;
    let why: WhyView = rig.get(&format!("/v1/jobs/{}/why", job.id)).await;
    assert_eq!(why.reason, "needs 1 core and 2 GPUs, and GPU 0 is drained");
    assert!(why.hint.unwrap().contains("mlctl device ls"));
    assign(&rig, "0", json!({"state": "reserved", "queue": "night"})).await;
    let why: WhyView = rig.get(&format!("/v1/jobs/{}/why", job.id)).await;
    assert_eq!(why.reason, "needs 1 core and 2 GPUs, and GPU 0 is reserved for queue night");

    // What a job has is on record with it.
    let gpus = vec!["GPU-aa-1".to_owned()];
    let until = rig.store_now();
    let one: JobView = rig.post("/v1/jobs", submit("one", json!({"gpus": 1})).to_string()).await;
    rig.store.claim(one.id, gpus.clone(), [7; 32], until).await.unwrap();
    let shown: JobView = rig.get(&format!("/v1/jobs/{}", one.id)).await;
    assert_eq!((shown.gpus, shown.resources.gpus), (gpus, 1));
    assert!(rig.store.occupants().await.unwrap().iter().any(|job| job.id == JobId(2) && job.gpus == ["GPU-aa-1"]));
}
