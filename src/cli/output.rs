//! The only room that prints: data on standard output in the form that was asked for, talk on standard error. A reader that went away ends the program without a word.

pub mod arrays;
pub mod card;
pub mod checkpoints;
pub mod comparison;
pub mod confusion;
pub mod daemon;
pub mod datasets;
pub mod db;
pub mod devices;
pub mod follow;
pub mod gc;
pub mod jobs;
pub mod logs;
pub mod models;
pub mod notify;
pub mod plot;
pub mod pull;
pub mod queues;
pub mod removal;
pub mod schedules;
pub mod storage;
pub mod table;
pub mod text;

#[cfg(test)]
pub mod samples;

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{Failure, exit::Exit};
use crate::{
    api::types::SCHEMA,
    config::{Environment, OutputForm, document::Located},
};

/// Where everything is printed.
pub struct Output {
    /// The form that was asked for.
    pub form: OutputForm,
    stdout: BufWriter<StdoutLock<'static>>,
    /// The terminal that standard output is.
    pub screen: Option<Screen>,
    /// Whether standard error is a terminal whose cursor can be moved.
    pub is_live: bool,
    has_colour: bool,
    complains_in_colour: bool,
}

/// A terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Its columns.
    pub columns: usize,
    /// Its rows.
    pub rows: usize,
    /// Whether its cursor can be moved.
    pub is_smart: bool,
}

impl Output {
    /// Standard output and error as they are.
    pub fn new(form: OutputForm, environment: &Environment) -> Self {
        let stdout = io::stdout();
        let is_smart = !environment.dumb_terminal;
        let size = rustix::termios::tcgetwinsize(&stdout).ok().filter(|size| size.ws_col > 0);
        let screen = stdout.is_terminal().then(|| Screen {
            columns: size.map_or(80, |size| size.ws_col.into()),
            rows: size.map_or(24, |size| size.ws_row.into()),
            is_smart,
        });
        let may_colour = is_smart && !environment.no_color;
        let is_terminal = io::stderr().is_terminal();
        Self {
            form,
            stdout: BufWriter::new(stdout.lock()),
            screen,
            is_live: is_terminal && is_smart,
            has_colour: screen.is_some() && may_colour,
            complains_in_colour: is_terminal && may_colour,
        }
    }

    /// Whether programs read the output.
    pub const fn is_json(&self) -> bool {
        matches!(self.form, OutputForm::Json | OutputForm::Jsonl)
    }

    /// Whether the output is as wide as it likes.
    pub const fn is_wide(&self) -> bool {
        matches!(self.form, OutputForm::Wide)
    }

    /// The text in a style, where there is colour.
    pub fn styled(&self, style: Style, text: &str) -> String {
        if self.has_colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Prints a line.
    pub fn line(&mut self, line: impl AsRef<str>) -> Result<(), Failure> {
        self.bytes(line.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// Prints bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stdout.write_all(bytes).map_err(|error| unwritten(&error))
    }

    /// Prints a value as JSON: over many lines for `json`, in one for `jsonl`.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = match self.form {
            OutputForm::Jsonl => serde_json::to_string(value),
            _ => serde_json::to_string_pretty(value),
        };
        self.line(text.map_err(|error| Failure::caused("write JSON", &error))?)
    }

    /// Prints a list as JSON: the whole for `json`, its items for `jsonl`.
    pub fn json_list(&mut self, whole: &impl Serialize, items: &[impl Serialize]) -> Result<(), Failure> {
        match self.form {
            OutputForm::Jsonl => items.iter().try_for_each(|item| self.json(item)),
            _ => self.json(whole),
        }
    }

    /// Prints a table that fits the terminal.
    pub fn table(&mut self, table: &table::Table) -> Result<(), Failure> {
        let lines = table.lines(self.screen.map(|screen| screen.columns), |style, text| self.styled(style, text));
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// Hands over what was printed so far.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(|error| unwritten(&error))
    }

    /// Starts the screen anew, for what is shown again and again.
    pub fn clear(&mut self) -> Result<(), Failure> {
        match self.screen {
            Some(Screen { is_smart: true, .. }) => self.bytes(b"\x1b[H\x1b[2J\x1b[3J"),
            _ => self.line(""),
        }
    }

    /// Tells a person something that is no data. Programs that ask for JSON are told nothing.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.is_json() {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(io::stderr(), "{}", line.as_ref());
        }
    }

    /// Asks a person something, who answers in the same line.
    pub fn ask(&self, question: &str) {
        let mut stderr = io::stderr();
        let _ = write!(stderr, "{question} ").and_then(|()| stderr.flush());
    }

    /// Says what failed, why, and what to do.
    pub fn complain(&self, goal: &str, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let text = if self.is_json() { complaint_json(goal, failure) } else { self.complaint(goal, failure) };
        let _ = writeln!(io::stderr(), "{text}");
    }

    fn complaint(&self, goal: &str, failure: &Failure) -> String {
        let red = AnsiColor::Red.on_default().bold();
        let head = format!("mlctl: cannot {goal}");
        let mut lines = vec![if self.complains_in_colour { format!("{red}{head}{red:#}") } else { head }];
        for why in &failure.why {
            lines.extend(text::visible(why).lines().map(|line| format!("  {line}")));
        }
        if let Some(report) = &failure.report {
            lines.push(report.to_string());
        }
        if let Some(hint) = &failure.hint {
            lines.push(format!("  hint: {}", text::visible(hint)));
        }
        lines.join("\n")
    }
}

/// An error as an object.
#[derive(Serialize)]
struct ErrorDocument<'a> {
    schema: u32,
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: serde_json::Value,
    exit_code: u8,
    message: String,
    reasons: &'a [String],
    hint: Option<&'a str>,
    problems: Vec<Located>,
}

fn complaint_json(goal: &str, failure: &Failure) -> String {
    let code = match failure.code {
        Some(code) => serde_json::to_value(code).unwrap_or_default(),
        None => failure.exit.name().into(),
    };
    let document = ErrorDocument {
        schema: SCHEMA,
        error: ErrorBody {
            code,
            exit_code: failure.exit.code(),
            message: format!("cannot {goal}"),
            reasons: &failure.why,
            hint: failure.hint.as_deref(),
            problems: failure.report.as_ref().map(|report| report.located()).unwrap_or_default(),
        },
    };
    serde_json::to_string(&document).unwrap_or_default()
}

fn unwritten(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::unread(),
        _ => Failure { exit: Exit::Failed, ..Failure::caused("write the output", error) },
    }
}

/// The style of a job's state.
pub fn state_style(state: &str) -> Style {
    match state {
        "running" => AnsiColor::Cyan.on_default(),
        "succeeded" => AnsiColor::Green.on_default(),
        "failed" => AnsiColor::Red.on_default(),
        "cancelled" | "held" | "blocked" => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    }
}
