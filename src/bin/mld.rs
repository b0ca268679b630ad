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

use clap::{Parser, Subcommand};
use mlctl::{
    config::{self, ConfigError, Environment, Overrides, Settings},
    daemon::{
        self, DaemonError, Surroundings,
        clock::SystemClock,
        logging,
        offline::{self, Task},
        reload::Source,
        signals::{self, Stop},
    },
};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

/// The daemon of mlctl: keeps a durable queue of training and inference jobs and runs them as worker processes.
#[derive(Debug, Parser)]
#[command(name = "mld", version)]
struct Flags {
    /// Read settings from this file [default: $MLD_CONFIG, else the user's or the system's mld.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep everything under this folder, the sockets too [default: $MLD_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Set a key of the settings file, such as workers.cpus=4; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The worker's program [default: mlworker beside mld]
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,
    /// Read and check the settings, show them as JSON, and start nothing
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// What mld does instead of being a daemon.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Check, back up and restore the database while no daemon runs; `mlctl db` does the same, and asks a daemon that runs
    Db {
        /// The form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table", value_parser = ["table", "json"])]
        output: String,
        #[command(subcommand)]
        task: DbTask,
    },
}

/// What is done with the database.
#[derive(Debug, Subcommand)]
enum DbTask {
    /// Look through the database, and change nothing
    Check {
        /// Look through this file instead, such as the database of a backup
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Make a backup
    Backup {
        /// The folder for it: a path, or a URI of object storage
        #[arg(long, value_name = "FOLDER")]
        to: Option<String>,
    },
    /// List the backups
    Ls {
        /// Look in this folder: a path, or a URI of object storage
        #[arg(long, value_name = "FOLDER")]
        from: Option<String>,
    },
    /// Put a backup in the database's place; the old one stays beside it
    Restore {
        /// Which: `latest`, the folder of a backup, or a database file
        source: String,
        /// Where `latest` is looked for: a path, or a URI of object storage
        #[arg(long, value_name = "FOLDER")]
        from: Option<String>,
    },
}

impl From<&DbTask> for Task {
    fn from(task: &DbTask) -> Self {
        match task {
            DbTask::Check { file } => Self::Check(file.clone()),
            DbTask::Backup { to } => Self::Backup(to.clone()),
            DbTask::Ls { from } => Self::List(from.clone()),
            DbTask::Restore { source, from } => Self::Restore { source: source.clone(), from: from.clone() },
        }
    }
}

/// What went wrong, why, and what to do: the three parts of every message.
#[derive(Serialize)]
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
    let done = match &flags.verb {
        Some(Verb::Db { output, task }) => db(&flags, output == "json", task),
        None => start(&flags).map(|()| 0),
    };
    let is_json = matches!(&flags.verb, Some(Verb::Db { output, .. }) if output == "json");
    match done {
        Ok(code) => ExitCode::from(code),
        Err(complaint) => {
            print(&complaint, is_json);
            ExitCode::from(complaint.code)
        }
    }
}

/// What is done with the database while no daemon runs. Returns the exit code.
fn db(flags: &Flags, is_json: bool, task: &DbTask) -> Result<u8, Complaint> {
    let environment = Environment::read();
    let settings = settings(flags, &environment)?;
    let s3 = config::s3::access(&settings, &environment).map_err(|error| unusable(&error))?;
    let clock = clock(&environment)?;
    let done = runtime()?.block_on(offline::run(task.into(), &settings, s3, Arc::new(clock)));
    let answer = done.map_err(|error| Complaint {
        code: error.exit_code(),
        what: "cannot do this with the database".into(),
        why: causes(&error),
        hint: error.hint().into(),
    })?;
    say(if is_json { std::slice::from_ref(&answer.json) } else { &answer.text });
    Ok(answer.code)
}

fn clock(environment: &Environment) -> Result<SystemClock, Complaint> {
    let (offset, rate) = (&environment.mld_clock_offset_seconds, &environment.mld_clock_rate);
    SystemClock::set(offset.as_deref(), rate.as_deref()).map_err(usage)
}

fn usage(why: String) -> Complaint {
    let hint = "`mld --help` lists what can be set".into();
    Complaint { code: 2, what: "cannot start".into(), why: vec![why], hint }
}

fn runtime() -> Result<Runtime, Complaint> {
    let made = Builder::new_multi_thread().enable_all().build();
    made.map_err(|error| Complaint {
        code: 1,
        what: "cannot start".into(),
        why: vec![error.to_string()],
        hint: "check the limits on threads and open files".into(),
    })
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
    let environment = Environment::read();
    let settings = settings(flags, &environment)?;
    let s3 = config::s3::access(&settings, &environment).map_err(|error| unusable(&error))?;
    if flags.check {
        show(&settings);
        return Ok(());
    }
    let level = logging::start(&settings.log.level, settings.log.format).map_err(|error| usage(error.to_string()))?;
    let clock = clock(&environment)?;
    let stop = Stop::default();
    let surroundings = Surroundings {
        clock: Arc::new(clock),
        environment: std::env::vars_os().collect(),
        s3,
        stop: stop.clone(),
        source: source(flags, environment),
        level,
    };
    let runtime = runtime()?;
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

/// Reads the settings as they were read at the start.
fn source(flags: &Flags, environment: Environment) -> Source {
    let (overrides, worker) = overrides(flags);
    Arc::new(move || Ok(load(&overrides, worker.as_ref(), &environment)?))
}

fn settings(flags: &Flags, environment: &Environment) -> Result<Settings, Complaint> {
    let (overrides, worker) = overrides(flags);
    load(&overrides, worker.as_ref(), environment).map_err(|error| unusable(&error))
}

fn overrides(flags: &Flags) -> (Overrides, Option<PathBuf>) {
    let Flags { config, state_dir, set, worker, check: _, verb: _ } = flags;
    (Overrides { config: config.clone(), state_dir: state_dir.clone(), set: set.clone() }, worker.clone())
}

fn load(overrides: &Overrides, worker: Option<&PathBuf>, environment: &Environment) -> Result<Settings, ConfigError> {
    let mut settings = config::load(overrides, environment)?;
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
fn print(complaint: &Complaint, is_json: bool) {
    if is_json && let Ok(json) = serde_json::to_string(complaint) {
        return eprintln!("{json}");
    }
    eprintln!("mld: {}", complaint.what);
    for line in complaint.why.iter().flat_map(|why| why.lines()) {
        eprintln!("  {line}");
    }
    eprintln!("  hint: {}", complaint.hint);
}

#[expect(clippy::print_stdout, reason = "the answer is data")]
fn say(lines: &[String]) {
    lines.iter().for_each(|line| println!("{line}"));
}

#[expect(clippy::print_stdout, reason = "the answer to --check is data")]
fn show(settings: &Settings) {
    match serde_json::to_string_pretty(settings) {
        Ok(json) => println!("{json}"),
        Err(error) => println!("{error}"),
    }
}
