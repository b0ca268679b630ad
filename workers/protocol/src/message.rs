//! Messages on the workers' socket. A frame is a big-endian u32 length and that many bytes of JSON with `v` and `type`; a type
//! the reader does not know is ignored, so that old workers live through a daemon upgrade.
//!
//! The worker always dials. It says [`Hello`]; the daemon answers `start` (first dial), `welcome` (a redial) or `refused`.
//! Reports carry a sequence number from 1 and are kept by the worker until acknowledged, so that no report is lost when the
//! daemon restarts; the daemon drops what it has already taken. Heartbeats are not kept: the next one replaces them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AttemptNumber, FencingToken, JobId, JobSpec,
    progress::{MetricPoint, Progress},
    result::{CheckpointRef, WorkerResult},
};

/// The protocol's version, in `v` of every frame. A reader refuses a hello of another major version with a message.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest frame, in bytes, its length prefix excluded.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// A frame's JSON: the version beside the message's own fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope<M> {
    /// [`PROTOCOL_VERSION`] of the writer.
    pub v: u32,
    /// The message.
    #[serde(flatten)]
    pub message: M,
}

impl<M> Envelope<M> {
    /// Wraps a message in this version's envelope.
    pub const fn new(message: M) -> Self {
        Self { v: PROTOCOL_VERSION, message }
    }
}

/// Worker to daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// The first frame of every connection.
    Hello(Hello),
    /// Alive and here; renews the lease.
    Heartbeat(Heartbeat),
    /// Something the daemon must not miss.
    Report(Report),
    /// A type of a later version.
    #[serde(other)]
    Unknown,
}

/// Daemon to worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// The work, in answer to a first hello.
    Start(Box<Start>),
    /// The attempt is still valid, in answer to a hello that said `started`.
    Welcome {
        /// Reports up to this number are durable in the daemon's database.
        acked: u64,
    },
    /// The attempt is not valid, or the version not understood: end without committing anything.
    Refused {
        /// Why, for a person.
        reason: String,
    },
    /// Reports up to this number are durable in the daemon's database. A result, which the worker has written to its file before, is taken, and becomes durable with the attempt's end.
    Ack {
        /// The number.
        seq: u64,
    },
    /// Take a checkpoint at the end of the current step and go on.
    Checkpoint,
    /// Take a checkpoint at the end of the current step, report `preempted`, `cancelled` or `timeout`, and end.
    Stop {
        /// The class to end with.
        class: StopClass,
    },
    /// A type of a later version.
    #[serde(other)]
    Unknown,
}

/// The class a stopped worker ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopClass {
    /// The job will be run again later.
    Preempted,
    /// A person ended the job.
    Cancelled,
    /// The job's own time limit is reached. Only jobs that have one meet it, and so only workers that know it.
    Timeout,
}

/// Who dials.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptNumber,
    /// The attempt's secret in hexadecimal.
    pub secret: String,
    /// The worker's process id in the daemon's namespace.
    pub pid: u32,
    /// Version and features of the worker's build.
    pub worker: String,
    /// Whether this process was given its `start` before.
    pub started: bool,
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("job", &self.job)
            .field("attempt", &self.attempt)
            .field("pid", &self.pid)
            .field("worker", &self.worker)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// The work of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    /// The attempt's token, to stand in its manifests and result.
    pub token: FencingToken,
    /// What to do.
    pub spec: JobSpec,
    /// BLAKE3 of the spec as stored, 64 hexadecimal digits.
    pub spec_digest: String,
    /// Durable checkpoints of earlier attempts, best first. The worker takes the first that verifies.
    pub resume: Vec<CheckpointRef>,
    /// Where results go.
    pub storage: Storage,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: u32,
    /// Seconds without a daemon after which the worker takes a checkpoint and ends.
    pub lease_seconds: u32,
    /// Threads for arithmetic.
    pub threads: u32,
    /// The moment at which the attempt must have ended as things stand when it is started, by its time limit or its deadline: RFC 3339, UTC. An edit of the job may change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    /// Which member of an array it is, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_index: Option<u32>,
}

/// The folders of object storage an attempt may write to, each without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Storage {
    /// `<prefix>/jobs/<job>/<attempt>`, under which this attempt's checkpoints go.
    pub attempt_uri: String,
    /// `<prefix>/jobs/<job>/model/<attempt>`.
    pub model_uri: String,
    /// `<prefix>/jobs/<job>/output/<attempt>`.
    pub output_uri: String,
    /// A folder above these that survives a power cut, with all that is above it: the daemon has made it so when it started. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_uri: Option<String>,
    /// Where checkpoints wait while the store does not answer. Absent where they cannot, and from daemons of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolPlace>,
}

/// Where checkpoints wait while the store does not answer, and for how long a job that is done does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpoolPlace {
    /// The folder of the job's attempts on the daemon's machine, `file://…`, without a slash at its end.
    pub attempts_uri: String,
    /// The most that may wait of an attempt, in bytes.
    pub max_bytes: u64,
    /// Seconds that a job which is done waits for the store.
    pub wait_seconds: u32,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// How far the attempt has come.
    pub progress: Progress,
    /// Resident memory of the worker.
    pub rss_bytes: u64,
    /// Peak resident memory of the worker.
    pub peak_rss_bytes: u64,
    /// Time of processors that the worker and all that it started have used, in milliseconds. 0 from workers of before.
    #[serde(default)]
    pub cpu_ms: u64,
    /// `cpu`, or the accelerator in use.
    pub device: String,
}

/// A numbered report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Counts the attempt's reports from 1.
    pub seq: u64,
    /// What is reported.
    pub body: ReportBody,
}

/// What a worker reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReportBody {
    /// Points of the learning curve.
    Metrics {
        /// The points, oldest first.
        points: Vec<MetricPoint>,
    },
    /// The attempt goes on from a checkpoint.
    Resumed {
        /// The checkpoint taken.
        from: CheckpointRef,
        /// Candidates that were refused, and why: shown to the user.
        skipped: Vec<String>,
    },
    /// A checkpoint is durable.
    Checkpoint {
        /// The checkpoint.
        checkpoint: CheckpointRef,
    },
    /// Something the user should see though the job goes on.
    Warning {
        /// The text.
        message: String,
    },
    /// The end; nothing follows.
    Finished {
        /// The result, as in the result file.
        result: Box<WorkerResult>,
    },
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_flat_json_with_version_and_type() {
        let frame = Envelope::new(ToWorker::Ack { seq: 7 });
        assert_eq!(serde_json::to_value(&frame).unwrap(), serde_json::json!({"v": 1, "type": "ack", "seq": 7}));
    }

    #[test]
    fn unknown_types_and_fields_are_ignored() {
        let frame: Envelope<ToWorker> = serde_json::from_str(r#"{"v":1,"type":"dance","tempo":3}"#).unwrap();
        assert_eq!(frame.message, ToWorker::Unknown);
        let frame: Envelope<ToWorker> = serde_json::from_str(r#"{"v":1,"type":"ack","seq":7,"later":true}"#).unwrap();
        assert_eq!(frame.message, ToWorker::Ack { seq: 7 });
    }

    #[test]
    fn the_secret_is_not_in_debug_output() {
        let hello = Hello {
            job: JobId(1),
            attempt: AttemptNumber(1),
            secret: "canary".into(),
            pid: 1,
            worker: "w".into(),
            started: false,
        };
        assert!(!format!("{hello:?}").contains("canary"));
    }
}
