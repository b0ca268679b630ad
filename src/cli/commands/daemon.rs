//! `mlctl daemon`: how the daemon is, its settings read again, its drain and its stop.

use std::{pin::pin, time::Duration};

use clap::{Args, Subcommand};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    api::types::{DaemonView, DispatchView, DrainRequest, DrainView, ReloadView, ResumeView, StopView},
    cli::{Context, Done, Failure, client::READ_LIMIT, exit::Exit, output::daemon, times},
};

/// How long a daemon may take to end.
const STOP_LIMIT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// How often a drain is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  mlctl daemon status
  mlctl daemon status -o json | jq .jobs
  mlctl daemon drain               running jobs finish, then the daemon stops
  mlctl daemon stop                running jobs run on; the next daemon adopts them";

const DRAIN: &str = "\
No job is started any more; jobs may be submitted, and wait. Those that run are let finish, or save their work and wait for their turn again, which uses up no retry: a command job gets SIGTERM. When none runs any
more the daemon stops, and systemd does not start it again. Ctrl-C ends the waiting alone: the drain goes on.

Examples:
  mlctl daemon drain                        let them finish, however long that takes
  mlctl daemon drain --checkpoint           have them save their work now, and stop
  mlctl daemon drain --timeout 2h           let them finish for two hours, then have the rest save their work
  mlctl daemon drain --checkpoint --no-stop keep the daemon, and start nothing until --resume
  mlctl daemon drain --resume               take it back: jobs are started again";

const RELOAD: &str = "\
SIGHUP and `systemctl reload mld` do the same. At once hold: daemon.check_hours, storage.data_roots, workers.cpus, memory_mib, grace_seconds, hang_seconds and min_run_seconds, commands.enabled and users,
limits, scheduler, retention, backup.every_hours and keep, log.level; attempts under way keep the grace and hang times that they began with. Whatever else has changed is named, and holds from the next start on: `mlctl daemon stop`, or `systemctl restart mld`, stops no job.
Exit code 6 when the file has a mistake, which is shown with line and column; the old settings stay in force.

Examples:
  mlctl daemon reload
  mlctl daemon reload -o json | jq .pending";

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
    /// Start no more jobs, wait for the end of those that run, and stop the daemon
    #[command(after_help = DRAIN)]
    Drain(Drain),
    /// Have the daemon read its settings file again; a mistake changes nothing
    #[command(after_help = RELOAD)]
    Reload,
    /// Stop the daemon and wait for its end; jobs that run go on without it
    #[command(after_help = EXAMPLES)]
    Stop {
        /// Do not wait for its end
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Args)]
struct Drain {
    /// Have the jobs that run save their work now, rather than finish
    #[arg(long, conflicts_with = "timeout")]
    checkpoint: bool,
    /// Let them finish for so long, for example 90s, 10m or 2h, and then have them save their work
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    timeout: Option<Duration>,
    /// Keep the daemon running afterwards
    #[arg(long)]
    no_stop: bool,
    /// Do not wait for it
    #[arg(long)]
    no_wait: bool,
    /// Take a drain back: jobs are started again
    #[arg(long, conflicts_with_all = ["checkpoint", "timeout", "no_stop", "no_wait"])]
    resume: bool,
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Status => "ask how the daemon is".into(),
            Verb::Drain(Drain { resume: true, .. }) => "take the drain back".into(),
            Verb::Drain(_) => "drain the daemon".into(),
            Verb::Reload => "reload the daemon's settings".into(),
            Verb::Stop { .. } => "stop the daemon".into(),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Status => {
                let view: DaemonView = context.client.get("/v1/daemon").await?;
                daemon::status(&mut context.out, &view)?;
            }
            Verb::Drain(Drain { resume: true, .. }) => {
                let view: ResumeView = context.client.post("/v1/daemon/resume").await?;
                daemon::resumed(&mut context.out, &view)?;
            }
            Verb::Drain(asked) => return drain(context, &asked).await,
            Verb::Reload => {
                let view: ReloadView = context.client.post("/v1/daemon/reload").await?;
                daemon::reloaded(&mut context.out, &view)?;
            }
            Verb::Stop { no_wait } => stop(context, no_wait).await?,
        }
        Ok(Exit::Ok)
    }
}

/// The daemon's process. Opened before an order: afterwards it may be gone, and its number another's.
async fn process(context: &Context<'_>) -> Result<(DaemonView, Option<OwnedFd>), Failure> {
    let view: DaemonView = context.client.get("/v1/daemon").await?;
    let pid = i32::try_from(view.pid).ok().and_then(Pid::from_raw);
    let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    Ok((view, process))
}

