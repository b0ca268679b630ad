//! Acknowledged is durable: against kill -9 at any moment, and against the loss of power.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mlctl::{
    domain::{self, Intent, JobState},
    store::{JobDetail, ListFilter, Store},
};
use mlctl_protocol::{
    ExitClass, JobId,
    message::ReportBody,
    progress::MetricPoint,
    spec::{After, Need},
};

use crate::{
    chance::{Chance, cases, variable},
    rig::{self, Hand, Rig, USER, entropy},
};

const DATABASE: &str = "MLCTL_TEST_DATABASE";
const ACKS: &str = "MLCTL_TEST_ACKS";
const RUN: &str = "MLCTL_TEST_RUN";

/// Writes as fast as it can and notes every acknowledgement, until it is killed.
#[tokio::test]
#[ignore = "run by the tests below, in a process that is killed"]
async fn child() {
    let path = PathBuf::from(variable(DATABASE).unwrap());
    let run = variable(RUN).unwrap();
    let store = Store::open(&path, Hand::new(), entropy).await.unwrap();
    let rig = std::sync::Arc::new(Rig::around(store));
    let writers = (0..16).map(|task| {
        let (rig, name) = (rig.clone(), format!("{run}-{task}"));
        let mut acks = File::options().append(true).create(true).open(variable(ACKS).unwrap()).unwrap();
        tokio::spawn(async move {
            for number in 0_u64.. {
                write(&rig, &format!("{name}-{number}"), number, &mut acks).await;
            }
        })
    });
    futures_util::future::join_all(writers).await;
}

async fn write(rig: &Rig, name: &str, number: u64, acks: &mut File) {
    // One write(2) a line, so that a line is there or not.
    let mut ack = |what: &str, id: JobId| acks.write_all(format!("{what} {id} {name}\n").as_bytes()).unwrap();
    let id = rig.submit(name).await;
    ack("submitted", id);
    match number % 5 {
        0 => {
            rig.store.command(id, None, domain::Command::Cancel { by: USER }).await.unwrap();
            ack("cancelled", id);
        }
        1 => {
            rig.claim(id).await;
            rig.store.command(id, None, domain::Command::Cancel { by: USER }).await.unwrap();
            ack("cancelled", id);
        }
        2 => {
            let fence = rig.claim(id).await;
            let point = MetricPoint { step: 1, epoch: 1, values: [("loss".to_owned(), 0.5)].into() };
            rig.store.report(fence, 1, ReportBody::Metrics { points: vec![point] }).await.unwrap();
            ack("reported", id);
            rig.end(fence, ExitClass::Ok).await;
            ack("succeeded", id);
        }
        3 => {
            rig.store.command(id, None, domain::Command::Cancel { by: USER }).await.unwrap();
            ack("cancelled", id);
            assert!(rig.store.remove(&[id], USER, false).await.unwrap()[0].is_ok());
            ack("removed", id);
        }
        // Who waits in vain is cancelled in the same transaction.
        _ => {
            let name = format!("{name}-waits");
            let mut new = rig::new_job(&name, &name);
            new.spec.after = vec![After { need: Need::Ok, job: id.to_string() }];
            let waits = rig.store.submit(new).await.unwrap().id;
            rig.store.command(id, None, domain::Command::Cancel { by: USER }).await.unwrap();
            acks.write_all(format!("cancelled {waits} {name}\n").as_bytes()).unwrap();
        }
    }
}

/// Whether a job of this name is removed at its end.
fn goes(name: &str) -> bool {
    let number = name.rsplit('-').next().and_then(|number| number.parse::<u64>().ok());
    number.is_some_and(|number| number % 5 == 3)
}

fn start(database: &Path, acks: &Path, run: &str, preload: Option<&Path>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "durability::child", "--ignored", "--nocapture"]);
    command.env(DATABASE, database).env(ACKS, acks).env(RUN, run);
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    command.spawn().unwrap()
}

