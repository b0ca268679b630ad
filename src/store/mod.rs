//! The only SQL. One writer task with group commit, a pool of read-only connections. Called by every room that keeps or reads jobs; knows no
//! process and no policy: which transition is legal is asked of `domain::state` inside the transaction.
//!
//! This file, `arrays`, `offline`, `removal`, `scan` and `schedules` are the room's whole surface. Writes answer only after COMMIT and a sync: an answer is a promise.

mod aliases;
mod arrays;
mod ask;
mod batch;
mod chain;
mod check;
mod datasets;
mod deadlines;
mod dependencies;
mod devices;
mod error;
mod flush;
mod gates;
mod halving;
mod head;
mod held;
mod hooks;
mod kept;
mod ledger;
mod list;
mod load;
mod members;
mod models;
mod news;
pub mod offline;
mod open;
mod queues;
mod read;
mod removal;
mod reserve;
mod retrain;
mod roots;
mod rows;
mod scan;
mod schedules;
mod seals;
mod sync;
#[cfg(test)]
mod tests;
mod timers;
mod types;
mod unit;
mod usage;
mod wal;
mod writer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, JobId, JobSpec, message::ReportBody, progress::MetricPoint, result::CheckpointRef,
};
use sqlx::SqlitePool;
use tokio::sync::{RwLock, mpsc, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    aliases::{AliasMove, NewMove},
    datasets::{DatasetRow, DatasetVersion, NewDataset},
    error::StoreError,
    kept::{KeptCheckpoint, NeededBy},
    models::{ModelRow, ModelVersion, NewVersion},
    news::news,
    queues::{MAX_QUEUES, Queues},
    roots::StoredRoots,
    types::{
        Array, ArrayFilter, Attempt, Awaited, Beat, Claimed, Finished, InLine, Instance, JobDetail, ListFilter, Listed,
        MemberFilter, MissedTick, NewArray, NewAttempt, NewJob, NewSchedule, QueueRow, Ready, Running, Schedule,
        ScheduleChange, Sift, StoredEvent, Submitted, TickRow, Used, Waiter,
    },
};
use self::{
    ask::{Ask, Prepared, Reply},
    reserve::Reserve,
    sync::{Broken, Syncer},
    writer::Writer,
};
use crate::domain::{Clock, Command, Fence, Job, Uid};

/// The version of SQLite in use, such as `3.51.3`.
#[must_use]
pub fn sqlite_version() -> String {
    libsqlite3_sys::SQLITE_VERSION.to_string_lossy().into_owned()
}

/// Commands that may wait for the writer; who comes later waits for room.
const QUEUE: usize = 4096;

/// The database. Cheap to clone. When the last one is dropped, the writer finishes what is queued and closes; [`Store::close`] waits for that.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    instance: Instance,
    asks: mpsc::Sender<Ask>,
    readers: SqlitePool,
    changes: watch::Receiver<i64>,
    schedule_changes: watch::Receiver<u64>,
    deadline_changes: watch::Receiver<u64>,
    replacements: watch::Receiver<u64>,
    queues: watch::Receiver<Arc<Queues>>,
    is_full: Arc<AtomicBool>,
    /// Held by who takes schedules' turns by what it read before.
    turns: RwLock<()>,
    stop: CancellationToken,
    _stop: DropGuard,
    tasks: TaskTracker,
}

impl Store {
    /// Opens or makes the database at `path`, checks SQLite's version, the schema and the event head, and starts the writer.
    /// `entropy` fills bytes at random, for a new database's id.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] or [`StoreError::Failed`].
    pub async fn open(path: &Path, clock: Arc<dyn Clock>, entropy: fn(&mut [u8])) -> Result<Self, StoreError> {
        Self::open_with(path, clock, entropy, 0).await
    }

