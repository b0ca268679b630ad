//! The seam under which a worker is a process: start one, find one again, wait for its end, signal it. Called by the attempts; implemented by
//! `process` (this machine). Nothing above it may hold a pid, open `/proc` or assume that the worker runs on this host.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use async_trait::async_trait;
use mlctl_protocol::{
    launch::Launch,
    spec::{CommandSpec, Resources},
};

use crate::domain::event::ProcessIdentity;

/// Starts workers, and finds those that an earlier daemon started.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Starts a process of the kit in `launch.attempt_dir`, which is made anew, and hands `launch` over to it.
    /// The worker does no work before it gets its `Start` over the workers' socket.
    ///
    /// # Errors
    /// [`StartError`]: no process is left behind.
    async fn start(&self, kit: &Kit, launch: &Launch) -> Result<Box<dyn Worker>, StartError>;

    /// Starts a process of the kit in `dir`, which is made anew, that waits to be told its job. `None` where workers are not started ahead.
    ///
    /// # Errors
    /// [`StartError`]: no process is left behind.
    async fn start_ahead(&self, _kit: &Kit, _dir: &Path) -> Result<Option<Box<dyn Spare>>, StartError> {
        Ok(None)
    }

    /// Finds the worker that an earlier daemon recorded. When it is dead, what is left of its process group is ended first.
    async fn find(&self, identity: &ProcessIdentity, launch_dir: &Path) -> Found;

    /// Ends what is left of attempts that nobody knows: whose worker, with its attempt's folder, is not among `known`. Before any worker is started. Returns how many processes there were.
    async fn end_strays(&self, _known: &[(ProcessIdentity, PathBuf)]) -> usize {
        0
    }

    /// Whether a process of this machine belongs to an attempt, of this daemon or an earlier one. Blocks for as long as it takes to read a small file.
    fn is_ours(&self, pid: u32) -> bool;

    /// Whether a process of this machine is a worker, whose attempt is in `dir`, or was started by it. Blocks as [`is_ours`](Self::is_ours).
    fn is_of(&self, pid: u32, worker: &ProcessIdentity, dir: &Path) -> bool;
}

/// What makes one process fit for a job as well as another: all that cannot be changed once it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kit {
    /// Its program.
    pub program: Program,
    /// Threads of arithmetic.
    pub threads: u32,
    /// Its GPUs by UUID, and none besides. `None` where the daemon gives no GPUs away, and so keeps none from anybody.
    pub gpus: Option<Vec<String>>,
}

/// A process that waits to be told its job. It ends by itself when the daemon does, or when this is dropped.
#[async_trait]
pub trait Spare: Send + Sync {
    /// Which process it is, from now on the worker of an attempt: its age counts from here. `None` when it can no longer be that.
    fn engage(&mut self) -> Option<ProcessIdentity>;

    /// Makes its folder the attempt's and hands `launch` over to it.
    ///
    /// # Errors
    /// [`StartError`]: no process is left behind.
    async fn hand_over(self: Box<Self>, launch: &Launch) -> Result<Box<dyn Worker>, StartError>;

    /// Whether it has not ended.
    fn lives(&self) -> bool;

    /// Returns once it has ended, whoever has it by then. `None` where that cannot be told.
    fn gone(&self) -> Option<Gone>;

    /// Ends it. Afterwards nothing of it is left.
    async fn end(self: Box<Self>);
}

/// The end of a process.
pub type Gone = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Which program plays the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The one that trains and predicts.
    Worker,
    /// The one that runs a command.
    Command,
}

impl Program {
    /// The one for jobs of a kind.
    #[must_use]
    pub fn of(kind: &str) -> Self {
        if kind == CommandSpec::KIND { Self::Command } else { Self::Worker }
    }
}

/// The workers' programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// [`Program::Worker`].
    pub worker: PathBuf,
    /// [`Program::Command`].
    pub command: PathBuf,
    /// [`Program::Worker`] for a job with a GPU, by the UUID of its first one; that of others has none of its own.
    pub by_gpu: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// Where that of a kit is.
    #[must_use]
    pub fn path(&self, kit: &Kit) -> &Path {
        match kit.program {
            Program::Worker => {
                let first = kit.gpus.as_ref().and_then(|gpus| gpus.first());
                first.and_then(|uuid| self.by_gpu.get(uuid)).unwrap_or(&self.worker)
            }
            Program::Command => &self.command,
        }
    }
}

/// What became of a worker that an earlier daemon started.
pub enum Found {
    /// It lives.
    Alive(Box<dyn Worker>),
    /// It is proven dead, and nothing of its process group is left.
    Dead,
    /// It was started on another host: nothing can be proven from here, only waited for.
    Elsewhere,
}

/// A worker that is, or was, alive. Dropping it neither ends nor harms it.
#[async_trait]
pub trait Worker: Send + Sync {
    /// What proves which process it is.
    fn identity(&self) -> &ProcessIdentity;

    /// How long ago its main process was started, by a clock that nobody sets.
    fn age(&self) -> Duration;

    /// Waits until its main process has ended. May be dropped and called again.
    async fn exited(&self);

    /// Puts it where what it uses is bounded and counted and nothing of it escapes its end, where that is to be had. Before it is told what to do.
    fn confine(&mut self, _resources: &Resources) {}

    /// What it has used up in all, once it was reaped, where that was counted.
    fn spent(&self) -> Option<Spent> {
        None
    }

    /// Signals its whole process group; nothing happens when it is gone.
    fn signal(&self, signal: Signal);

    /// To be called after [`exited`](Self::exited): ends what is left of its process group and says how the main process ended. Afterwards nothing
    /// of the worker is left, no zombie either.
    async fn reap(&mut self) -> Ended;
}

/// What an attempt has used up, as the kernel counted it: all that it had started included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Milliseconds of processors.
    pub cpu_ms: u64,
    /// The most memory at once, in bytes, what the kernel kept of its files included; where that was counted.
    pub peak_bytes: Option<u64>,
}

/// A signal to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Please end (SIGTERM).
    Term,
    /// End (SIGKILL).
    Kill,
}

/// How a worker's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Which.
        number: i32,
        /// Whether the kernel's out-of-memory killer struck while it ran.
        out_of_memory: bool,
    },
    /// Nobody could see: it was another daemon's child.
    Unknown,
}

/// Why no worker was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The attempt's folder or its log files could not be made.
    #[error("make {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The worker's program could not be executed.
    #[error("execute {command}")]
    Command {
        /// The program.
        command: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process died before it could be identified and told what to do.
    #[error("hand the launch over to the worker")]
    HandOver(#[source] io::Error),
}