/// What of the acknowledgements the database does not hold.
async fn lost(store: &Store, acks: &str) -> Vec<String> {
    let all = JobState::names().map(str::to_owned).collect();
    let filter = ListFilter { states: all, limit: u32::MAX, ..ListFilter::default() };
    let jobs: BTreeMap<JobId, JobDetail> =
        store.list(filter).await.unwrap().jobs.into_iter().map(|detail| (detail.job.id, detail)).collect();
    let is_there = |ack: &str| {
        let words: Vec<&str> = ack.split(' ').collect();
        let [what, id, name] = words.as_slice() else { panic!("{ack:?}") };
        let Some(detail) = jobs.get(&id.parse().unwrap()) else {
            // Its removal may have come to be without an answer, but not before its cancel.
            return *what == "removed" || (goes(name) && acks.contains(&format!("cancelled {id} {name}\n")));
        };
        let so = match *what {
            "submitted" => true,
            "removed" => false,
            "cancelled" => {
                matches!(detail.job.state, JobState::Cancelled | JobState::Running { intent: Some(Intent::Cancel), .. })
            }
            "reported" => detail.attempt.as_ref().is_some_and(|attempt| attempt.last_seq == 1),
            "succeeded" => detail.job.state == JobState::Succeeded,
            other => panic!("{other}"),
        };
        so && detail.job.name == *name
    };
    acks.lines().filter(|ack| !is_there(ack)).map(str::to_owned).collect()
}

/// Opens what is left, and says what is missing or wrong.
async fn examine(database: &Path, acks: &str) -> Vec<String> {
    let store = match Store::open(database, Hand::new(), entropy).await {
        Ok(store) => store,
        Err(error) => return vec![error.to_string()],
    };
    let mut wrong = lost(&store, acks).await;
    wrong.extend(store.check().await.unwrap());
    store.close().await;
    wrong
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn pause(chance: &mut Chance, most_ms: u64) {
    std::thread::sleep(Duration::from_millis(chance.below(most_ms)));
}

#[test]
fn nothing_acknowledged_is_lost_when_the_daemon_is_killed_again_and_again() {
    cases(1, |mut chance| {
        let dir = tempfile::tempdir().unwrap();
        let (database, acks) = (dir.path().join("mld.db"), dir.path().join("acks"));
        let noted = || fs::read_to_string(&acks).unwrap_or_default();
        let mut kills = 0;
        // On a busy machine some are killed before they have done anything: also a moment to be killed in.
        while kills < 25 || (noted().lines().count() < 500 && kills < 400) {
            let mut child = start(&database, &acks, &kills.to_string(), None);
            pause(&mut chance, 250);
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            // Sometimes the next one finds what was left, sometimes the check does.
            if chance.once_in(3) {
                assert_eq!(block_on(examine(&database, &noted())), Vec::<String>::new(), "after {kills} kills");
            }
        }
        assert_eq!(block_on(examine(&database, &noted())), Vec::<String>::new());
        let count = noted().lines().count();
        println!("{kills} kills, {count} acknowledgements");
        assert!(count >= 500, "too few acknowledgements to say anything: {count}");
    });
}

/// Cuts the power of a file system at a moment at which it reads how many acknowledgements there are: those are owed. (An fsync under way while the power goes may
/// come back as done; what was acknowledged after the count is therefore not.)
const CUT: &str = r#"
import fcntl, os, struct, sys
folder, acks = os.open(sys.argv[1], os.O_RDONLY), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
owed = os.path.getsize(acks) if os.path.exists(acks) else 0
fcntl.ioctl(folder, 0x8004587D, struct.pack("I", 2))
print(owed, flush=True)
"#;

fn run(command: &str, arguments: &[&Path]) -> bool {
    let done = Command::new(command).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// A file system of its own, whose power can be cut.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn new(dir: &Path) -> Option<Self> {
        let disk = Self { image: dir.join("image"), mount: dir.join("mount") };
        fs::create_dir(&disk.mount).unwrap();
        File::create(&disk.image).unwrap().set_len(256 << 20).unwrap();
        let made = run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &disk.image]);
        (made && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image, &self.mount])
    }

    fn unmount(&self) {
        assert!(run("umount", &[&self.mount]), "{} is in use", self.mount.display());
    }

    /// Cuts the power under a writing child. Returns the bytes of acknowledgements that are owed.
    fn cut(&self, mut child: Child, acks: &Path, wait: impl FnOnce()) -> usize {
        let mut python = Command::new("python3");
        python.args(["-c", CUT]).arg(&self.mount).arg(acks).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = python.spawn().unwrap();
        let mut said = std::io::BufReader::new(python.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        wait();
        python.stdin.take().unwrap().write_all(b"\n").unwrap();
        line.clear();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        python.wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        line.trim().parse().unwrap()
    }
}

