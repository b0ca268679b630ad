//! The programs under test, built. Solved here once, because cargo has three traps:
//!
//! - A test of the root package can name the binaries of the root package alone (`CARGO_BIN_EXE_mld`); there is no `CARGO_BIN_EXE_mlworker`.
//! - `cargo test` and `cargo nextest run` build no binary of another package, so a worker lying there may be one of last week, or none.
//! - A `[[bin]]` with `required-features` is left out silently where they are off, and a stale one is run. So no program here has them.
//!
//! `ops/test` builds every program of the workspace first and says so with `MLCTL_TEST_BUILT=1`. Without that, the workers are built here, once per test process:
//! cargo finds in a moment that nothing has changed. Processes that come at the same time wait for each other at a lock of our own, so that
//! no program is replaced while another test is about to start it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::chance::variable;

/// The programs of workers, each of a package of its name.
const PROGRAMS: [&str; 3] = ["mlworker", "mlworker-fake", "mlworker-command"];

/// Which program plays the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worker {
    /// `mlworker-fake`, which does what its script says.
    Fake,
    /// `mlworker`, which trains.
    Real,
}

impl Worker {
    /// Its program.
    pub fn program(self) -> PathBuf {
        programs().join(match self {
            Self::Fake => "mlworker-fake",
            Self::Real => "mlworker",
        })
    }
}

/// The daemon's program.
pub fn mld() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mld"))
}

/// The CLI's program.
pub fn mlctl() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mlctl"))
}

/// The program that runs commands, whichever plays the worker.
pub fn command_worker() -> PathBuf {
    programs().join("mlworker-command")
}

/// The folder that holds all programs, the workers' made sure of.
fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = mld().parent().unwrap().to_owned();
        if variable("MLCTL_TEST_BUILT").as_deref() != Some("1") {
            build(&folder);
        }
        for program in PROGRAMS {
            assert!(folder.join(program).is_file(), "{program} is not in {}: build it first", folder.display());
        }
        folder
    })
}

fn build(folder: &Path) {
    let profile = match folder.file_name().and_then(|name| name.to_str()).unwrap() {
        "debug" => "dev",
        other => other,
    };
    let lock = File::create(folder.join(".mlctl-test-build.lock")).unwrap();
    lock.lock().unwrap();
    let cargo = variable("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--locked", "--quiet", "--bins", "--profile", profile])
        .args(PROGRAMS.iter().flat_map(|program| ["-p", program]))
        .arg("--target-dir")
        .arg(folder.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo can be run");
    assert!(built.success(), "the workers do not build: {built}");
}
