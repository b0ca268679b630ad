//! Everything in a bucket: a real S3 server, the real daemon, the real worker. What is trained there is what is trained on a local disk, bit for bit, whatever happens to
//! the server meanwhile; who may not in is told so; and the key is nowhere but where it must be.

use std::{path::Path, time::Duration};

use mlctl_artifacts::Stores;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    puppet::{Answer, Puppet},
    s3_server::{BUCKET, Server},
    support::{
        Daemon, Setup, Worker,
        daemon::worker_pid,
        processes,
        specs::{Length, training},
        until,
    },
};

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/jobs/data/digits.csv");
const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/jobs/digits.toml");
const INFER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/jobs/digits-infer.toml");

/// The digits in the bucket.
fn data() -> String {
    format!("s3://{BUCKET}/data/digits.csv")
}

/// Puts an object into the bucket.
pub fn upload(server: &Server, uri: &str, bytes: Vec<u8>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        Stores::with_s3(Some(server.access())).open(uri).unwrap().put(bytes.into()).await.unwrap();
    });
}

/// A daemon that keeps everything in the bucket, with its key in a file.
pub fn setup(server: &Server, key: &Path) -> Setup {
    let credentials = &server.writer;
    write_key(key, &credentials.access_key_id, &credentials.secret_access_key);
    Setup::of(Worker::Real)
        .set(&format!("storage.url='s3://{BUCKET}/ml'"))
        .set(&format!("storage.s3.endpoint='{}'", server.url))
        .set(&format!("storage.s3.credentials_file='{}'", key.display()))
}

