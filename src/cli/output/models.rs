//! Models and their versions in print.

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{ModelList, VersionList, VersionView},
    cli::Failure,
    config::OutputForm,
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
            newest(|newest| newest.job.to_string()).into(),
            newest(|newest| text::bytes(newest.size_bytes)).into(),
            newest(|newest| text::metrics(&newest.metrics)).into(),
        ]);
    }
    out.table(&table)
}

/// Prints a model's versions.
pub fn versions(out: &mut Output, list: &VersionList) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.versions),
        OutputForm::Name => {
            return list.versions.iter().try_for_each(|one| out.line(format!("{}/{}", one.model, one.version)));
        }
        OutputForm::Table | OutputForm::Wide => {}
    }
    if list.versions.is_empty() {
        out.say(format!("all versions of model {} were removed", list.name));
        return Ok(());
    }
    use Column::{Flexible, Right};
    let mut table = Table::new(&[
        ("VERSION", Right),
        ("JOB", Right),
        ("STEP", Right),
        ("SIZE", Right),
        ("METRICS", Flexible),
        ("URI", Flexible),
    ]);
    for one in &list.versions {
        table.row([
            one.version.to_string().into(),
            one.job.to_string().into(),
            one.step.map_or_else(|| "-".to_owned(), text::count).into(),
            text::bytes(one.size_bytes).into(),
            text::metrics(&one.metrics).into(),
            Cell::from(&one.uri),
        ]);
    }
    out.table(&table)
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
