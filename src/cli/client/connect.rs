//! Finding the daemon: the first socket at which someone answers.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use crate::cli::{Failure, exit::Exit};

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The first wait for a socket whose queue of connections is full; each later one is twice as long.
const CROWDED_WAIT: Duration = Duration::from_millis(1);
const CROWDED_WAIT_MOST: Duration = Duration::from_millis(50);

/// A connection to whoever answers first, and the task that drives it.
///
/// # Errors
/// Nobody answers: says where it was tried, why there was no answer, and what starts a daemon.
pub(super) async fn connect(sockets: &[PathBuf], starter: &str) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let mut why = Vec::new();
    for socket in sockets {
        let opened = match timeout(CONNECT_LIMIT, open(socket)).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "too many wait there already")),
        };
        let reason = match opened {
            Ok(stream) => match http1::handshake(TokioIo::new(stream)).await {
                Ok((sender, connection)) => {
                    // Its end is seen by whoever waits for the answer.
                    tokio::spawn(connection);
                    return Ok(sender);
                }
                Err(error) => error.to_string(),
            },
            Err(error) => reason(&error),
        };
        why.push(format!("no daemon answers at {}: {reason}", socket.display()));
    }
    if why.is_empty() {
        why.push("there is no place where a daemon could be: neither XDG_RUNTIME_DIR nor HOME is set".into());
    }
    Err(Failure { why, ..Failure::new(Exit::Unreachable, "").hint(starter) })
}

/// A socket whose queue is full refuses at once instead of making one wait.
async fn open(socket: &PathBuf) -> io::Result<UnixStream> {
    let mut wait = CROWDED_WAIT;
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(wait).await;
                wait = (wait * 2).min(CROWDED_WAIT_MOST);
            }
            opened => return opened,
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket".into(),
        io::ErrorKind::ConnectionRefused => "nobody listens there any more".into(),
        io::ErrorKind::PermissionDenied => "this user may not use it".into(),
        _ => error.to_string(),
    }
}
