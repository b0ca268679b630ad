//! The hand-over at spawn: one line of JSON on the worker's standard input, then end of file. The secret is neither in the
//! arguments nor in the environment, where others could read it.

use std::{ffi::OsStr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{AttemptNumber, JobId, s3::S3Access};

/// The largest hand-over a worker reads, in bytes.
pub const MAX_LAUNCH_BYTES: u64 = 64 * 1024;

/// What a program that a job runs may see of the daemon's environment, and so may every worker.
const PASSED_ON: [&str; 11] = [
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
];

/// The same by the beginning of the name.
const PASSED_ON_PREFIXES: [&str; 2] = ["CUDA_", "NVIDIA_"];

/// Whether a variable of the daemon's environment is passed on to what it starts. What is not, credentials included, stays with it.
#[must_use]
pub fn is_passed_on(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        PASSED_ON.contains(&name) || PASSED_ON_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

/// What a worker needs to dial the daemon. The rest comes with [`Start`](crate::message::Start).
#[derive(Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The version of this format: 1.
    pub v: u32,
    /// The workers' socket.
    pub socket: PathBuf,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptNumber,
    /// 256 bits in hexadecimal; the daemon keeps its BLAKE3 only.
    pub secret: String,
    /// A folder of the attempt's own, for the result file and scratch.
    pub attempt_dir: PathBuf,
    /// The way into the S3 store, where the daemon has one. Absent from what earlier daemons hand over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Access>,
}

impl std::fmt::Debug for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch")
            .field("job", &self.job)
            .field("attempt", &self.attempt)
            .field("socket", &self.socket)
            .field("attempt_dir", &self.attempt_dir)
            .field("secret", &"…")
            .field("s3", &self.s3)
            .finish_non_exhaustive()
    }
}
