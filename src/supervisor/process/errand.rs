//! A program that is run once for what it says and how it ends, with a limit on everything: what a hook of the settings runs. It leads a process group of its own, which is killed when it takes too long or nobody waits for it
//! any more. Called by the pipeline.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::future::{FusedFuture as _, FutureExt as _};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};
use tracing::warn;

use crate::supervisor::readiness;

/// Bytes that are kept of what it says. The rest is read and thrown away, so that it does not wait for a reader.
const MOST_SAID: usize = 2048;

/// How long what it has said is read on when it has ended: what it has started may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long a killed program may take to be gone.
const DEATH: Duration = Duration::from_secs(5);

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Errand {
    /// An absolute path, and arguments.
    pub argv: Vec<OsString>,
    /// All of its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What it finds on its standard input.
    pub input: Vec<u8>,
    /// How long it may take.
    pub limit: Duration,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// The signal that did.
    pub signal: Option<i32>,
    /// Whether it took too long and was killed for that.
    pub was_too_long: bool,
    /// The beginning of what it has said on both streams.
    pub said: String,
}

/// Runs a program to its end, or to the limit. What it has started in its group is killed only with it.
///
/// # Errors
/// When it cannot be started, or not be watched.
pub async fn run(errand: Errand) -> io::Result<Ran> {
    let Errand { argv, environment, input, limit } = errand;
    let mut words = argv.into_iter();
    let program = words.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = Command::new(program);
    command.args(words).env_clear().envs(environment).current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut leader = Leader::of(command.spawn()?)?;
    let (stdin, stdout, stderr) = (leader.child.stdin.take(), leader.child.stdout.take(), leader.child.stderr.take());
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // One that does not read its input has not failed for that.
            let _ = stdin.write_all(&input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = {
        let talk = async { tokio::join!(feed, listen(stdout, &mut out), listen(stderr, &mut err)) };
        let mut talk = std::pin::pin!(talk.fuse());
        let ended = timeout(limit, async {
            tokio::select! {
                biased;
                ended = leader.ended() => ended,
                // What it has closed is read to the end, and it goes on.
                _ = &mut talk => leader.ended().await,
            }
        });
        let ended = ended.await;
        if ended.is_err() {
            leader.kill();
        }
        if !talk.is_terminated() {
            let _ = timeout(LAST_WORDS, &mut talk).await;
        }
        ended
    };
    let status = leader.reap().await?;
    out.extend_from_slice(&err);
    let said = String::from_utf8_lossy(&out).trim().to_owned();
    let was_too_long = match ended {
        Ok(watched) => watched.map(|()| false)?,
        Err(_) => true,
    };
    Ok(Ran { code: status.code(), signal: status.signal(), was_too_long, said })
}

/// Reads to the end, and keeps the beginning.
async fn listen(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let room = MOST_SAID.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
}

/// A process that leads its group, not yet reaped: so long its number is nobody else's.
struct Leader {
    child: Child,
    pid: Pid,
    ended: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
    is_reaped: bool,
}

impl Leader {
    fn of(child: Child) -> io::Result<Self> {
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| io::Error::other("it has no number"))?;
        let ended = readiness::readable(pidfd_open(pid, PidfdFlags::NONBLOCK)?)?;
        Ok(Self { child, pid, ended, is_reaped: false })
    }

    /// Waits for its end, and leaves it to be reaped.
    async fn ended(&self) -> io::Result<()> {
        self.ended.readable().await.map(drop)
    }

    fn kill(&self) {
        if self.is_reaped {
            return;
        }
        if let Err(error) = kill_process_group(self.pid, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            warn!(pid = self.pid.as_raw_nonzero(), %error, "cannot kill the process group of a hook's program");
        }
    }

    async fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = timeout(DEATH, self.child.wait())
            .await
            .map_err(|_| io::Error::other("it was killed and is not gone"))??;
        self.is_reaped = true;
        Ok(status)
    }
}

impl Drop for Leader {
    /// Nobody waits for it any more.
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str, input: &str, limit_ms: u64) -> Errand {
        let argv = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        let environment = vec![("PATH".into(), "/usr/bin:/bin".into()), ("SEEN".into(), "yes".into())];
        Errand { argv, environment, input: input.into(), limit: Duration::from_millis(limit_ms) }
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_environment_and_says_how_it_ended() {
        let ran = run(shell("cat; echo \" $SEEN ${HOME-none}\" >&2; exit 7", "hello", 10_000)).await.unwrap();
        assert_eq!(ran, Ran { code: Some(7), signal: None, was_too_long: false, said: "hello yes none".into() });
        // One that reads nothing of a long input and talks without an end is neither waited for nor believed.
        let ran = run(shell("yes | head -c 10000000", &"x".repeat(1 << 20), 20_000)).await.unwrap();
        assert_eq!((ran.code, ran.said.len()), (Some(0), MOST_SAID - 1));
        let none = Errand { argv: vec!["/no/such/program".into()], ..shell("", "", 1) };
        assert_eq!(run(none).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("trap '' TERM; sleep 1000 & echo $! > {}; wait; sleep 1000", pid_file.display());
        let begun = Instant::now();
        let ran = run(shell(&script, "", 500)).await.unwrap();
        assert!(ran.was_too_long && ran.signal == Some(9), "{ran:?}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_gone(&pid_file).await;
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_killed_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
        let task = tokio::spawn(run(shell(&script, "", 600_000)));
        let begun = Instant::now();
        while !std::fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')) {
            assert!(begun.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        task.abort();
        let _ = task.await;
        assert_gone(&pid_file).await;
    }

    #[tokio::test]
    async fn what_it_leaves_behind_keeps_nobody_waiting() {
        let begun = Instant::now();
        let ran = run(shell("sleep 3 & echo done", "", 60_000)).await.unwrap();
        assert_eq!((ran.code, ran.said.as_str()), (Some(0), "done"));
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    async fn assert_gone(pid_file: &std::path::Path) {
        let pid: u32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let begun = Instant::now();
        while !super::super::is_gone(pid) {
            assert!(begun.elapsed() < Duration::from_secs(10), "process {pid} lives");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
