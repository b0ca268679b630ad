//! `mld`, the daemon: flags, settings, runtime, exit code. Everything else is in the library.
//!
//! Exit codes: 0 after a stop that was asked for, 1 for a failure, 2 for wrong usage or a wrong setting, 5 when another daemon has the state directory or
//! the socket.

use std::{
    error::Error,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::Arc,
};

use clap::Parser;
use mlctl::{
    config::{self, ConfigError, Environment, Overrides, Settings},
    daemon::{
        self, DaemonError, Surroundings,
        clock::SystemClock,
        logging,
        signals::{self, Stop},
    },
};

/// The daemon of mlctl: keeps a durable queue of training and inference jobs and runs them as worker processes.
#[derive(Debug, Parser)]
#[command(name = "mld", version)]
struct Flags {
    /// Read settings from this file [default: $MLD_CONFIG, else the user's or the system's mld.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep everything under this folder, the sockets too [default: $MLD_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Set a key of the settings file, such as workers.cpus=4; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The worker's program [default: mlworker beside mld]
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,
    /// Read and check the settings, show them as JSON, and start nothing
    #[arg(long)]
    check: bool,
}

/// What went wrong, why, and what to do: the three parts of every message.
struct Complaint {
    code: u8,
    what: String,
    why: Vec<String>,
    hint: String,
}

/// What glibc's allocator is to know, which it reads once, when a program starts. By itself it gives each thread memory of its own and keeps what was freed: several times of what is in use, once
/// large arrays were taken.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "1048576"), ("MALLOC_TRIM_THRESHOLD_", "4194304")];

fn main() -> ExitCode {
    let flags = Flags::parse();
    tell_allocator();
    match start(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            print(&complaint);
            ExitCode::from(complaint.code)
        }
    }
}

/// Starts this very program again, as the same process, with what its allocator is to know. What a person set stays. Where that cannot be, it goes on as it is.
fn tell_allocator() {
    #[expect(clippy::disallowed_methods, reason = "a main function")]
    let missing: Vec<_> = ALLOCATOR.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if missing.is_empty() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut arguments = std::env::args_os();
        let mut again = Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        // It comes back only when it failed.
        let _ = again.args(arguments).envs(missing).exec();
    }
}

fn start(flags: &Flags) -> Result<(), Complaint> {
    let usage = |why: String| Complaint {
        code: 2,
        what: "cannot start".into(),
        why: vec![why],
        hint: "`mld --help` lists what can be set".into(),
    };
    let environment = Environment::read();
    let settings = settings(flags, &environment)?;
    let s3 = config::s3::access(&settings, &environment).map_err(|error| unusable(&error))?;
    if flags.check {
        show(&settings);
        return Ok(());
    }
    logging::start(&settings.log.level, settings.log.format).map_err(|error| usage(error.to_string()))?;
    let (offset, rate) = (&environment.mld_clock_offset_seconds, &environment.mld_clock_rate);
    let clock = SystemClock::set(offset.as_deref(), rate.as_deref()).map_err(usage)?;
    let stop = Stop::default();
    let surroundings =
        Surroundings { clock: Arc::new(clock), environment: std::env::vars_os().collect(), s3, stop: stop.clone() };
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

fn settings(flags: &Flags, environment: &Environment) -> Result<Settings, Complaint> {
    let Flags { config, state_dir, set, worker, check: _ } = flags;
    let overrides = Overrides { config: config.clone(), state_dir: state_dir.clone(), set: set.clone() };
    let mut settings = config::load(&overrides, environment).map_err(|error| unusable(&error))?;
    if let Some(worker) = worker {
        settings.workers.command = environment.absolute(worker);
    }
    Ok(settings)
}

fn unusable(error: &ConfigError) -> Complaint {
    let hint = match error {
        ConfigError::Wrong(_) => "config/mld.toml of the distribution shows every key with its default and unit",
        ConfigError::Read { .. } => "check the path and the permissions of the file",
        ConfigError::Credentials { .. } => {
            "[storage.s3] in config/mld.toml of the distribution says where they may stand"
        }
        ConfigError::Homeless => "name a folder with --state-dir",
    };
    Complaint { code: 2, what: "cannot use its settings".into(), why: causes(error), hint: hint.into() }
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
    for line in complaint.why.iter().flat_map(|why| why.lines()) {
        eprintln!("  {line}");
    }
    eprintln!("  hint: {}", complaint.hint);
}

#[expect(clippy::print_stdout, reason = "the answer to --check is data")]
fn show(settings: &Settings) {
    match serde_json::to_string_pretty(settings) {
        Ok(json) => println!("{json}"),
        Err(error) => println!("{error}"),
    }
}
