//! Checkpoints in print.

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{CheckpointDetail, CheckpointList, CheckpointView, RemovedCheckpointView, SCHEMA, VerifyView},
    cli::Failure,
    config::OutputForm,
};

/// Prints a job's checkpoints.
pub fn list(out: &mut Output, list: &CheckpointList) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.checkpoints),
        OutputForm::Name => return list.checkpoints.iter().try_for_each(|one| out.line(one.step.to_string())),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if list.checkpoints.is_empty() {
        out.say(format!("job {} has no checkpoint yet", list.id));
        return Ok(());
    }
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[
        ("STEP", Right),
        ("EPOCH", Right),
        ("ATTEMPT", Right),
        ("SIZE", Right),
        ("KEPT", Left),
        ("METRICS", Flexible),
        ("URI", Flexible),
    ]);
    for one in &list.checkpoints {
        table.row([
            one.step.to_string().into(),
            one.epoch.to_string().into(),
            one.attempt.to_string().into(),
            text::bytes(one.size_bytes).into(),
            kept(one).into(),
            text::metrics(&one.metrics).into(),
            Cell::from(&one.uri),
        ]);
    }
    out.table(&table)
}

/// Why one is kept, and when it goes.
fn kept(one: &CheckpointView) -> String {
    let why = one.kept_as.iter().map(|why| match (why.as_str(), &one.needed_by) {
        ("needed", Some(what)) => format!("for {what}"),
        (why, _) => why.to_owned(),
    });
    let goes = one.goes.as_deref().map(|when| match when {
        "next" => "goes next".to_owned(),
        "over_budget" => "goes: over max_bytes".to_owned(),
        _ => "goes".to_owned(),
    });
    why.chain(goes).collect::<Vec<_>>().join(", ")
}

/// Prints a checkpoint with its objects.
pub fn show(out: &mut Output, detail: &CheckpointDetail) -> Result<(), Failure> {
    let one = &detail.checkpoint;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(detail),
        OutputForm::Name => return out.line(&one.uri),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let latest = if one.latest { "; the next attempt starts from it" } else { "" };
    out.line(format!(
        "checkpoint of job {} at step {}, epoch {}{latest}",
        detail.id,
        text::count(one.step),
        one.epoch
    ))?;
    let facts = [
        ("attempt", one.attempt.to_string()),
        ("size", text::bytes(one.size_bytes)),
        ("uri", one.uri.clone()),
        ("manifest", one.manifest_digest.clone()),
        ("kept", kept(one)),
        ("metrics", text::metrics(&one.metrics)),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        out.line(format!("  {name:<11}{}", text::visible_line(value)))?;
    }
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[("OBJECT", Left), ("ROLE", Left), ("SIZE", Right), ("BLAKE3", Flexible)]);
    for object in &detail.objects {
        table.row([
            object.name.as_str().into(),
            object.role.as_str().into(),
            text::bytes(object.size_bytes).into(),
            Cell::from(&object.blake3),
        ]);
    }
    out.table(&table)
}

/// Prints a checkpoint that was taken on demand.
pub fn taken(out: &mut Output, detail: &CheckpointDetail) -> Result<(), Failure> {
    let one = &detail.checkpoint;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(detail),
        OutputForm::Name => out.line(&one.uri),
        OutputForm::Table | OutputForm::Wide => {
            let step = text::count(one.step);
            out.line(format!("job {} has a checkpoint at step {step}: {}", detail.id, text::visible_line(&one.uri)))
        }
    }
}

/// What a verification of all jobs found.
#[derive(serde::Serialize)]
struct AllVerified<'a> {
    schema: u32,
    ok: bool,
    jobs: &'a [VerifyView],
    /// Which jobs were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

/// Prints what a verification of all jobs found. `note` says which jobs were left out.
pub fn all_verified(out: &mut Output, all: &[VerifyView], note: Option<&str>) -> Result<(), Failure> {
    let ok = all.iter().all(|found| found.ok);
    if out.is_json() {
        return out.json_list(&AllVerified { schema: SCHEMA, ok, jobs: all, note }, all);
    }
    for found in all {
        out.line(format!("job {}", found.id))?;
        verified(out, found)?;
    }
    let checkpoints: usize = all.iter().map(|found| found.checkpoints.len()).sum();
    let jobs = text::count(all.len() as u64);
    let verdict = if ok { "all whole" } else { "some are damaged" };
    out.say(format!("{} checkpoints of {jobs} jobs: {verdict}", text::count(checkpoints as u64)));
    if let Some(note) = note {
        out.say(note);
    }
    Ok(())
}

/// Prints checkpoints that were removed.
pub fn removed(out: &mut Output, one: &RemovedCheckpointView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(one),
        OutputForm::Name => one.uris.iter().try_for_each(|uri| out.line(uri)),
        OutputForm::Table | OutputForm::Wide => {
            let (step, size) = (text::count(one.step), text::bytes(one.size_bytes));
            out.line(format!("checkpoint of job {} at step {step} removed: {size}", one.id))
        }
    }
}

/// Prints what a verification found.
pub fn verified(out: &mut Output, found: &VerifyView) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(found);
    }
    if found.checkpoints.is_empty() {
        out.say(format!("job {} has no checkpoint to verify", found.id));
    }
    for one in &found.checkpoints {
        let verdict = if one.problems.is_empty() { "whole" } else { "damaged" };
        out.line(format!("step {}, attempt {}: {verdict}", text::count(one.step), one.attempt))?;
        for problem in &one.problems {
            out.line(format!("  {}", text::visible_line(problem)))?;
        }
    }
    Ok(())
}
