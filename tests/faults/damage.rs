//! A bit of a checkpoint turns, a file of it is cut off or gone, while nobody runs: the real worker must find it before it uses it, say so, go on from the checkpoint before, and come out with
//! the same bits. The control has nothing wrong, and must go on from the newest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    chance::{Chance, cases},
    support::{
        Daemon, Setup, Worker, processes,
        specs::{Length, training},
        until,
    },
};

/// Damage of the gate.
const CASES: u64 = 4;

fn learning(name: &str) -> Value {
    let mut spec = training(Worker::Real, name, Length::Long);
    spec["checkpoint"] = json!({"every_steps": 40, "keep": 5});
    spec["train"]["model"]["layers"] = json!([32, 128, 128, 8]);
    spec
}

#[test]
fn a_damaged_checkpoint_is_found_and_the_one_before_it_taken() {
    let mut daemon = Setup::of(Worker::Real).set("workers.ahead=1").start();
    let whole = daemon.submit(&learning("whole"));
    let whole = daemon.wait_for(&whole, "succeeded");
    let (newest, id) = interrupted(&mut daemon);
    daemon.start();
    let (step, skipped) = resumed(&daemon, &id);
    assert_eq!((step, skipped.len()), (newest, 0), "the control, which is whole, is taken");
    assert_eq!(daemon.wait_for(&id, "succeeded")["model"]["digest"], whole["model"]["digest"]);
    cases(CASES, |mut chance| {
        let (newest, id) = interrupted(&mut daemon);
        let what = damage(&daemon, (&id, newest), &mut chance);
        daemon.start();
        let (step, skipped) = resumed(&daemon, &id);
        println!("{what}: goes on from {step} of {newest}: {skipped:?}");
        assert!(step < newest, "{what}: it was not found");
        assert_eq!(skipped.len(), 1, "{what}: it is said which was skipped, and why: {skipped:?}");
        let job = daemon.wait_for(&id, "succeeded");
        assert_eq!(job["model"]["digest"], whole["model"]["digest"], "{what}");
    });
}

/// A job that was killed with its daemon after a few checkpoints: the newest one's step, and its id.
fn interrupted(daemon: &mut Daemon) -> (u64, String) {
    let id = daemon.submit(&learning("interrupted"));
    let pid = daemon.wait_for_checkpoint(&id, 1);
    let steps = |daemon: &Daemon| {
        let list = daemon.client.get(&format!("/v1/jobs/{id}/checkpoints")).ok();
        let steps = list["checkpoints"].as_array().unwrap().iter().map(|checkpoint| checkpoint["step"].as_u64());
        steps.collect::<Option<Vec<u64>>>().unwrap()
    };
    until("it has saved twice", || (steps(daemon).len() >= 2).then_some(()));
    // Not between the last word of a checkpoint in storage and the report of it.
    let newest = until("what is saved is on record", || {
        processes::signal(pid, Signal::STOP);
        let newest = saved(&daemon.state_dir, &id).into_iter().max();
        let is_known = steps(daemon).into_iter().max() == newest;
        if !is_known {
            processes::signal(pid, Signal::CONT);
        }
        newest.filter(|_| is_known)
    });
    daemon.kill();
    processes::kill(pid);
    (newest, id)
}

/// The steps of a job's first attempt that are in storage, whole.
fn saved(state_dir: &Path, id: &str) -> Vec<u64> {
    let entries = fs::read_dir(checkpoints(state_dir, id)).unwrap().map(|entry| entry.unwrap().path());
    let whole = entries.filter(|path| path.join("manifest.json").is_file());
    whole.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
}

fn checkpoints(state_dir: &Path, id: &str) -> PathBuf {
    let jobs = fs::read_dir(state_dir.join("objects/jobs")).unwrap().map(|entry| entry.unwrap().path());
    let is_its =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{id}-")));
    let mut found = jobs.filter(is_its);
    found.next().expect("the job has objects").join("1/checkpoints")
}

/// Does harm to a checkpoint. Says what.
fn damage(daemon: &Daemon, (id, step): (&str, u64), chance: &mut Chance) -> String {
    let folder = checkpoints(&daemon.state_dir, id);
    let folders = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let of_step = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse().ok()) == Some(step);
    let mut files: Vec<PathBuf> = folders
        .filter(of_step)
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()))
        .collect();
    files.sort();
    let file = &files[usize::try_from(chance.below(files.len() as u64)).unwrap()];
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let mut bytes = fs::read(file).unwrap();
    let at = usize::try_from(chance.below(bytes.len() as u64)).unwrap();
    match chance.below(4) {
        0 => {
            bytes.truncate(at);
            fs::write(file, bytes).unwrap();
            format!("{name} cut off at {at}")
        }
        _ => {
            let bit = chance.below(8);
            bytes[at] ^= 1 << bit;
            fs::write(file, bytes).unwrap();
            format!("bit {bit} of byte {at} of {name}")
        }
    }
}

/// From where the second attempt goes on, and what it has skipped.
fn resumed(daemon: &Daemon, id: &str) -> (u64, Vec<String>) {
    until("it goes on", || {
        let event = daemon.events(id).into_iter().find(|event| event["event"] == "resumed")?;
        let skipped = event["skipped"].as_array().unwrap().iter().map(ToString::to_string).collect();
        Some((event["step"].as_u64().unwrap(), skipped))
    })
}

#[test]
fn nothing_is_predicted_with_a_damaged_model() {
    let mut daemon = Setup::of(Worker::Real).start();
    let trained = daemon.submit(&training(Worker::Real, "trained", Length::Short));
    let job = daemon.wait_for(&trained, "succeeded");
    let folder = job["model"]["uri"].as_str().and_then(|uri| uri.strip_prefix("file://")).unwrap();
    let file = Path::new(folder).join("model.safetensors");
    let data = training(Worker::Real, "", Length::Short)["train"]["data"].clone();
    let predict = json!({
        "version": 1,
        "name": "predict",
        "retry": {"limit": 0, "infrastructure_limit": 0},
        "infer": {"model": {"from": format!("job:{trained}")}, "data": data},
    });
    let whole = daemon.submit(&predict);
    daemon.wait_for(&whole, "succeeded");
    cases(4, |mut chance| {
        let mut bytes = fs::read(&file).unwrap();
        let (at, bit) = (usize::try_from(chance.below(bytes.len() as u64)).unwrap(), chance.below(8));
        bytes[at] ^= 1 << bit;
        fs::write(&file, &bytes).unwrap();
        let id = daemon.submit(&predict);
        let job = daemon.wait_for(&id, "failed");
        println!("bit {bit} of byte {at}: {}", job["exit_message"]);
        assert!(job["exit_message"].as_str().unwrap().contains("model.safetensors"), "{job:#}");
        bytes[at] ^= 1 << bit;
        fs::write(&file, &bytes).unwrap();
    });
}
