//! Versions of datasets with real programs, on a local disk and on a real S3 server: what a look at files becomes, what jobs make of it, and what happens when the files are others by then.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{
    s3::{setup, upload},
    s3_server::{BUCKET, Server},
    support::{Daemon, Setup, Worker, cli, processes, programs},
};

const SPEC: &str = r#"
version = 1
name = "parts"

[checkpoint]
every_steps = 5

[retry]
limit = 3
backoff_seconds = 1
max_backoff_seconds = 1

[train]
loss = "cross_entropy"
batch_size = 8
max_epochs = 4

[train.model]
type = "mlp"
layers = [3, 8, 2]

[train.data]
format = "dataset"
dataset = "parts"
targets = ["y"]

[train.optimizer]
type = "adam"
"#;

/// Good rows: the class is whether the first number is large.
fn part(from: u32) -> String {
    let row = |n: u32| format!("{n}.5,{},-{},{}\n", n * 2, n % 7, u32::from(n >= 20));
    format!("a,b,c,y\n{}", (from..from + 20).map(row).collect::<String>())
}

/// A daemon with two files of rows and a job on them.
fn stage(setup: Setup) -> Daemon {
    let daemon = setup.start();
    daemon.write("job.toml", SPEC);
    std::fs::create_dir(daemon.folder().join("d")).unwrap();
    daemon.write("d/part-0.csv", part(0));
    daemon.write("d/part-1.csv", part(20));
    daemon
}

fn json(daemon: &Daemon, args: &[&str]) -> Value {
    daemon.mlctl(&[args, &["-o", "json"]].concat()).json()
}

#[test]
fn a_version_is_made_shown_trained_on_and_removed() {
    let daemon = stage(Setup::of(Worker::Real));
    assert_eq!(daemon.mlctl(&["dataset", "ls", "-o", "name"]).ok(), "");
    let refused = daemon.mlctl(&["submit", "job.toml"]);
    refused.must_fail(6, &["job.toml:24", "no dataset parts", "mlctl dataset add"]);
    let said = daemon.mlctl(&["dataset", "add", "parts", "d/part-*.csv"]).ok();
    assert!(said.contains("version 1 of dataset parts: 40 rows") && said.contains("2 files"), "{said}");
    let shown = json(&daemon, &["dataset", "show", "parts/1"]);
    assert_eq!((&shown["rows"], &shown["format"], &shown["objects"]), (&40.into(), &"csv".into(), &2.into()));
    let second = &shown["manifest"]["objects"][1];
    assert_eq!(second["blake3"], mlctl_artifacts::blake3_hex(part(20).as_bytes()), "{shown:#}");
    assert_eq!((&second["name"], &second["rows"]), (&"part-1.csv".into(), &20.into()));
    assert_eq!(shown["manifest"]["columns"][3], serde_json::json!({"name": "y", "kind": "number"}));
    let manifest = shown["manifest_uri"].as_str().unwrap().strip_prefix("file://").unwrap().to_owned();
    assert!(Path::new(&manifest).is_file() && manifest.contains("/objects/datasets/"), "{manifest}");
    assert!(daemon.mlctl(&["dataset", "show", "parts/1"]).ok().contains("part-1.csv"));

    daemon.mlctl(&["submit", "job.toml", "-w"]).ok();
    let pinned = daemon.last();
    assert_eq!(pinned["dataset"], "parts/1", "the newest at the submit");
    assert!(daemon.mlctl(&["show", "@last"]).ok().contains("parts/1"));
    let plain = SPEC.replace("\"dataset\"\ndataset = \"parts\"", "\"csv\"\nuri = \"d/part-*.csv\"");
    daemon.write("plain.toml", plain);
    daemon.mlctl(&["submit", "plain.toml", "-w"]).ok();
    assert_eq!(daemon.last()["model"]["digest"], pinned["model"]["digest"]);

    // A schedule reads the newest of each time, unless it names one.
    for (name, dataset) in [("newest", "parts"), ("fixed", "parts/1")] {
        let set = format!("train.data.dataset={dataset}");
        daemon.mlctl(&["schedule", "add", "job.toml", "-n", name, "--cron", "@yearly", "--set", &set]).ok();
    }
    let read_by = |name: &str| {
        let job = json(&daemon, &["schedule", "run", name]);
        daemon.wait_for(job["id"].as_str().unwrap(), "succeeded")["dataset"].clone()
    };
    assert_eq!((read_by("newest"), read_by("fixed")), ("parts/1".into(), "parts/1".into()));

    // What is the same is no version of its own; what has come since is none of the version's.
    assert_eq!(json(&daemon, &["dataset", "pin", "parts"])["version"], 1);
    daemon.write("d/part-2.csv", part(40));
    let verified = json(&daemon, &["dataset", "verify", "parts"]);
    assert_eq!((&verified["ok"], verified["unlisted"].as_array().unwrap().len()), (&true.into(), 1), "{verified:#}");
    daemon.mlctl(&["submit", "job.toml", "-w"]).ok();
    assert_eq!(daemon.last()["model"]["digest"], pinned["model"]["digest"]);
    let pin = json(&daemon, &["dataset", "pin", "parts"]);
    assert_eq!((&pin["version"], &pin["rows"]), (&2.into(), &60.into()));
    daemon.mlctl(&["submit", "job.toml", "-w"]).ok();
    let newer = daemon.last();
    assert_eq!(newer["dataset"], "parts/2");
    assert_eq!((read_by("newest"), read_by("fixed")), ("parts/2".into(), "parts/1".into()));
    daemon.mlctl(&["schedule", "rm", "newest"]).ok();
    daemon.mlctl(&["schedule", "rm", "fixed"]).ok();
    assert_ne!(newer["model"]["digest"], pinned["model"]["digest"]);
    assert_eq!(daemon.mlctl(&["dataset", "show", "parts", "-o", "name"]).ok(), "parts/2\nparts/1\n");

    // A job on record keeps its manifest, whatever becomes of the version.
    daemon.mlctl(&["dataset", "rm", "parts/1"]).ok();
    daemon.mlctl(&["submit", "job.toml", "--set", "train.data.dataset=parts/1"]).must_fail(6, &["no version 1"]);
    daemon.mlctl(&["checkpoint", "gc", "--grace", "0"]).ok();
    assert!(Path::new(&manifest).is_file());
    for job in json(&daemon, &["ls", "--all"])["jobs"].as_array().unwrap() {
        daemon.mlctl(&["rm", job["id"].as_str().unwrap()]).ok();
    }
    let gone = json(&daemon, &["checkpoint", "gc", "--grace", "0"]);
    assert!(!Path::new(&manifest).exists(), "{gone:#}");
    assert_eq!(json(&daemon, &["dataset", "verify", "parts/2"])["ok"], true);
}