/// Writes a credentials file as people have it.
fn write_key(path: &Path, id: &str, secret: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The digits trained on a local disk by an undisturbed run: its model's digest.
fn local_digest(more: &[&str]) -> String {
    let daemon = Daemon::with(Worker::Real);
    daemon.mlctl(&[&["submit", JOB, "-w"], more].concat()).ok();
    daemon.last()["model"]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn the_digits_are_trained_and_read_entirely_from_and_to_s3() {
    let Some(server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    upload(&server, &data(), std::fs::read(DIGITS).unwrap());
    let daemon = setup(&server, &keys.path().join("key")).start();
    let on_s3 = format!("train.data.uri={}", data());
    daemon.mlctl(&["submit", JOB, "-w", "--set", &on_s3]).ok();
    let trained = daemon.last();
    let home = format!("s3://{BUCKET}/ml/jobs/");
    for uri in [&trained["model"]["uri"], &trained["checkpoint"]["uri"]] {
        assert!(uri.as_str().is_some_and(|uri| uri.starts_with(&home)), "{trained:#}");
    }
    assert!(trained["metrics"]["test_accuracy"].as_f64().unwrap() > 0.95, "{trained:#}");
    assert_eq!(trained["model"]["digest"], local_digest(&[]), "it is the model of a local disk");
    let verified = daemon.mlctl(&["checkpoint", "verify", "digits", "-o", "json"]).json();
    assert_eq!(verified["ok"], true, "{verified:#}");
    let kept = verified["checkpoints"].as_array().unwrap().len();
    assert_eq!(kept, 3, "older ones are deleted there too: {verified:#}");

    let on_s3 = format!("infer.data.uri={}", data());
    daemon.mlctl(&["submit", INFER, "-w", "--set", &on_s3]).ok();
    let read = daemon.last();
    assert!(read["output"]["uri"].as_str().is_some_and(|uri| uri.starts_with(&home)), "{read:#}");
    assert_eq!(read["metrics"]["accuracy"], trained["metrics"]["test_accuracy"], "{read:#}");
    assert!(!daemon.state_dir.join("objects").exists(), "nothing of it was kept here");
}

/// The digits for a while: a hundred epochs whatever happens, with a checkpoint every second.
fn long() -> [String; 4] {
    ["train.convergence.patience=1000", "train.max_epochs=120", "checkpoint.every_epochs=10", "checkpoint.keep=2"]
        .map(str::to_owned)
}

fn with_sets(args: &[&str], sets: &[String]) -> Vec<String> {
    let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    all.extend(sets.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
    all
}

#[test]
fn a_server_killed_in_the_middle_costs_no_step_and_changes_no_bit() {
    let Some(mut server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    upload(&server, &data(), std::fs::read(DIGITS).unwrap());
    let undisturbed = {
        let daemon = Daemon::with(Worker::Real);
        daemon.mlctl(&with_sets(&["submit", JOB, "-w"], &long())).ok();
        daemon.last()["model"]["digest"].clone()
    };
    let on_s3 = format!("train.data.uri={}", data());
    // Once for less time than a request is tried again, once for longer, so that an attempt fails and another goes on.
    for (retry_seconds, down) in [(60, Duration::from_secs(3)), (1, Duration::from_secs(6))] {
        println!("down for {down:?}, tried again for {retry_seconds} s");
        let setup = setup(&server, &keys.path().join("key")).set(&format!("storage.s3.retry_seconds={retry_seconds}"));
        let daemon = setup.start();
        let mut sets = long().to_vec();
        sets.extend([
            on_s3.clone(),
            "retry.infrastructure_limit=30".into(),
            "retry.backoff_seconds=1".into(),
            "retry.max_backoff_seconds=1".into(),
        ]);
        let id = daemon.mlctl(&with_sets(&["submit", JOB, "-q"], &sets)).ok().trim().to_owned();
        daemon.wait_for_checkpoint(&id, 1);
        server.kill();
        assert_eq!(daemon.job(&id)["state"], "running", "it cannot be done: its model has no place");
        std::thread::sleep(down);
        assert_ne!(daemon.job(&id)["state"], "succeeded");
        server.start_again();
        let job = daemon.wait_for(&id, "succeeded");
        assert_eq!(job["model"]["digest"], undisturbed, "{job:#}");
        if retry_seconds == 60 {
            assert_eq!(job["attempt"], 1, "an outage that short is waited out: {job:#}");
        } else {
            let said = daemon.count(&id, "warned") + daemon.count(&id, "requeued");
            assert!(said > 0, "a longer one is said out loud: {:#?}", daemon.events(&id));
        }
        daemon.wait_for_kept(&id, 2);
        assert_eq!(daemon.mlctl(&["checkpoint", "verify", &id, "-o", "json"]).json()["ok"], true);
    }
}

/// The digits of a bucket, so set, must fail. Returns the job.
fn fails(daemon: &Daemon, sets: &[String], class: &str, words: &[&str]) -> Value {
    daemon.must_fail(&with_sets(&["submit", JOB, "-w"], sets), class, words)
}

#[test]
fn who_may_not_in_is_told_so_before_anything_is_trained() {
    let Some(server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    let (writer, reader) = (&server.writer, &server.reader);
    for (id, secret, words) in [
        ("nobody", "nothing", ["does not know the access key", "InvalidAccessKeyId"]),
        (writer.access_key_id.as_str(), "nothing", ["secret key does not fit", "SignatureDoesNotMatch"]),
        (reader.access_key_id.as_str(), reader.secret_access_key.as_str(), ["access is denied", "AccessDenied"]),
    ] {
        let setup = setup(&server, &key);
        write_key(&key, id, secret);
        let job = fails(&setup.start(), &[], "spec", &words);
        assert_eq!(job["progress"]["step"], Value::Null, "it had not begun: {job:#}");
    }
    let absent = setup(&server, &key).set("storage.url='s3://no-such-bucket/ml'").start();
    fails(&absent, &[], "spec", &["s3://no-such-bucket/ml"]);

    let daemon = setup(&server, &key).start();
    for (uri, words) in [
        ("s3://no-such-bucket/digits.csv", ["cannot read the data", "there is no such bucket"]),
        (&format!("s3://{BUCKET}/data/absent.csv"), ["cannot read the data", "does not exist"]),
    ] {
        fails(&daemon, &[format!("train.data.uri={uri}")], "spec", &words);
    }
    let unsigned = Daemon::with(Worker::Real);
    let run = unsigned.mlctl(&["submit", JOB, "--set", &format!("train.data.uri={}", data())]);
    run.must_fail(6, &["no credentials for S3", "[storage.s3]"]);
}

#[test]
fn a_server_that_is_not_there_is_tried_again_and_then_named() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    write_key(&key, "id", "secret");
    let daemon = Setup::of(Worker::Real)
        .set("storage.url='s3://bucket/ml'")
        .set(&format!("storage.s3.endpoint='http://127.0.0.1:{port}'"))
        .set("storage.s3.retry_seconds=1")
        .set(&format!("storage.s3.credentials_file='{}'", key.display()))
        .start();
    let once = ["retry.infrastructure_limit=1".to_owned()];
    let run = daemon.mlctl(&with_sets(&["submit", JOB, "-w"], &once));
    assert_eq!(run.code, 20, "{run:?}");
    let job = daemon.last();
    assert_eq!((&job["exit_class"], &job["attempt"]), (&json!("storage"), &json!(2)), "{job:#}");
    assert_eq!((&job["state"], &job["retries_used"]), (&json!("held"), &json!(0)), "it is not the job's fault");
    let message = job["exit_message"].as_str().unwrap();
    assert!(message.contains("s3://bucket/ml") && message.contains(&format!("127.0.0.1:{port}")), "{message}");
}

/// An hour later than it is, for the program it is preloaded into.
const LATE_CLOCK: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    if (!failed && id == CLOCK_REALTIME) at->tv_sec += 3600;
    return failed;
}
";

/// A worker's program whose clock is an hour late.
fn late_worker(folder: &Path) -> std::path::PathBuf {
    use std::{os::unix::fs::PermissionsExt as _, process::Command};
    let (source, library, script) = (folder.join("late.c"), folder.join("late.so"), folder.join("late-mlworker"));
    std::fs::write(&source, LATE_CLOCK).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(built.expect("a C compiler is there: SQLite needs it").success());
    let worker = Worker::Real.program();
    let text = format!("#!/bin/sh\nLD_PRELOAD='{}' exec '{}' \"$@\"\n", library.display(), worker.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    script
}

#[test]
fn a_machine_whose_clock_is_wrong_is_told_so() {
    let Some(server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let setup = setup(&server, &keys.path().join("key"));
    let daemon = Setup { worker: late_worker(keys.path()), ..setup }.start();
    let job = fails(&daemon, &[], "spec", &["clock and the store's are too far apart", "RequestTimeTooSkewed"]);
    assert!(job["exit_hint"].as_str().unwrap().contains("timedatectl"), "{job:#}");
}

#[test]
fn a_wrong_region_and_a_wrong_clock_are_named() {
    let times = "<RequestTime>20260101T000000Z</RequestTime><ServerTime>2026-01-01T02:00:00Z</ServerTime>";
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    write_key(&key, "id", "secret");
    for (status, code, more, words, hint) in [
        (403, "RequestTimeTooSkewed", times, "20260101T000000Z here, 2026-01-01T02:00:00Z there", "timedatectl"),
        (400, "AuthorizationHeaderMalformed", "<Region>eu-north-1</Region>", "another region: eu-north-1", "region"),
        (301, "PermanentRedirect", "<Endpoint>s3.eu.example</Endpoint>", "another region: s3.eu.example", "region"),
    ] {
        let body = format!("<Error><Code>{code}</Code><Message>no</Message>{more}</Error>");
        let puppet = Puppet::new(move |_, _| Answer::Say(status, "", body.clone().into_bytes()));
        let endpoint = format!("storage.s3.endpoint='{}'", puppet.url);
        let named = format!("storage.s3.credentials_file='{}'", key.display());
        let everything = Setup::of(Worker::Real).set(&endpoint).set(&named).set("storage.url='s3://bucket/ml'").start();
        let data_alone = Setup::of(Worker::Real).set(&endpoint).set(&named).start();
        let from_there = ["train.data.uri=s3://bucket/digits.csv".to_owned()];
        for (daemon, sets, uri) in
            [(everything, &[][..], "s3://bucket/ml"), (data_alone, &from_there[..], "s3://bucket/digits.csv")]
        {
            let job = fails(&daemon, sets, "spec", &[code, words, uri]);
            assert!(job["exit_hint"].as_str().unwrap().contains(hint), "{job:#}");
        }
    }
}

#[test]
fn data_that_changed_between_two_attempts_is_not_trained_on() {
    let Some(server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let digits = std::fs::read_to_string(DIGITS).unwrap();
    upload(&server, &data(), digits.clone().into_bytes());
    let daemon = setup(&server, &keys.path().join("key")).start();
    let sets = [
        format!("train.data.uri={}", data()),
        "train.convergence.patience=1000000".into(),
        "train.max_epochs=1000000".into(),
        "checkpoint.every_epochs=1".into(),
    ];
    let id = daemon.mlctl(&with_sets(&["submit", JOB, "-q"], &sets)).ok().trim().to_owned();
    let pid = daemon.wait_for_checkpoint(&id, 1);
    processes::signal(pid, Signal::STOP);
    let (head, _) = digits.trim_end().rsplit_once('\n').unwrap();
    upload(&server, &data(), head.to_owned().into_bytes());
    processes::kill(pid);
    let job = daemon.wait_for(&id, "failed");
    assert_eq!(job["exit_class"], "spec", "{job:#}");
    let message = job["exit_message"].as_str().unwrap();
    assert!(
        message.contains(&data()) && message.matches("version \"").count() == 2,
        "both versions are named: {message}"
    );
    assert_eq!(job["attempt"], 2, "{job:#}");
}

#[test]
fn what_a_killed_worker_had_half_uploaded_is_cleared_away() {
    let Some(server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let mut daemon = setup(&server, &keys.path().join("key")).start();
    // Checkpoints of 50 MiB, one after the other: a worker is nearly always in the middle of one.
    let mut spec = training(Worker::Real, "large", Length::Endless);
    spec["train"]["model"]["layers"] = json!([32, 2048, 2048, 8]);
    spec["checkpoint"] = json!({"every_steps": 1, "keep": 1});
    spec["retry"] = json!({"limit": 20, "backoff_seconds": 1, "max_backoff_seconds": 1});
    let id = daemon.submit(&spec);
    let cleared = |daemon: &Daemon| daemon.log().contains("half uploaded objects were cleared away");
    for attempt in 1..=10 {
        let pid = daemon.wait_for_checkpoint(&id, attempt);
        let record = daemon.state_dir.join(format!("attempts/{id}/{attempt}/uploads.jsonl"));
        assert!(std::fs::metadata(&record).unwrap().len() > 0, "uploads are on record while they go on");
        std::thread::sleep(Duration::from_millis(70 * attempt));
        processes::kill(pid);
        until("the attempt's uploads are cleared away", || (!record.exists()).then_some(()));
        if cleared(&daemon) {
            break;
        }
    }
    assert!(cleared(&daemon), "ten kills, and none in the middle of an upload");
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}

/// Files below a folder that hold a text.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file() && has(&std::fs::read(&path).unwrap_or_default(), text) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn the_secret_is_in_no_log_no_row_no_argument_and_no_environment() {
    let Some(server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    upload(&server, &data(), std::fs::read(DIGITS).unwrap());
    let daemon = setup(&server, &keys.path().join("key")).set("log.level='trace'").start();
    let secret = &server.writer.secret_access_key;
    let sets = [
        format!("train.data.uri={}", data()),
        "train.max_epochs=1000000".into(),
        "train.convergence.patience=1000000".into(),
    ];
    let id = daemon.mlctl(&with_sets(&["submit", JOB, "-q"], &sets)).ok().trim().to_owned();
    let pid = daemon.wait_for_checkpoint(&id, 1);
    for (whose, pid) in [("the worker's", pid), ("the daemon's", daemon.pid())] {
        for file in ["cmdline", "environ"] {
            let shown = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!shown.is_empty() && !has(&shown, secret), "the secret is in {whose} {file}");
        }
    }
    // A failed request and a refused one, for what they write.
    let _ = daemon.mlctl(&["doctor"]);
    let _ = daemon.mlctl(&["submit", JOB, "-w", "--set", "train.data.uri=s3://no-such-bucket/x.csv"]);
    let mut shown = String::new();
    for args in [
        vec!["show", &id, "-o", "json"],
        vec!["why", &id],
        vec!["logs", &id],
        vec!["checkpoint", "show", &id, "-o", "json"],
        vec!["daemon", "status", "-o", "json"],
    ] {
        let run = daemon.mlctl(&args);
        shown += &run.stdout;
        shown += &run.stderr;
    }
    let client = &daemon.client;
    for path in ["", "/spec", "/events", "/attempts"] {
        shown += &client.get(&format!("/v1/jobs/{id}{path}")).text;
    }
    assert!(shown.contains(&data()) && !shown.contains(secret.as_str()), "{shown}");
    assert!(daemon.log().len() > 1000 && !daemon.log().contains(secret.as_str()), "the secret is in the daemon's log");
    assert_eq!(holding(&daemon.state_dir, secret), Vec::<String>::new());
    // The detector finds what there is to find.
    assert!(!holding(&daemon.state_dir, &data()).is_empty(), "the spec is in the database");
    let planted = daemon.state_dir.join("attempts/planted");
    std::fs::write(&planted, format!("x{secret}y")).unwrap();
    assert_eq!(holding(&daemon.state_dir, secret), [planted.display().to_string()]);
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
    until("its worker is gone", || {
        worker_pid(&daemon.job(&id)).is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

#[test]
fn a_daemon_without_a_key_or_with_one_for_everybody_does_not_start() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    let mut daemon = Daemon::with(Worker::Fake);
    assert!(daemon.stop().success());
    let with = |daemon: &mut Daemon, more: &[String]| {
        daemon.change(Setup::of(Worker::Fake).set("storage.url='s3://bucket/ml'"), more);
        daemon.fail_to_start()
    };
    with(&mut daemon, &[]).must_fail(2, &["s3://bucket/ml", "there are none", "hint: "]);
    let named = [format!("storage.s3.credentials_file='{}'", key.display())];
    with(&mut daemon, &named).must_fail(2, &[&key.display().to_string(), "No such file", "hint: "]);
    write_key(&key, "id", "canary");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    with(&mut daemon, &named).must_fail(2, &["everybody may read it", "hint: "]);
    std::fs::write(&key, "canary\n").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let said = with(&mut daemon, &named);
    said.must_fail(2, &["line 1", "hint: "]);
    assert!(!said.stderr.contains("canary"), "{said:?}");
}
