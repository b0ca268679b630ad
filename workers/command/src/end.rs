//! How a command's end is told: exit codes, signals and what kept it from starting, as exit classes and words for people. Pure: facts in, an account out.

use std::{error::Error, io, path::Path};

use mlctl_artifacts::ArtifactError;
use mlctl_link::Order;
use mlctl_protocol::{ExitClass, message::StopClass};
use rustix::process::WaitStatus;

use crate::shortage::Shortage;

const SEE: &str = "see its last words with `mlctl logs`";
const KILL: i32 = 9;

/// A class and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The class.
    pub class: ExitClass,
    /// What happened; absent when all went well.
    pub message: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Account {
    fn new(class: ExitClass, message: impl Into<String>, hint: Option<&str>) -> Self {
        Self { class, message: Some(message.into()), hint: hint.map(str::to_owned) }
    }
}

/// The program ended by itself.
pub fn ended(status: WaitStatus, shortage: Option<Shortage>) -> Account {
    let words = match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => return Account { class: ExitClass::Ok, message: None, hint: None },
        (None, Some(KILL)) if shortage == Some(Shortage::Killed) => {
            return Account::new(
                ExitClass::OomHost,
                "killed by the kernel, which had run out of memory",
                Some("run fewer jobs at once, or make the batch or the model smaller"),
            );
        }
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => {
            let name = name(number).map(|name| format!(" ({name})")).unwrap_or_default();
            format!("killed by signal {number}{name}")
        }
        (None, None) => "it ended in a way that is not known".to_owned(),
    };
    match shortage {
        Some(Shortage::Refused { bytes }) => Account::new(
            ExitClass::OomHost,
            format!("{words}: it was refused memory, of which each of its processes may have {} MiB", bytes >> 20),
            Some("ask for more with --mem (resources.memory_mib), or have it use less"),
        ),
        Some(Shortage::Killed) | None => Account::new(ExitClass::Crash, words, Some(SEE)),
    }
}

/// The program was asked to end, and has.
pub fn stopped(order: &Order) -> Account {
    match order {
        Order::Stop(StopClass::Timeout) => Account::new(ExitClass::Timeout, "stopped at its time limit", None),
        Order::Stop(StopClass::Cancelled) => Account::new(ExitClass::Cancelled, "stopped by order", None),
        Order::Stop(StopClass::Preempted) | Order::Checkpoint => {
            Account::new(ExitClass::Preempted, "stopped by order", None)
        }
        Order::LeaseLost => Account::new(ExitClass::Lost, "no daemon for the time of the lease", None),
        Order::Refused(reason) => Account::new(ExitClass::Lost, reason.clone(), None),
    }
}