/// Cuts the power `cycles` times. Returns the acknowledgements owed in all, and in how many cycles something was lost; `None` where it cannot be tried.
fn storm(chance: &mut Chance, cycles: u64, preload: Option<&Path>) -> Option<(usize, u64)> {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(dir.path())?;
    let (mut owed, mut bad) = (0, 0);
    for cycle in 0..cycles {
        let folder = disk.mount.join(cycle.to_string());
        let (database, acks) = (folder.join("mld.db"), dir.path().join(format!("acks-{cycle}")));
        fs::create_dir(&folder).unwrap();
        block_on(async { Store::open(&database, Hand::new(), entropy).await.unwrap().close().await });
        File::open(&disk.mount).unwrap().sync_all().unwrap();
        let child = start(&database, &acks, "run", preload);
        let started = std::time::Instant::now();
        let bytes = disk.cut(child, &acks, || {
            while !acks.exists() && started.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(Duration::from_millis(1));
            }
            pause(chance, 200);
        });
        disk.unmount();
        assert!(disk.mount());
        let acks = fs::read_to_string(&acks).unwrap_or_default();
        let acks = &acks[..bytes];
        owed += acks.lines().count();
        let wrong = block_on(examine(&database, acks));
        bad += u64::from(!wrong.is_empty());
        if preload.is_none() {
            assert_eq!(wrong, Vec::<String>::new(), "cycle {cycle}");
        }
    }
    disk.unmount();
    Some((owed, bad))
}

#[test]
#[ignore = "run by the test below, with mounts of its own"]
fn power_is_lost() {
    let preloads = PathBuf::from(variable(PRELOADS).unwrap());
    cases(1, |mut chance| {
        let Some((owed, _)) = storm(&mut chance, 12, None) else {
            println!("left out: no loop devices or no mkfs.ext4");
            return;
        };
        assert!(owed > 100, "too few acknowledgements to say anything: {owed}");
        println!("done: {owed} acknowledgements kept");
        // The controls: a disk that lies about each sync, or about that of the log before an answer alone, loses some, and it is noticed.
        for (name, _) in LIES {
            let library = preloads.join(name).with_extension("so");
            let (owed, bad) = storm(&mut chance, 4, Some(&library)).expect("it could be mounted before");
            println!("control, {name}: lost something in {bad} of 4 cycles with {owed} acknowledgements");
            assert!(bad > 0, "the control lost nothing: the test cannot see a loss");
        }
    });
}

/// SQLite itself calls fsync, and what syncs the log before an answer calls fdatasync.
const LIES: [(&str, &str); 2] = [
    ("all", "int fsync(int f) { return 0; } int fdatasync(int f) { return 0; }"),
    ("answers", "int fdatasync(int f) { return 0; }"),
];

const PRELOADS: &str = "MLCTL_TEST_PRELOADS";

/// Makes a library to be preloaded. Returns where it is, unless there is no compiler.
fn library(dir: &Path, name: &str, code: &str) -> Option<PathBuf> {
    let (source, library) = (dir.join(name).with_extension("c"), dir.join(name).with_extension("so"));
    fs::write(&source, code).unwrap();
    let flags = ["-shared", "-fPIC", "-o"].map(Path::new);
    run("cc", &flags.into_iter().chain([&*library, &*source]).collect::<Vec<_>>()).then_some(library)
}

