//! What is kept, what is refused, and with which words.

use std::{fs, os::unix::fs::symlink};

use futures_util::future::join_all;
use hyper::Method;
use mlctl::{
    api::types::{DaemonView, DryRunView, ErrorBody, ErrorCode, JobView, SpecView},
    domain::{Command, Exit, rules::Problem},
};
use mlctl_protocol::{ExitClass, result::ModelRef};
use serde_json::{Value, json};

use crate::rig::{Rig, spec, submission};

/// The one mistake that a spec is refused for.
async fn problem(rig: &Rig, spec: Value) -> Problem {
    let (status, body) = rig.ask(Method::POST, "/v1/jobs", submission(spec, "k")).await;
    let ErrorBody { mut error } = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), error.code), (422, ErrorCode::SpecInvalid), "{error:?}");
    assert_eq!(error.problems.len(), 1, "{error:?}");
    error.problems.remove(0)
}

fn csv(uri: &str) -> Value {
    let mut spec = spec("csv");
    spec["train"]["data"] = json!({"format": "csv", "uri": uri, "targets": ["a", "b"]});
    spec
}

fn infer(from: &str) -> Value {
    json!({
        "version": 1, "name": "predict",
        "infer": {"model": {"from": from}, "data": {"format": "randn", "rows": 4, "features": 4, "targets": 2}}
    })
}

#[tokio::test]
async fn a_key_holds_when_what_the_spec_names_is_gone_or_another() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.csv");
    fs::write(&file, "a,b,c\n1,2,3\n").unwrap();
    let body = submission(csv(file.to_str().unwrap()), "k");
    let (status, answer) = rig.ask(Method::POST, "/v1/jobs", body.clone()).await;
    let view: JobView = serde_json::from_slice(&answer).unwrap();
    assert_eq!(status, 201);
    fs::remove_file(&file).unwrap();
    let (status, answer) = rig.ask(Method::POST, "/v1/jobs", body).await;
    let again: JobView = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status.as_u16(), again.id), (200, view.id), "an acknowledged job is found though its file is gone");
    let mut other = csv(file.to_str().unwrap());
    other["priority"] = 51.into();
    let (status, code, _) = rig.post_error("/v1/jobs", submission(other, "k")).await;
    assert_eq!((status, code), (409, ErrorCode::KeyConflict), "and another body under its key is refused for that");
    let (status, code, _) = rig.post_error("/v1/jobs", submission(csv(file.to_str().unwrap()), "new")).await;
    assert_eq!((status, code), (422, ErrorCode::SpecInvalid), "the control: under a new key the file is missed");
    rig.end_server().await;
}

#[tokio::test]
async fn the_same_key_names_the_same_job() {
    let rig = Rig::new().await;
    let body = submission(spec("one"), "k");
    let (status, answer) = rig.ask(Method::POST, "/v1/jobs", body.clone()).await;
    let view: JobView = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status.as_u16(), view.id.0, view.name.as_str()), (201, 1, "one"));
    let (status, answer) = rig.ask(Method::POST, "/v1/jobs", body).await;
    let again: JobView = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status.as_u16(), again.id), (200, view.id));
    let mut other = spec("one");
    other["priority"] = 51.into();
    let (status, code, message) = rig.post_error("/v1/jobs", submission(other, "k")).await;
    assert_eq!((status, code), (409, ErrorCode::KeyConflict));
    assert!(message.contains("job 1"), "{message}");
    for key in [String::new(), "x".repeat(201), "a\nb".into(), "mlctl:schedule:1".into()] {
        let (status, code, _) = rig.post_error("/v1/jobs", submission(spec("one"), &key)).await;
        assert_eq!((status, code), (400, ErrorCode::BadRequest), "{key:?}");
    }
    let raced = join_all((0..20).map(|_| rig.ask(Method::POST, "/v1/jobs", submission(spec("raced"), "race")))).await;
    let created = raced.iter().filter(|(status, _)| *status == 201).count();
    assert_eq!((created, raced.iter().all(|(status, _)| status.is_success())), (1, true));
    rig.end_server().await;
}

#[tokio::test]
async fn a_dry_run_keeps_nothing_and_says_what_would_be_kept() {
    let rig = Rig::new().await;
    let body = json!({"spec": spec("one"), "key": "k", "dry_run": true}).to_string();
    let dry: DryRunView = rig.post("/v1/jobs", body).await;
    assert!(dry.dry_run);
    assert_eq!((dry.spec.priority, dry.spec.retry.limit), (50, 3), "defaults are filled in");
    let daemon: DaemonView = rig.get("/v1/daemon").await;
    assert_eq!(daemon.jobs.values().sum::<u64>(), 0);
    rig.end_server().await;
}

