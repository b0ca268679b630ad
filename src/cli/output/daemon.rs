//! The daemon in print: how it is.

use anstyle::AnsiColor;
use jiff::Timestamp;
use serde::Serialize;

use super::{Output, text};
use crate::{
    api::types::{CheckStatus, DaemonView, DispatchState, DispatchView, DoctorView, ReloadView, ResumeView},
    cli::Failure,
    config::OutputForm,
};

/// Prints how the daemon is.
pub fn status(out: &mut Output, daemon: &DaemonView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(daemon),
        OutputForm::Name => return out.line(&daemon.socket),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let up = text::between(daemon.started_at, daemon.now);
    out.line(format!("mld {} runs as process {}, for {up}", text::visible_line(&daemon.version), daemon.pid))?;
    for (name, value) in facts(daemon, daemon.now) {
        out.line(format!("  {name:<11}{}", text::visible_line(&value)))?;
    }
    Ok(())
}

/// Prints what came of a drain; the daemon's process, and whether the end was not waited for.
pub fn drained(out: &mut Output, begun: &DispatchView, (pid, is_going_on): (u32, bool)) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(begun);
    }
    let stops = begun.drain.as_ref().is_some_and(|drain| drain.stop);
    out.line(match (stops, is_going_on) {
        (true, true) => format!("mld (process {pid}) is being drained, and stops when no job runs any more"),
        (true, false) => {
            format!("mld (process {pid}) is drained and has stopped; queued jobs wait until it is started again")
        }
        (false, true) => format!("mld (process {pid}) is being drained; `mlctl daemon drain --resume` takes it back"),
        (false, false) => {
            format!("mld (process {pid}) is drained; `mlctl daemon drain --resume` has jobs started again")
        }
    })
}

/// Prints what came of settings that were read again.
pub fn reloaded(out: &mut Output, view: &ReloadView) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(view);
    }
    if view.applied.is_empty() && view.pending.is_empty() {
        return out.line("the settings are as they were");
    }
    for key in &view.applied {
        out.line(format!("{key} holds from now on"))?;
    }
    for key in &view.pending {
        out.line(format!("{key} has changed, and holds from the next start on"))?;
    }
    if !view.pending.is_empty() {
        out.say(
            "`mlctl daemon stop` and a start, or `systemctl restart mld`, put that in force; jobs run on meanwhile",
        );
    }
    Ok(())
}

/// Prints that a drain was taken back.
pub fn resumed(out: &mut Output, view: &ResumeView) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(view);
    }
    out.line(if view.resumed { "jobs are started again" } else { "there was no drain to take back" })
}

/// Whether jobs are started, in a line.
fn dispatch(view: &DispatchView, now: Timestamp) -> String {
    let looked = view.checked_at.map(|at| format!("; the database was looked through {}", text::moment(at, now)));
    let looked = looked.unwrap_or_default();
    match (view.state, &view.frozen, &view.drain) {
        (DispatchState::Frozen, Some(frozen), _) => {
            let first = frozen.problems.first().map(String::as_str).unwrap_or_default();
            format!("FROZEN, the database is damaged: {first}; {}", frozen.hint)
        }
        (DispatchState::Draining, _, Some(drain)) => {
            let then = if drain.stop { ", then mld stops" } else { "" };
            format!("draining, asked for by {}: {} jobs run{then}", drain.by, drain.running)
        }
        _ => format!("jobs are started{looked}"),
    }
}

fn facts(daemon: &DaemonView, now: Timestamp) -> Vec<(&'static str, String)> {
    let jobs: Vec<_> = daemon.jobs.iter().map(|(state, count)| format!("{} {state}", text::count(*count))).collect();
    let (used, machine) = (&daemon.used, &daemon.machine);
    vec![
        ("jobs", if jobs.is_empty() { "none yet".into() } else { jobs.join(", ") }),
        (
            "in use",
            format!(
                "{} of {} CPUs, {} of {} GPUs, {} of {} memory",
                used.cpus,
                machine.cpus,
                used.gpus,
                machine.gpus,
                text::mib(used.memory_mib),
                text::mib(machine.memory_mib)
            ),
        ),
        ("dispatch", dispatch(&daemon.dispatch, now)),
        ("started", text::moment(daemon.started_at, now)),
        ("user", format!("uid {}", daemon.uid)),
        ("socket", daemon.socket.clone()),
        ("state", daemon.state_dir.clone()),
        ("storage", daemon.storage_url.clone()),
        ("worker", daemon.worker.clone()),
        ("instance", format!("{}, epoch {}", daemon.instance, daemon.epoch)),
    ]
}

/// What the CLI goes by.
#[derive(Debug, Serialize)]
pub struct ConfigView {
    /// The version of the CLI's documents.
    pub schema: u32,
    /// The sockets that are tried, in order.
    pub sockets: Vec<String>,
    /// Who named them.
    pub sockets_from: &'static str,
    /// The form of the output.
    pub output: OutputForm,
    /// The settings file, whether it is there or not.
    pub file: Option<String>,
}

/// Prints what the CLI goes by.
pub fn config(out: &mut Output, view: &ConfigView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return view.sockets.iter().try_for_each(|socket| out.line(socket)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let from = view.sockets_from;
    for socket in &view.sockets {
        out.line(format!("{:<9}{} ({from})", "socket", text::visible_line(socket)))?;
    }
    let form = OutputForm::ALL.into_iter().find(|(_, form)| *form == view.output);
    out.line(format!("{:<9}{}", "output", form.map_or("", |(name, _)| name)))?;
    out.line(format!("{:<9}{}", "file", view.file.as_deref().unwrap_or("none: HOME is not set")))
}

/// Prints what the doctor found.
pub fn doctor(out: &mut Output, view: &DoctorView) -> Result<(), Failure> {
    if out.is_json() {
        return out.json_list(view, &view.checks);
    }
    let widest = view.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &view.checks {
        let (word, colour) = match check.status {
            CheckStatus::Ok => ("ok  ", AnsiColor::Green),
            CheckStatus::Warn => ("warn", AnsiColor::Yellow),
            CheckStatus::Fail => ("FAIL", AnsiColor::Red),
        };
        let word = out.styled(colour.on_default(), word);
        let (name, detail) = (text::visible_line(&check.name), text::visible_line(&check.detail));
        out.line(format!("{word}  {name:<widest$}  {detail}"))?;
        if let Some(hint) = &check.hint {
            out.line(format!("      {:<widest$}  hint: {}", "", text::visible_line(hint)))?;
        }
    }
    Ok(())
}

/// What this program is.
#[derive(Debug, Serialize)]
pub struct VersionView {
    /// The version of the CLI's documents.
    pub schema: u32,
    /// The release.
    pub version: &'static str,
    /// The version of job specs that it reads.
    pub spec_version: u32,
}

/// Prints what this program is.
pub fn version(out: &mut Output, view: &VersionView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(view),
        OutputForm::Name => out.line(view.version),
        OutputForm::Table | OutputForm::Wide => {
            out.line(format!("mlctl {} (job spec version {}, API version 1)", view.version, view.spec_version))
        }
    }
}
