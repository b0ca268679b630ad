//! A private daemon that is killed and started again, and its API, a connection a request.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use super::until;

/// A daemon, ended with its workers when dropped.
pub struct Daemon {
    child: Child,
    state_dir: PathBuf,
    worker: &'static str,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub fn start(folder: &Path, worker: &'static str) -> Self {
        fs::create_dir(folder).expect("the disk can be written to");
        let state_dir = folder.join("s");
        let daemon = Self { child: spawn(&state_dir, worker), state_dir, worker };
        until("mld answers", || daemon.get("/v1/daemon"));
        daemon
    }

    /// The next one. It is not waited for.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.state_dir, self.worker);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("it runs");
    }

    /// How often the log has this.
    pub fn count(&self, words: &str) -> usize {
        fs::read_to_string(log(&self.state_dir)).unwrap_or_default().matches(words).count()
    }

    /// How many times workers have dialled.
    pub fn dialled(&self) -> usize {
        self.count("a worker dialled")
    }

    /// Submits a job; its id.
    pub fn submit(&self, spec: &Value, key: &str) -> u64 {
        let answer = self.post("/v1/jobs", &json!({"spec": spec, "key": key}));
        let id = answer["id"].as_str().and_then(|id| id.parse().ok());
        id.unwrap_or_else(|| unreachable!("not submitted: {answer:#}"))
    }

    /// `None` while nobody answers.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.send("GET", path, "").ok()
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        self.send("POST", path, &body.to_string()).expect("the daemon answers")
    }

    fn send(&self, method: &str, path: &str, body: &str) -> io::Result<Value> {
        let mut stream = UnixStream::connect(self.state_dir.join("mld.sock"))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // A daemon that has answered need not have read all that it was sent; what it said is here all the same.
        if answer.is_empty() {
            read?;
        }
        let answer = String::from_utf8(answer).map_err(io::Error::other)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        serde_json::from_str(body).map_err(io::Error::other)
    }
}

fn log(state_dir: &Path) -> PathBuf {
    state_dir.with_extension("log")
}

fn spawn(state_dir: &Path, worker: &str) -> Child {
    let programs = Path::new(env!("CARGO_BIN_EXE_mld")).parent().expect("a program is in a folder");
    let log = File::options().append(true).create(true).open(log(state_dir)).expect("the disk can be written to");
    Command::new(programs.join("mld"))
        .arg("--state-dir")
        .arg(state_dir)
        .arg("--worker")
        .arg(programs.join(worker))
        .args(["--set", "workers.cpus=8", "--set", "log.level='info,mlctl::supervisor::link=debug'"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("mld can be started")
}

/// SIGKILL of a worker.
pub fn kill(pid: u64) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the worker runs");
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Workers that would go on without it are cancelled first.
        let running = self.get("/v1/jobs?state=queued,running");
        for job in running.iter().filter_map(|list| list["jobs"].as_array()).flatten() {
            if let Some(id) = job["id"].as_str() {
                self.post(&format!("/v1/jobs/{id}/cancel"), &json!({}));
            }
        }
        until("nothing runs any more", || {
            let list = self.get("/v1/jobs?state=queued,running")?;
            list["jobs"].as_array().is_none_or(Vec::is_empty).then_some(())
        });
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
