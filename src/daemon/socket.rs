//! Unix sockets to listen on. Called under the state directory's lock, with the umask set, so that there is no moment at which a stranger could connect.

use std::{
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::net::UnixListener;

/// The longest path of a socket, in bytes: the kernel's limit less the zero at its end.
const MAX_PATH_BYTES: usize = 107;

/// How long a socket may answer that a daemon which is gone has left: a worker that it was just starting has it until it has become its program, which is when the lock is free too.
const LEFT_LIMIT: Duration = Duration::from_millis(100);
const LEFT_STEP: Duration = Duration::from_millis(5);

/// Why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Someone listens there.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Something else than a socket is there.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The kernel takes no path as long as this.
    #[error("the path of the socket {} is longer than {MAX_PATH_BYTES} bytes", .0.display())]
    TooLong(PathBuf),
    /// The folder or the socket could not be made.
    #[error("listen on {}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A socket that is removed from its folder when dropped.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
}

impl Drop for Bound {
    fn drop(&mut self) {
        // It may be gone with its folder; nobody is left to care.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who may connect to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The daemon's own user, and root.
    Owner,
    /// The daemon's group as well.
    Group,
}

/// Listens at `path`. A socket that a dead daemon left there is removed first.
///
/// # Errors
/// [`SocketError`].
pub fn listen(path: &Path, audience: Audience) -> Result<(UnixListener, Bound), SocketError> {
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    let failed = |source| SocketError::Failed { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {
            let patience = Instant::now() + LEFT_LIMIT;
            while UnixStream::connect(path).is_ok() {
                if Instant::now() >= patience {
                    return Err(SocketError::InUse(path.to_owned()));
                }
                std::thread::sleep(LEFT_STEP);
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    if audience == Audience::Group {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    }
    Ok((listener, Bound { path: path.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_gives_way_and_a_live_one_or_a_file_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/mld.sock");
        let (listener, bound) = listen(&path, Audience::Owner).unwrap();
        assert!(matches!(listen(&path, Audience::Owner), Err(SocketError::InUse(_))));
        drop(listener);
        let (_second, second_bound) = listen(&path, Audience::Owner).expect("nobody listens at it any more");
        std::mem::forget(bound);
        drop(second_bound);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path, Audience::Owner), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        assert!(matches!(listen(&dir.path().join("x".repeat(108)), Audience::Owner), Err(SocketError::TooLong(_))));
        assert!(matches!(listen(Path::new("/proc/none/mld.sock"), Audience::Owner), Err(SocketError::Failed { .. })));
    }
    #[tokio::test]
    async fn the_group_is_let_in_when_it_should_be() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let shared = dir.path().join("shared.sock");
        let _shared = listen(&shared, Audience::Group).unwrap();
        assert_eq!(mode(&shared), 0o660);
    }
}
