//! `mlctl checkpoint pull`: a folder that appears whole and verified, or not at all; what was broken off goes on; what was damaged is named.

use std::path::Path;

use serde_json::Value;

use crate::{
    s3::{setup, upload},
    s3_server::{BUCKET, Server},
    support::{
        Daemon, Worker,
        cli::Run,
        specs::{Length, training},
    },
};

/// A daemon with a trained job.
fn trained(mut daemon: Daemon) -> (Daemon, String) {
    let id = daemon.submit(&training(Worker::Real, "short", Length::Short));
    daemon.wait_for(&id, "succeeded");
    (daemon, id)
}

fn pull(daemon: &Daemon, from: &str, dir: &Path) -> Run {
    daemon.mlctl(&["checkpoint", "pull", from, dir.to_str().unwrap(), "-o", "json"])
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Everything that a pull promises, wherever the objects are.
fn keeps_its_promises(daemon: &Daemon, id: &str) {
    let out = tempfile::tempdir().unwrap();
    let newest = pull(daemon, "short", &out.path().join("a/newest")).json();
    assert_eq!((newest["id"].as_str(), newest["step"].as_u64()), (Some(id), Some(40)), "{newest:#}");
    let folder = out.path().join("a/newest");
    let files =
        ["manifest.json", "model-00001-of-00001.safetensors", "optimizer-00001-of-00001.safetensors", "state.json"];
    assert_eq!(
        (names(&folder), names(&out.path().join("a"))),
        (files.map(str::to_owned).to_vec(), vec!["newest".into()])
    );
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["step"], 40);
    for object in manifest["objects"].as_array().unwrap() {
        let bytes = std::fs::read(folder.join(object["name"].as_str().unwrap())).unwrap();
        assert_eq!(object["blake3"], mlctl_artifacts::blake3_hex(&bytes));
    }
    let listed = daemon.mlctl(&["checkpoint", "ls", id, "-o", "json"]).json();
    let steps = listed["checkpoints"].as_array().unwrap().iter().map(|kept| kept["step"].as_u64().unwrap());
    let step = steps.filter(|step| *step < 40).max().unwrap();
    let older = pull(daemon, &format!("{id}/{step}"), &out.path().join("older")).json();
    assert_eq!(older["step"], step);
    let model = pull(daemon, "short/model", &out.path().join("model")).json();
    assert_eq!(model["digest"], daemon.job(id)["model"]["digest"]);
    assert!(names(&out.path().join("model")).contains(&"config.json".to_owned()));

    // A model that was pulled can be used.
    let said = daemon.mlctl(&["checkpoint", "pull", "short/model", "model"]).ok();
    assert!(said.contains("verified") && daemon.folder().join("model/model.safetensors").is_file(), "{said}");

    pull(daemon, "short", &folder).must_fail(5, &["not empty"]);
    pull(daemon, "short/9", &out.path().join("x")).must_fail(4, &["no checkpoint of step 9"]);
    pull(daemon, "nobody", &out.path().join("x")).must_fail(4, &["nobody"]);
    daemon.mlctl(&["checkpoint", "pull", "short/last", "x"]).must_fail(2, &["JOB/STEP"]);
    assert_eq!(names(out.path()), ["a", "model", "older"], "what failed left nothing");
}

#[test]
fn a_checkpoint_or_a_model_comes_whole_from_a_local_disk() {
    let (daemon, id) = trained(Daemon::with(Worker::Real));
    keeps_its_promises(&daemon, &id);

    // What is there of a pull that was broken off is not fetched again, but looked at.
    let out = tempfile::tempdir().unwrap();
    let view = daemon.mlctl(&["checkpoint", "show", "short", "-o", "json"]).json();
    let digest = view["checkpoint"]["manifest_digest"].as_str().unwrap();
    let partial = out.path().join(format!(".dir.{}.pull", &digest[..12]));
    let stored = Path::new(view["checkpoint"]["uri"].as_str().unwrap().strip_prefix("file://").unwrap());
    let name = "model-00001-of-00001.safetensors";
    let whole = std::fs::read(stored.join(name)).unwrap();
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join(name), &whole[..whole.len() / 2]).unwrap();
    let mut wrong = std::fs::read(stored.join("optimizer-00001-of-00001.safetensors")).unwrap();
    wrong.truncate(100);
    wrong[50] ^= 1;
    std::fs::write(partial.join("optimizer-00001-of-00001.safetensors"), &wrong).unwrap();
    let dir = out.path().join("dir");
    pull(&daemon, "short", &dir).must_fail(1, &["optimizer-00001-of-00001.safetensors", "checksum", "pull again"]);
    assert!(!dir.exists(), "nothing appears before all of it is right");
    assert_eq!(std::fs::read(partial.join(name)).unwrap(), whole, "the half that was there was completed");
    pull(&daemon, "short", &dir).ok();
    assert_eq!(names(out.path()), ["dir"]);

    // And what is damaged where it is stored does not become a folder here.
    let mut flipped = whole;
    flipped[1000] ^= 1;
    std::fs::write(stored.join(name), flipped).unwrap();
    pull(&daemon, "short", &out.path().join("again")).must_fail(1, &[name, "checksum", "checkpoint verify"]);
    let model = daemon.job(&id)["model"]["uri"].as_str().unwrap().strip_prefix("file://").unwrap().to_owned();
    let weights = Path::new(&model).join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    pull(&daemon, "short/model", &out.path().join("model")).must_fail(1, &["model.safetensors is damaged", "digest"]);
    assert!(!out.path().join("again").exists() && !out.path().join("model").exists());
}

#[test]
fn a_checkpoint_or_a_model_comes_whole_from_s3() {
    let Some(mut server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let (daemon, id) = trained(setup(&server, &keys.path().join("key")).set("storage.s3.retry_seconds=1").start());
    keeps_its_promises(&daemon, &id);
    let found = daemon.mlctl(&["doctor", "-o", "json"]).json();
    let check = |found: &Value, name: &str| {
        let checks = found["daemon"]["checks"].as_array().or_else(|| found["checks"].as_array()).unwrap().clone();
        checks.into_iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {found:#}"))
    };
    assert_eq!(check(&found, "object storage")["status"], "ok", "{found:#}");
    assert!(check(&found, "object storage's clock")["detail"].as_str().unwrap().contains("apart"), "{found:#}");
    // A clock that is an hour wrong, and a server that is gone.
    drop(daemon);
    let mut daemon = setup(&server, &keys.path().join("key")).variable("MLD_CLOCK_OFFSET_SECONDS", "3600").start();
    let run = daemon.mlctl(&["doctor", "-o", "json"]);
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    let skewed = check(&found, "object storage's clock");
    assert_eq!((run.code, skewed["status"].as_str()), (1, Some("fail")), "{found:#}");
    assert!(skewed["hint"].as_str().unwrap().contains("timedatectl"), "{skewed:#}");
    server.kill();
    let run = daemon.mlctl(&["doctor", "-o", "json"]);
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    let gone = check(&found, "object storage");
    assert_eq!((run.code, gone["status"].as_str()), (1, Some("fail")), "{found:#}");
    assert!(gone["detail"].as_str().unwrap().contains(&server.url), "{gone:#}");
    assert!(gone["hint"].as_str().unwrap().contains("storage.s3"), "{gone:#}");
    let out = tempfile::tempdir().unwrap();
    assert!(daemon.stop().success());
    server.start_again();
    daemon.start();
    upload(&server, &format!("s3://{BUCKET}/ml/x"), b"x".to_vec());
    pull(&daemon, "absent", &out.path().join("x")).must_fail(4, &["absent"]);
}