/// The program could not be started. `program` is its path where that is known, else its name.
pub fn not_started(program: &str, error: &io::Error) -> Account {
    let has_path = program.contains('/');
    let exists = has_path && Path::new(program).exists();
    let spec = |message: String, hint: &str| Account::new(ExitClass::Spec, message, Some(hint));
    match error.kind() {
        io::ErrorKind::NotFound if exists => spec(
            format!("cannot execute {program}: the interpreter that its first line names does not exist"),
            "correct the line that begins with #!; one that ends in a carriage return names no program either",
        ),
        io::ErrorKind::NotFound if has_path => spec(
            format!("cannot execute {program}: it does not exist"),
            "check the path; a relative one begins at the job's folder",
        ),
        io::ErrorKind::NotFound => spec(
            format!("cannot execute {program}: no folder of PATH has it"),
            "name it by its path, or set PATH with --env",
        ),
        io::ErrorKind::PermissionDenied => spec(
            format!("cannot execute {program}: permission denied"),
            "make it executable with `chmod +x`, and let mld's user enter its folder",
        ),
        io::ErrorKind::ArgumentListTooLong => {
            spec(format!("cannot execute {program}: its arguments are too long"), "put long texts into a file")
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => spec(
            format!("cannot execute {program}: it is no program"),
            "a script begins with a line such as #!/bin/sh; a program is built for this machine",
        ),
        _ => Account::new(
            ExitClass::Crash,
            format!("cannot execute {program}: {error}"),
            Some("check the machine's limits and memory"),
        ),
    }
}

/// The folder in which it was to run cannot be used.
pub fn no_folder(folder: &Path, why: &str) -> Account {
    let folder = folder.display();
    let hint = "check the path; it must be there on the daemon's machine, and mld's user must be able to enter it";
    Account::new(ExitClass::Spec, format!("cannot run in {folder}: {why}"), Some(hint))
}

/// The folder for checkpoints cannot be made.
pub fn no_checkpoints(folder: &Path, error: &io::Error) -> Account {
    let message = format!("cannot make the checkpoint folder {}: {error}", folder.display());
    Account::new(ExitClass::Spec, message, Some("name one that mld's user may write to"))
}

/// Storage does not let an earlier attempt's work be gone on from.
pub fn storage(error: &ArtifactError) -> Account {
    let hint = error.hint().unwrap_or("`mlctl doctor` asks whether the store answers");
    Account::new(error.storage_class(), with_causes(error), Some(hint))
}

/// An error and what caused it, on one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// This process is not ready to run anything.
pub fn unready(what: &str, error: &io::Error) -> Account {
    Account::new(ExitClass::Crash, format!("cannot {what}: {error}"), Some("check the machine's limits"))
}

/// The job is another worker's.
pub fn not_mine(kind: &str) -> Account {
    let hint = "name the program of each in its own setting: workers.command and commands.executable in mld.toml";
    Account::new(ExitClass::Crash, format!("this worker runs command jobs, and the job is of kind {kind}"), Some(hint))
}

fn name(number: i32) -> Option<&'static str> {
    let names = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (KILL, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (14, "SIGALRM"),
        (15, "SIGTERM"),
        (24, "SIGXCPU"),
        (25, "SIGXFSZ"),
        (31, "SIGSYS"),
    ];
    names.into_iter().find(|(known, _)| *known == number).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_started_is_told_by_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("x.sh");
        std::fs::write(&script, "#!/bin/none\n").unwrap();
        let (script, missing) = (script.to_str().unwrap(), "/nowhere/x.sh");
        let os = |errno: rustix::io::Errno| io::Error::from(errno);
        for (program, error, class, words) in [
            (script, os(rustix::io::Errno::NOENT), ExitClass::Spec, "interpreter"),
            (missing, os(rustix::io::Errno::NOENT), ExitClass::Spec, "/nowhere/x.sh: it does not exist"),
            ("pythn", os(rustix::io::Errno::NOENT), ExitClass::Spec, "no folder of PATH has it"),
            (script, os(rustix::io::Errno::ACCESS), ExitClass::Spec, "permission denied"),
            (script, os(rustix::io::Errno::NOEXEC), ExitClass::Spec, "it is no program"),
            (script, os(rustix::io::Errno::TOOBIG), ExitClass::Spec, "too long"),
            (script, os(rustix::io::Errno::NOMEM), ExitClass::Crash, "cannot execute"),
        ] {
            let told = not_started(program, &error);
            assert_eq!(told.class, class, "{told:?}");
            assert!(told.message.as_ref().unwrap().contains(words), "{told:?}");
            assert!(told.hint.is_some());
        }
    }

    #[test]
    fn orders_give_the_class_that_was_asked_for() {
        for (order, class) in [
            (Order::Stop(StopClass::Timeout), ExitClass::Timeout),
            (Order::Stop(StopClass::Cancelled), ExitClass::Cancelled),
            (Order::Stop(StopClass::Preempted), ExitClass::Preempted),
            (Order::LeaseLost, ExitClass::Lost),
            (Order::Refused("stale".into()), ExitClass::Lost),
        ] {
            assert_eq!(stopped(&order).class, class);
        }
    }
}
