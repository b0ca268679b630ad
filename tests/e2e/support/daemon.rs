//! A daemon of one's own: the real `mld` on a state directory of its own, killed, stopped and started again at will. When a test is over, it is looked
//! whether an ended job has left a process behind (no zombie and no orphan after any test), and whatever still runs is killed. When a test has failed, what the
//! daemon and its workers said is printed.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    Worker,
    cli::{self, Run},
    http::{Answer, Client},
    processes, programs, until,
};

/// How a daemon is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The worker's program.
    pub worker: PathBuf,
    /// Keys and values as `--set` takes them.
    pub settings: Vec<String>,
    /// Variables of its environment.
    pub variables: BTreeMap<String, String>,
    /// The settings file; none is read when absent.
    pub config: Option<PathBuf>,
    /// The state directory; one in a folder of the daemon's own when absent.
    pub state_dir: Option<PathBuf>,
    /// The program that runs it, with its arguments; it must become the daemon, or be a debugger in its back.
    pub under: Vec<String>,
}

impl Setup {
    /// Quick to hear and to lose patience, so that tests are.
    pub fn of(worker: Worker) -> Self {
        let settings = [
            "workers.cpus=4",
            "workers.heartbeat_seconds=1",
            "workers.grace_seconds=10",
            "workers.ahead=0",
            "log.level='debug'",
        ];
        Self {
            worker: worker.program(),
            settings: settings.map(str::to_owned).to_vec(),
            variables: BTreeMap::new(),
            config: None,
            state_dir: None,
            under: Vec::new(),
        }
    }

    /// With a variable in its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With one more setting, over an earlier one of the same key.
    pub fn set(mut self, assignment: &str) -> Self {
        self.settings.push(assignment.to_owned());
        self
    }

    /// Starts it and waits until it answers.
    pub fn start(self) -> Daemon {
        let dir = tempfile::Builder::new().prefix("mld").tempdir().unwrap();
        let state_dir = self.state_dir.clone().unwrap_or_else(|| dir.path().join("s"));
        let log = dir.path().join("mld.log");
        let client = Client { socket: state_dir.join("mld.sock") };
        let mut daemon = Daemon { setup: self, dir, state_dir, log, client, child: None, submitted: 0 };
        daemon.start();
        daemon
    }
}

/// A daemon, running or not.
#[derive(Debug)]
pub struct Daemon {
    setup: Setup,
    /// For the log, and for files of the test.
    dir: tempfile::TempDir,
    /// Its state directory.
    pub state_dir: PathBuf,
    log: PathBuf,
    /// Its API.
    pub client: Client,
    child: Option<Child>,
    submitted: u32,
}

impl Daemon {
    /// A daemon whose workers are of this kind.
    pub fn with(worker: Worker) -> Self {
        Setup::of(worker).start()
    }

    /// Starts it again, on the same state directory, and waits until it answers.
    pub fn start(&mut self) {
        self.begin();
        assert!(self.answers(), "the daemon ended\n{}", self.log());
    }

    /// Starts it again, and does not wait.
    pub fn begin(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.child = Some(self.spawn());
    }

    /// Waits until it answers, or has ended: then it runs no more.
    pub fn answers(&mut self) -> bool {
        let answers = until("the daemon answers", || {
            if self.has_ended() {
                return Some(false);
            }
            let answer = self.client.send("GET", "/v1/daemon", "").ok()?;
            (answer.status == 200).then_some(true)
        });
        answers && !self.has_ended()
    }

