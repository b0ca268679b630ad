//! The program of a command job: started, waited for, ended with all that it started. Called by main with the work; it gives back the attempt's result.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use mlctl_link::{Handle, Order, Usage};
use mlctl_protocol::{
    ExitClass,
    launch::Launch,
    message::Start,
    progress::Progress,
    result::WorkerResult,
    spec::{CommandSpec, Work},
};
use rustix::process::{self, Pid, Signal, WaitOptions, WaitStatus};
use tokio::{
    signal::unix::{Signal as Signals, SignalKind, signal},
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    checkpoints::{self, Prepared},
    end::{self, Account},
    environment,
    shortage::Before,
    tree,
};

/// Rounds of killing what a program left behind, and the pause between them: a second at most.
const ROUNDS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// How long a program may save its work that is ended because no daemon answers: nobody else would end it.
const ALONE_LIMIT: Duration = Duration::from_secs(600);

/// Times that a program is tried again whose file is still open for writing somewhere, and the pause between them.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Runs the attempt's command to its end.
pub async fn run(launch: &Launch, start: &Start, handle: &Handle) -> WorkerResult {
    handle.progress(Progress::default(), checkpoints::device(start));
    let account = match &start.spec.work {
        Work::Command(command) => work(launch, start, handle, command).await.unwrap_or_else(|account| account),
        other => end::not_mine(other.kind()),
    };
    WorkerResult {
        v: 1,
        job: launch.job,
        attempt: launch.attempt,
        token: start.token,
        class: account.class,
        message: account.message,
        hint: account.hint,
        metrics: BTreeMap::new(),
        model: None,
        output: None,
    }
}

async fn work(launch: &Launch, start: &Start, handle: &Handle, command: &CommandSpec) -> Result<Account, Account> {
    let prepared = match &command.checkpoint_dir {
        Some(dir) => Some(Prepared::new(launch, start, handle, dir).await?),
        None => None,
    };
    let mut program = begin(launch, start, command, prepared.as_ref()).await?;
    let keeper = prepared.map(Prepared::watch);
    let account = program.attend(handle, start.heartbeat_seconds).await;
    // Those that have ended have used the most.
    program.measure(handle, &[]);
    if let Some(keeper) = keeper {
        // One that fell to a signal may have been in the middle of writing, and so may one that failed.
        let code = program.status.and_then(WaitStatus::exit_status);
        let in_order = match account.class {
            ExitClass::Ok | ExitClass::Preempted | ExitClass::Cancelled | ExitClass::Timeout => code.is_some(),
            _ => false,
        };
        keeper.finish(in_order).await;
    }
    Ok(account)
}

/// Starts the program. Its standard input is empty; all that it prints goes to this process's standard output, the attempt's log, in the order in which it is printed.
async fn begin(
    launch: &Launch,
    start: &Start,
    spec: &CommandSpec,
    checkpoints: Option<&Prepared>,
) -> Result<Program, Account> {
    // Orphans come to this process rather than to init, out of reach.
    let adopted = process::set_child_subreaper(Some(process::getpid()));
    adopted.map_err(|error| end::unready("adopt orphans", &error.into()))?;
    let deaths = signal(SignalKind::child()).map_err(|error| end::unready("hear of ends", &error))?;
    let folder = Path::new(spec.cwd.as_deref().unwrap_or("/"));
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(end::no_folder(folder, "it is no folder")),
        Err(error) => return Err(end::no_folder(folder, &error.to_string())),
    }
    let arguments = spec.arguments();
    let name = arguments.first().map_or("", String::as_str);
    let file = if name.contains('/') { folder.join(name.trim_start_matches("./")) } else { PathBuf::from(name) };
    let mut command = Command::new(&file);
    command.arg0(name).args(arguments.iter().skip(1)).current_dir(folder).stdin(Stdio::null());
    command.env_clear().envs(environment::of(std::env::vars_os(), launch, start, spec, checkpoints));
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(|error| end::unready("print", &error))?;
    command.stderr(output);
    let before = Before::now();
    let mut tries = BUSY_TRIES;
    let child = loop {
        match command.spawn() {
            // A file that is being copied into place, or that another process inherited open as it started.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries > 0 => {
                tries -= 1;
                sleep(BUSY_PAUSE).await;
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !can_enter(folder) => {
                return Err(end::no_folder(folder, "permission denied"));
            }
            spawned => break spawned.map_err(|error| end::not_started(&file.to_string_lossy(), &error))?,
        }
    };
    Ok(Program { pid: child.id(), deaths, before, status: None, peak_bytes: 0 })
}

