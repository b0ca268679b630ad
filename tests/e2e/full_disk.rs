//! A disk that fills up under a daemon at work, and is emptied again: new work is refused in words, what runs goes on and its end is put on record, although another program takes every byte
//! that becomes free. On a tmpfs and on ext4. Without the space that is kept for it, an end has to wait: that is the control.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

use crate::support::{Daemon, Setup, Worker, mount::Disk, specs::fake, until};

/// What the daemon says of a worker whose words it cannot keep.
const NOT_STORED: &str = "the report could not be stored: the disk that holds the database is full";

/// A program that takes what there is on a disk, as soon as it is there.
struct Hungry {
    file: PathBuf,
    stop: Arc<AtomicBool>,
    eats: Option<JoinHandle<()>>,
}

impl Hungry {
    fn on(disk: &Disk) -> Self {
        let (file, stop) = (disk.path.join("filler"), Arc::new(AtomicBool::new(false)));
        let mut to = OpenOptions::new().create(true).append(true).open(&file).unwrap();
        let stopped = stop.clone();
        let eats = std::thread::spawn(move || {
            let mut bite = vec![1; 1 << 20];
            while !stopped.load(Ordering::Relaxed) {
                if to.write_all(&bite).is_err() {
                    // Down to single blocks, and from then on whatever is let go of.
                    bite.truncate((bite.len() / 2).max(4096));
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        let hungry = Self { file, stop, eats: Some(eats) };
        until("the disk is full", || (disk.free() < 8192).then_some(()));
        hungry
    }

    /// Frees all that it took.
    fn ends(mut self) {
        self.let_go();
    }

    fn let_go(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(eats) = self.eats.take() {
            eats.join().unwrap();
            std::fs::remove_file(&self.file).unwrap();
        }
    }
}

impl Drop for Hungry {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A daemon whose state is on the disk, and whose objects are not.
fn daemon(disk: &Disk, objects: &Path, reserve: u64) -> Daemon {
    let setup = Setup { state_dir: Some(disk.path.join("s")), ..Setup::of(Worker::Fake) };
    setup
        .set(&format!("daemon.disk_reserve_bytes={reserve}"))
        .set(&format!("storage.url='file://{}'", objects.display()))
        .start()
}

/// Submits a command that waits for a file and then ends so. Returns its id once it runs.
fn waits_for(daemon: &Daemon, go: &Path, code: u32) -> String {
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; exit {code}", go.display());
    let args = ["submit", "-q", "--retries", "0", "--", "/bin/sh", "-c", &script];
    let id = daemon.mlctl(&args).ok().trim().to_owned();
    daemon.wait_until(&id, "runs", |job| job["state"] == "running");
    id
}

/// A job that waits for its turn, large enough for the database to grow by it.
fn waiting() -> Value {
    let mut spec = fake("waiting", "obey");
    for label in ["a", "b", "c", "d"] {
        spec["labels"][label] = "x".repeat(1000).into();
    }
    spec
}

/// Submits until that is refused. Returns those that were acknowledged.
fn submit_until_refused(daemon: &Daemon) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let refused = until("a submit is refused", || {
        let answer = daemon.try_submit(&waiting(), &format!("key-{}", acknowledged.len()));
        if answer.status < 300 {
            acknowledged.push(answer.body["id"].as_str().unwrap().to_owned());
            return None;
        }
        Some(answer)
    });
    assert_eq!((refused.error(), refused.status), ("disk_full", 507), "{}", refused.text);
    acknowledged
}

fn fills_up(disk: &Disk) {
    let elsewhere = tempfile::tempdir().unwrap();
    let go = elsewhere.path().join("go");
    let mut daemon = daemon(disk, &elsewhere.path().join("objects"), 1 << 20);
    let (ends_well, ends_badly) = (waits_for(&daemon, &go, 0), waits_for(&daemon, &go, 3));
    let cancelled = waits_for(&daemon, &elsewhere.path().join("never"), 0);
    let still = waits_for(&daemon, &elsewhere.path().join("later"), 0);
    let hungry = Hungry::on(disk);
    let acknowledged = submit_until_refused(&daemon);
    let submit = || daemon.mlctl(&["submit", "--", "/bin/true"]);
    submit().must_fail(1, &["the disk that holds the database is full", "free space on it", "is safe"]);

    // Everything that runs comes to its end, on record, though not a byte is free.
    File::create(&go).unwrap();
    daemon.mlctl(&["cancel", &cancelled]).ok();
    assert_eq!(daemon.wait_for(&ends_well, "succeeded")["exit_class"], "ok");
    assert_eq!(daemon.wait_for(&ends_badly, "failed")["exit_class"], "crash");
    daemon.wait_for(&cancelled, "cancelled");
    until("what was let go of is taken", || (disk.free() < 8192).then_some(()));
    assert_eq!(daemon.job(&still)["state"], "running", "and others go on");
    submit().must_fail(1, &["the disk that holds the database is full"]);
    if let Some(first) = acknowledged.first() {
        assert_eq!(daemon.job(first)["state"], "queued", "none is started");
        let why = daemon.mlctl(&["why", first]).ok();
        assert!(why.contains("the disk that holds the database is full"), "{why}");
    }

    // As a power cut of this one process would leave it.
    hungry.ends();
    until("there is room again", || (daemon.try_submit(&waiting(), "after").status < 300).then_some(()));
    File::create(elsewhere.path().join("later")).unwrap();
    daemon.wait_for(&still, "succeeded");
    daemon.kill();
    daemon.start();
    for (id, state) in
        [(&ends_well, "succeeded"), (&ends_badly, "failed"), (&cancelled, "cancelled"), (&still, "succeeded")]
    {
        assert_eq!(daemon.job(id)["state"], state);
    }
    for id in &acknowledged {
        daemon.wait_for(id, "succeeded");
    }
    let log = daemon.log();
    assert!(!log.contains(NOT_STORED) && !log.contains("could not be kept"), "{log}");
    assert_eq!(log.matches("new jobs are refused and none is started").count(), 1, "it is said once: {log}");
    assert!(log.contains("there is room again"), "{log}");
}

#[test]
fn ends_are_kept_on_a_full_tmpfs_and_submits_taken_again_without_a_restart() {
    let Some(disk) = Disk::tmpfs(16 << 20) else { return };
    fills_up(&disk);
}

#[test]
fn ends_are_kept_on_a_full_ext4_and_submits_taken_again_without_a_restart() {
    let Some(disk) = Disk::ext4(32 << 20) else { return };
    fills_up(&disk);
}

#[test]
fn without_the_reserve_an_end_has_to_wait() {
    let Some(disk) = Disk::tmpfs(16 << 20) else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let go = elsewhere.path().join("go");
    let daemon = daemon(&disk, &elsewhere.path().join("objects"), 0);
    let id = waits_for(&daemon, &go, 0);
    let hungry = Hungry::on(&disk);
    submit_until_refused(&daemon);
    File::create(&go).unwrap();
    until("the end cannot be put on record", || {
        let log = daemon.log();
        [NOT_STORED, "an end cannot be put on record yet"].iter().any(|words| log.contains(words)).then_some(())
    });
    hungry.ends();
    daemon.wait_for(&id, "succeeded");
}
