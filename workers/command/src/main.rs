//! `mlworker-command`, the worker of command jobs: it dials the daemon, starts the user's program as the spec has it, and speaks for it. What the program prints goes to the
//! attempt's logs, since it inherits them. It is no shell and looks at nothing that the program does but how it ends.
//!
//! When the attempt is to end, everything the program has started is sent SIGTERM, however deep and in whatever session; when the program has ended by itself, what it left behind
//! is killed. Orphans come to this process, so that nobody gets away by losing its parent. Exit codes: 0 for `ok`, 1 for another class, 70 when there was no daemon to work for.

mod checkpoints;
mod end;
mod environment;
mod program;
mod shortage;
mod tree;

use std::{io, os::fd::AsFd as _, process::ExitCode};

use mlctl_link::{Link, LinkError, begin_session, read_launch};
use mlctl_protocol::{ExitClass, launch::Launch};
use tokio::{
    net::unix::pipe,
    runtime::{Builder, Runtime},
};

/// What the hello says about this build.
const WORKER: &str = concat!("mlworker-command ", env!("CARGO_PKG_VERSION"));

/// No daemon to work for.
const NO_DAEMON: u8 = 70;

#[expect(clippy::print_stderr, reason = "a worker's main says on standard error why it cannot work")]
#[expect(clippy::print_stdout, reason = "the version is what was asked for")]
fn main() -> ExitCode {
    // As `mlctl doctor` asks every worker.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--version") {
        println!("{WORKER}");
        return ExitCode::SUCCESS;
    }
    begin_session();
    // One thread: all it does is wait.
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mlworker-command: cannot start: {error}");
            return ExitCode::from(NO_DAEMON);
        }
    };
    let code = work(&runtime).unwrap_or_else(|error| {
        eprintln!("mlworker-command: {error}");
        NO_DAEMON
    });
    runtime.shutdown_background();
    ExitCode::from(code)
}

fn work(runtime: &Runtime) -> Result<u8, LinkError> {
    runtime.block_on(async {
        let launch = hand_over().await?;
        let (link, start) = Link::dial(launch.clone(), WORKER).await?;
        let result = program::run(&launch, &start, &link.handle()).await;
        let code = u8::from(result.class != ExitClass::Ok);
        link.finish(result).await?;
        Ok(code)
    })
}

/// Reads what mld hands over through a pipe, without a thread for that; what else stands there is read as it can be.
async fn hand_over() -> Result<Launch, LinkError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    match stdin.and_then(pipe::Receiver::from_owned_fd) {
        Ok(pipe) => read_launch(pipe).await,
        Err(_) => read_launch(tokio::io::stdin()).await,
    }
}