/// Whether this process may work in a folder.
fn can_enter(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::EXEC_OK).is_ok()
}

/// A program under way.
struct Program {
    pid: u32,
    deaths: Signals,
    /// What the kernel had done for want of memory when it began.
    before: Before,
    /// How it ended.
    status: Option<WaitStatus>,
    /// The most that it and all it started have occupied at once, as far as that was looked at.
    peak_bytes: u64,
}

impl Program {
    /// Waits for the end, and brings it about when that is ordered.
    async fn attend(&mut self, handle: &Handle, heartbeat_seconds: u32) -> Account {
        let mut measure = interval(Duration::from_secs(heartbeat_seconds.max(1).into()));
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, when there is nothing to be measured yet.
        measure.tick().await;
        let mut standing: Option<Order> = None;
        let mut alone_until = None;
        loop {
            tokio::select! {
                biased;
                _ = self.deaths.recv() => {
                    let is_left = self.reap();
                    if self.status.is_some() && standing.is_none() {
                        standing = signalled(handle).await;
                    }
                    match (self.status, &standing) {
                        // What it started may still be saving its work.
                        (Some(_), Some(_)) if is_left => {}
                        (Some(_), Some(order)) => return end::stopped(order),
                        (Some(status), None) => {
                            let account = end::ended(status, self.before.shortage(status));
                            if is_left {
                                self.end_all().await;
                            }
                            return account;
                        }
                        (None, _) => {}
                    }
                }
                order = handle.ordered(standing.as_ref()) => {
                    if let Order::Refused(_) = order {
                        self.end_all().await;
                        return end::stopped(&order);
                    }
                    // There is nothing to save but by asking it to end.
                    if order == Order::Checkpoint {
                        continue;
                    }
                    if order == Order::LeaseLost {
                        alone_until = Some(Instant::now() + ALONE_LIMIT);
                    }
                    if standing.is_none() {
                        tree::signal(&descendants(), Signal::TERM);
                    }
                    standing = Some(order);
                }
                () = sleep_until(alone_until.unwrap_or_else(Instant::now)), if alone_until.is_some() => {
                    alone_until = None;
                    self.end_all().await;
                }
                _ = measure.tick() => {
                    self.measure(handle, &descendants());
                }
            }
        }
    }

    /// Tells what all of it occupies and has used up.
    fn measure(&mut self, handle: &Handle, processes: &[tree::Process]) {
        let rss_bytes = tree::memory(processes);
        self.peak_bytes = self.peak_bytes.max(rss_bytes);
        handle.usage(Usage { rss_bytes, peak_rss_bytes: self.peak_bytes, cpu_ms: tree::cpu_ms(processes) });
    }

    /// Reaps whoever has ended. Returns whether a child is left.
    fn reap(&mut self) -> bool {
        loop {
            match process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if is(pid, self.pid) => self.status = Some(status),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Kills all that is left.
    async fn end_all(&mut self) {
        for _ in 0..ROUNDS {
            tree::signal(&descendants(), Signal::KILL);
            if !self.reap() {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

fn is(pid: Pid, number: u32) -> bool {
    u32::try_from(pid.as_raw_nonzero().get()) == Ok(number)
}

/// All that runs below this process. Where `/proc` cannot be read nothing is known, and the daemon ends the whole group.
fn descendants() -> Vec<tree::Process> {
    tree::descendants().unwrap_or_default()
}

/// The order to end that has come with the signal of which the program has died: a signal to the whole group reaches this process, too, and the link's task needs a turn to say so.
async fn signalled(handle: &Handle) -> Option<Order> {
    let order = tokio::select! {
        biased;
        order = handle.ordered(None) => order,
        () = yield_now() => return None,
    };
    matches!(order, Order::Stop(_)).then_some(order)
}
