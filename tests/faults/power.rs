//! The power of the whole state directory goes, again and again, under a mixed load: database, attempts and objects together. What was acknowledged before is owed; an answer that was on its way
//! is not (an fsync under way may come back as done while the journal is aborted under it). The control is the same daemon on a disk that lies about `fdatasync`, by which the log is synced before
//! an answer: what is left of its syncs is what `synchronous=NORMAL` does. It must lose.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::{
    chance::{Chance, cases, number, variable},
    disk::{Disk, run},
    history::verdict,
    load::{self, Recorder, Submitter},
    support::{Daemon, Setup, Worker, processes, until},
};

/// Cuts of the gate.
const CYCLES: u64 = 100;

/// Cuts after which the control must have lost something.
const CONTROLS: u64 = 12;

/// The library that has `fdatasync` lie.
const LIE: &str = "MLCTL_TEST_LIE";

#[test]
fn nothing_acknowledged_is_lost_with_the_power_of_the_whole_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("lie.c"), dir.path().join("lie.so"));
    std::fs::write(&source, "int fdatasync(int f) { return 0; }").unwrap();
    let built = run("cc", &[Path::new("-shared"), Path::new("-fPIC"), Path::new("-o"), &library, &source]);
    if !built || !run("unshare", &[Path::new("-m"), Path::new("true")]) {
        println!("SKIPPED: needs root, mounts of its own and a C compiler");
        return;
    }
    let output = Command::new("unshare")
        .arg("-m")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "power::is_cut", "--ignored", "--nocapture"])
        .env(LIE, &library)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("done: ") || said.contains("SKIPPED: "), "{said}");
}

#[test]
#[ignore = "run by the test above, with mounts of its own"]
fn is_cut() {
    let lie = PathBuf::from(variable(LIE).unwrap());
    cases(1, |mut chance| {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::new(dir.path()) else {
            println!("SKIPPED: no loop devices or no mkfs.ext4");
            return;
        };
        let cycles = number("MLCTL_TEST_CUTS").unwrap_or(CYCLES);
        storm(&disk, &mut chance, cycles);
        let lost = (1..=CONTROLS).find(|_| control(&disk, &mut chance, &lie));
        println!("control: lost something in cycle {lost:?} of {CONTROLS}");
        assert!(lost.is_some(), "the control lost nothing: the test cannot see a loss");
        disk.unmount();
    });
}

fn setup(disk: &Disk, name: &str) -> Setup {
    let state_dir = Some(disk.mount.join(name));
    Setup { state_dir, ..Setup::of(Worker::Fake).set("workers.grace_seconds=1").set("log.level='info'") }
}

/// Cuts so often, with a daemon that goes on each time; then all of it must be there.
fn storm(disk: &Disk, chance: &mut Chance, cycles: u64) {
    let mut daemon = setup(disk, "s").set(&format!("workers.ahead={}", chance.below(2))).start();
    let (marks, recorder, stop) = (load::folder(&daemon), Recorder::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for client in 0..3 {
            let chance = (format!("job-{client}"), Chance(chance.next()));
            let client = Submitter::new(daemon.client.clone(), &recorder, &marks, chance);
            scope.spawn(|| client.run(&stop, 60));
        }
        for _ in 0..cycles {
            recorder.allow(5);
            cut(disk, &mut daemon, &recorder, (&marks, 50 + chance.below(250)));
            assert!(daemon.answers(), "it does not start again:\n{}", daemon.log());
        }
        stop.store(true, Ordering::SeqCst);
    });
    load::drain(&daemon);
    let account = load::account(&daemon, &recorder, &marks);
    assert_eq!(verdict(&account), Vec::<String>::new());
    let owed = account.calls.iter().filter(|call| call.ended < u64::MAX).count();
    println!("done: {cycles} cuts, {owed} answers owed and {} jobs: nothing lost", account.records.len());
    assert!(owed as u64 > 3 * cycles, "too few answers to say anything");
    end(disk, daemon);
}

/// After a while, has the power go, and starts what comes after. What a dying worker still marks does not count, as it would be gone with the machine.
fn cut(disk: &Disk, daemon: &mut Daemon, recorder: &Recorder, (marks, wait_ms): (&Path, u64)) {
    let saboteur = disk.saboteur();
    std::thread::sleep(Duration::from_millis(wait_ms));
    let file = marks.join("marks");
    recorder.cut(|| {
        let length = std::fs::metadata(&file).map(|file| file.len());
        saboteur.cut();
        daemon.kill();
        until("all processes are gone", || {
            let left = processes::of_attempts(&daemon.state_dir);
            left.iter().for_each(|process| processes::kill(process.pid));
            left.is_empty().then_some(())
        });
        if let Ok(length) = length {
            std::fs::File::options().write(true).open(&file).unwrap().set_len(length).unwrap();
        }
    });
    disk.unmount();
    assert!(disk.mount());
    daemon.begin();
}

/// Whether a daemon whose syncs are a lie loses something at a cut.
fn control(disk: &Disk, chance: &mut Chance, lie: &Path) -> bool {
    let name = format!("control-{}", chance.next());
    let mut daemon = setup(disk, &name).variable("LD_PRELOAD", lie.to_str().unwrap()).start();
    rustix::fs::sync();
    let (marks, recorder, stop) = (load::folder(&daemon), Recorder::default(), AtomicBool::new(false));
    recorder.allow(1000);
    std::thread::scope(|scope| {
        for client in 0..3 {
            let chance = (format!("job-{client}"), Chance(chance.next()));
            let client = Submitter::new(daemon.client.clone(), &recorder, &marks, chance);
            scope.spawn(|| client.run(&stop, 20));
        }
        std::thread::sleep(Duration::from_millis(200));
        cut(disk, &mut daemon, &recorder, (&marks, chance.below(200)));
        stop.store(true, Ordering::SeqCst);
    });
    // That it does not come up at all, or finds its log cut off, is noticed as well.
    if !daemon.answers() {
        return true;
    }
    let account = load::account(&daemon, &recorder, &marks);
    end(disk, daemon);
    verdict(&account).iter().any(|line| line.contains("lost") || line.contains("at no moment"))
}

/// Leaves nothing on the disk that would hold it.
fn end(disk: &Disk, mut daemon: Daemon) {
    daemon.kill();
    drop(daemon);
    rustix::fs::sync();
    disk.unmount();
    assert!(disk.mount());
}