#[test]
fn mistakes_are_told_before_anything_is_kept() {
    let daemon = stage(Setup::of(Worker::Real));
    daemon.write("d/part-1.csv", "a,b,c,y\n1,2\n");
    daemon.mlctl(&["dataset", "add", "parts", "d/part-*.csv"]).must_fail(6, &["part-1.csv", "row 0", "2 fields"]);
    daemon.mlctl(&["dataset", "add", "parts", "gone.csv"]).must_fail(6, &["gone.csv", "does not exist"]);
    daemon.mlctl(&["dataset", "add", "parts", "d/"]).must_fail(2, &["--format"]);
    daemon.mlctl(&["dataset", "add", "17", "d/part-0.csv"]).must_fail(2, &["digits alone"]);
    daemon.mlctl(&["dataset", "add", "parts", "d/part-0.csv", "--worker", "/none"]).must_fail(1, &["/none"]);
    for verb in ["show", "verify", "pin"] {
        daemon.mlctl(&["dataset", verb, "parts"]).must_fail(4, &["no dataset parts"]);
    }
    daemon.mlctl(&["dataset", "add", "parts", "d/part-0.csv"]).ok();
    for (set, words) in [
        ("train.data.dataset=parts/0", &["names no version"][..]),
        ("train.data.dataset=parts/2", &["no version 2"]),
        ("train.data.tokenizer=bytes", &["no text"]),
        ("train.data.targets=[]", &["no target columns"]),
    ] {
        daemon.mlctl(&["submit", "job.toml", "--set", set]).must_fail(6, words);
    }
    std::fs::remove_file(daemon.folder().join("d/part-0.csv")).unwrap();
    daemon.mlctl(&["submit", "job.toml"]).must_fail(6, &["parts/1", "part-0.csv does not exist"]);
}

#[test]
fn a_running_job_that_goes_on_finds_out_that_its_data_has_changed() {
    let daemon = stage(Setup::of(Worker::Real));
    daemon.mlctl(&["dataset", "add", "parts", "d/part-*.csv"]).ok();
    daemon.mlctl(&["submit", "job.toml", "--set", "train.max_epochs=1000000"]).ok();
    let id = daemon.last()["id"].as_str().unwrap().to_owned();
    daemon.mlctl(&["dataset", "rm", "parts/1"]).must_fail(5, &["reads version 1 of dataset parts"]);
    let pid = daemon.wait_for_checkpoint(&id, 1);
    // As long as before.
    daemon.write("d/part-1.csv", part(20).replace("20.5,", "99.5,"));
    processes::kill(pid);
    let failed = daemon.wait_for(&id, "failed");
    assert_eq!((&failed["exit_class"], &failed["attempt"]), (&"spec".into(), &2.into()), "no third try: {failed:#}");
    let message = failed["exit_message"].as_str().unwrap();
    for word in ["part-1.csv is not what it was", "version parts/1", "its content is another"] {
        assert!(message.contains(word), "{message}");
    }
    let run = daemon.mlctl(&["dataset", "verify", "parts", "-o", "json"]);
    assert_eq!(run.code, 1);
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&found["ok"], found["changed"].as_array().unwrap().len()), (&false.into(), 1), "{found:#}");
    // Once it is back, so is the job.
    daemon.write("d/part-1.csv", part(20));
    daemon.mlctl(&["dataset", "verify", "parts"]).ok();
    daemon.mlctl(&["retry", &id]).ok();
    daemon.wait_until(&id, "an attempt that goes on", |job| job["attempt"] == 3 && job["state"] == "running");
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}

