//! Models and their versions in print.

use jiff::Timestamp;

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{AliasMoveView, ModelList, MovedView, VersionList, VersionView},
    cli::{Failure, commands::model::Exported},
    config::OutputForm,
    domain::alias::CHAMPION,
};

/// Prints models.
pub fn list(out: &mut Output, list: &ModelList) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.models),
        OutputForm::Name => return list.models.iter().try_for_each(|one| out.line(&one.name)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if list.models.is_empty() {
        out.say("there is no model yet: `register` in a job's spec, or `mlctl model add`, makes one");
        return Ok(());
    }
    use Column::{Flexible, Right};
    let mut table = Table::new(&[
        ("MODEL", Flexible),
        ("VERSIONS", Right),
        ("NEWEST", Right),
        ("CHAMPION", Right),
        ("JOB", Right),
        ("SIZE", Right),
        ("METRICS", Flexible),
    ]);
    for one in &list.models {
        let newest = |show: fn(&VersionView) -> String| one.newest.as_ref().map_or_else(|| "-".to_owned(), show);
        table.row([
            one.name.as_str().into(),
            text::count(one.versions).into(),
            newest(|newest| newest.version.to_string()).into(),
            meant(one.aliases.get(CHAMPION).copied()).into(),
            newest(|newest| newest.job.to_string()).into(),
            newest(|newest| text::bytes(newest.size_bytes)).into(),
            newest(|newest| text::metrics(&newest.metrics)).into(),
        ]);
    }
    out.table(&table)
}

/// Prints a model's versions.
pub fn versions(out: &mut Output, list: &VersionList, now: Timestamp) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.versions),
        OutputForm::Name => {
            return list.versions.iter().try_for_each(|one| out.line(format!("{}/{}", one.model, one.version)));
        }
        OutputForm::Table | OutputForm::Wide => {}
    }
    if list.versions.is_empty() {
        out.say(format!("all versions of model {} were removed", list.name));
        return moves(out, &list.moves, now);
    }
    use Column::{Flexible, Right};
    let mut table = Table::new(&[
        ("VERSION", Right),
        ("ALIASES", Flexible),
        ("JOB", Right),
        ("STEP", Right),
        ("SIZE", Right),
        ("METRICS", Flexible),
        ("URI", Flexible),
    ]);
    for one in &list.versions {
        table.row([
            one.version.to_string().into(),
            one.aliases.join(" ").into(),
            one.job.to_string().into(),
            one.step.map_or_else(|| "-".to_owned(), text::count).into(),
            text::bytes(one.size_bytes).into(),
            text::metrics(&one.metrics).into(),
            Cell::from(&one.uri),
        ]);
    }
    out.table(&table)?;
    moves(out, &list.moves, now)
}

/// Prints the last moves of aliases, the newest first.
fn moves(out: &mut Output, moves: &[AliasMoveView], now: Timestamp) -> Result<(), Failure> {
    if moves.is_empty() {
        return Ok(());
    }
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[
        ("MOVED", Left),
        ("ALIAS", Flexible),
        ("FROM", Right),
        ("TO", Right),
        ("BY", Left),
        ("JOB", Right),
        ("REASON", Flexible),
    ]);
    for one in moves {
        table.row([
            text::moment(one.moved_at, now).into(),
            one.alias.as_str().into(),
            meant(one.before).into(),
            meant(one.version).into(),
            one.moved_by.as_str().into(),
            one.job.map_or_else(|| "-".to_owned(), |job| job.to_string()).into(),
            one.reason.as_deref().unwrap_or("-").into(),
        ]);
    }
    out.line("")?;
    out.table(&table)
}

/// The version that an alias means.
fn meant(version: Option<u32>) -> String {
    version.map_or_else(|| "-".to_owned(), |version| version.to_string())
}

/// Prints what became of aliases.
pub fn moved(out: &mut Output, view: &MovedView) -> Result<(), Failure> {
    let MovedView { model, alias, version, moves, .. } = view;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => {
            return version.map_or(Ok(()), |version| out.line(format!("{model}/{version}")));
        }
        OutputForm::Table | OutputForm::Wide => {}
    }
    if moves.is_empty() {
        return out.line(format!("the {alias} of model {model} is version {} already", meant(*version)));
    }
    for AliasMoveView { alias, before, version, .. } in moves {
        out.line(match (before, version) {
            (before, Some(version)) => {
                let was = before.map_or_else(|| "there was none".to_owned(), |before| format!("it was {before}"));
                format!("the {alias} of model {model} is version {version} now; {was}")
            }
            (before, None) => format!("model {model} has no {alias} now; it was {}", meant(*before)),
        })?;
    }
    Ok(())
}

/// Prints a version with all that it holds.
pub fn show(out: &mut Output, one: &VersionView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(one),
        OutputForm::Name => return out.line(&one.uri),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let of =
        one.step.map_or_else(|| "the model".to_owned(), |step| format!("the checkpoint at step {}", text::count(step)));
    out.line(format!("version {} of model {}: {of} of job {}", one.version, one.model, one.job))?;
    let facts = [
        ("aliases", one.aliases.join(" ")),
        ("size", text::bytes(one.size_bytes)),
        ("uri", one.uri.clone()),
        ("digest", one.digest.clone().unwrap_or_default()),
        ("spec", one.spec_digest.clone()),
        ("data", one.dataset_digest.clone().unwrap_or_default()),
        ("metrics", text::metrics(&one.metrics)),
        ("registered", format!("{} by {}", one.created_at, one.created_by)),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        out.line(format!("  {name:<11}{}", text::visible_line(value)))?;
    }
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[("OBJECT", Left), ("SIZE", Right), ("BLAKE3", Flexible)]);
    for object in &one.objects {
        table.row([object.name.as_str().into(), text::bytes(object.size_bytes).into(), Cell::from(&object.blake3)]);
    }
    out.table(&table)
}

/// Prints a version that was registered.
pub fn registered(out: &mut Output, one: &VersionView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(one),
        OutputForm::Name => out.line(format!("{}/{}", one.model, one.version)),
        OutputForm::Table | OutputForm::Wide => {
            out.line(format!("version {} of model {} holds {}", one.version, one.model, text::visible_line(&one.uri)))
        }
    }
}

/// Prints where a version was brought to.
pub fn exported(out: &mut Output, exported: &Exported) -> Result<(), Failure> {
    let Exported { version, dir, size_bytes, .. } = exported;
    let dir = dir.display().to_string();
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(exported),
        OutputForm::Name => out.line(&dir),
        OutputForm::Table | OutputForm::Wide => {
            let (name, size) = (format!("{}/{}", version.model, version.version), text::bytes(*size_bytes));
            let objects = version.objects.len();
            out.line(format!(
                "{name} is in {}: {objects} files, {size}, verified; and README.md",
                text::visible_line(&dir)
            ))
        }
    }
}

/// Prints a version that was removed.
pub fn removed(out: &mut Output, one: &VersionView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(one),
        OutputForm::Name => out.line(format!("{}/{}", one.model, one.version)),
        OutputForm::Table | OutputForm::Wide => {
            let what = format!("version {} of model {} removed", one.version, one.model);
            out.line(format!("{what}; what it held stays in storage until nothing needs it and it is collected"))
        }
    }
}
