//! The only SQL. One writer task with group commit, a pool of read-only connections. Called by every room that keeps or reads jobs; knows no
//! process and no policy: which transition is legal is asked of `domain::state` inside the transaction.
//!
//! This file is the room's whole surface. Writes answer only after COMMIT with an fsync: an answer is a promise.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, JobId, JobSpec,
    message::ReportBody,
    progress::{MetricPoint, Metrics, Progress},
    result::{CheckpointRef, WorkerResult},
};
use tokio::sync::watch;

use crate::domain::{Clock, Command, Event, Exit, Fence, Job, Refusal, Uid, event::ProcessIdentity};

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    _private: (),
}

/// A job to keep.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The checked spec.
    pub spec: JobSpec,
    /// Who submits it.
    pub user: Uid,
    /// The idempotency key: unique per user.
    pub key: String,
}

/// The answer to a submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The job.
    pub id: JobId,
    /// Whether the key had been used before for the same spec, and `id` is that job.
    pub existed: bool,
}

/// A claimed attempt: everything the supervisor needs to start it.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The job after the claim.
    pub job: Job,
    /// Its attempt and token.
    pub fence: Fence,
    /// Its spec.
    pub spec: JobSpec,
    /// Durable checkpoints of earlier attempts, newest first.
    pub resume: Vec<CheckpointRef>,
}

/// A job the planner may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The job.
    pub id: JobId,
    /// 0 to 100.
    pub priority: u8,
    /// Cores.
    pub cpus: u32,
    /// GPUs.
    pub gpus: u32,
}

/// An attempt and what is known of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its identity.
    pub fence: Fence,
    /// When it was claimed.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Its process, once launched.
    pub process: Option<ProcessIdentity>,
    /// BLAKE3 of its secret.
    pub secret_hash: [u8; 32],
    /// `cpu`, or the accelerator in use, as the worker said.
    pub device: Option<String>,
    /// How far it has come.
    pub progress: Progress,
    /// When a heartbeat last came.
    pub heartbeat_at: Option<Timestamp>,
    /// The lease's end, exclusive.
    pub lease_until: Timestamp,
    /// Peak resident memory.
    pub peak_rss_bytes: Option<u64>,
    /// The last report taken.
    pub last_seq: u64,
    /// The result the worker reported, not yet acted on.
    pub result: Option<WorkerResult>,
}

/// A heartbeat to keep: not an event, overwritten by the next.
#[derive(Debug, Clone)]
pub struct Beat {
    /// From which attempt.
    pub fence: Fence,
    /// The lease's new end.
    pub lease_until: Timestamp,
    /// How far it has come.
    pub progress: Progress,
    /// Peak resident memory.
    pub peak_rss_bytes: u64,
    /// The device in use.
    pub device: String,
}

/// An event as stored.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its place in the log, from 1.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// About which job.
    pub job: JobId,
    /// What happened.
    pub event: Event,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only these states; when empty, unfinished jobs and the last `finished` finished ones.
    pub states: Vec<String>,
    /// Finished jobs shown besides the unfinished ones when no state is named.
    pub finished: u32,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only this user.
    pub user: Option<Uid>,
    /// Rows at most.
    pub limit: u32,
}

/// A job with what changes too often to be an event.
#[derive(Debug, Clone)]
pub struct JobDetail {
    /// The job.
    pub job: Job,
    /// Its current or last attempt.
    pub attempt: Option<Attempt>,
    /// The last value of each metric.
    pub metrics: Metrics,
}

/// Why the database refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such job.
    #[error("no job {0}")]
    NotFound(String),
    /// The name fits more than one job.
    #[error("the name {name:?} fits jobs {first} and {second}: use an id")]
    Ambiguous {
        /// The name.
        name: String,
        /// One of them.
        first: JobId,
        /// Another.
        second: JobId,
    },
    /// The job's state does not allow it, or the writer is stale.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The idempotency key stands for another job.
    #[error("key {key:?} was used for job {job} with a different spec")]
    KeyConflict {
        /// The key.
        key: String,
        /// The job it stands for.
        job: JobId,
    },
    /// The disk is full: nothing new is taken, what was acknowledged is safe.
    #[error("the disk that holds the database is full")]
    Full,
    /// The database cannot be used: newer schema, too old SQLite, damage, no permission.
    #[error("{what}")]
    Unusable {
        /// What is wrong and what to do.
        what: String,
    },
    /// The database failed; after a failed fsync nothing is acknowledged any more.
    #[error("the database failed")]
    Failed(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Identity of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Random, made with the database; part of every object key, so that a new database never meets old objects.
    pub id: String,
    /// Grows with every restore; the high part of every token.
    pub epoch: u32,
}