#[tokio::test]
async fn a_spec_that_is_none_says_where() {
    let rig = Rig::new().await;
    let mut cases = Vec::new();
    let mut wrong = |change: fn(&mut Value), path: &'static str, says: &'static str| {
        let mut spec = spec("one");
        change(&mut spec);
        cases.push((spec, path, says));
    };
    wrong(|spec| spec["train"]["batch_size"] = "many".into(), "train.batch_size", "invalid type");
    wrong(|spec| spec["train"]["batchsize"] = 1.into(), "train.batchsize", "unknown field");
    wrong(|spec| spec["priority"] = 1000.into(), "priority", "");
    wrong(|spec| spec["version"] = 2.into(), "", "version 2");
    wrong(|spec| spec["train"]["model"]["type"] = "rnn".into(), "train.model.type", "rnn");
    wrong(|spec| drop(spec.as_object_mut().unwrap().remove("train")), "", "nothing to do");
    for (spec, path, says) in cases {
        let found = problem(&rig, spec).await;
        assert_eq!(found.path, path, "{found:?}");
        assert!(found.message.contains(says) && !found.message.contains(" line "), "{found:?}");
    }
    let found = problem(&rig, json!([])).await;
    assert!(!found.message.is_empty());
    rig.end_server().await;
}

#[tokio::test]
async fn a_job_larger_than_the_machine_is_refused_with_numbers() {
    let rig = Rig::new().await;
    let cases = [
        (json!({"cpus": 3}), "resources.cpus", "the job needs 3 cores, and this machine gives 2 cores to jobs"),
        (
            json!({"gpus": 1}),
            "resources.gpus",
            "the job needs 1 core and 1 GPU, and this machine gives 2 cores and no GPU to jobs",
        ),
    ];
    for (resources, path, message) in cases {
        let mut spec = spec("large");
        spec["resources"] = resources;
        let found = problem(&rig, spec).await;
        assert_eq!((found.path.as_str(), found.message.as_str()), (path, message));
    }
    rig.end_server().await;
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let rig = Rig::with(|_, config| {
        config.max_queued = 3;
        config.max_spec_bytes = 1000;
    })
    .await;
    let mut long = spec("long");
    long["labels"] = json!({"x": "y".repeat(1000)});
    let (status, code, message) = rig.post_error("/v1/jobs", submission(long, "k")).await;
    assert_eq!((status, code), (413, ErrorCode::TooLarge));
    assert!(message.contains("1000"), "{message}");
    for name in ["a", "b", "c"] {
        rig.submit(name).await;
    }
    let (status, code, message) = rig.post_error("/v1/jobs", submission(spec("d"), "d")).await;
    assert_eq!((status, code), (503, ErrorCode::Busy));
    assert!(message.contains('3'), "{message}");
    let _: JobView = rig.post("/v1/jobs/a/cancel", "").await;
    rig.submit("d").await;
    assert_eq!(rig.post_error("/v1/jobs", submission(spec("e"), "e")).await.1, ErrorCode::Busy);
    rig.end_server().await;
}

#[tokio::test]
async fn data_must_be_there() {
    let rig = Rig::new().await;
    let dir = rig.dir.path();
    let file = dir.join("x.csv");
    fs::write(&file, "a,b\n1,2\n").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let path = |name: &str| format!("{}/{name}", dir.display());
    let cases = [
        (path("none.csv"), "does not exist"),
        (format!("file://{}", path("none.csv")), "does not exist"),
        (path("x.csv/y"), "no folder"),
        (format!("{}", dir.display()), "is a folder"),
        (path("x.csv/"), "is no folder"),
        (path("none/*.csv"), "does not exist"),
        (path("z*.csv"), "no file that matches \"z*.csv\""),
        (path("[.csv"), "is no pattern"),
        ("s3://bucket/*.csv".into(), "names a bucket"),
        (path("pipe"), "not a regular file"),
        ("x.csv".into(), "absolute path"),
        ("file://x.csv".into(), "absolute path"),
        (path("../x.csv"), "`..`"),
        ("gopher:///x.csv".into(), "not understood"),
    ];
    for (uri, says) in cases {
        let found = problem(&rig, csv(&uri)).await;
        assert_eq!(found.path, "train.data.uri", "{found:?}");
        assert!(found.message.contains(says) && found.hint.is_some(), "{uri}: {found:?}");
    }
    for (key, uri) in [("one", path("x.csv")), ("two", format!("file://{}", path("x.csv")))] {
        let view: JobView = rig.post("/v1/jobs", submission(csv(&uri), key)).await;
        let spec: SpecView = rig.get(&format!("/v1/jobs/{}/spec", view.id)).await;
        let kept = serde_json::to_value(&spec.spec).unwrap();
        assert_eq!(kept["train"]["data"]["uri"], format!("file://{}", path("x.csv")));
    }
    for (key, pattern) in [("three", "?.csv"), ("four", "")] {
        let view: JobView = rig.post("/v1/jobs", submission(csv(&path(pattern)), key)).await;
        let spec: SpecView = rig.get(&format!("/v1/jobs/{}/spec", view.id)).await;
        let kept = serde_json::to_value(&spec.spec).unwrap();
        assert_eq!(kept["train"]["data"]["uri"], format!("file://{}", path(pattern)));
    }
    rig.end_server().await;
}

