//! A private daemon in release build with the fake worker, and blocking connections to it.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{machine::cpu, program};

/// How long anything may take.
const CEILING: Duration = Duration::from_secs(120);

/// A daemon, ended when dropped.
pub struct Daemon {
    child: Child,
    state_dir: PathBuf,
    log: PathBuf,
    /// Jobs that occupy it until it is dropped.
    blockers: Vec<u64>,
}

impl Daemon {
    /// Starts one with so many cores for jobs, which take one each, and waits until it answers.
    pub fn start(disk: &Path, cpus: u32) -> Self {
        let state_dir = disk.join(format!("state-{cpus}"));
        let log = disk.join(format!("mld-{cpus}.log"));
        let child = Command::new(program("mld"))
            .arg("--state-dir")
            .arg(&state_dir)
            .arg("--worker")
            .arg(program("mlworker-fake"))
            .args(["--set", &format!("workers.cpus={cpus}"), "--set", "limits.max_queued=10000000"])
            .args(["--set", "log.format='json'", "--set", "log.level='warn,mlctl::supervisor::link=debug'"])
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("the disk can be written to"))
            .spawn()
            .expect("mld can be started");
        let daemon = Self { child, state_dir, log, blockers: Vec::new() };
        let begun = Instant::now();
        while Connection::open(&daemon.socket()).is_err() {
            assert!(begun.elapsed() < CEILING, "mld does not answer: {}", daemon.said());
            sleep(Duration::from_millis(10));
        }
        daemon
    }

    pub fn folder(&self) -> &Path {
        &self.state_dir
    }

    /// Occupies all of it, so that nothing else starts.
    pub fn block(&mut self, cpus: u32) {
        let mut spec = job("hang-alive");
        spec["priority"] = json!(100);
        let mut connection = self.connect();
        self.blockers
            .extend((0..cpus).map(|number| connection.submit(&spec.to_string(), &format!("blocker {number}"))));
    }

    pub fn connect(&self) -> Connection {
        Connection::open(&self.socket()).expect("the daemon answers")
    }

    pub fn socket(&self) -> PathBuf {
        self.state_dir.join("mld.sock")
    }

    /// `mlctl` with this daemon; how long it took, start and end included.
    pub fn mlctl(&self, arguments: &[&str]) -> Duration {
        let begun = Instant::now();
        let run = Command::new(program("mlctl"))
            .args(arguments)
            .env("MLCTL_SOCKET", self.socket())
            .stdin(Stdio::null())
            .output()
            .expect("mlctl can be started");
        let took = begun.elapsed();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
        took
    }

    /// When the first message of each job's worker was taken, by the daemon's log: (job, time).
    pub fn first_messages(&self) -> Vec<(u64, Timestamp)> {
        let lines = self.said();
        let records = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let dialled = records.filter(|record| record["message"] == "a worker dialled");
        dialled
            .filter_map(|record| {
                let job = &record["job_id"];
                let job = job.as_u64().or_else(|| job.as_str()?.parse().ok())?;
                Some((job, record["timestamp"].as_str()?.parse().ok()?))
            })
            .collect()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident bytes, and context switches so far.
    pub fn takes(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let switches = tasks.map(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
            counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>()
        });
        (field("VmRSS:").unwrap_or_default() * 1024, switches.sum())
    }

    /// The processor time it has taken, in seconds.
    pub fn cpu(&self) -> f64 {
        cpu(&self.child.id().to_string())
    }

    /// Waits until so many jobs have succeeded.
    pub fn wait_for(&self, succeeded: u64) {
        let mut connection = self.connect();
        let begun = Instant::now();
        loop {
            let answer = connection.get("/v1/daemon");
            if answer["jobs"]["succeeded"].as_u64().unwrap_or_default() >= succeeded {
                return;
            }
            assert!(begun.elapsed() < CEILING, "the jobs do not end: {answer:#}\n{}", self.said());
            // Asking takes from what is measured: rarely enough not to be seen in it.
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Workers that would go on without it are cancelled first.
        let mut connection = self.connect();
        for id in &self.blockers {
            connection.post(&format!("/v1/jobs/{id}/cancel"), "{}");
        }
        sleep(Duration::from_millis(200));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A kept connection: HTTP/1.1 by hand, so that the client costs next to nothing.
pub struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(CEILING))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Submits a job, whose spec is given as JSON, under a key that needs no escape; its id.
    pub fn submit(&mut self, spec: &str, key: &str) -> u64 {
        let body = format!("{{\"spec\":{spec},\"key\":\"{key}\"}}");
        let answer = self.send("POST", "/v1/jobs", &body).expect("the daemon answers");
        // Not parsed: it is the daemon that is measured.
        let id = answer.split_once("\"id\":\"").and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
        assert!(id.is_some(), "not submitted: {answer}");
        id.unwrap_or_default()
    }

    /// Submits an array that varies one key.
    pub fn submit_array(&mut self, spec: &Value, key: &str, values: &[usize]) {
        let sweep = json!({"axes": [{"key": key, "values": values}]});
        let answer = self.post("/v1/arrays", &json!({"spec": spec, "key": "array", "sweep": sweep}).to_string());
        assert!(answer["id"].is_string(), "not submitted: {answer:#}");
    }

    pub fn get(&mut self, path: &str) -> Value {
        parse(&self.send("GET", path, "").expect("the daemon answers"))
    }

    fn post(&mut self, path: &str, body: &str) -> Value {
        parse(&self.send("POST", path, body).expect("the daemon answers"))
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().map_err(io::Error::other)?;
                }
                _ if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }
}

fn parse(answer: &str) -> Value {
    serde_json::from_str(answer).expect("the daemon answers in JSON")
}

/// A job that ends at once.
pub const NOTHING: &str = "sleep:0";

/// A file in this folder with a job that ends at once.
pub fn write_job(folder: &Path) -> String {
    let file = folder.join("job.toml");
    fs::write(&file, toml::to_string(&job(NOTHING)).expect("a spec is TOML")).expect("the disk can be written to");
    file.to_str().expect("the build's folder has a plain name").to_owned()
}

/// A job for the fake worker; about 1 KiB as JSON, as real specs are.
pub fn job(script: &str) -> Value {
    json!({
        "version": 1,
        "name": "bench",
        "labels": {"fake": script, "note": "x".repeat(180)},
        "train": {
            "seed": 1,
            "model": {"type": "mlp", "layers": [4, 8, 2]},
            "data": {"format": "randn", "rows": 64, "features": 4, "targets": 2, "seed": 1},
            "loss": "mse",
            "optimizer": {"type": "adam"},
            "batch_size": 8,
            "max_epochs": 1,
        },
    })
}
