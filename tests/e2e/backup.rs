//! The drill: a backup made under load, the state directory gone, the backup put back, and everything goes on. To a folder and to S3; with SIGKILL in the middle of the way back.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    chance::cases,
    s3::{setup, upload},
    s3_server::{BUCKET, Server},
    support::{
        Daemon, Setup, Worker,
        cli::{self, Run},
        daemon::worker_pid,
        processes, programs,
        specs::{Length, training},
    },
};

/// Long enough that a backup is made while it runs.
fn digits(uri: &str) -> Value {
    json!({
        "version": 1,
        "name": "digits",
        "checkpoint": {"every_steps": 40},
        "train": {
            "seed": 11,
            "model": {"type": "mlp", "layers": [64, 512, 256, 10], "dropout": 0.2},
            "data": {"format": "csv", "uri": uri, "targets": ["label"]},
            "split": {"validation": 0.1, "test": 0.2, "seed": 2},
            "scaling": "standard",
            "loss": "cross_entropy",
            "optimizer": {"type": "adamw"},
            "batch_size": 64,
            "max_epochs": 60,
        },
    })
}

fn local() -> String {
    format!("file://{}/config/jobs/data/digits.csv", env!("CARGO_MANIFEST_DIR"))
}

/// `mlctl db`, told the state directory by its name.
fn db(daemon: &Daemon, args: &[&str]) -> Run {
    let mut command = Command::new(programs::mlctl());
    command.arg("--state-dir").arg(&daemon.state_dir).arg("db").args(args);
    cli::run(daemon.folder(), command)
}

/// `mld db` with the daemon's own settings.
fn mld_db(daemon: &Daemon, settings: &[String], args: &[&str]) -> Command {
    let mut command = Command::new(programs::mld());
    command.arg("--state-dir").arg(&daemon.state_dir);
    for assignment in settings {
        command.arg("--set").arg(assignment);
    }
    command.args(["db", "-o", "json"]).args(args);
    let _ = daemon;
    command
}

/// Everything but what needs the daemon's clock.
fn remembered(job: &Value) -> Value {
    json!([job["id"], job["name"], job["state"], job["attempt"], job["model"], job["checkpoint"]])
}

/// Kills daemon and workers, and takes the state directory away.
fn lose(daemon: &mut Daemon, but: Option<&str>) {
    daemon.kill();
    for process in processes::of_attempts(&daemon.state_dir) {
        processes::kill(process.pid);
    }
    for entry in fs::read_dir(&daemon.state_dir).unwrap() {
        let path = entry.unwrap().path();
        if but.is_some_and(|but| path.ends_with(but)) {
            continue;
        }
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
}

/// Runs the drill; the daemon's settings, where its data is.
fn drill(mut daemon: Daemon, settings: &[String], uri: &str, but: Option<&str>) {
    let undisturbed = daemon.submit(&digits(uri));
    let undisturbed = daemon.wait_for(&undisturbed, "succeeded");
    let id = daemon.submit(&digits(uri));
    daemon.wait_for_checkpoint(&id, 1);
    // Under load: jobs come while it is made.
    let made = std::thread::scope(|scope| {
        let client = daemon.client.clone();
        let load = scope.spawn(move || {
            for number in 0..50 {
                let spec = training(Worker::Real, "load", Length::Short);
                client.post("/v1/jobs", &json!({"spec": spec, "key": format!("load-{number}"), "hold": true})).ok();
            }
        });
        let made = daemon.mlctl(&["db", "backup", "-o", "json"]).json();
        load.join().unwrap();
        made
    });
    assert_eq!(made["database"]["epoch"], 1, "{made:#}");
    let first = remembered(&daemon.job(undisturbed["id"].as_str().unwrap()));
    let lost = daemon.submit(&digits(uri));
    lose(&mut daemon, but);
    assert!(!daemon.state_dir.join("mld.db").exists());

    let restored = cli::run(daemon.folder(), mld_db(&daemon, settings, &["restore", "latest"])).json();
    assert_eq!((&restored["from"], &restored["database"]["epoch"]), (&made["uri"], &json!(2)), "{restored:#}");
    daemon.start();
    assert_eq!(remembered(&daemon.job(undisturbed["id"].as_str().unwrap())), first, "the same job");
    let missing = daemon.client.get(&format!("/v1/jobs/{lost}"));
    assert!(missing.status == 404 || daemon.job(&lost)["name"] == "load", "what came after the backup is not there");
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(2), &json!(0)), "{job:#}");
    let resumed: Vec<_> = daemon.events(&id).into_iter().filter(|event| event["event"] == "resumed").collect();
    assert!(resumed.iter().any(|event| event["step"].as_u64() >= Some(40)), "{resumed:#?}");
    assert_eq!(job["model"]["digest"], undisturbed["model"]["digest"], "the same bits");
    let home = format!("/jobs/{id}-{}-2/", restored["database"]["instance"].as_str().unwrap());
    assert!(job["model"]["uri"].as_str().unwrap().contains(&home), "names of their own: {job:#}");
    let checked = daemon.mlctl(&["db", "check", "-o", "json"]).json();
    assert_eq!((&checked["ok"], &checked["problems"]), (&json!(true), &json!([])), "{checked:#}");
}

