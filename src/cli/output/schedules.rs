//! Schedules in print.

use std::cmp::Reverse;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{
        Applied, ApplyView, BackfillView, PreviewView, RunView, ScheduleDetail, ScheduleList, ScheduleView, TickView,
    },
    cli::Failure,
    config::OutputForm,
    domain::schedule::{Misfire, Overlap, Policy},
};

/// Runs of a schedule that are shown.
const MAX_RUNS: usize = 10;

/// Prints what was added, or was there already.
pub fn added(out: &mut Output, view: &ScheduleView, is_new: bool, now: Timestamp) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return out.line(&view.name),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let what = if is_new { "added" } else { "is there already, the same in everything" };
    out.line(format!("schedule {} {what}: {} in {}", view.name, view.cron, view.zone))?;
    out.line(format!("  next {}", next(view, now)))?;
    out.flush()?;
    for remark in &view.remarks {
        out.say(format!("note: {remark}"));
    }
    Ok(())
}

/// Prints what was removed.
pub fn removed(out: &mut Output, view: &ScheduleView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(view),
        OutputForm::Name => out.line(&view.name),
        OutputForm::Table | OutputForm::Wide => out.line(format!("schedule {} removed; its jobs stay", view.name)),
    }
}

/// Prints what was paused, or goes on.
pub fn changed(out: &mut Output, view: &ScheduleView, now: Timestamp) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(view),
        OutputForm::Name => out.line(&view.name),
        OutputForm::Table | OutputForm::Wide if view.enabled => {
            out.line(format!("schedule {} goes on: next {}", view.name, next(view, now)))
        }
        OutputForm::Table | OutputForm::Wide => {
            out.line(format!("schedule {} is paused: it submits nothing until `mlctl schedule resume`", view.name))
        }
    }
}

/// Prints schedules with their next and last runs.
pub fn list(out: &mut Output, list: &ScheduleList, now: Timestamp) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.schedules),
        OutputForm::Name => return list.schedules.iter().try_for_each(|one| out.line(&one.name)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    use Column::{Flexible, Left, Right, Spare};
    let mut heads = vec![("NAME", Flexible), ("CRON", Left), ("ZONE", Left), ("NEXT", Left), ("LAST JOB", Right)];
    if out.is_wide() {
        heads.extend([("LAST RUN", Spare), ("JOB NAME", Spare), ("KIND", Spare), ("USER", Spare)]);
    }
    let mut table = Table::new(&heads);
    for one in &list.schedules {
        let mut cells: Vec<Cell> = vec![
            one.name.as_str().into(),
            one.cron.as_str().into(),
            one.zone.as_str().into(),
            next(one, now).into(),
            one.last.as_ref().map_or_else(String::new, |tick| tick.job.to_string()).into(),
        ];
        if out.is_wide() {
            cells.extend([
                one.last.as_ref().map(|tick| text::moment(tick.at, now)).unwrap_or_default().into(),
                one.job_name.as_str().into(),
                one.job_kind.as_str().into(),
                one.user.as_str().into(),
            ]);
        }
        table.row(cells);
    }
    out.table(&table)
}

