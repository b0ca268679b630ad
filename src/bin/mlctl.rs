//! `mlctl`, the CLI: hands the library the command line, the environment, the clock and chance. Everything else is in `cli`.

use std::process::ExitCode;

use mlctl::{
    cli::{self, Surroundings},
    config::Environment,
    daemon::{clock::SystemClock, entropy},
};

fn main() -> ExitCode {
    let surroundings =
        Surroundings { environment: &Environment::read(), clock: &SystemClock::default(), chance: entropy::fill };
    cli::run(std::env::args_os(), &surroundings)
}
