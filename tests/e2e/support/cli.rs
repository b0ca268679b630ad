//! `mlctl`, run as a person or a script would, with an environment of its own and a ceiling.

use std::{
    ffi::OsStr,
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{programs, until};

/// What a run of a program came to.
#[derive(Debug, Clone)]
pub struct Run {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Standard output of a success.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// Standard output of a success as JSON.
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Fails unless the run ended with `code` and standard error has all of `words`.
    pub fn must_fail(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in what it said: {}", self.stderr);
        }
    }
}

/// Runs `mlctl` in `folder` against the daemon at `socket`.
pub fn mlctl(folder: &Path, socket: &Path, args: &[impl AsRef<OsStr>]) -> Run {
    let mut command = Command::new(programs::mlctl());
    command.args(args).env("MLCTL_SOCKET", socket);
    run(folder, command)
}

/// Runs a program in `folder` without our environment, its output to files: a full pipe cannot stop it.
pub fn run(folder: &Path, mut command: Command) -> Run {
    let scratch = tempfile::tempdir().unwrap();
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| scratch.path().join(name));
    // `env` of the caller was set on top of the inherited environment: keep only what is needed of that.
    for name in ["MLCTL_OUTPUT", "MLCTL_CONFIG", "MLCTL_URL", "MLD_CONFIG", "MLD_STATE_DIR", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    let mut child = command
        .env("HOME", scratch.path())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(File::create(&stdout).unwrap())
        .stderr(File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let status = until("the program ends", || child.try_wait().unwrap());
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    Run { code: status.code().unwrap_or(-1), stdout: read(&stdout), stderr: read(&stderr) }
}
