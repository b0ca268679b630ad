//! As much of a daemon as a worker needs: a socket, the hand-over, the start, acknowledgements.

use std::{path::Path, process::Stdio, time::Duration};

use mlctl_link::frame::DaemonStream;
use mlctl_protocol::{
    AttemptNumber, FencingToken, JobId, JobSpec,
    launch::Launch,
    message::{FromWorker, Report, ReportBody, Start, Storage, ToWorker},
    result::{CheckpointRef, WorkerResult},
};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    process::{Child, Command},
};

/// No wait in these tests is longer.
const CEILING: Duration = Duration::from_secs(120);

/// A daemon with its folder and socket.
pub struct Daemon {
    pub dir: TempDir,
    listener: UnixListener,
}

/// An attempt that runs.
pub struct Attempt {
    child: Child,
    stream: DaemonStream<UnixStream>,
    /// Everything reported so far.
    pub reports: Vec<ReportBody>,
    /// The most memory it has had, in bytes, as of its report that it has finished.
    pub peak_bytes: u64,
}

/// How an attempt ended.
pub struct Ended {
    /// What it said.
    pub result: Option<WorkerResult>,
    /// Its exit code; nothing when it died of a signal.
    pub code: Option<i32>,
    /// Everything reported.
    pub reports: Vec<ReportBody>,
    /// The most memory it had, in bytes.
    pub peak_bytes: u64,
}

pub fn mlworker() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlworker"));
    command.env("RAYON_NUM_THREADS", "1").env("CANDLE_NUM_THREADS", "1").kill_on_drop(true);
    command
}

pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(CEILING, what).await.expect("in time")
}

impl Daemon {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("w.sock")).unwrap();
        Self { dir, listener }
    }

    /// Starts an attempt of a job.
    pub async fn start(&self, spec: &JobSpec, (job, number): (u64, u32), resume: &[CheckpointRef]) -> Attempt {
        let attempt_dir = self.dir.path().join(format!("attempt-{job}-{number}"));
        std::fs::create_dir(&attempt_dir).unwrap();
        let (job, attempt) = (JobId(job), AttemptNumber(number));
        let log = std::fs::File::create(attempt_dir.join("stderr.log")).unwrap();
        let mut child = mlworker().stdin(Stdio::piped()).stderr(log).spawn().unwrap();
        let socket = self.dir.path().join("w.sock");
        let launch = Launch { v: 1, socket, job, attempt, secret: "5e".repeat(32), attempt_dir, s3: None };
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&serde_json::to_vec(&launch).unwrap()).await.unwrap();
        drop(stdin);
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        let mut stream = DaemonStream::new(stream);
        let Some(FromWorker::Hello(hello)) = within(stream.recv()).await.unwrap() else { panic!("no hello") };
        assert_eq!((hello.job, hello.attempt, hello.started), (job, attempt, false));
        assert!(hello.worker.starts_with("mlworker 0."), "{}", hello.worker);
        let home = format!("file://{}/objects/{job}", self.dir.path().display());
        let start = Start {
            token: FencingToken(u64::from(number)),
            spec: spec.clone(),
            spec_digest: "0".repeat(64),
            resume: resume.to_vec(),
            storage: Storage {
                attempt_uri: format!("{home}/{number}"),
                model_uri: format!("{home}/model/{number}"),
                output_uri: format!("{home}/output/{number}"),
                durable_uri: None,
                spool: None,
            },
            heartbeat_seconds: 1,
            lease_seconds: 600,
            threads: 1,
            ends_at: None,
            array_index: None,
        };
        stream.send(ToWorker::Start(Box::new(start))).await.unwrap();
        Attempt { child, stream, reports: Vec::new(), peak_bytes: 0 }
    }

    /// Runs an attempt to its end.
    pub async fn run(&self, spec: &JobSpec, job: u64, number: u32) -> Ended {
        self.start(spec, (job, number), &[]).await.end().await
    }

    /// The result file of an attempt.
    pub fn result_file(&self, job: u64, number: u32) -> WorkerResult {
        let path = self.dir.path().join(format!("attempt-{job}-{number}/result.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

impl Attempt {
    /// Waits for the next report; nothing when the worker is gone.
    pub async fn next_report(&mut self) -> Option<ReportBody> {
        loop {
            match within(self.stream.recv()).await {
                Ok(Some(FromWorker::Report(Report { seq, body }))) => {
                    if matches!(body, ReportBody::Finished { .. }) {
                        // It waits for the acknowledgement, so it is still there to be looked at.
                        self.peak_bytes = self.child.id().and_then(peak_bytes).unwrap_or(0);
                    }
                    self.reports.push(body.clone());
                    // The worker may be gone by now.
                    let _ = self.stream.send(ToWorker::Ack { seq }).await;
                    return Some(body);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Waits for so many checkpoints; false when the attempt ended before.
    pub async fn checkpoints(&mut self, count: usize) -> bool {
        while checkpoints(&self.reports).len() < count {
            match self.next_report().await {
                None | Some(ReportBody::Finished { .. }) => return false,
                Some(_) => {}
            }
        }
        true
    }

    pub async fn order(&mut self, order: ToWorker) {
        self.stream.send(order).await.unwrap();
    }

    /// Kills it without a word; what it reported before.
    pub async fn kill(mut self) -> Vec<ReportBody> {
        self.child.kill().await.unwrap();
        while self.next_report().await.is_some() {}
        self.reports
    }

    /// Waits for the end.
    pub async fn end(mut self) -> Ended {
        while !matches!(self.reports.last(), Some(ReportBody::Finished { .. })) && self.next_report().await.is_some() {}
        let code = within(self.child.wait()).await.unwrap().code();
        let result = self.reports.iter().find_map(|body| match body {
            ReportBody::Finished { result } => Some(result.as_ref().clone()),
            _ => None,
        });
        Ended { result, code, reports: self.reports, peak_bytes: self.peak_bytes }
    }
}

/// The most memory that a process has had, in bytes; nothing when it is gone.
fn peak_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The checkpoints reported, the latest first.
pub fn checkpoints(reports: &[ReportBody]) -> Vec<CheckpointRef> {
    let found = reports.iter().filter_map(|body| match body {
        ReportBody::Checkpoint { checkpoint } => Some(checkpoint.clone()),
        _ => None,
    });
    found.collect::<Vec<_>>().into_iter().rev().collect()
}

/// An example job, its paths made absolute as the CLI does it.
pub fn example(name: &str) -> serde_json::Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/jobs").canonicalize().unwrap();
    let mut spec: serde_json::Value = toml::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap();
    for place in ["/train/data/uri", "/infer/data/uri", "/infer/model/from", "/evaluate/data/uri"] {
        let uri = spec.pointer_mut(place).filter(|uri| !uri.as_str().unwrap().starts_with("job:"));
        if let Some(uri) = uri {
            *uri = format!("file://{}/{}", folder.display(), uri.as_str().unwrap()).into();
        }
    }
    spec
}