#[test]
fn the_drill_with_a_folder() {
    let setup = Setup::of(Worker::Real).set("workers.cpus=1");
    let objects = tempfile::tempdir().unwrap();
    let set = format!("storage.url='file://{}'", objects.path().display());
    drill(setup.set(&set).start(), &[set], &local(), None);
}

#[test]
fn the_drill_with_s3() {
    let Some(server) = Server::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let uri = format!("s3://{BUCKET}/data/digits.csv");
    let bytes = fs::read(local().strip_prefix("file://").unwrap()).unwrap();
    upload(&server, &uri, bytes);
    let setup = setup(&server, &keys.path().join("key")).set("workers.cpus=1");
    let settings = setup.settings.clone();
    drill(setup.start(), &settings, &uri, None);
}

/// A worker that was there before the backup, and lives on beside the restore, is ended before its job is tried again.
#[test]
fn a_worker_of_before_the_restore_is_ended_and_its_work_is_not_lost() {
    let mut daemon = Setup::of(Worker::Real).set("workers.cpus=1").start();
    let id = daemon.submit(&digits(&local()));
    let worker = daemon.wait_for_checkpoint(&id, 1);
    daemon.mlctl(&["db", "backup"]).ok();
    let refused = db(&daemon, &["restore", "latest"]);
    refused.must_fail(5, &["the daemon runs", "mlctl daemon stop"]);
    daemon.stop();
    assert!(processes::is_alive(worker), "a stop ends no worker");
    let restored = db(&daemon, &["restore", "latest"]).ok();
    assert!(restored.contains("epoch 2") && restored.contains(".before-"), "{restored}");
    daemon.start();
    let job = daemon.wait_for(&id, "succeeded");
    assert!(!processes::is_alive(worker));
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(2), &json!(0)), "{job:#}");
    assert_ne!(worker_pid(&job), Some(worker));
}

/// Of a worker that began after the backup the restored database knows nothing: were it left alone, one that hangs would keep its memory and its GPU for ever.
#[test]
fn a_worker_of_the_time_that_a_restore_undoes_is_ended_though_it_hangs() {
    let mut daemon = Setup::of(Worker::Real).set("workers.cpus=1").start();
    daemon.mlctl(&["db", "backup"]).ok();
    let id = daemon.submit(&digits(&local()));
    let worker = daemon.wait_for_checkpoint(&id, 1);
    daemon.stop();
    processes::signal(worker, Signal::STOP);
    db(&daemon, &["restore", "latest"]).ok();
    assert!(processes::is_alive(worker), "a restore ends no worker");
    daemon.start();
    assert!(!processes::is_alive(worker));
    assert_eq!(daemon.client.get(&format!("/v1/jobs/{id}")).status, 404, "its job is of the time that was undone");
    // Numbers of jobs and attempts come again.
    let again = daemon.submit(&digits(&local()));
    assert_eq!(again, id);
    daemon.wait_for(&again, "succeeded");
}