    /// The same, with so many bytes of the disk kept for what must be put on record when it is full: how running jobs end. New work is refused where they cannot be kept.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        path: &Path,
        clock: Arc<dyn Clock>,
        entropy: fn(&mut [u8]),
        reserve_bytes: u64,
    ) -> Result<Self, StoreError> {
        let opened = open::open(path, writer::microseconds(clock.now()), entropy).await?;
        let (asks, waiting) = mpsc::channel(QUEUE);
        let (changed, changes) = watch::channel(opened.ledger.last_event);
        let (schedules_changed, schedule_changes) = watch::channel(0);
        let (deadlines_changed, deadline_changes) = watch::channel(0);
        let (replaced, replacements) = watch::channel(0);
        let (queues_changed, queues) = watch::channel(opened.queues);
        let (stop, tasks, log) = (CancellationToken::new(), TaskTracker::new(), Arc::new(wal::Log::default()));
        let (committed, waiting_for_sync) = mpsc::channel(sync::WAITING);
        let (broken, is_full) = (Broken::default(), Arc::new(AtomicBool::new(false)));
        let reserve = Reserve::open(path, reserve_bytes, is_full.clone())?;
        let syncer = Syncer {
            log: opened.log,
            head: opened.head,
            committed: waiting_for_sync,
            changes: changed,
            broken: broken.clone(),
        };
        let writer = Writer {
            conn: opened.writer,
            ledger: opened.ledger,
            clock,
            asks: waiting,
            committed,
            syncer: tasks.spawn_blocking(move || syncer.run()),
            schedule_changes: schedules_changed,
            deadline_changes: deadlines_changed,
            replacements: replaced,
            queues: queues_changed,
            moved_deadlines: false,
            replaced: false,
            backlog: writer::Backlog::Some,
            log: log.clone(),
            reserve,
            broken,
        };
        tasks.spawn(writer.run(stop.clone()));
        tasks.spawn(wal::run(opened.checkpointer, log, stop.clone()));
        tasks.close();
        let inner = Inner {
            path: path.to_owned(),
            instance: opened.instance,
            asks,
            readers: opened.readers,
            changes,
            schedule_changes,
            deadline_changes,
            replacements,
            queues,
            is_full,
            turns: RwLock::new(()),
            stop: stop.clone(),
            _stop: stop.drop_guard(),
            tasks,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The database's identity.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.inner.instance
    }

    /// Whether the disk was full when something was last written: then new work is refused and nothing is started.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.inner.is_full.load(Ordering::Relaxed)
    }

    /// Stops taking writes, commits what is queued, closes.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.readers.close().await;
        self.inner.tasks.wait().await;
    }

    /// The id of the newest committed event: changes wake whoever waits.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.inner.changes.clone()
    }

    /// Grows when jobs that run are to end since others replace them: wakes who tells them.
    #[must_use]
    pub fn replacements(&self) -> watch::Receiver<u64> {
        self.inner.replacements.clone()
    }

    /// Waits until all that was read before is durable.
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Stopping`].
    pub async fn settled(&self) -> Result<(), StoreError> {
        self.ask(|reply| Ask::Settle { reply }).await
    }

    /// Keeps a job.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`], [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn submit(&self, new: NewJob) -> Result<Submitted, StoreError> {
        Ok(self.submit_and_show(new).await?.0)
    }

    /// The same, with the job as it was kept; none where that must be read: it was there before, is held, waits for others, or has a gate.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn submit_and_show(&self, new: NewJob) -> Result<(Submitted, Option<JobDetail>), StoreError> {
        let job = Box::new(Prepared::new(new)?);
        let (submitted, kept) = self.ask(|reply| Ask::Submit { job, reply }).await?;
        let shown = kept.map(|job| JobDetail { job: *job, attempt: None, metrics: BTreeMap::new(), is_gated: false });
        Ok((submitted, shown))
    }

    /// The job that an idempotency key of a user stands for, if it was `asked` for the same.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`], [`StoreError::Failed`].
    pub async fn keyed(&self, user: Uid, key: &str, asked: &blake3::Hash) -> Result<Option<JobId>, StoreError> {
        let Some((job, known)) = read::keyed(&self.inner.readers, user, key).await? else { return Ok(None) };
        // Who is told that the job is there takes that for a promise.
        self.settled().await?;
        if known == asked.to_hex().as_str() {
            return Ok(Some(job));
        }
        Err(StoreError::KeyConflict { key: key.to_owned(), job })
    }

    /// Starts an attempt of a queued job, which has these GPUs by their UUIDs: draws a token, counts the attempt, keeps the secret's hash and the lease.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the job is no longer queued.
    pub async fn claim(
        &self,
        job: JobId,
        gpus: Vec<String>,
        secret_hash: [u8; 32],
        lease_until: Timestamp,
    ) -> Result<Claimed, StoreError> {
        self.claim_with(job, NewAttempt { gpus, secret_hash, lease_until, process: None }).await
    }

    /// The same; the attempt's process, where it runs already, is put on record at once.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn claim_with(&self, job: JobId, attempt: NewAttempt) -> Result<Claimed, StoreError> {
        let claim = self.ask(|reply| Ask::Claim { job, attempt, reply }).await?;
        Ok(claim.read()?)
    }

    /// Carries out a command on the current row, through `domain::state`. Fenced commands need the fence. Returns the job after it.
    ///
    /// # Errors
    /// [`StoreError::Refused`], [`StoreError::NotFound`].
    pub async fn command(&self, job: JobId, fence: Option<Fence>, command: Command) -> Result<Job, StoreError> {
        let command = Box::new(command);
        Ok(*self.ask(|reply| Ask::Command { job, fence, command, reply }).await?)
    }

    /// Takes a worker's report once: metrics, checkpoints, resumption and warnings are kept at once; a `Finished` is kept with the attempt until
    /// its process is seen to end. A number already taken changes nothing. Returns the number up to which reports are durable.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with [`Refusal::Stale`](crate::domain::Refusal::Stale).
    pub async fn report(&self, fence: Fence, seq: u64, body: ReportBody) -> Result<u64, StoreError> {
        let body = Box::new(body);
        self.ask(|reply| Ask::Report { fence, seq, body, reply }).await
    }

    /// Renews a lease and keeps the progress.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with [`Refusal::Stale`](crate::domain::Refusal::Stale).
    pub async fn heartbeat(&self, beat: Beat) -> Result<(), StoreError> {
        let beat = Box::new(beat);
        self.ask(|reply| Ask::Beat { beat, reply }).await
    }

    /// A job by id, by its place in an array such as `17.3`, by unique name, or `@last`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], [`StoreError::IsArray`] for what is no job.
    pub async fn find(&self, reference: &str) -> Result<JobId, StoreError> {
        match read::find(&self.inner.readers, reference).await? {
            read::Found::Job(id) => Ok(id),
            read::Found::Array(id) => {
                let array = self.array(id).await?;
                Err(StoreError::IsArray { id, name: array.name, size: array.size })
            }
        }
    }

    /// A job with its current or last attempt.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn job(&self, id: JobId) -> Result<JobDetail, StoreError> {
        read::job(&self.inner.readers, id).await
    }

    /// A job's spec.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn spec(&self, id: JobId) -> Result<JobSpec, StoreError> {
        read::spec(&self.inner.readers, id).await
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn list(&self, filter: ListFilter) -> Result<Listed, StoreError> {
        list::list(&self.inner.readers, &filter).await
    }

    /// Jobs per state, from the counter table.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        read::counts(&self.inner.readers).await
    }

    /// Jobs that wait, for their turn, for others or for a person: those of which the settings allow so many.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn waiting(&self) -> Result<u64, StoreError> {
        let counts = self.counts().await?;
        Ok(counts
            .iter()
            .filter(|(state, _)| matches!(state.as_str(), "queued" | "blocked" | "held"))
            .map(|(_, jobs)| jobs)
            .sum())
    }

    /// Jobs that may start at `now`, in the order in which they should (see [`Ready::rank`]): of each class, which is a queue, a user and what is needed, the first `limit`. From an
    /// index that holds only queued jobs whose time has come.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn ready(&self, now: Timestamp, limit: u32) -> Result<Vec<Ready>, StoreError> {
        Ok(self.look(now, limit).await?.ready)
    }

    /// The same, with all else that the scheduler looks at.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn look(&self, now: Timestamp, limit: u32) -> Result<InLine, StoreError> {
        let mut look = read::look(&self.inner.readers, now, limit).await?;
        // Of those that replace others some at a time.
        while look.is_overdue {
            self.ask(|reply| Ask::Promote { now, reply }).await?;
            look = read::look(&self.inner.readers, now, limit).await?;
        }
        let read::Look { running, ready, next_ready_at, .. } = look;
        Ok(InLine { running, ready, next_ready_at })
    }

    /// The jobs that have a place at a job's gate: at most `limit` of them; none where it has no gate.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn through_gate(&self, job: &Job, limit: u32) -> Result<Vec<JobId>, StoreError> {
        match &job.gate {
            Some(gate) => gates::through(&self.inner.readers, job.user, &gate.key, limit).await,
            None => Ok(Vec::new()),
        }
    }

    /// The earliest `not_before` in the future of the queued jobs.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn next_ready_at(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        Ok(read::look(&self.inner.readers, now, 0).await?.next_ready_at)
    }

    /// The attempts of running jobs, for adoption and the reaper.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn running(&self) -> Result<Vec<(Job, Attempt)>, StoreError> {
        read::running(&self.inner.readers).await
    }

    /// What the running jobs occupy, and until when.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn occupants(&self) -> Result<Vec<Running>, StoreError> {
        read::occupants(&self.inner.readers).await
    }

    /// A job's attempts, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn attempts(&self, id: JobId) -> Result<Vec<Attempt>, StoreError> {
        read::attempts(&self.inner.readers, id).await
    }

    /// A job's kept checkpoints with the attempt that made each, newest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn checkpoints(&self, id: JobId) -> Result<Vec<(AttemptNumber, CheckpointRef)>, StoreError> {
        read::checkpoints(&self.inner.readers, id).await
    }

    /// Forgets checkpoints whose objects are to be deleted, but for the newest and those that are needed for something else. Returns those that are forgotten.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn forget_checkpoints(&self, id: JobId, uris: Vec<String>) -> Result<Vec<String>, StoreError> {
        self.ask(|reply| Ask::Forget { job: id, uris, reply }).await
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
        read::metrics(&self.inner.readers, id, after_rowid, limit).await
    }

    /// Events after `after`, of one job or all, oldest first, at most `limit`. Of a removed job there is the event that says so, until the log's beginning is cut off.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn events(&self, job: Option<JobId>, after: i64, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        read::events(&self.inner.readers, job, after, limit).await
    }

    /// Checks the hash chain, the rows against their replayed events, and SQLite's own integrity. Returns what is wrong; empty when all is well.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        check::check(&self.inner.readers).await
    }

    /// Writes a consistent copy of the database to a file that is not there yet, beside the work that goes on. All that is in it is durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Failed`]; what was written by then is there.
    pub async fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        offline::copy(&self.inner.path, to).await?;
        self.settled().await
    }

    /// Hands a command to the writer and waits until it is durable. Who stops waiting does not take the command back.
    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, StoreError> {
        let (reply, answer) = Reply::new();
        self.inner.asks.send(ask(reply)).await.map_err(|_| StoreError::Stopping)?;
        answer.await.map_err(|_| StoreError::Stopping)?
    }
}