#[test]
fn nothing_acknowledged_is_lost_with_the_power() {
    let dir = tempfile::tempdir().unwrap();
    let built = LIES.iter().all(|(name, code)| library(dir.path(), name, code).is_some());
    if !built || !run("unshare", &["-m", "true"].map(Path::new)) {
        println!("left out: needs root, mounts of its own and a C compiler");
        return;
    }
    let output = Command::new("unshare")
        .arg("-m")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "durability::power_is_lost", "--ignored", "--nocapture"])
        .env(PRELOADS, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("done: ") || said.contains("left out: "), "{said}");
}

/// A disk that fails while the file that the variable names is there.
const FAILING: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
int fdatasync(int f) { if (access(getenv("MLCTL_TEST_FAILS"), F_OK) == 0) { errno = EIO; return -1; } return 0; }
"#;

const FAILS: &str = "MLCTL_TEST_FAILS";

#[tokio::test]
#[ignore = "run by the test below, with a disk that fails"]
async fn with_a_failing_disk() {
    let fails = PathBuf::from(variable(FAILS).unwrap());
    let rig = Rig::new().await;
    rig.submit("before").await;
    fs::write(&fails, "").unwrap();
    let during = rig.store.submit(rig::new_job("during", "during")).await.unwrap_err();
    fs::remove_file(&fails).unwrap();
    let after = rig.store.submit(rig::new_job("after", "after")).await.unwrap_err();
    for error in [during, after] {
        assert!(matches!(error, mlctl::store::StoreError::Broken { .. }), "{error}");
    }
    // It closes all the same, and what was acknowledged is there.
    let path = rig.path();
    rig.store.close().await;
    let store = Store::open(&path, Hand::new(), entropy).await.unwrap();
    assert_eq!(store.keyed(USER, "before", &asked("before")).await.unwrap(), Some(JobId(1)));
    println!("done");
}

fn asked(name: &str) -> blake3::Hash {
    blake3::hash(&serde_json::to_vec(&rig::spec(name)).unwrap())
}

/// The kernel may drop what it could not sync and say the next time that all is well: only a restart, which reads the file again, shows what is there.
#[test]
fn after_a_sync_that_failed_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = library(dir.path(), "fail", FAILING) else {
        println!("left out: needs a C compiler");
        return;
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durability::with_a_failing_disk", "--ignored", "--nocapture"])
        .env("LD_PRELOAD", &library)
        .env(FAILS, dir.path().join("fails"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("done"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A reader that does not let go holds the log, not the writer; when it lets go, the log is used anew instead of growing.
#[tokio::test]
async fn the_write_ahead_log_is_bounded_again_after_a_long_reader() {
    use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
    let rig = Rig::new().await;
    let wal = rig.dir.path().join("mld.db-wal");
    let size = || fs::metadata(&wal).unwrap().len();
    let fill = async |name: &str| {
        let submits = (0..500).map(|number| rig.store.submit(rig::new_job("one", &format!("{name} {number}"))));
        for answer in futures_util::future::join_all(submits).await {
            answer.unwrap();
        }
    };
    let mut reader = SqliteConnectOptions::new().filename(rig.path()).read_only(true).connect().await.unwrap();
    let mut snapshot = reader.begin().await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(&mut *snapshot).await.unwrap();
    for round in 0..6 {
        fill(&format!("long {round}")).await;
    }
    let still: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(&mut *snapshot).await.unwrap();
    assert_eq!((seen, still), (0, 0), "its snapshot stands");
    let grown = size();
    snapshot.rollback().await.unwrap();
    // Twice as much again, with pauses for the checkpointer: without it the file would be three times as large.
    for round in 0..12 {
        fill(&format!("after {round}")).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert!(size() < 2 * grown, "the log grew from {grown} to {}", size());
    reader.close().await.unwrap();
    rig.check().await;
}