#[test]
fn offline_and_online_say_the_same_and_damage_has_an_exit_code() {
    let mut daemon = Daemon::with(Worker::Fake);
    daemon.submit(&training(Worker::Fake, "one", Length::Short));
    let online = daemon.mlctl(&["db", "check", "-o", "json"]).json();
    daemon.mlctl(&["db", "backup", "--to", "elsewhere"]).ok();
    daemon.stop();
    let offline = daemon.mlctl(&["db", "check", "-o", "json"]).json();
    assert_eq!((&offline["ok"], &offline["file"]), (&json!(true), &online["file"]), "{offline:#}");
    let made = daemon.mlctl(&["db", "backup", "-o", "json"]).json();
    let listed = daemon.mlctl(&["db", "ls", "-o", "json"]).json();
    assert_eq!(listed["backups"], json!([made]), "{listed:#}");
    let elsewhere = daemon.mlctl(&["db", "ls", "--from", "elsewhere", "-o", "name"]).ok();
    let file = format!("{}/mld.db", elsewhere.trim().strip_prefix("file://").unwrap());
    daemon.mlctl(&["db", "check", "--file", &file]).ok();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(11).rposition(|window| window == b"\"submitted\"").unwrap();
    bytes[at + 1] ^= 2;
    fs::write(&file, bytes).unwrap();
    let damaged = daemon.mlctl(&["db", "check", "--file", &file]);
    assert_eq!(damaged.code, 1, "{damaged:?}");
    assert!(damaged.stdout.contains("event"), "{damaged:?}");
    daemon.mlctl(&["db", "restore", elsewhere.trim()]).must_fail(1, &["digest", "mlctl db ls"]);
    daemon.mlctl(&["db", "restore", "nowhere"]).must_fail(4, &["nowhere"]);
    daemon.mlctl(&["db", "check", "--file", "nowhere"]).must_fail(1, &["nowhere"]);
}

/// Either the one that was there or the one that was put in its place, and never none.
#[test]
fn a_restore_killed_at_any_moment_leaves_one_of_the_two() {
    let mut daemon = Daemon::with(Worker::Fake);
    let hold = |name: &str| json!({"spec": training(Worker::Fake, name, Length::Short), "key": name, "hold": true});
    for number in 0..30 {
        daemon.client.post("/v1/jobs", &hold(&format!("old-{number}"))).ok();
    }
    daemon.mlctl(&["db", "backup"]).ok();
    daemon.client.post("/v1/jobs", &hold("new")).ok();
    daemon.stop();
    let saved = tempfile::tempdir().unwrap();
    copy(&daemon.state_dir, saved.path());
    let (mut old, mut new) = (0, 0);
    let took = {
        let begun = std::time::Instant::now();
        db(&daemon, &["restore", "latest"]).ok();
        begun.elapsed()
    };
    cases(25, |mut chance| {
        fs::remove_dir_all(&daemon.state_dir).unwrap();
        copy(saved.path(), &daemon.state_dir);
        let mut command = mld_db(&daemon, &[], &["restore", "latest"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(took.mul_f64(chance.below(1000) as f64 / 1000.0).min(Duration::from_secs(5)));
        let _ = child.kill();
        child.wait().unwrap();
        daemon.start();
        let jobs = daemon.client.get("/v1/jobs?limit=100").ok()["jobs"].as_array().unwrap().len();
        let epoch = daemon.client.get("/v1/daemon").ok()["epoch"].as_u64().unwrap();
        match (jobs, epoch) {
            (31, 1) => old += 1,
            (30, 2..) => new += 1,
            other => panic!("{other:?} is neither the old nor the new database"),
        }
        assert_eq!(daemon.mlctl(&["db", "check", "-o", "json"]).json()["ok"], true);
        daemon.stop();
        let left: Vec<_> = fs::read_dir(&daemon.state_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let is_scrap = |name: &&std::ffi::OsString| {
            let name = name.to_str().unwrap();
            [".restoring", ".switch"].iter().any(|ending| name.contains(ending))
        };
        assert_eq!(left.iter().find(is_scrap), None, "{left:?}");
    });
    println!("{old} times the old one, {new} times the new one; a whole restore took {took:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if path.is_file() {
            fs::copy(&path, &target).unwrap();
        }
    }
}
