//! A worker that this daemon started: its own child, which it reaps itself, and only here. Until then the kernel keeps the pid, and so the number of the
//! group and of the session that the worker begins, for it: the group can be signalled by number without meeting a stranger.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use mlctl_protocol::spec::Resources;
use rustix::{fd::OwnedFd, process};
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::{
    adopted, bounds,
    cgroup::{Cell, Cgroups},
    procfs, rustix_pid,
};
use crate::{
    domain::event::{ProcessIdentity, StartedAhead},
    supervisor::{
        executor::{Ended, Signal, Spent, Worker},
        readiness,
    },
};

/// How long to wait for killed members of a group to vanish. They cannot refuse; only a device or file system that hangs delays them.
const VANISH_LIMIT: Duration = Duration::from_secs(1);
const VANISH_STEP: Duration = Duration::from_millis(2);

pub(super) struct Child {
    identity: ProcessIdentity,
    pidfd: AsyncFd<OwnedFd>,
    child: tokio::process::Child,
    /// The attempt's folder.
    dir: PathBuf,
    reaped: bool,
    /// The kernel's count of out-of-memory kills when it started.
    memory_kills: Option<u64>,
    /// Where its attempt may have a cgroup.
    cgroups: Option<Arc<Cgroups>>,
    cell: Option<Cell>,
    /// Whether the kernel refuses its processes memory.
    is_bounded: bool,
    spent: Option<Spent>,
}

impl Child {
    pub(super) fn new(
        identity: ProcessIdentity,
        pidfd: AsyncFd<OwnedFd>,
        (child, dir): (tokio::process::Child, PathBuf),
        memory_kills: Option<u64>,
    ) -> Self {
        Self {
            identity,
            pidfd,
            child,
            dir,
            reaped: false,
            memory_kills,
            cgroups: None,
            cell: None,
            is_bounded: false,
            spent: None,
        }
    }

    pub(super) fn in_cgroups(self, cgroups: Option<Arc<Cgroups>>) -> Self {
        Self { cgroups, ..self }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on a process that has waited has a job.
    pub(super) fn engage(&mut self) -> ProcessIdentity {
        let dir = self.dir.to_string_lossy().into_owned();
        self.identity.ahead = Some(StartedAhead { dir, begun_ticks: procfs::ticks_now() });
        self.identity.clone()
    }

    /// Its folder has become the attempt's.
    pub(super) fn settle(&mut self, dir: PathBuf, memory_kills: Option<u64>) {
        self.dir = dir;
        self.memory_kills = memory_kills;
    }

    /// Whether it has not ended.
    pub(super) fn lives(&self) -> bool {
        !adopted::has_ended(self.pidfd.get_ref())
    }

    /// Becomes readable when it has ended, also after another has taken it over.
    pub(super) fn watched(&self) -> Option<AsyncFd<OwnedFd>> {
        readiness::readable(self.pidfd.get_ref().try_clone().ok()?).ok()
    }

    /// Kills and reaps it.
    pub(super) async fn end(&mut self) {
        self.signal(Signal::Kill);
        self.exited().await;
        self.reap().await;
    }

    fn signal_group(&self, signal: process::Signal) {
        if self.reaped {
            return;
        }
        let is_gone = |error: &std::io::Error| error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
        let mut sent = rustix_pid(self.identity.pid).and_then(|pid| Ok(process::kill_process_group(pid, signal)?));
        // A worker that begins its session is in no group of its own for a moment, and has started nobody yet.
        if sent.as_ref().is_err_and(is_gone) {
            sent = process::pidfd_send_signal(self.pidfd.get_ref(), signal).map_err(Into::into);
        }
        if let Err(error) = sent
            && !is_gone(&error)
        {
            warn!(pid = self.identity.pid, %error, "cannot signal a worker's process group");
        }
    }

    /// Waits until the killed members of the group have ended; to reap them is up to whoever inherited them. Signal 0 only asks: should the number have a new
    /// owner by now, nothing happens to it.
    async fn group_vanished(&self) {
        let Ok(pid) = rustix_pid(self.identity.pid) else { return };
        let is_left = || {
            process::test_kill_process_group(pid).is_ok()
                && procfs::members(self.identity.pid).is_ok_and(|members| !members.is_empty())
        };
        let gone = async {
            while is_left() {
                tokio::time::sleep(VANISH_STEP).await;
            }
        };
        if tokio::time::timeout(VANISH_LIMIT, gone).await.is_err() {
            warn!(pid = self.identity.pid, "killed members of a worker's process group have not vanished yet");
        }
    }

    /// How it ended; whether the kernel killed for memory in its cgroup, where it has one that counts.
    fn ended(&self, status: std::process::ExitStatus, in_here: Option<bool>) -> Ended {
        use std::os::unix::process::ExitStatusExt as _;
        match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, Some(number)) => {
                let somewhere = || match (self.memory_kills, procfs::memory_kills()) {
                    (Some(before), Some(after)) => after > before,
                    _ => false,
                };
                let out_of_memory = if number == process::Signal::ABORT.as_raw() {
                    self.is_bounded && bounds::was_refused(&self.dir)
                } else {
                    in_here.unwrap_or_else(somewhere)
                };
                Ended::Signal { number, out_of_memory }
            }
            (None, None) => Ended::Unknown,
        }
    }
}

#[async_trait]
impl Worker for Child {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    fn age(&self) -> Duration {
        procfs::age(procfs::begun(&self.identity))
    }

    fn confine(&mut self, resources: &Resources) {
        let cgroups = self.cgroups.as_ref();
        self.cell = cgroups.and_then(|cgroups| cgroups.confine(&self.dir, self.identity.pid, resources));
        let is_counted = self.cell.is_some() && cgroups.is_some_and(|cgroups| cgroups.bounds_memory());
        self.is_bounded = !is_counted && bounds::bound(self.identity.pid, resources);
    }

    fn spent(&self) -> Option<Spent> {
        self.spent
    }

    async fn exited(&self) {
        // An error means that the runtime is shutting down: nobody waits for the answer any more.
        if self.pidfd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn signal(&self, signal: Signal) {
        self.signal_group(match signal {
            Signal::Term => process::Signal::TERM,
            Signal::Kill => process::Signal::KILL,
        });
    }

    async fn reap(&mut self) -> Ended {
        // Before the zombie is reaped: after that the group's number may be anyone's.
        self.signal_group(process::Signal::KILL);
        let status = self.child.wait().await;
        self.reaped = true;
        self.group_vanished().await;
        let mut in_here = None;
        if let Some(cell) = self.cell.take() {
            in_here = cell.ran_out_of_memory();
            self.spent = cell.end().await;
        }
        let ended = status.map_or(Ended::Unknown, |status| self.ended(status, in_here));
        if !matches!(ended, Ended::Code(_)) {
            // It could not clear up after itself: what it had started may have left its group.
            adopted::end_remnants(&self.identity, &self.dir).await;
        }
        ended
    }
}
