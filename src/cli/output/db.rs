//! The database in print: what a check found, backups, what was restored.

use jiff::Timestamp;

use super::{Output, text};
use crate::{
    api::types::{BackupList, BackupView, DbCheckView, RestoreView},
    cli::Failure,
    config::OutputForm,
};

/// Prints what a check found.
pub fn check(out: &mut Output, view: &DbCheckView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return view.problems.iter().try_for_each(|problem| out.line(text::visible_line(problem))),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let file = text::visible_line(&view.file);
    if !view.ok {
        let count = view.problems.len();
        out.line(format!("{file}: {}", if count == 1 { "a problem".into() } else { format!("{count} problems") }))?;
        view.problems.iter().try_for_each(|problem| out.line(format!("  {}", text::visible_line(problem))))?;
        return out.line("hint: keep a copy of the file, then put a backup in its place: `mlctl db restore latest`");
    }
    let what = view.database.as_ref().map_or_else(
        || "an earlier schema, of which the pages were looked at".into(),
        |database| format!("{} jobs, {} events", text::count(database.jobs), text::count(database.last_event)),
    );
    out.line(format!("{file}: nothing is wrong ({what})"))
}

/// Prints a backup that was made.
pub fn backup(out: &mut Output, view: &BackupView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(view),
        OutputForm::Name => out.line(&view.uri),
        OutputForm::Table | OutputForm::Wide => out.line(format!(
            "backed up to {} ({} jobs, {})",
            text::visible_line(&view.uri),
            text::count(view.database.jobs),
            text::bytes(view.size_bytes)
        )),
    }
}

/// Prints backups.
pub fn list(out: &mut Output, view: &BackupList, now: Timestamp) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(view, &view.backups),
        OutputForm::Name => return view.backups.iter().try_for_each(|backup| out.line(&backup.uri)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if view.backups.is_empty() && view.damaged.is_empty() {
        return out.line(format!("no backups under {}; `mlctl db backup` makes one", text::visible_line(&view.url)));
    }
    for backup in &view.backups {
        let (made, size) = (text::moment(backup.made_at, now), text::bytes(backup.size_bytes));
        let (jobs, uri) = (text::count(backup.database.jobs), text::visible_line(&backup.uri));
        out.line(format!("{made}  {size:>9}  {jobs:>9} jobs  epoch {}  {uri}", backup.database.epoch))?;
    }
    let damaged = view.damaged.iter().map(|found| format!("damaged: {}: {}", found.uri, found.problem));
    damaged.into_iter().try_for_each(|line| out.line(text::visible_line(&line)))
}

/// Prints what was restored.
pub fn restored(out: &mut Output, view: &RestoreView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return out.line(&view.from),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let database = &view.database;
    out.line(format!(
        "restored from {}: {} jobs, up to event {}, epoch {}",
        text::visible_line(&view.from),
        text::count(database.jobs),
        database.last_event,
        database.epoch
    ))?;
    if let Some(kept) = &view.kept {
        out.line(format!("the database that was there is {}; remove it when you are sure", text::visible_line(kept)))?;
    }
    out.line("start the daemon: jobs that ran go on from their last checkpoint")
}
