//! Real processes: shells that obey, ignore, fork and die.

#[path = "../../../tests/support/cgroup_tree.rs"]
mod cgroup_tree;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use mlctl_protocol::{AttemptNumber, JobId, spec::Resources};

use self::cgroup_tree::Tree;
use super::*;
use crate::supervisor::executor::{Ended, Program, Signal};

const CEILING: Duration = Duration::from_secs(20);

/// A folder of its own with a worker that is a shell script.
struct Scene {
    dir: tempfile::TempDir,
    processes: LocalProcesses,
}

impl Scene {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let command = dir.path().join("worker.sh");
        fs::write(&command, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&command, fs::Permissions::from_mode(0o700)).unwrap();
        let path = ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into());
        let environment = [path, ("SECRET_KEY".into(), "canary".into()), ("CUDA_VISIBLE_DEVICES".into(), "0".into())];
        let programs = Programs { worker: command.clone(), command, by_gpu: BTreeMap::new() };
        let processes = LocalProcesses::new(programs, dir.path().to_owned(), environment).unwrap();
        Self { dir, processes }
    }

    fn attempt_dir(&self) -> PathBuf {
        self.dir.path().join("1/1")
    }

    async fn start(&self) -> Box<dyn Worker> {
        let launch = Launch {
            v: 1,
            socket: "/nowhere/workers.sock".into(),
            job: JobId(1),
            attempt: AttemptNumber(1),
            secret: "0123456789abcdef".into(),
            attempt_dir: self.attempt_dir(),
            s3: None,
        };
        let kit = Kit { program: Program::Worker, threads: 3, gpus: None };
        loop {
            match self.processes.start(&kit, &launch).await {
                // Another test's fork holds the script open for writing for a moment.
                Err(StartError::Command { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {}
                started => return started.unwrap(),
            }
        }
    }

    /// The worker, started by somebody else: it becomes init's child and the leader of a group.
    fn start_as_stranger(&self) -> ProcessIdentity {
        fs::create_dir_all(self.attempt_dir()).unwrap();
        let mut shell = Command::new("/bin/bash");
        let script =
            format!("set -m; {} </dev/null >/dev/null 2>&1 & echo $!", self.dir.path().join("worker.sh").display());
        shell.arg("-c").arg(script).env(procfs::MARK, self.attempt_dir()).current_dir(self.attempt_dir());
        let said = shell.output().unwrap();
        let pid: u32 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
        self.identity(pid)
    }

    fn identity(&self, pid: u32) -> ProcessIdentity {
        let start_ticks = procfs::stat(pid).unwrap().start_ticks;
        ProcessIdentity {
            pid,
            start_ticks,
            boot_id: procfs::boot_id().unwrap(),
            host: self.processes.host.clone(),
            ahead: None,
        }
    }

    async fn file(&self, name: &str) -> String {
        let path = self.attempt_dir().join(name);
        until(|| fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))).await
    }

    async fn pid_in(&self, name: &str) -> u32 {
        self.file(name).await.trim().parse().unwrap()
    }
}

async fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let met = async {
        loop {
            if let Some(met) = condition() {
                return met;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(CEILING, met).await.expect("the condition is met in time")
}

async fn exited(worker: &dyn Worker) {
    tokio::time::timeout(CEILING, worker.exited()).await.expect("the worker ends in time");
}

fn lives(pid: u32) -> bool {
    procfs::stat(pid).is_ok_and(|stat| !stat.ended)
}

#[tokio::test]
async fn a_worker_gets_its_launch_and_nothing_it_should_not_see() {
    let scene = Scene::new("cat > launch; env > environment; pwd > folder; echo out; echo err >&2; exit 3");
    let mut worker = scene.start().await;
    exited(worker.as_ref()).await;
    assert_eq!(worker.reap().await, Ended::Code(3));
    let launch: Launch = serde_json::from_str(&scene.file("launch").await).unwrap();
    assert_eq!((launch.secret.as_str(), launch.job), ("0123456789abcdef", JobId(1)));
    let environment = scene.file("environment").await;
    for expected in
        ["CANDLE_NUM_THREADS=1", "RAYON_NUM_THREADS=3", "ML_JOB_ID=1", "CUDA_VISIBLE_DEVICES=0", "PATH=/usr"]
    {
        assert!(environment.contains(expected), "{expected} in {environment}");
    }
    for forbidden in ["canary", "0123456789abcdef", "CARGO"] {
        assert!(!environment.contains(forbidden), "{forbidden} in {environment}");
    }
    assert_eq!(Path::new(scene.file("folder").await.trim()), scene.attempt_dir().canonicalize().unwrap());
    assert_eq!(fs::read_to_string(Stream::Stdout.path(&scene.attempt_dir())).unwrap(), "out\n");
    assert_eq!(fs::read_to_string(Stream::Stderr.path(&scene.attempt_dir())).unwrap(), "err\n");
}

#[tokio::test]
async fn an_attempt_begins_with_an_empty_folder() {
    let scene = Scene::new("ls > listing; exit 0");
    fs::create_dir_all(scene.attempt_dir()).unwrap();
    fs::write(scene.attempt_dir().join("result.json"), "of another database").unwrap();
    let mut worker = scene.start().await;
    exited(worker.as_ref()).await;
    worker.reap().await;
    assert_eq!(scene.file("listing").await, "listing\nstderr.log\nstdout.log\n");
}

#[tokio::test]
async fn codes_and_signals_are_told_apart() {
    let cases = [
        ("exit 0", Ended::Code(0)),
        ("exit 101", Ended::Code(101)),
        ("kill -SEGV $$", Ended::Signal { number: 11, out_of_memory: false }),
        ("kill -KILL $$", Ended::Signal { number: 9, out_of_memory: false }),
    ];
    for (script, expected) in cases {
        let scene = Scene::new(script);
        let mut worker = scene.start().await;
        exited(worker.as_ref()).await;
        assert_eq!(worker.reap().await, expected, "{script}");
        assert!(procfs::stat(worker.identity().pid).is_err(), "no zombie is left");
    }
}

#[tokio::test]
async fn a_kill_reaches_the_whole_group_that_term_did_not() {
    let scene = Scene::new("trap '' TERM; (trap '' TERM; exec sleep 300) & echo $! > child; while :; do sleep 1; done");
    let mut worker = scene.start().await;
    let child = scene.pid_in("child").await;
    worker.signal(Signal::Term);
    let patience = tokio::time::timeout(Duration::from_millis(200), worker.exited()).await;
    assert!(patience.is_err() && lives(child), "TERM is ignored");
    worker.signal(Signal::Kill);
    exited(worker.as_ref()).await;
    assert_eq!(worker.reap().await, Ended::Signal { number: 9, out_of_memory: false });
    assert!(!lives(child));
    worker.signal(Signal::Kill);
}

#[tokio::test]
async fn what_a_worker_leaves_behind_is_ended_with_it() {
    let scene = Scene::new("(trap '' TERM; exec sleep 300) & echo $! > child; exit 0");
    let mut worker = scene.start().await;
    exited(worker.as_ref()).await;
    let child = scene.pid_in("child").await;
    assert!(lives(child));
    assert_eq!(worker.reap().await, Ended::Code(0));
    assert!(!lives(child));
}

#[tokio::test]
async fn a_missing_program_is_named_and_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let absent = |name: &str| dir.path().join(name);
    let programs = Programs { worker: absent("absent"), command: absent("absent-command"), by_gpu: BTreeMap::new() };
    let processes = LocalProcesses::new(programs, dir.path().to_owned(), []).unwrap();
    let launch = Launch {
        v: 1,
        socket: "/s".into(),
        job: JobId(1),
        attempt: AttemptNumber(1),
        secret: "s".into(),
        attempt_dir: dir.path().join("1"),
        s3: None,
    };
    for (program, path) in [(Program::Worker, "absent"), (Program::Command, "absent-command")] {
        let started = processes.start(&Kit { program, threads: 1, gpus: None }, &launch).await;
        let Err(StartError::Command { command, .. }) = started else { panic!("it started") };
        assert_eq!(command, absent(path));
    }
}

#[tokio::test]
async fn a_strangers_worker_is_adopted_waited_for_and_killed_with_its_children() {
    let scene = Scene::new("trap '' TERM; (trap '' TERM; exec sleep 300) & echo $! > child; while :; do sleep 1; done");
    let identity = scene.start_as_stranger();
    let child = scene.pid_in("child").await;
    let Found::Alive(mut worker) = scene.processes.find(&identity, &scene.attempt_dir()).await else {
        panic!("it lives")
    };
    let waiting = tokio::time::timeout(Duration::from_millis(50), worker.exited()).await;
    assert!(waiting.is_err(), "it has not ended");
    worker.signal(Signal::Kill);
    exited(worker.as_ref()).await;
    assert_eq!(worker.reap().await, Ended::Unknown);
    assert!(!lives(child) && !lives(identity.pid));
    assert!(matches!(scene.processes.find(&identity, &scene.attempt_dir()).await, Found::Dead));
}

#[tokio::test]
async fn children_of_a_worker_that_died_unwatched_are_ended_and_strangers_are_not() {
    let scene = Scene::new("(trap '' TERM; exec sleep 300) & echo $! > child; read go < go");
    fs::create_dir_all(scene.attempt_dir()).unwrap();
    assert!(Command::new("mkfifo").arg(scene.attempt_dir().join("go")).status().unwrap().success());
    let identity = scene.start_as_stranger();
    let child = scene.pid_in("child").await;
    fs::write(scene.attempt_dir().join("go"), "\n").unwrap();
    until(|| (!lives(identity.pid)).then_some(())).await;
    assert!(lives(child));
    let elsewhere = scene.dir.path().join("2/1");
    assert!(matches!(scene.processes.find(&identity, &elsewhere).await, Found::Dead));
    assert!(lives(child), "it does not bear that attempt's mark");
    assert!(matches!(scene.processes.find(&identity, &scene.attempt_dir()).await, Found::Dead));
    assert!(!lives(child));
}

#[tokio::test]
async fn what_no_attempt_on_record_has_is_ended_even_if_it_is_stopped() {
    let scene = Scene::new("trap '' TERM; (trap '' TERM; exec sleep 300) & echo $! > child; sleep 300");
    let identity = scene.start_as_stranger();
    let child = scene.pid_in("child").await;
    let mut elsewhere = Command::new("sleep").arg("300").env(procfs::MARK, "/another/daemon/1/1").spawn().unwrap();
    let known = [(identity.clone(), scene.attempt_dir())];
    assert_eq!(scene.processes.end_strays(&known).await, 0, "a worker of an attempt on record, and what it started");
    send(identity.pid, rustix::process::Signal::STOP);
    let others = [(identity.clone(), scene.dir.path().join("1/2"))];
    let ended = scene.processes.end_strays(&others).await;
    // Its shell may have forked for `sleep` or not yet.
    assert!(ended >= 2, "{ended}");
    assert!(!lives(child) && !lives(identity.pid));
    assert!(lives(elsewhere.id()), "of another daemon");
    elsewhere.kill().unwrap();
    elsewhere.wait().unwrap();
}

#[tokio::test]
async fn a_container_in_which_the_same_path_is_another_folder_is_left_alone() {
    let (scene, other) = (Scene::new("exit 0"), tempfile::tempdir().unwrap());
    let script = format!(
        "mount --bind {} {} && echo ready && exec sleep 300",
        other.path().display(),
        scene.dir.path().display()
    );
    let mut contained = Command::new("unshare");
    contained.args(["--mount", "sh", "-c", &script]).env(procfs::MARK, scene.attempt_dir());
    let Ok(mut contained) = contained.stdout(Stdio::piped()).spawn() else { return };
    let mut said = String::new();
    BufReader::new(contained.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let is_contained = said == "ready\n";
    let ended = scene.processes.end_strays(&[]).await;
    let outlived = lives(contained.id());
    contained.kill().unwrap();
    contained.wait().unwrap();
    // Not everybody may make a mount namespace.
    assert!(!is_contained || (ended == 0 && outlived), "{ended} {outlived}");
}

#[tokio::test]
async fn a_reused_pid_is_never_taken_for_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new("exit 0");
    let mut stranger = Command::new("sleep").arg("300").process_group(0).spawn().unwrap();
    let identity = scene.identity(stranger.id());
    let older = ProcessIdentity { start_ticks: identity.start_ticks - 1, ..identity.clone() };
    assert!(matches!(scene.processes.find(&older, dir.path()).await, Found::Dead));
    let other_boot = ProcessIdentity { boot_id: "before".into(), ..identity.clone() };
    assert!(matches!(scene.processes.find(&other_boot, dir.path()).await, Found::Dead));
    let other_host = ProcessIdentity { host: "elsewhere".into(), ..other_boot };
    assert!(matches!(scene.processes.find(&other_host, dir.path()).await, Found::Elsewhere));
    assert!(lives(stranger.id()), "none of this harmed it");
    assert!(matches!(scene.processes.find(&identity, dir.path()).await, Found::Alive(_)));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// Leaves a process behind in a session of its own that bears no mark.
const ESCAPE: &str =
    "while [ ! -e go ]; do sleep 0.01; done; env -i /usr/bin/setsid /bin/sleep 600 & echo $! >escaped; sleep 600";

async fn escaped(scene: &Scene) -> u32 {
    fs::write(scene.attempt_dir().join("go"), "").unwrap();
    let pid = scene.pid_in("escaped").await;
    // Until it has left the session.
    until(|| procfs::stat(pid).ok().filter(|stat| stat.group == pid)).await;
    pid
}

#[tokio::test]
async fn nothing_escapes_a_cgroup_in_whatever_session_it_is() {
    let Some(tree) = Tree::plant() else { return };
    let mut scene = Scene::new(ESCAPE);
    scene.processes = scene.processes.in_cgroups(Cgroups::find(Some(&tree.0)));
    let mut worker = scene.start().await;
    worker.confine(&Resources::default());
    let pid = escaped(&scene).await;
    worker.signal(Signal::Kill);
    exited(worker.as_ref()).await;
    assert!(lives(pid), "the group's end is not its end");
    assert_eq!(worker.reap().await, Ended::Signal { number: 9, out_of_memory: false });
    assert!(!lives(pid));
    assert!(worker.spent().is_some_and(|spent| spent.cpu_ms > 0), "{:?}", worker.spent());
    assert_eq!(fs::read_dir(&tree.0).unwrap().flatten().filter(|entry| entry.path().is_dir()).count(), 0);
    // The same of a worker that an earlier daemon has started.
    let mut worker = scene.start().await;
    worker.confine(&Resources::default());
    let pid = escaped(&scene).await;
    let identity = worker.identity().clone();
    let Found::Alive(mut adopted) = scene.processes.find(&identity, &scene.attempt_dir()).await else {
        panic!("it lives")
    };
    adopted.signal(Signal::Kill);
    exited(adopted.as_ref()).await;
    assert_eq!(adopted.reap().await, Ended::Unknown);
    assert!(!lives(pid));
    worker.reap().await;
}

#[tokio::test]
async fn the_control_without_a_cgroup_it_escapes() {
    let scene = Scene::new(ESCAPE);
    let mut worker = scene.start().await;
    worker.confine(&Resources::default());
    let pid = escaped(&scene).await;
    worker.signal(Signal::Kill);
    exited(worker.as_ref()).await;
    worker.reap().await;
    assert!(lives(pid) && worker.spent().is_none());
    send(pid, rustix::process::Signal::KILL);
}

fn send(pid: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix_pid(pid).unwrap(), signal).unwrap();
}

/// Says what it may map, maps more than that, and aborts as a program in Rust does that is given no memory.
const GREEDY: &str = "while [ ! -e go ]; do sleep 0.01; done; ulimit -d >limit; dd if=/dev/null of=/dev/null bs=3G count=1 2>dd; \
    echo $? >code; echo 'memory allocation of 3221225472 bytes failed' >&2; kill -ABRT $$";

async fn greedy(resources: Resources) -> (String, Ended) {
    let scene = Scene::new(GREEDY);
    let mut worker = scene.start().await;
    worker.confine(&resources);
    fs::write(scene.attempt_dir().join("go"), "").unwrap();
    exited(worker.as_ref()).await;
    let ended = worker.reap().await;
    let said = |file: &str| fs::read_to_string(scene.attempt_dir().join(file)).unwrap().trim().to_owned();
    (format!("{} {}", said("limit"), said("code")), ended)
}

#[tokio::test]
async fn without_a_cgroup_the_kernel_refuses_memory_far_beyond_what_was_asked_for() {
    let asked = |memory_mib, gpus| Resources { memory_mib, gpus, ..Resources::NONE };
    let refused = |out_of_memory| Ended::Signal { number: 6, out_of_memory };
    assert_eq!(greedy(asked(512, 0)).await, ("2097152 1".into(), refused(true)));
    // Who asked for none takes what is there; a GPU's driver maps more than it uses.
    assert_eq!(greedy(asked(0, 0)).await, ("unlimited 0".into(), refused(false)));
    assert_eq!(greedy(asked(512, 1)).await, ("unlimited 0".into(), refused(false)));
}
