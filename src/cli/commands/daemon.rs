//! `mlctl daemon`: how the daemon is, and its stop.

use clap::{Args, Subcommand};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    api::types::{DaemonView, StopView},
    cli::{Context, Done, Failure, exit::Exit, output::daemon},
};

/// How long a daemon may take to end.
const STOP_LIMIT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

const EXAMPLES: &str = "\
Examples:
  mlctl daemon status
  mlctl daemon status -o json | jq .jobs
  mlctl daemon stop                running jobs run on; the next daemon adopts them";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// How the daemon is: its process, folders, resources and jobs
    #[command(after_help = EXAMPLES)]
    Status,
    /// Stop the daemon and wait for its end; jobs that run go on without it
    #[command(after_help = EXAMPLES)]
    Stop {
        /// Do not wait for its end
        #[arg(long)]
        no_wait: bool,
    },
}

impl Arguments {
    pub fn goal(&self) -> String {
        match self.verb {
            Verb::Status => "ask how the daemon is".into(),
            Verb::Stop { .. } => "stop the daemon".into(),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Status => {
                let view: DaemonView = context.client.get("/v1/daemon").await?;
                daemon::status(&mut context.out, &view)?;
            }
            Verb::Stop { no_wait } => stop(context, no_wait).await?,
        }
        Ok(Exit::Ok)
    }
}

async fn stop(context: &mut Context<'_>, no_wait: bool) -> Result<(), Failure> {
    // Opened before the order: afterwards the process may be gone, and its number another's.
    let before: DaemonView = context.client.get("/v1/daemon").await?;
    let process = i32::try_from(before.pid).ok().and_then(Pid::from_raw);
    let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let stopping: StopView = context.client.post("/v1/daemon/stop").await?;
    if let Some(process) = process.filter(|_| !no_wait) {
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&STOP_LIMIT));
        if ended.map_err(|error| Failure::caused("wait for the daemon's end", &error))? == 0 {
            let why = format!("process {} still runs after {} s", stopping.pid, STOP_LIMIT.tv_sec);
            return Err(Failure::new(Exit::Failed, why).hint("its log says what it waits for"));
        }
    }
    if context.out.is_json() {
        return context.out.json(&stopping);
    }
    let verb = if no_wait { "is stopping" } else { "has stopped" };
    context
        .out
        .line(format!("mld (process {}) {verb}; jobs that run on without it: {}", stopping.pid, stopping.running))
}
