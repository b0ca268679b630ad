//! `mld`, the daemon: flags, settings, runtime, exit code. Everything else is in the library.
//!
//! Exit codes: 0 after a stop that was asked for, 1 for a failure, 2 for wrong usage or a wrong setting, 5 when another daemon has the state directory or
//! the socket.

use std::{error::Error, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use mlctl::{
    config::Settings,
    daemon::{
        self, DaemonError, Surroundings,
        clock::{OFFSET_VARIABLE, SystemClock},
        logging,
        signals::{self, Stop},
    },
};

/// The daemon of mlctl: keeps a durable queue of training and inference jobs and runs them as worker processes.
#[derive(Debug, Parser)]
#[command(name = "mld", version)]
struct Flags {
    /// Keep everything under this folder
    #[arg(long, value_name = "DIR", env = "MLD_STATE_DIR")]
    state_dir: PathBuf,
    /// The worker's program [default: mlworker beside mld]
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,
}

/// What went wrong, why, and what to do: the three parts of every message.
struct Complaint {
    code: u8,
    what: String,
    why: Vec<String>,
    hint: String,
}

fn main() -> ExitCode {
    match start(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            print(&complaint);
            ExitCode::from(complaint.code)
        }
    }
}

fn start(flags: &Flags) -> Result<(), Complaint> {
    let usage = |why: String| Complaint {
        code: 2,
        what: "cannot start".into(),
        why: vec![why],
        hint: "`mld --help` lists what can be set".into(),
    };
    let settings = settings(flags).map_err(|error| usage(error.to_string()))?;
    logging::start(&settings.log.level, settings.log.format).map_err(|error| usage(error.to_string()))?;
    #[expect(clippy::disallowed_methods, reason = "the environment is read in main functions")]
    let offset = std::env::var(OFFSET_VARIABLE).ok();
    let clock = SystemClock::with_offset(offset.as_deref()).map_err(usage)?;
    let stop = Stop::default();
    let surroundings =
        Surroundings { clock: Arc::new(clock), environment: std::env::vars_os().collect(), stop: stop.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Complaint {
        code: 1,
        what: "cannot start".into(),
        why: vec![error.to_string()],
        hint: "check the limits on threads and open files".into(),
    })?;
    let ended = runtime.block_on(async {
        signals::install(stop).map_err(DaemonError::Signals)?;
        daemon::run(settings, surroundings).await
    });
    // What still runs after the stop, or was given up by a second signal, is not waited for.
    runtime.shutdown_background();
    ended.map_err(|error| Complaint {
        code: error.exit_code(),
        what: if matches!(error, DaemonError::Part(_)) { "had to stop".into() } else { "cannot start".into() },
        why: causes(&error),
        hint: error.hint().into(),
    })
}

fn settings(flags: &Flags) -> std::io::Result<Settings> {
    let state_dir = std::path::absolute(&flags.state_dir)?;
    let worker = match &flags.worker {
        Some(worker) => std::path::absolute(worker)?,
        None => std::env::current_exe()?.with_file_name("mlworker"),
    };
    Ok(Settings::under(&state_dir, worker))
}

/// An error and its causes, each a line.
fn causes(error: &dyn Error) -> Vec<String> {
    let mut lines = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        lines.push(cause.to_string());
        next = cause.source();
    }
    lines
}

#[expect(clippy::print_stderr, reason = "the one place where mld speaks to whoever started it")]
fn print(complaint: &Complaint) {
    eprintln!("mld: {}", complaint.what);
    for line in &complaint.why {
        eprintln!("  {line}");
    }
    eprintln!("  hint: {}", complaint.hint);
}
