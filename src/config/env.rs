//! The one place that reads the environment. Called once by each program's main function; everybody else is handed an [`Environment`], and tests make their own.

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

use mlctl_protocol::s3::S3Credentials;

/// What the programs take from their environment. A variable that is set to nothing counts as not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `MLD_CONFIG`: the daemon's settings file.
    pub mld_config: Option<PathBuf>,
    /// `MLD_STATE_DIR`: everything of the daemon under one folder.
    pub mld_state_dir: Option<PathBuf>,
    /// `MLD_LOG`: the level of the daemon's log, or a filter.
    pub mld_log: Option<String>,
    /// `MLD_CLOCK_OFFSET_SECONDS`: moves the daemon's clock, for tests.
    pub mld_clock_offset_seconds: Option<String>,
    /// `MLD_CLOCK_RATE`: hurries the daemon's clock, for tests.
    pub mld_clock_rate: Option<String>,
    /// `MLCTL_SOCKET`: the daemon's socket.
    pub mlctl_socket: Option<PathBuf>,
    /// `MLCTL_CONFIG`: the CLI's settings file.
    pub mlctl_config: Option<PathBuf>,
    /// `MLCTL_OUTPUT`: the form of the output.
    pub mlctl_output: Option<String>,
    /// `ML_JOB_ID`: the job that runs this program, as the daemon tells its jobs.
    pub job: Option<String>,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, where one of the first two is set; the other is empty then.
    pub s3: Option<S3Credentials>,
    /// `AWS_ENDPOINT_URL`: the S3 server of `mlctl storage`. The daemon does not go by it.
    pub aws_endpoint_url: Option<String>,
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`: its region. The daemon does not go by it.
    pub aws_region: Option<String>,
    /// `CREDENTIALS_DIRECTORY`: what systemd was asked to load.
    pub credentials_directory: Option<PathBuf>,
    /// `NO_COLOR`: no colour, whatever it is set to.
    pub no_color: bool,
    /// `TERM=dumb`: neither colour nor a moving cursor.
    pub dumb_terminal: bool,
    /// Whether this process runs as root, or as a systemd service with a state directory.
    pub is_service: bool,
    /// `XDG_CONFIG_HOME`, or `~/.config`.
    pub config_home: Option<PathBuf>,
    /// `XDG_STATE_HOME`, or `~/.local/state`.
    pub state_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// The working directory.
    pub working_dir: PathBuf,
    /// The folder of the running program.
    pub program_dir: Option<PathBuf>,
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    pub fn read() -> Self {
        let home = path("HOME");
        let under_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        Self {
            mld_config: path("MLD_CONFIG"),
            mld_state_dir: path("MLD_STATE_DIR"),
            mld_log: text("MLD_LOG"),
            mld_clock_offset_seconds: text("MLD_CLOCK_OFFSET_SECONDS"),
            mld_clock_rate: text("MLD_CLOCK_RATE"),
            mlctl_socket: path("MLCTL_SOCKET"),
            mlctl_config: path("MLCTL_CONFIG"),
            mlctl_output: text("MLCTL_OUTPUT"),
            job: text("ML_JOB_ID"),
            s3: s3_credentials(),
            aws_endpoint_url: text("AWS_ENDPOINT_URL"),
            aws_region: text("AWS_REGION").or_else(|| text("AWS_DEFAULT_REGION")),
            credentials_directory: folder("CREDENTIALS_DIRECTORY"),
            no_color: variable("NO_COLOR").is_some(),
            dumb_terminal: text("TERM").is_some_and(|term| term == "dumb"),
            is_service: rustix::process::geteuid().is_root() || variable("STATE_DIRECTORY").is_some(),
            config_home: folder("XDG_CONFIG_HOME").or_else(|| under_home(".config")),
            state_home: folder("XDG_STATE_HOME").or_else(|| under_home(".local/state")),
            runtime_dir: folder("XDG_RUNTIME_DIR"),
            working_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            program_dir: std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())),
        }
    }

    /// The CLI's settings file, whether it is there or not.
    #[must_use]
    pub fn client_file(&self) -> Option<PathBuf> {
        let named = self.mlctl_config.as_ref().map(|path| self.absolute(path));
        named.or_else(|| self.config_home.as_ref().map(|home| home.join("mlctl/config.toml")))
    }

    /// A path as the user means it: relative to the working directory.
    #[must_use]
    pub fn absolute(&self, path: &Path) -> PathBuf {
        absolute_in(&self.working_dir, path)
    }
}

/// A path relative to `folder`, without `.` and `..`. What `..` means is asked of the file system, where a symbolic link may lie before it.
#[must_use]
pub fn absolute_in(folder: &Path, path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => {
                clean = clean.canonicalize().unwrap_or(clean);
                clean.pop();
            }
            Component::CurDir => {}
            part => clean.push(part),
        }
    }
    clean
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from)
}

fn text(name: &str) -> Option<String> {
    variable(name).map(|value| value.to_string_lossy().into_owned())
}

fn s3_credentials() -> Option<S3Credentials> {
    let (id, secret) = (text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY"));
    (id.is_some() || secret.is_some()).then(|| S3Credentials {
        access_key_id: id.unwrap_or_default(),
        secret_access_key: secret.unwrap_or_default(),
        session_token: text("AWS_SESSION_TOKEN"),
    })
}

/// A folder of the XDG base directory specification, which says that a relative one is to be ignored.
fn folder(name: &str) -> Option<PathBuf> {
    path(name).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_as_the_file_system_means_them() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        std::fs::create_dir_all(home.join("far/deep")).unwrap();
        std::os::unix::fs::symlink(home.join("far/deep"), home.join("link")).unwrap();
        for (path, expected) in [
            ("a.csv", "a.csv"),
            ("./b//c.csv", "b/c.csv"),
            ("far/../a.csv", "a.csv"),
            ("none/../../x", "../x"),
            ("link/../a.csv", "far/a.csv"),
            ("link/a b%20.csv", "link/a b%20.csv"),
        ] {
            let expected = match expected.strip_prefix("../") {
                Some(rest) => home.parent().unwrap().join(rest),
                None => home.join(expected),
            };
            assert_eq!(absolute_in(&home, Path::new(path)), expected, "{path}");
        }
        assert_eq!(absolute_in(&home, Path::new("/etc/../../x")), PathBuf::from("/x"));
    }
}
