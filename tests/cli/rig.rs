//! A folder with a played daemon in it, the program run there, and snapshots.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::played::{Answer, Daemon};

/// How long the program may take to end.
const CEILING: Duration = Duration::from_secs(60);

pub struct Rig {
    home: TempDir,
    pub daemon: Option<Daemon>,
}

/// How the program ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Rig {
    /// With a daemon that answers as the script says.
    pub fn new(script: &[(&str, &[Answer])]) -> Self {
        let mut rig = Self::without_daemon();
        rig.daemon = Some(Daemon::start(rig.path(), script));
        rig
    }

    pub fn without_daemon() -> Self {
        Self { home: tempfile::tempdir().unwrap(), daemon: None }
    }

    pub fn path(&self) -> &Path {
        self.home.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// The lines that were asked.
    pub fn asked(&self) -> Vec<String> {
        self.daemon.as_ref().unwrap().asked().into_iter().map(|asked| asked.line).collect()
    }

    /// The program, in the folder and with an environment of its own.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlctl"));
        command.env_clear().env("HOME", self.path()).env("MLCTL_SOCKET", self.path().join("mld.sock"));
        command.current_dir(self.path()).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.ran(self.command(args).spawn().unwrap())
    }

    /// Waits for the program's end. The folder's name is replaced in what it said.
    pub fn ran(&self, child: Child) -> Ran {
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let folder = self.path().display().to_string();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&folder, "HOME");
        let code = status.code().unwrap_or_else(|| panic!("died of a signal: {status}"));
        Ran { code, stdout: text(stdout), stderr: text(stderr) }
    }
}

impl Ran {
    /// Code, output and talk in one text, for a snapshot.
    pub fn text(&self) -> String {
        let mut text = self.stdout.clone();
        for line in self.stderr.lines() {
            let _ = writeln!(text, "stderr: {line}");
        }
        let _ = writeln!(text, "exit code {}", self.code);
        text
    }
}

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < CEILING, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Compares a text with what was pinned.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says so whether snapshots are written")]
pub fn snapshot(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("MLCTL_SNAPSHOTS").is_some_and(|value| value == "write") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let pinned = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(pinned == text, "{} is pinned as\n{pinned}\nand was\n{text}", path.display());
}
