//! What can go wrong between a worker and its daemon, by what the worker can do about it.

use std::{io, path::PathBuf};

use crate::frame::FrameError;

/// A failure of the link. Losing the connection is none: the link redials by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The hand-over on standard input is missing or not understood. The process was not started by a daemon of this version.
    #[error("the launch hand-over on standard input cannot be used: {0}")]
    Launch(String),
    /// No daemon answered the first dial in time.
    #[error("no daemon answers on {}", socket.display())]
    Unreachable {
        /// The workers' socket.
        socket: PathBuf,
        /// What the last try met.
        #[source]
        source: FrameError,
    },
    /// The daemon says that this attempt is not valid: end at once and commit nothing.
    #[error("the daemon refused this attempt: {0}")]
    Refused(String),
    /// The process was asked to end before it had been given work.
    #[error("the worker was asked to end before it had been given work")]
    Terminated,
    /// A report that can never be sent.
    #[error("a report of {size} bytes does not fit into a frame")]
    ReportTooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// The worker has been told to end and goes on reporting to a daemon that does not take it.
    #[error("the daemon takes no more reports")]
    OutboxFull,
    /// The link has ended; nothing can be sent any more.
    #[error("the link to the daemon has ended")]
    Closed,
    /// The result file could not be written. The exit code is all the daemon will see.
    #[error("cannot write {}", path.display())]
    ResultFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The handler of SIGTERM could not be installed.
    #[error("cannot install the handler of SIGTERM")]
    Signal(#[source] io::Error),
}