#[tokio::test]
async fn data_must_be_where_jobs_may_read() {
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().canonicalize().unwrap();
    let roots = tempfile::tempdir().unwrap();
    let root = roots.path().canonicalize().unwrap().join("data");
    fs::create_dir_all(root.join("sub")).unwrap();
    for file in [outside.join("x.csv"), root.join("sub/x.csv"), roots.path().join("data-of-others.csv")] {
        fs::write(file, "a\n1\n").unwrap();
    }
    symlink(&outside, root.join("way-out")).unwrap();
    symlink(root.join("sub"), outside.join("way-in")).unwrap();
    let rig = Rig::with(|_, config| config.data_roots = vec![root.clone(), "/no/such/root".into()]).await;
    let shown = |path: std::path::PathBuf| path.display().to_string();
    let others = root.with_file_name("data-of-others.csv");
    for path in
        [outside.join("x.csv"), outside.join("*.csv"), root.join("way-out/x.csv"), root.join("way-out/*"), others]
    {
        let found = problem(&rig, csv(&shown(path))).await;
        assert!(found.message.contains("none of the folders"), "{found:?}");
    }
    let found = problem(&rig, csv(&shown(root.join("**/*.csv")))).await;
    assert!(found.message.contains("leads out"), "{found:?}");
    assert!(problem(&rig, csv(&shown(root.join("sub/none.csv")))).await.message.contains("does not exist"));
    for (key, path) in [("in", root.join("sub/x.csv")), ("link", outside.join("way-in/x.csv"))] {
        let view: JobView = rig.post("/v1/jobs", submission(csv(&shown(path)), key)).await;
        let spec: SpecView = rig.get(&format!("/v1/jobs/{}/spec", view.id)).await;
        let kept = serde_json::to_value(&spec.spec).unwrap();
        assert_eq!(kept["train"]["data"]["uri"], format!("file://{}", root.join("sub/x.csv").display()), "where it is");
    }
    rig.end_server().await;
}

#[tokio::test]
async fn the_model_of_a_job_is_put_in_its_place() {
    let rig = Rig::new().await;
    let id = rig.submit("digits").await;
    let says = async |from: &str| problem(&rig, infer(from)).await;
    let found = says("job:digits").await;
    assert_eq!(
        (found.path.as_str(), found.message.as_str()),
        ("infer.model.from", "job 1 is queued and has no model yet")
    );
    assert!(says("job:none").await.message.contains("no job none"));
    assert!(says("job:").await.message.contains("the name or the id of a job"));
    let fence = rig.claim(id).await;
    assert!(says("job:1").await.message.contains("running"));
    let model = ModelRef { uri: "file:///models/1".into(), digest: "a".repeat(64) };
    let exit = Exit { class: ExitClass::Ok, message: None, hint: None };
    let end = Command::End { exit, model: Some(model), output: None, jitter: 0.5 };
    rig.store.command(id, Some(fence), end).await.unwrap();
    for (key, from) in [("id", "job:1"), ("name", "job:digits")] {
        let view: JobView = rig.post("/v1/jobs", submission(infer(from), key)).await;
        let spec: SpecView = rig.get(&format!("/v1/jobs/{}/spec", view.id)).await;
        let kept = serde_json::to_value(&spec.spec).unwrap();
        assert_eq!(kept["infer"]["model"]["from"], "file:///models/1");
    }
    let failed = rig.submit("failed").await;
    let fence = rig.claim(failed).await;
    rig.end(fence, ExitClass::Spec).await;
    assert!(says("job:failed").await.message.contains("made no model"));
    rig.end_server().await;
}