    /// Whether it has ended by itself, or by somebody else.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if ended {
            self.child = None;
        }
        ended
    }

    /// Starts it, and returns how it ended and all that it has said: for daemons that must not come up.
    pub fn fail_to_start(&self) -> Run {
        let mut command = self.command();
        command.env("HOME", self.dir.path());
        cli::run(self.dir.path(), command)
    }

    /// Has it started otherwise from now on.
    pub fn change(&mut self, setup: Setup, more: &[String]) {
        self.setup = more.iter().fold(setup, |setup, assignment| setup.set(assignment));
    }

    fn command(&self) -> Command {
        let mut words = self.setup.under.iter().map(AsRef::as_ref).chain([programs::mld().as_os_str()]);
        let mut command = Command::new(words.next().expect("at least the daemon"));
        command.args(words);
        command.arg("--state-dir").arg(&self.state_dir).arg("--worker").arg(&self.setup.worker);
        if let Some(config) = &self.setup.config {
            command.arg("--config").arg(config);
        }
        for assignment in &self.setup.settings {
            command.arg("--set").arg(assignment);
        }
        command.envs(&self.setup.variables);
        command
    }

    fn spawn(&self) -> Child {
        let log = fs::OpenOptions::new().append(true).create(true).open(&self.log).unwrap();
        let mut command = self.command();
        for name in ["MLD_CONFIG", "MLD_STATE_DIR", "MLD_LOG", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// Changes a variable of its environment, for its next start.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.setup.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// SIGKILL, as a crash or a power loss of this one process.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; returns how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        processes::signal(child.id(), Signal::TERM);
        until("the daemon stops", || child.try_wait().unwrap())
    }

    /// Waits for an end that somebody else brings about; returns how it ended.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        until("the daemon ends", || child.try_wait().unwrap())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into the test's folder.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs `mlctl` in the test's folder.
    pub fn mlctl(&self, args: &[impl AsRef<OsStr>]) -> Run {
        cli::mlctl(self.folder(), &self.client.socket, args)
    }

    /// Submits a spec under a key.
    pub fn try_submit(&self, spec: &Value, key: &str) -> Answer {
        self.client.post("/v1/jobs", &json!({"spec": spec, "key": key}))
    }

    /// Submits a spec. Returns the job's id.
    pub fn submit(&mut self, spec: &Value) -> String {
        self.submitted += 1;
        let job = self.try_submit(spec, &format!("test-{}", self.submitted)).ok();
        job["id"].as_str().expect("ids are strings").to_owned()
    }

    /// The newest job, as the CLI shows it.
    pub fn last(&self) -> Value {
        self.mlctl(&["show", "@last", "-o", "json"]).json()
    }

    /// Runs a `submit` that waits. The job must fail once and for all in this class, for a reason that has these words. Returns the job.
    pub fn must_fail(&self, submit: &[impl AsRef<OsStr>], class: &str, words: &[&str]) -> Value {
        let run = self.mlctl(submit);
        assert_eq!(run.code, 20, "{words:?}: {run:?}");
        let job = self.last();
        assert_eq!(job["exit_class"], class, "{job:#}");
        let message = job["exit_message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message:?}");
        }
        assert!(job["exit_hint"].as_str().is_some_and(|hint| !hint.is_empty()), "it says what to do: {job:#}");
        if class == "spec" {
            assert_eq!((&job["attempt"], &job["retries_used"]), (&1.into(), &0.into()), "it is not tried again");
        }
        job
    }

    /// A job as `show` has it.
    pub fn job(&self, id: &str) -> Value {
        self.client.get(&format!("/v1/jobs/{id}")).ok()
    }

    /// What has happened to a job.
    pub fn events(&self, id: &str) -> Vec<Value> {
        let list = self.client.get(&format!("/v1/jobs/{id}/events")).ok();
        list["events"].as_array().unwrap().clone()
    }

    /// How often an event has happened to a job.
    pub fn count(&self, id: &str, event: &str) -> usize {
        self.events(id).iter().filter(|found| found["event"] == event).count()
    }

    /// All points of a job's learning curve.
    pub fn points(&self, id: &str) -> Vec<Value> {
        let mut points = Vec::new();
        let mut after = 0;
        loop {
            let page = self.client.get(&format!("/v1/jobs/{id}/metrics?after={after}")).ok();
            points.extend(page["points"].as_array().unwrap().iter().cloned());
            match page["next"].as_i64() {
                Some(next) => after = next,
                None => return points,
            }
        }
    }

    /// Waits until a job fits; fails when it has ended without.
    pub fn wait_until(&self, id: &str, what: &str, mut fits: impl FnMut(&Value) -> bool) -> Value {
        until(&format!("job {id} {what}"), || {
            let job = self.job(id);
            if fits(&job) {
                return Some(job);
            }
            let ended = matches!(job["state"].as_str(), Some("succeeded" | "failed" | "cancelled"));
            assert!(!ended, "job {id} has ended and not yet {what}: {job:#}");
            None
        })
    }

    /// Waits for a job's end, which must be this one.
    pub fn wait_for(&self, id: &str, state: &str) -> Value {
        self.wait_until(id, &format!("is {state}"), |job| job["state"] == state)
    }

    /// Waits until a job's worker has saved something in the attempt of this number. Returns the worker's process id.
    pub fn wait_for_checkpoint(&self, id: &str, attempt: u64) -> u32 {
        let job = self.wait_until(id, "has saved something", |job| {
            job["attempt"] == attempt && job["state"] == "running" && self.has_saved(id, attempt)
        });
        worker_pid(&job).expect("a running job has a process")
    }

    /// Waits until so many checkpoints of a job are left: older ones are deleted beside what goes on.
    pub fn wait_for_kept(&self, id: &str, count: usize) {
        until(&format!("{count} checkpoints are left of job {id}"), || {
            let list = self.client.get(&format!("/v1/jobs/{id}/checkpoints")).ok();
            (list["checkpoints"].as_array().unwrap().len() == count).then_some(())
        });
    }

    fn has_saved(&self, id: &str, attempt: u64) -> bool {
        let list = self.client.get(&format!("/v1/jobs/{id}/checkpoints")).ok();
        list["checkpoints"].as_array().unwrap().iter().any(|checkpoint| checkpoint["attempt"] == attempt)
    }

    /// Fails when a process of an ended job is left, or a child that was not reaped.
    fn assert_nothing_left_behind(&self) {
        until("the processes of ended jobs are gone, and reaped", || {
            let list = self.client.get("/v1/jobs?state=running").ok();
            let running: Vec<&str> = list["jobs"].as_array()?.iter().filter_map(|job| job["id"].as_str()).collect();
            let orphans = processes::of_attempts(&self.state_dir).into_iter();
            let orphans = orphans
                .filter(|process| process.job != processes::AHEAD && !running.contains(&process.job.as_str()))
                .count();
            (orphans == 0 && processes::zombies_of(self.pid()).is_empty()).then_some(())
        });
    }

    fn end_everything(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        until("all processes are gone", || {
            let left = processes::of_attempts(&self.state_dir);
            left.iter().for_each(|process| processes::kill(process.pid));
            left.is_empty().then_some(())
        });
    }

    fn print_what_was_said(&self) {
        println!("---- the daemon's log\n{}", self.log());
        for (path, text) in self.worker_logs().into_iter().filter(|(_, text)| !text.is_empty()) {
            let skipped = text.len().saturating_sub(4000);
            println!("---- {}\n{}", path.display(), text.get(skipped..).unwrap_or(&text));
        }
    }

    fn worker_logs(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut todo = vec![self.state_dir.join("attempts")];
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
                let path = entry.path();
                if path.is_dir() {
                    todo.push(path);
                } else if path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("std")) {
                    let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
                    found.push((path, text));
                }
            }
        }
        found.sort();
        found
    }
}

/// The process id of a job's worker, once there is one.
pub fn worker_pid(job: &Value) -> Option<u32> {
    job["worker"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_what_was_said();
            self.end_everything();
            return;
        }
        let looked = self.child.is_none()
            || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.assert_nothing_left_behind())).is_ok();
        if !looked {
            self.print_what_was_said();
        }
        self.end_everything();
        assert!(looked, "an ended job left processes behind");
    }
}
