//! Logs within bounds, the daemon's own and its workers': floods, lines without an end, and a log that cannot be written at all.

use std::{fs, io::Write as _, os::unix::net::UnixStream};

use crate::support::{Daemon, Setup, Worker, specs::fake, until};

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    // As on a disk that is full; a pipe that nobody reads is the same.
    let full = ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"].map(str::to_owned).to_vec();
    let mut daemon = Setup { under: full, ..Setup::of(Worker::Fake) }.start();
    let id = daemon.submit(&fake("one", "obey"));
    daemon.wait_for(&id, "succeeded");
    daemon.kill();
    daemon.start();
    let id = daemon.submit(&fake("another", "fail-attempts:1; obey"));
    assert_eq!(daemon.wait_for(&id, "succeeded")["attempt"], 2);
    assert!(daemon.stop().success());
    daemon.start();
}

#[test]
fn a_flood_in_the_daemons_log_is_cut_short_and_the_rest_is_there() {
    let mut daemon = Daemon::with(Worker::Fake);
    let socket = daemon.state_dir.join("workers.sock");
    for _ in 0..3000 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // No frame begins so.
        let _ = stream.write_all(&[0xff; 64]);
    }
    let of = |daemon: &Daemon, words: &str| daemon.log().lines().filter(|line| line.contains(words)).count();
    let complaint = "a connection to the workers' socket was closed";
    until("it says that further lines are left out", || {
        daemon.log().contains("further lines like this one are left out").then_some(())
    });
    let id = daemon.submit(&fake("heard", "obey"));
    daemon.wait_for(&id, "succeeded");
    assert!(of(&daemon, &format!("job {id} started, attempt 1")) == 1, "other lines are written");
    // A machine under load may need more than one period for them.
    let written = of(&daemon, complaint);
    assert!((1000..3000).contains(&written), "{written} lines");
}

#[test]
fn four_hundred_megabytes_on_one_line_of_a_worker_are_bounded_on_disk_and_in_memory() {
    let (bytes, files) = (1_u64 << 20, 3);
    let setup = Setup::of(Worker::Fake).set(&format!("workers.log_max_bytes={bytes}"));
    let daemon = setup.set(&format!("workers.log_files={files}")).start();
    // The end comes when the flood has been cut: what is printed at the moment of a cut may be lost.
    let line = "head -c 400000000 /dev/zero | tr '\\0' x; echo; sleep 1; echo the end";
    let id = daemon.mlctl(&["submit", "-q", "--", "sh", "-c", line]).ok().trim().to_owned();
    let attempt = daemon.state_dir.join("attempts").join(&id).join("1");
    let kept = || {
        let entries = fs::read_dir(&attempt).into_iter().flatten().filter_map(Result::ok);
        let logs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("stdout"));
        logs.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum::<u64>()
    };
    let mut most = 0;
    daemon.wait_until(&id, "is succeeded", |job| {
        most = most.max(kept());
        job["state"] == "succeeded"
    });
    // What was cut off is an eighth larger, where the worker printed meanwhile, and has a line that says what is missing.
    let bound = files * (bytes + bytes / 8 + 100);
    until("the log is cut", || (kept() <= bound).then_some(()));
    until("its end is there", || daemon.mlctl(&["logs", &id, "--tail", "2"]).ok().ends_with("the end\n").then_some(()));
    println!("at most {} MiB at once", most >> 20);
    for args in [&["logs", &id, "--tail", "2"][..], &["logs", &id, "--tail", "100000"], &["show", &id]] {
        let said = daemon.mlctl(args).ok();
        assert!(said.len() as u64 <= bytes * (files + 1), "{args:?} says {} bytes", said.len());
        assert!(args[0] == "show" || said.trim_end().ends_with("the end"), "{args:?}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let kib: u64 = peak.split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 200 * 1024, "the daemon took {kib} KiB");
}