/// Prints a schedule with its last runs.
pub fn show(out: &mut Output, detail: &ScheduleDetail, now: Timestamp) -> Result<(), Failure> {
    let ScheduleDetail { schedule, ticks, missed, .. } = detail;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(detail),
        OutputForm::Name => return out.line(&schedule.name),
        OutputForm::Table | OutputForm::Wide => {}
    }
    out.line(format!("schedule {}: {} in {}", schedule.name, schedule.cron, schedule.zone))?;
    let mut facts = vec![
        ("next", next(schedule, now)),
        ("submits", format!("{}, {}", schedule.job_name, schedule.job_kind)),
        ("added", format!("{} by {}", text::moment(schedule.created_at, now), schedule.user)),
    ];
    facts.extend(policy_facts(&schedule.policy));
    facts.extend(schedule.remarks.iter().map(|remark| ("note", remark.clone())));
    for (name, value) in facts {
        out.line(format!("  {name:<11}{}", text::visible_line(&value)))?;
    }
    if ticks.is_empty() && missed.is_empty() {
        return out.line("  it has not run yet");
    }
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[("RUN", Left), ("JOB", Right), ("SUBMITTED", Flexible)]);
    let ran = ticks.iter().map(|tick| (tick.at, tick.job.to_string(), lateness(tick, &schedule.policy)));
    let missed = missed.iter().map(|tick| (tick.at, String::new(), format!("missed: {}", tick.reason)));
    let mut all: Vec<_> = ran.chain(missed).collect();
    all.sort_by_key(|(at, ..)| Reverse(*at));
    for (moment, job, how) in all.into_iter().take(MAX_RUNS) {
        table.row([at(moment).into(), job.into(), how.into()]);
    }
    out.table(&table)
}

/// Prints runs to come.
pub fn preview(out: &mut Output, preview: &PreviewView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(preview, &preview.runs),
        OutputForm::Name => return preview.runs.iter().try_for_each(|run| out.line(run.utc.to_string())),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let mut table = Table::new(&[("UTC", Column::Left), ("LOCAL", Column::Left), ("NOTE", Column::Flexible)]);
    for run in &preview.runs {
        table.row([at(run.utc).into(), Cell::from(run.local.replacen('T', " ", 1)), note(run).into()]);
    }
    out.table(&table)
}

/// Prints what became of schedules that were applied.
pub fn applied(out: &mut Output, view: &ApplyView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(view, &view.schedules),
        OutputForm::Name => return view.schedules.iter().try_for_each(|one| out.line(&one.name)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    for one in &view.schedules {
        let outcome = match one.outcome {
            Applied::Added => "added",
            Applied::Changed => "changed",
            Applied::Unchanged => "unchanged",
            Applied::Removed => "removed; its jobs stay",
        };
        out.line(format!("schedule {} {outcome}", one.name))?;
        let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "not set".to_owned(), Value::to_string);
        for change in &one.changes {
            let (before, after) = (value(&change.before), value(&change.after));
            out.line(text::visible_line(&format!("  {}: {before} -> {after}", change.key)))?;
        }
    }
    if view.dry_run {
        out.flush()?;
        out.say("nothing was done: this was a dry run");
    }
    Ok(())
}

/// Prints the runs of a past time and their jobs.
pub fn backfilled(out: &mut Output, name: &str, view: &BackfillView) -> Result<(), Failure> {
    let new = || view.runs.iter().filter(|run| !run.existed);
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(view, &view.runs),
        OutputForm::Name => return new().filter_map(|run| run.job).try_for_each(|job| out.line(job.to_string())),
        OutputForm::Table | OutputForm::Wide => {}
    }
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[("UTC", Left), ("LOCAL", Left), ("JOB", Right), ("NOTE", Flexible)]);
    for run in &view.runs {
        let existed = run.existed.then(|| "left alone: it has its job".to_owned());
        let note = existed.into_iter().chain(run.note.clone()).collect::<Vec<_>>().join("; ");
        let job = run.job.map(|job| job.to_string()).unwrap_or_default();
        table.row([at(run.utc).into(), Cell::from(run.local.replacen('T', " ", 1)), job.into(), note.into()]);
    }
    if !view.runs.is_empty() {
        out.table(&table)?;
        out.flush()?;
    }
    out.say(outcome(name, view, new().count()));
    Ok(())
}

/// What a backfill of which `new` runs had no job comes to.
fn outcome(name: &str, view: &BackfillView, new: usize) -> String {
    let all = view.runs.len();
    let verb = if view.dry_run { "would be submitted" } else { "submitted" };
    let how = if view.overlap == Overlap::Allow { "side by side" } else { "one after another" };
    match (all, new) {
        (0, _) => format!("schedule {name} has no runs in that time"),
        (_, 0) => format!("nothing to submit: each of the {all} runs has its job"),
        _ => format!("{new} of {all} runs {verb}, to run {how}"),
    }
}