#[tokio::test]
async fn a_model_must_be_there_too() {
    let rig = Rig::with(|_, config| config.data_roots = vec!["/no/such/root".into()]).await;
    let own = rig.dir.path().canonicalize().unwrap().join("objects/jobs/1-x/model");
    fs::create_dir_all(&own).unwrap();
    let uri = format!("file://{}", own.display());
    let found = problem(&rig, infer(&uri)).await;
    assert!(found.message.contains("holds neither"), "{found:?}");
    fs::write(own.join("model.safetensors"), "x").unwrap();
    let _: JobView = rig.post("/v1/jobs", submission(infer(&uri), "folder")).await;
    let file = format!("{uri}/model.safetensors");
    let _: JobView = rig.post("/v1/jobs", submission(infer(&file), "file")).await;
    let found = problem(&rig, infer("/etc/passwd")).await;
    assert!(found.message.contains("none of the folders"), "{found:?}");
    rig.end_server().await;
}

/// What is needed of the storage is found by its names there.
#[tokio::test]
async fn weights_in_storage_are_named_as_storage_names_them() {
    for roots in [Vec::new(), vec!["/no/such/root".into()]] {
        let rig = Rig::with(|config, policy| {
            let link = config.state_dir.join("link");
            symlink(config.state_dir.join("objects"), &link).unwrap();
            config.storage_url = format!("file://{}", link.display());
            policy.data_roots = roots;
        })
        .await;
        let dir = rig.dir.path();
        fs::create_dir_all(dir.join("objects/jobs/1-x/model/1")).unwrap();
        fs::write(dir.join("objects/jobs/1-x/model/1/model.safetensors"), "x").unwrap();
        let weights = "jobs/1-x/model/1/model.safetensors";
        for by in ["link", "objects"] {
            let from = format!("file://{}", dir.canonicalize().unwrap().join(by).join(weights).display());
            let view: JobView = rig.post("/v1/jobs", submission(infer(&from), by)).await;
            let spec: SpecView = rig.get(&format!("/v1/jobs/{}/spec", view.id)).await;
            let kept = serde_json::to_value(&spec.spec).unwrap();
            assert_eq!(kept["infer"]["model"]["from"], format!("file://{}/link/{weights}", dir.display()));
        }
        rig.end_server().await;
    }
}

#[tokio::test]
async fn what_keeps_a_command_from_running_is_said_before_it_is_taken() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("no.sh"), "#!/bin/sh\n").unwrap();
    let command = |argv: &[&str], cwd: Option<&str>| {
        let mut spec = json!({"version": 1, "name": "c", "command": {"argv": argv}});
        if let Some(cwd) = cwd {
            spec["command"]["cwd"] = cwd.into();
        }
        spec
    };
    let here = folder.path().to_str().unwrap();
    for (argv, cwd, path, words) in [
        (&["true"][..], Some("/no/where"), "command.cwd", "does not exist"),
        (&["true"], Some("/etc/hostname/x"), "command.cwd", ""),
        (&["./none"], Some(here), "command.argv[0]", "none does not exist"),
        (&["./no.sh"], Some(here), "command.argv[0]", "may not be executed"),
        (&["./"], Some(here), "command.argv[0]", "no program"),
        (&["/tmp"], Some(here), "command.argv[0]", "is no file"),
        (&["true"], None, "command.cwd", "missing"),
        (&["true"], Some("relative"), "command.cwd", "no absolute path"),
    ] {
        let found = problem(&rig, command(argv, cwd)).await;
        assert!(found.path == path && found.message.contains(words), "{argv:?} {cwd:?}: {found:?}");
    }
    let (status, _) = rig.ask(Method::POST, "/v1/jobs", submission(command(&["true"], Some("/")), "good")).await;
    assert_eq!(status, 201);
    let listed = rig.ask(Method::GET, "/v1/jobs?kind=command", "").await.0;
    assert_eq!(listed, 200);
    rig.end_server().await;
}

#[tokio::test]
async fn commands_that_are_switched_off_are_refused_and_other_jobs_are_not() {
    let rig = Rig::with(|_, config| config.commands.enabled = false).await;
    let command = json!({"version": 1, "name": "c", "command": {"argv": ["true"], "cwd": "/"}});
    let (status, code, _) = rig.post_error("/v1/jobs", submission(command, "k")).await;
    assert_eq!((status, code), (403, ErrorCode::NotPermitted));
    let (status, _) = rig.ask(Method::POST, "/v1/jobs", submission(spec("train"), "k")).await;
    assert_eq!(status, 201);
    rig.end_server().await;
}