impl Store {
    /// Opens or makes the database at `path`, checks SQLite's version, the schema and the event head, and starts the writer.
    /// `entropy` fills bytes at random, for a new database's id.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] or [`StoreError::Failed`].
    pub async fn open(path: &Path, clock: Arc<dyn Clock>, entropy: fn(&mut [u8])) -> Result<Self, StoreError> {
        let _ = (path, clock, entropy);
        todo!()
    }

    /// The database's identity.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        todo!()
    }

    /// Stops taking writes, commits what is queued, closes.
    pub async fn close(&self) {
        todo!()
    }

    /// The id of the newest committed event: changes wake whoever waits.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<i64> {
        todo!()
    }

    /// Keeps a job.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`], [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn submit(&self, new: NewJob) -> Result<Submitted, StoreError> {
        let _ = new;
        todo!()
    }

    /// Starts an attempt of a queued job: draws a token, counts the attempt, keeps the secret's hash and the lease.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the job is no longer queued.
    pub async fn claim(
        &self,
        job: JobId,
        secret_hash: [u8; 32],
        lease_until: Timestamp,
    ) -> Result<Claimed, StoreError> {
        let _ = (job, secret_hash, lease_until);
        todo!()
    }

    /// Carries out a command on the current row, through `domain::state`. Fenced commands need the fence. Returns the job after it.
    ///
    /// # Errors
    /// [`StoreError::Refused`], [`StoreError::NotFound`].
    pub async fn command(&self, job: JobId, fence: Option<Fence>, command: Command) -> Result<Job, StoreError> {
        let _ = (job, fence, command);
        todo!()
    }

    /// Takes a worker's report once: metrics, checkpoints, resumption and warnings are kept at once; a `Finished` is kept with the attempt until
    /// its process is seen to end. A number already taken changes nothing. Returns the number up to which reports are durable.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with [`Refusal::Stale`].
    pub async fn report(&self, fence: Fence, seq: u64, body: ReportBody) -> Result<u64, StoreError> {
        let _ = (fence, seq, body);
        todo!()
    }

    /// Renews a lease and keeps the progress.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with [`Refusal::Stale`].
    pub async fn heartbeat(&self, beat: Beat) -> Result<(), StoreError> {
        let _ = beat;
        todo!()
    }

    /// A job by id, unique name or `@last`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`].
    pub async fn find(&self, reference: &str) -> Result<JobId, StoreError> {
        let _ = reference;
        todo!()
    }

    /// A job with its current or last attempt.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn job(&self, id: JobId) -> Result<JobDetail, StoreError> {
        let _ = id;
        todo!()
    }

    /// A job's spec.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn spec(&self, id: JobId) -> Result<JobSpec, StoreError> {
        let _ = id;
        todo!()
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn list(&self, filter: ListFilter) -> Result<Vec<JobDetail>, StoreError> {
        let _ = filter;
        todo!()
    }

    /// Jobs per state, from the counter table.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        todo!()
    }

    /// Jobs that may start at `now`, in the order in which they should: priority, then age; at most `limit`. From an index that holds only
    /// queued jobs whose time has come.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn ready(&self, now: Timestamp, limit: u32) -> Result<Vec<Ready>, StoreError> {
        let _ = (now, limit);
        todo!()
    }

    /// The earliest `not_before` in the future of the queued jobs.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn next_ready_at(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let _ = now;
        todo!()
    }

    /// The attempts of running jobs, for adoption and the reaper.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn running(&self) -> Result<Vec<(Job, Attempt)>, StoreError> {
        todo!()
    }

    /// A job's attempts, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn attempts(&self, id: JobId) -> Result<Vec<Attempt>, StoreError> {
        let _ = id;
        todo!()
    }

    /// A job's kept checkpoints with the attempt that made each, newest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn checkpoints(&self, id: JobId) -> Result<Vec<(AttemptNumber, CheckpointRef)>, StoreError> {
        let _ = id;
        todo!()
    }

    /// Forgets checkpoints whose objects were deleted.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn forget_checkpoints(&self, id: JobId, uris: Vec<String>) -> Result<(), StoreError> {
        let _ = (id, uris);
        todo!()
    }

    /// A job's learning curve, oldest first: points after `after_rowid`, each with its row id, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn metrics(
        &self,
        id: JobId,
        after_rowid: i64,
        limit: u32,
    ) -> Result<Vec<(i64, MetricPoint)>, StoreError> {
        let _ = (id, after_rowid, limit);
        todo!()
    }

    /// Events after `after`, of one job or all, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn events(&self, job: Option<JobId>, after: i64, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let _ = (job, after, limit);
        todo!()
    }

    /// Checks the hash chain, the rows against their replayed events, and SQLite's own integrity. Returns what is wrong; empty when all is well.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        todo!()
    }
}