#[test]
fn files_are_pushed_trained_on_and_collected_when_nothing_needs_them() {
    let daemon = stage(Setup::of(Worker::Real).set("storage.data_roots=['/nowhere']"));
    daemon.write("d/part-1.csv", "a,b,c,y\n1,2\n");
    daemon.mlctl(&["dataset", "push", "parts", "d/part-0.csv", "d/part-1.csv"]).must_fail(6, &["row 0"]);
    assert!(!daemon.state_dir.join("objects/datasets").exists(), "a bad row costs no upload");
    daemon.write("d/part-1.csv", part(20));
    let pushed = json(&daemon, &["dataset", "push", "parts", "d/part-0.csv", "d/part-1.csv"]);
    let uri = pushed["uri"].as_str().unwrap();
    assert!(uri.contains("/objects/datasets/") && uri.ends_with('/'), "{pushed:#}");
    assert_eq!((&pushed["rows"], &pushed["objects"]), (&40.into(), &2.into()));
    let folder = Path::new(uri.strip_prefix("file://").unwrap());
    assert_eq!(std::fs::read_to_string(folder.join("part-1.csv")).unwrap(), part(20));
    assert_eq!(json(&daemon, &["dataset", "push", "parts", "d/part-*.csv"])["version"], 1, "the same is the same");
    std::fs::remove_dir_all(daemon.folder().join("d")).unwrap();
    daemon.mlctl(&["submit", "job.toml", "-w"]).ok();
    assert_eq!(daemon.last()["dataset"], "parts/1");
    assert_eq!(json(&daemon, &["dataset", "verify", "parts"])["ok"], true);
    daemon.mlctl(&["dataset", "rm", "parts/1"]).ok();
    daemon.mlctl(&["checkpoint", "gc", "--grace", "0"]).ok();
    assert!(folder.is_dir(), "the job is on record and may be looked into");
    daemon.mlctl(&["rm", "@last"]).ok();
    daemon.mlctl(&["checkpoint", "gc", "--grace", "0"]).ok();
    assert!(!folder.exists());
}

#[test]
fn a_version_of_objects_in_a_bucket_has_their_tags_and_is_held_to() {
    let Some(server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    let object = |number: u32| format!("s3://{BUCKET}/d/part-{number}.csv");
    upload(&server, &object(0), part(0).into_bytes());
    upload(&server, &object(1), part(20).into_bytes());
    let daemon = stage(setup(&server, &key));
    // Read with the person's own key.
    let add = |args: &[&str]| {
        let mut command = Command::new(programs::mlctl());
        command.args(args).env("MLCTL_SOCKET", &daemon.client.socket).env("AWS_ENDPOINT_URL", &server.url);
        command.env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", &server.writer.access_key_id);
        command.env("AWS_SECRET_ACCESS_KEY", &server.writer.secret_access_key);
        cli::run(daemon.folder(), command)
    };
    let place = format!("s3://{BUCKET}/d/part-*.csv");
    add(&["dataset", "add", "parts", &place]).ok();
    let shown = json(&daemon, &["dataset", "show", "parts/1"]);
    let manifest = shown["manifest_uri"].as_str().unwrap();
    assert!(manifest.starts_with(&format!("s3://{BUCKET}/ml/datasets/")), "{manifest}");
    for object in shown["manifest"]["objects"].as_array().unwrap() {
        assert!(object["etag"].as_str().is_some_and(|tag| !tag.is_empty()), "{shown:#}");
    }
    daemon.mlctl(&["submit", "job.toml", "-w"]).ok();
    daemon.mlctl(&["submit", "job.toml", "-w", "--set", "train.stream={}"]).ok();
    assert_eq!(add(&["dataset", "verify", "parts", "-o", "json"]).json()["ok"], true);
    let pushed = add(&["dataset", "push", "pushed", "d/part-0.csv", "-o", "json"]).json();
    assert!(
        pushed["uri"].as_str().is_some_and(|uri| uri.starts_with(&format!("s3://{BUCKET}/ml/datasets/"))),
        "{pushed:#}"
    );
    let shown = json(&daemon, &["dataset", "show", "pushed/1"]);
    assert!(shown["manifest"]["objects"][0]["etag"].is_string(), "{shown:#}");
    daemon.mlctl(&["submit", "job.toml", "-w", "--set", "train.data.dataset=pushed"]).ok();
    upload(&server, &object(1), part(20).replace("20.5,", "99.5,").into_bytes());
    let changed = ["part-1.csv is not what it was", "its content is another"];
    daemon.must_fail(&["submit", "job.toml", "-w"], "spec", &changed);
    assert_eq!(daemon.last()["attempt"], 1, "it is not tried again");
    upload(&server, &object(1), b"a,b,c,y\n".to_vec());
    daemon.must_fail(&["submit", "job.toml", "-w"], "spec", &["part-1.csv is not what it was", "8 bytes, and had"]);
    add(&["dataset", "verify", "parts"]).must_fail(1, &[]);
}
