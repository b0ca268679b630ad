//! Workers as processes of this machine: the only place that knows a pid. Called through the executor seam. A signal goes to a process only while it
//! is proven to be the one meant: by a pidfd whose start time was checked, or to a group whose leader is our own child and not yet reaped, so
//! that the kernel cannot have given its number away.

mod adopted;
mod bounds;
mod cgroup;
mod child;
mod errand;
mod procfs;
mod spare;
mod strays;
#[cfg(test)]
mod tests;

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use async_trait::async_trait;
use mlctl_protocol::launch::{self, Launch};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncWriteExt as _, unix::AsyncFd};

pub use self::{
    cgroup::Cgroups,
    errand::{Errand, Ran, run},
};
use super::{
    executor::{Executor, Found, Kit, Programs, Spare, StartError, Worker},
    logs::Stream,
    readiness,
};
use crate::domain::event::ProcessIdentity;

/// What a worker may see of the daemon's environment besides what a program that it runs may: its own settings, by the beginning of the name, and how it tells of a bug.
const OWN_PREFIX: &str = "MLWORKER_";
const BACKTRACE: &str = "RUST_BACKTRACE";

/// Freed memory stays with the worker: handing every tensor's pages back to the kernel and faulting them in again costs three quarters of a small
/// model's training time.
const KEEP_MEMORY_BYTES: &str = "4294967296";

/// Workers on this machine.
pub struct LocalProcesses {
    programs: Programs,
    environment: Vec<(OsString, OsString)>,
    attempts_dir: PathBuf,
    host: String,
    boot_id: String,
    cgroups: Option<Arc<Cgroups>>,
}

impl LocalProcesses {
    /// Workers that run these programs in folders under `attempts_dir`, and see of `environment`, the daemon's own, what they may.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn new(
        programs: Programs,
        attempts_dir: PathBuf,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Self> {
        let environment = environment.into_iter().filter(|(name, _)| is_passed_on(name)).collect();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { programs, environment, attempts_dir, host, boot_id: procfs::boot_id()?, cgroups: None })
    }

    /// With a cgroup for each attempt.
    #[must_use]
    pub fn in_cgroups(self, cgroups: Option<Arc<Cgroups>>) -> Self {
        Self { cgroups, ..self }
    }

    /// A process of the kit in `dir`, which is made anew and is its mark.
    fn command(&self, kit: &Kit, dir: &Path) -> Result<tokio::process::Command, StartError> {
        let folder = |path: &Path| {
            let path = path.to_owned();
            |source| StartError::Folder { path, source }
        };
        make_fresh(dir).map_err(folder(dir))?;
        let log = |stream: Stream| {
            let path = stream.path(dir);
            open_log(&path).map_err(folder(&path))
        };
        let threads = kit.threads.to_string();
        let mut command = tokio::process::Command::new(self.programs.path(kit));
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Before what is set below; a job that asked for no GPU sees none.
            .envs(kit.gpus.as_ref().map(|gpus| ("CUDA_VISIBLE_DEVICES", gpus.join(","))))
            .env(procfs::MARK, dir)
            .env("RAYON_NUM_THREADS", &threads)
            // A second pool of threads, which spin while they wait and would take the cores from rayon's.
            .env("CANDLE_NUM_THREADS", "1")
            .env("MALLOC_MMAP_THRESHOLD_", KEEP_MEMORY_BYTES)
            .env("MALLOC_TRIM_THRESHOLD_", KEEP_MEMORY_BYTES)
            .current_dir(dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log(Stream::Stdout)?)
            .stderr(log(Stream::Stderr)?);
        Ok(command)
    }

    fn spawn(&self, kit: &Kit, mut command: tokio::process::Command) -> Result<tokio::process::Child, StartError> {
        let path = self.programs.path(kit);
        command.spawn().map_err(|source| StartError::Command { command: path.to_owned(), source })
    }

    /// Who a child of ours is. It is not reaped yet, so its pid cannot be anyone else's.
    fn identify(&self, child: &tokio::process::Child) -> io::Result<(ProcessIdentity, AsyncFd<rustix::fd::OwnedFd>)> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process is gone");
        let pid = child.id().ok_or_else(gone)?;
        let pidfd = readiness::readable(open_pidfd(pid)?)?;
        let start_ticks = procfs::stat(pid)?.start_ticks;
        Ok((
            ProcessIdentity { pid, start_ticks, boot_id: self.boot_id.clone(), host: self.host.clone(), ahead: None },
            pidfd,
        ))
    }
}

