//! `mlctl`: parse, call, print. A verb has a file in `commands`, what it prints is in `output`, how it reaches the daemon in `client`. Called by the main function with
//! everything that comes from outside; it decides nothing about jobs, and opens no database.

mod args;
mod client;
mod commands;
mod context;
mod exit;
mod failure;
mod output;
mod sizes;
mod spec;
mod sweep;
mod times;
mod weights;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

use crate::{config::Environment, domain::Clock};
use args::Arguments;
use context::Context;
use exit::Exit;
use failure::Failure;
use output::Output;

/// What the CLI is given by its main function.
pub struct Surroundings<'a> {
    /// The environment.
    pub environment: &'a Environment,
    /// The wall clock.
    pub clock: &'a dyn Clock,
    /// Fills bytes at random.
    pub chance: fn(&mut [u8]),
}

/// How a verb ends.
type Done = Result<Exit, Failure>;

/// Does what the command line says.
pub fn run(line: impl IntoIterator<Item = OsString>, surroundings: &Surroundings<'_>) -> ExitCode {
    let line: Vec<OsString> = line.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&line) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, &line, surroundings.environment).into(),
    };
    let goal = arguments.verb.goal();
    let mut context = match Context::new(&arguments.global, surroundings) {
        Ok(context) => context,
        Err(failure) => {
            let form = arguments.global.output.unwrap_or_default();
            return ended(&mut Output::new(form, surroundings.environment), &goal, Err(failure));
        }
    };
    let done = arguments.verb.run(&mut context);
    ended(&mut context.out, &goal, done)
}

/// Says what failed, if something did, and makes an exit code of it.
fn ended(out: &mut Output, goal: &str, done: Done) -> ExitCode {
    let done = done.and_then(|exit| out.flush().map(|()| exit));
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // What was printed before the failure belongs before its message.
            let _ = out.flush();
            out.complain(goal, &failure);
            failure.exit.into()
        }
    }
}

/// A command line that is none. Help and version come this way too.
fn usage(error: &clap::Error, line: &[OsString], environment: &Environment) -> Exit {
    let wants_json = |text: &str| matches!(text, "json" | "jsonl");
    let has_flag = line
        .windows(2)
        .any(|pair| matches!(pair[0].to_str(), Some("-o" | "--output")) && pair[1].to_str().is_some_and(wants_json));
    let has_joined = line
        .iter()
        .filter_map(|word| word.to_str())
        .any(|word| word.strip_prefix("-o").or_else(|| word.strip_prefix("--output=")).is_some_and(wants_json));
    let is_json = has_flag || has_joined || environment.mlctl_output.as_deref().is_some_and(wants_json);
    if !error.use_stderr() {
        // Help that nobody reads to its end is no failure.
        let _ = error.print();
        return Exit::Ok;
    }
    if is_json {
        let text = error.render().to_string();
        let mut lines =
            text.lines().map(|line| line.trim_start_matches("error: ").trim()).filter(|line| !line.is_empty());
        let failure =
            Failure::new(Exit::Usage, lines.next().unwrap_or("wrong usage")).hint("`mlctl help` lists the verbs");
        Output::new(crate::config::OutputForm::Json, environment).complain("read the command line", &failure);
    } else {
        let _ = error.print();
    }
    Exit::Usage
}
