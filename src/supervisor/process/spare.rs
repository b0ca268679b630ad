//! A process that waits to be told its job: started like any worker, in a folder of its own that becomes the attempt's. Its output goes to the log files in there, which move with it; so does the
//! folder it works in. Called by [`LocalProcesses`](super::LocalProcesses).

use std::{
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use mlctl_protocol::launch::Launch;
use tokio::process::ChildStdin;

use super::{child::Child, procfs, tell};
use crate::{
    domain::event::ProcessIdentity,
    supervisor::executor::{Gone, Spare, StartError, Worker},
};

/// What tells a program from the one that is put in its place: device, inode, size, time of the last change.
type Build = (u64, u64, u64, i64, i64);

/// The program as it is now; `None` where that cannot be seen.
pub(super) fn build(program: &Path) -> Option<Build> {
    let found = std::fs::metadata(program).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

pub(super) struct Waiting {
    child: Child,
    /// It reads the end of the file when the daemon goes, and ends.
    stdin: Option<ChildStdin>,
    program: PathBuf,
    build: Option<Build>,
    dir: PathBuf,
}

impl Waiting {
    pub(super) fn new(child: Child, stdin: Option<ChildStdin>, program: PathBuf, build: Option<Build>) -> Self {
        let dir = child.dir().to_owned();
        Self { child, stdin, program, build, dir }
    }
}

#[async_trait]
impl Spare for Waiting {
    fn engage(&mut self) -> Option<ProcessIdentity> {
        // A program that was replaced meanwhile runs the next job as it is now.
        if !self.child.lives() || self.build.is_none() || build(&self.program) != self.build {
            return None;
        }
        Some(self.child.engage())
    }

    async fn hand_over(self: Box<Self>, launch: &Launch) -> Result<Box<dyn Worker>, StartError> {
        let Self { mut child, stdin, dir, .. } = *self;
        let to = &launch.attempt_dir;
        if let Err(source) = move_folder(&dir, to) {
            child.end().await;
            return Err(StartError::Folder { path: to.clone(), source });
        }
        child.settle(to.clone(), procfs::memory_kills());
        tell(child, stdin, launch).await
    }

    fn lives(&self) -> bool {
        self.child.lives()
    }

    fn gone(&self) -> Option<Gone> {
        let pidfd = self.child.watched()?;
        Some(Box::pin(async move {
            // An error means that the runtime is shutting down.
            let _ = pidfd.readable().await;
        }))
    }

    async fn end(self: Box<Self>) {
        let Self { mut child, dir, .. } = *self;
        child.end().await;
        // What is left of it is cleared away with the others when the daemon is started again.
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// An attempt's number is never used twice: what is there was left by another database.
fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            std::fs::remove_dir_all(to)?;
            std::fs::rename(from, to)
        }
        moved => moved,
    }
}