async fn stop(context: &mut Context<'_>, no_wait: bool) -> Result<(), Failure> {
    let (_, process) = process(context).await?;
    let stopping: StopView = context.client.post("/v1/daemon/stop").await?;
    if let Some(process) = process.filter(|_| !no_wait)
        && !has_ended(&process, &STOP_LIMIT)?
    {
        return Err(still_there(stopping.pid));
    }
    if context.out.is_json() {
        return context.out.json(&stopping);
    }
    let verb = if no_wait { "is stopping" } else { "has stopped" };
    context
        .out
        .line(format!("mld (process {}) {verb}; jobs that run on without it: {}", stopping.pid, stopping.running))
}

/// Whether a process ends within so long.
fn has_ended(process: &OwnedFd, limit: &Timespec) -> Result<bool, Failure> {
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(limit));
    Ok(ended.map_err(|error| Failure::caused("wait for the daemon's end", &error))? > 0)
}

fn still_there(pid: u32) -> Failure {
    let why = format!("process {pid} still runs after {} s", STOP_LIMIT.tv_sec);
    Failure::new(Exit::Failed, why).hint("its log says what it waits for")
}

async fn drain(context: &mut Context<'_>, asked: &Drain) -> Done {
    let (before, process) = process(context).await?;
    let patience = if asked.checkpoint { Some(Duration::ZERO) } else { asked.timeout };
    let patience_seconds =
        patience.map(|patience| patience.as_secs().saturating_add(u64::from(patience.subsec_nanos() > 0)));
    let request = DrainRequest { patience_seconds, stop: !asked.no_stop };
    let begun: DispatchView = context.client.post_body("/v1/daemon/drain", &request, READ_LIMIT).await?;
    if !asked.no_wait {
        match follow(context, begun.clone(), process.as_ref()).await? {
            Over::Left => return Ok(Exit::Interrupted),
            Over::Stopped if !asked.no_stop => match &process {
                Some(process) if !has_ended(process, &STOP_LIMIT)? => return Err(still_there(before.pid)),
                _ => {}
            },
            Over::Stopped => return Err(Failure::new(Exit::Failed, "the daemon has stopped meanwhile")),
            Over::Drained => {}
        }
    }
    daemon::drained(&mut context.out, &begun, (before.pid, asked.no_wait))?;
    Ok(Exit::Ok)
}

/// How the waiting ended.
enum Over {
    /// No job runs any more.
    Drained,
    /// The daemon is gone, or going.
    Stopped,
    /// Somebody pressed Ctrl-C.
    Left,
}

/// Waits for the end of a drain, and says how many jobs are left.
async fn follow(context: &mut Context<'_>, begun: DispatchView, process: Option<&OwnedFd>) -> Result<Over, Failure> {
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let (mut now, mut said) = (begun, None);
    loop {
        let Some(drain) = &now.drain else {
            let failure = Failure::new(Exit::Conflict, "somebody took the drain back meanwhile");
            return Err(failure.hint("`mlctl daemon drain` begins another"));
        };
        if drain.running == 0 && !drain.stop {
            return Ok(Over::Drained);
        }
        let state = (drain.running, drain.saving);
        if said != Some(state) {
            context.out.say(left(drain));
            said = Some(state);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = &mut interrupted => {
                context.out.say("not waited for any more; the drain goes on: `mlctl daemon drain --resume` takes it back");
                return Ok(Over::Left);
            }
        }
        match context.client.get::<DaemonView>("/v1/daemon").await {
            Ok(view) => now = view.dispatch,
            Err(failure) if failure.exit != Exit::Unreachable => return Err(failure),
            // It is stopping, or does not listen any more.
            Err(failure) if failure.code.is_some() => return Ok(Over::Stopped),
            Err(failure) => match process {
                Some(process) if has_ended(process, &STOP_LIMIT)? => return Ok(Over::Stopped),
                Some(_) => return Err(failure),
                None => return Ok(Over::Stopped),
            },
        }
    }
}

/// `waits for 2 jobs (3, 4) to finish`.
fn left(drain: &DrainView) -> String {
    const NAMED: usize = 5;
    let jobs: Vec<String> = drain.jobs.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if drain.running > jobs.len() as u64 { ", …" } else { "" };
    let what = if drain.saving { "save their work" } else { "finish" };
    match drain.running {
        0 => "no job runs any more; the daemon stops".into(),
        1 => format!("waits for job {} to {}", jobs.join(", "), what.replace("their", "its")),
        running => format!("waits for {running} jobs ({}{more}) to {what}", jobs.join(", ")),
    }
}
