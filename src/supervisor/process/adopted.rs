//! A worker that an earlier daemon started: not our child, so it can be neither waited for by number nor kept from being reaped by another. Every signal goes
//! through a pidfd opened first and checked afterwards.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{self, pidfd_send_signal},
};
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::{
    cgroup::Cell,
    open_pidfd,
    procfs::{self, Member},
};
use crate::{
    domain::event::ProcessIdentity,
    supervisor::{
        executor::{Ended, Signal, Spent, Worker},
        readiness,
    },
};

/// Rounds of looking for and killing what is left of a group, and the pause between them: a second at most.
pub(super) const ROUNDS: u32 = 100;
pub(super) const PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Adopted {
    identity: ProcessIdentity,
    dir: PathBuf,
    pidfd: AsyncFd<OwnedFd>,
    /// Its cgroup, where it was put into one.
    cell: Option<Cell>,
    spent: Option<Spent>,
}

impl Adopted {
    /// The process, when it is still the one that was recorded and has not ended. Its boot id is checked by the caller.
    pub(super) fn open(identity: &ProcessIdentity, dir: &Path) -> Option<Self> {
        let pidfd = open_if(identity.pid, identity.start_ticks)?;
        let pidfd =
            readiness::readable(pidfd).inspect_err(|error| warn!(%error, "cannot watch an adopted worker")).ok()?;
        Some(Self { identity: identity.clone(), dir: dir.to_owned(), pidfd, cell: None, spent: None })
    }

    pub(super) fn in_cell(self, cell: Option<Cell>) -> Self {
        Self { cell, ..self }
    }

    fn lives(&self) -> bool {
        !has_ended(self.pidfd.get_ref())
    }
}

/// Whether the process of a pidfd has ended.
pub(super) fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// Whether a process bears a mark of the attempt in `dir`: the attempt's, or that of the folder in which its worker had waited.
pub(super) fn is_marked(pid: u32, identity: &ProcessIdentity, dir: &Path) -> bool {
    let waited = identity.ahead.as_ref().map(|ahead| Path::new(&ahead.dir));
    procfs::is_marked(pid, &[Some(dir), waited].into_iter().flatten().collect::<Vec<_>>())
}

#[async_trait]
impl Worker for Adopted {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    fn age(&self) -> Duration {
        procfs::age(procfs::begun(&self.identity))
    }

    async fn exited(&self) {
        if self.pidfd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn signal(&self, signal: Signal) {
        let signal = match signal {
            Signal::Term => process::Signal::TERM,
            Signal::Kill => process::Signal::KILL,
        };
        let others = scan(&self.identity);
        // While the leader lives nobody else can have its group's number, so whoever was found is one of its own.
        let proven = self.lives();
        let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
        for member in others {
            if proven || is_marked(member.pid, &self.identity, &self.dir) {
                send(&member, signal);
            }
        }
    }

    fn spent(&self) -> Option<Spent> {
        self.spent
    }

    async fn reap(&mut self) -> Ended {
        let mut ended = Ended::Unknown;
        if let Some(cell) = self.cell.take() {
            if cell.ran_out_of_memory() == Some(true) {
                ended = Ended::Signal { number: process::Signal::KILL.as_raw(), out_of_memory: true };
            }
            self.spent = cell.end().await;
        }
        end_remnants(&self.identity, &self.dir).await;
        ended
    }
}

/// Kills what a dead leader left behind, in its group or in groups of their own. A number alone proves nothing then: a process must carry the attempt's mark in its environment and be
/// no older than the leader.
pub(super) async fn end_remnants(identity: &ProcessIdentity, dir: &Path) {
    for _ in 0..ROUNDS {
        let mut left = younger(procfs::all(), identity);
        left.retain(|member| is_marked(member.pid, identity, dir));
        if left.is_empty() {
            return;
        }
        for member in left {
            send(&member, process::Signal::KILL);
        }
        tokio::time::sleep(PAUSE).await;
    }
    warn!(pid = identity.pid, "killed processes of a worker have not vanished yet");
}

/// The members of the group besides its leader.
fn scan(identity: &ProcessIdentity) -> Vec<Member> {
    younger(procfs::members(identity.pid), identity)
}

/// Those that the leader may have started.
fn younger(found: io::Result<Vec<Member>>, identity: &ProcessIdentity) -> Vec<Member> {
    let members = found.unwrap_or_else(|error| {
        warn!(pid = identity.pid, %error, "cannot look for the processes of a worker");
        Vec::new()
    });
    members
        .into_iter()
        .filter(|member| member.pid != identity.pid && member.stat.start_ticks >= identity.start_ticks)
        .collect()
}

/// Signals a process, if it is still the one that was found.
pub(super) fn send(member: &Member, signal: process::Signal) {
    if let Some(pidfd) = open_if(member.pid, member.stat.start_ticks)
        && let Err(error) = pidfd_send_signal(&pidfd, signal)
        && error != rustix::io::Errno::SRCH
    {
        warn!(pid = member.pid, error = %io::Error::from(error), "cannot signal a process of a worker");
    }
}

/// A pidfd of the process with this pid, if it started then and has not ended. The check follows the opening: what is open is what was checked.
fn open_if(pid: u32, start_ticks: u64) -> Option<OwnedFd> {
    let pidfd = open_pidfd(pid).ok()?;
    let stat = procfs::stat(pid).ok()?;
    (stat.start_ticks == start_ticks && !stat.ended).then_some(pidfd)
}