/// What is to be said of a run to come.
fn note(run: &RunView) -> String {
    let seconds = run.due.map(|due| due.duration_since(run.utc).as_secs());
    let late = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let jitter = late.map(|late| format!("{} later by its jitter", text::duration(late)));
    run.note.iter().cloned().chain(jitter).collect::<Vec<_>>().join("; ")
}

fn at(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// When it runs next, as its zone's clock shows it, or why it does not.
fn next(view: &ScheduleView, now: Timestamp) -> String {
    if let Some(problem) = &view.problem {
        return format!("never: {problem}");
    }
    if !view.enabled {
        return view.paused.as_ref().map_or_else(|| "paused".into(), |why| format!("paused: {why}"));
    }
    match (view.next_at, &view.next_local) {
        (Some(next), Some(local)) if next > now => {
            format!("{} (in {})", local.replacen('T', " ", 1), text::between(now, next))
        }
        (Some(_), Some(local)) => format!("{} (now)", local.replacen('T', " ", 1)),
        _ if view.policy.until.is_some_and(|until| until < now) => "ended".into(),
        _ => "never".into(),
    }
}

/// What a schedule does besides its line, where it is not what every schedule does.
fn policy_facts(policy: &Policy) -> Vec<(&'static str, String)> {
    let span = |seconds: u32| text::duration(seconds.into());
    let mut facts = Vec::new();
    let missed = match (policy.misfire, policy.catch_up_seconds) {
        (Misfire::Once, None) => None,
        (Misfire::Skip, _) => Some("skipped".to_owned()),
        (misfire, Some(window)) => {
            let which = if misfire == Misfire::All { "each runs" } else { "the latest runs" };
            Some(format!("{which}, if it is no more than {} late", span(window)))
        }
        (Misfire::All, None) => Some("each runs".to_owned()),
    };
    facts.extend(missed.map(|missed| ("missed", missed)));
    let overlap = match policy.overlap {
        Overlap::Allow => "allow: runs beside earlier ones",
        Overlap::Skip => "skip: left out while an earlier run has not ended",
        Overlap::BufferOne => "buffer-one: waits while an earlier run has not ended, if none waits already",
        Overlap::BufferAll => "buffer-all: waits until all earlier runs have ended",
        Overlap::CancelOther => "cancel-other: earlier runs save their work and end first",
        Overlap::TerminateOther => "terminate-other: earlier runs are cancelled first",
    };
    facts.push(("overlap", overlap.to_owned()));
    facts.extend(policy.pause_on_failure.map(|failures| {
        let after = if failures == 1 {
            "a job that failed".to_owned()
        } else {
            format!("{failures} jobs in a row that failed")
        };
        ("pauses", format!("after {after}"))
    }));
    facts.extend(policy.from.map(|from| ("from", format!("{} UTC", at(from)))));
    facts.extend(policy.until.map(|until| ("until", format!("{} UTC", at(until)))));
    if policy.jitter_seconds > 0 {
        facts.push(("jitter", format!("up to {} after its time", span(policy.jitter_seconds))));
    }
    facts
}

/// How long after its moment a tick's job was submitted.
fn lateness(tick: &TickView, policy: &Policy) -> String {
    if let Some(who) = &tick.asked_by {
        return format!("made up for by {who}");
    }
    let seconds = tick.submitted_at.duration_since(tick.at).as_secs();
    let spread = u64::from(policy.jitter_seconds);
    match u64::try_from(seconds) {
        Ok(late) if spread > 0 && late < spread + 60 => {
            format!("{} after its time, by its jitter", text::duration(late))
        }
        Ok(late) if late >= 60 => format!("{} late", text::duration(late)),
        _ => "on time".into(),
    }
}