#[async_trait]
impl Executor for LocalProcesses {
    async fn start(&self, kit: &Kit, launch: &Launch) -> Result<Box<dyn Worker>, StartError> {
        let memory_kills = procfs::memory_kills();
        let mut command = self.command(kit, &launch.attempt_dir)?;
        command.env("ML_JOB_ID", launch.job.to_string()).env("ML_ATTEMPT", launch.attempt.to_string());
        let mut child = self.spawn(kit, command)?;
        let stdin = child.stdin.take();
        let (identity, pidfd) = match self.identify(&child) {
            Ok(known) => known,
            Err(source) => {
                // Without its hand-over the worker ends by itself; killing it is only quicker.
                let _ = child.kill().await;
                return Err(StartError::HandOver(source));
            }
        };
        let worker = child::Child::new(identity, pidfd, (child, launch.attempt_dir.clone()), memory_kills)
            .in_cgroups(self.cgroups.clone());
        tell(worker, stdin, launch).await
    }

    async fn start_ahead(&self, kit: &Kit, dir: &Path) -> Result<Option<Box<dyn Spare>>, StartError> {
        let command = self.command(kit, dir)?;
        let path = self.programs.path(kit);
        // Before it is executed: should it be replaced in the next moment, the process is taken for an old one.
        let build = spare::build(path);
        let mut child = self.spawn(kit, command)?;
        let stdin = child.stdin.take();
        match self.identify(&child) {
            Ok((identity, pidfd)) => {
                let worker =
                    child::Child::new(identity, pidfd, (child, dir.to_owned()), None).in_cgroups(self.cgroups.clone());
                Ok(Some(Box::new(spare::Waiting::new(worker, stdin, path.to_owned(), build))))
            }
            Err(source) => {
                let _ = child.kill().await;
                Err(StartError::HandOver(source))
            }
        }
    }

    async fn find(&self, identity: &ProcessIdentity, launch_dir: &Path) -> Found {
        if identity.boot_id != self.boot_id {
            return if identity.host == self.host { Found::Dead } else { Found::Elsewhere };
        }
        let cell = self.cgroups.as_ref().and_then(|cgroups| cgroups.earlier(launch_dir));
        match adopted::Adopted::open(identity, launch_dir) {
            Some(worker) => Found::Alive(Box::new(worker.in_cell(cell))),
            None => {
                if let Some(cell) = cell {
                    cell.end().await;
                }
                adopted::end_remnants(identity, launch_dir).await;
                Found::Dead
            }
        }
    }

    async fn end_strays(&self, known: &[(ProcessIdentity, PathBuf)]) -> usize {
        strays::end(&self.attempts_dir, known).await
    }

    fn is_ours(&self, pid: u32) -> bool {
        procfs::is_marked_under(pid, &self.attempts_dir)
    }

    fn is_of(&self, pid: u32, worker: &ProcessIdentity, dir: &Path) -> bool {
        adopted::is_marked(pid, worker, dir)
    }
}

/// Hands `launch` over to a process.
async fn tell(
    mut worker: child::Child,
    stdin: Option<tokio::process::ChildStdin>,
    launch: &Launch,
) -> Result<Box<dyn Worker>, StartError> {
    if let Some(stdin) = stdin
        && let Err(source) = hand_over(stdin, launch).await
    {
        // A broken pipe: it has ended by itself already, and the way it ended says more than the pipe does.
        if source.kind() != io::ErrorKind::BrokenPipe {
            worker.end().await;
            return Err(StartError::HandOver(source));
        }
    }
    Ok(Box::new(worker))
}

/// The worker reads one line and then the end of the file; a worker that reads the end at once knows that its daemon died, and ends.
async fn hand_over(mut stdin: tokio::process::ChildStdin, launch: &Launch) -> io::Result<()> {
    let mut line = serde_json::to_vec(launch)?;
    line.push(b'\n');
    stdin.write_all(&line).await?;
    stdin.shutdown().await
}

/// An attempt's number is never used twice, so what is there was left by another database: a result that must not be taken for this attempt's.
fn make_fresh(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Appending, so that the daemon can cut the file while the worker writes it.
fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Whatever else the daemon was started with, credentials included, stays with it.
fn is_passed_on(name: &OsStr) -> bool {
    let is_own = |name: &str| name == BACKTRACE || name.starts_with(OWN_PREFIX);
    launch::is_passed_on(name) || name.to_str().is_some_and(is_own)
}

/// Whether there is no such process, or one that has ended and was not yet waited for.
#[must_use]
pub fn is_gone(pid: u32) -> bool {
    match procfs::stat(pid) {
        Ok(stat) => stat.ended,
        // It may end while it is looked at.
        Err(error) => {
            let gone = [rustix::io::Errno::NOENT, rustix::io::Errno::SRCH].map(rustix::io::Errno::raw_os_error);
            error.raw_os_error().is_some_and(|error| gone.contains(&error))
        }
    }
}

fn open_pidfd(pid: u32) -> io::Result<rustix::fd::OwnedFd> {
    Ok(pidfd_open(rustix_pid(pid)?, PidfdFlags::empty())?)
}

fn rustix_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is no pid")))
}
