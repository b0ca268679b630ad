//! Kernel descriptors that become readable when something has happened: a process has ended (pidfd), a file has grown (inotify). Called by `process` and `logs`.

use std::io;

use rustix::fd::OwnedFd;
use tokio::io::{Interest, unix::AsyncFd};

/// Has the runtime watch a descriptor for being readable.
#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types that lend out descriptors; an OwnedFd owns its own and closes it once"
)]
pub(super) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
