//! Eyes for processes. A worker and everything it starts bears its attempt's folder in the environment (`ML_RUN_DIR`), so a test can find all
//! processes of its own daemon and none of another's.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};

/// A process of some attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Its id.
    pub pid: u32,
    /// The job it was started for; [`AHEAD`] where it was started before there was one.
    pub job: String,
}

/// In place of a job's id.
pub const AHEAD: &str = "ahead";

/// Every live process of the attempts under a state directory.
pub fn of_attempts(state_dir: &Path) -> Vec<Marked> {
    let beginning = format!("ML_RUN_DIR={}/", state_dir.display());
    let of = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let variables: Vec<_> = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        variables.iter().find(|variable| variable.starts_with(&beginning))?;
        let job = variables.iter().find_map(|variable| variable.strip_prefix("ML_JOB_ID="));
        is_alive(pid).then(|| Marked { pid, job: job.unwrap_or(AHEAD).to_owned() })
    };
    all().into_iter().filter_map(of).collect()
}

/// Children of a process that have ended and were not reaped.
pub fn zombies_of(parent: u32) -> Vec<u32> {
    let is_one = |pid: &u32| stat(*pid).is_some_and(|stat| stat.state == 'Z' && stat.parent == parent);
    all().into_iter().filter(is_one).collect()
}

/// Whether a process runs: it is there, and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Sends a signal; that nobody is there any more is fine.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = kill_process(pid, signal);
}

/// SIGKILL.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What `/proc` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `Z` for one that has ended and was not reaped.
    pub state: char,
    /// Who reaps it.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// The device of its terminal; 0 for none.
    pub terminal: i32,
}

/// What a process is, while it is there.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    Some(Stat { state, parent, group, session, terminal: fields.next()?.parse().ok()? })
}
