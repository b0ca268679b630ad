//! Datasets and their versions in print.

use serde::Serialize;

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{DatasetDetail, DatasetList, DatasetVersionList, DatasetVersionView, SCHEMA},
    cli::Failure,
    config::OutputForm,
};

/// Files and columns that are listed for people at most.
const MAX_SHOWN: usize = 100;

/// What became of a version's files.
#[derive(Debug, Serialize)]
pub struct Verified {
    schema: u32,
    dataset: String,
    version: u32,
    /// Whether all files are what they were.
    pub ok: bool,
    objects: u64,
    size_bytes: u64,
    /// Files that are missing or have changed.
    changed: Vec<Changed>,
    /// Files that lie in the same place by now and are none of the version's.
    unlisted: Vec<String>,
}

/// A file that is not what it was.
#[derive(Debug, Serialize)]
pub struct Changed {
    /// Where it is.
    pub uri: String,
    /// What has changed.
    pub what: String,
}

impl Verified {
    /// Of a version.
    pub fn new(version: DatasetVersionView, changed: Vec<Changed>, unlisted: Vec<String>) -> Self {
        let DatasetVersionView { dataset, version, objects, size_bytes, .. } = version;
        Self { schema: SCHEMA, dataset, version, ok: changed.is_empty(), objects, size_bytes, changed, unlisted }
    }
}

fn rows(version: &DatasetVersionView) -> String {
    version.rows.map_or_else(|| "-".to_owned(), text::count)
}

/// Prints datasets.
pub fn list(out: &mut Output, list: &DatasetList) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.datasets),
        OutputForm::Name => return list.datasets.iter().try_for_each(|one| out.line(&one.name)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if list.datasets.is_empty() {
        out.say("there is no dataset yet: `mlctl dataset add` makes one");
        return Ok(());
    }
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[
        ("DATASET", Flexible),
        ("VERSIONS", Right),
        ("NEWEST", Right),
        ("FORMAT", Left),
        ("FILES", Right),
        ("ROWS", Right),
        ("SIZE", Right),
        ("URI", Flexible),
    ]);
    for one in &list.datasets {
        let newest = |show: fn(&DatasetVersionView) -> String| one.newest.as_ref().map_or_else(|| "-".to_owned(), show);
        table.row([
            one.name.as_str().into(),
            text::count(one.versions).into(),
            newest(|newest| newest.version.to_string()).into(),
            newest(|newest| newest.format.clone()).into(),
            newest(|newest| text::count(newest.objects)).into(),
            newest(rows).into(),
            newest(|newest| text::bytes(newest.size_bytes)).into(),
            newest(|newest| newest.uri.clone()).into(),
        ]);
    }
    out.table(&table)
}

/// Prints a dataset's versions.
pub fn versions(out: &mut Output, list: &DatasetVersionList) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.versions),
        OutputForm::Name => return list.versions.iter().try_for_each(|one| out.line(name(one))),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if list.versions.is_empty() {
        out.say(format!("all versions of dataset {} were removed", list.name));
        return Ok(());
    }
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[
        ("VERSION", Right),
        ("FORMAT", Left),
        ("FILES", Right),
        ("ROWS", Right),
        ("SIZE", Right),
        ("ADDED", Left),
        ("URI", Flexible),
    ]);
    for one in &list.versions {
        table.row([
            one.version.to_string().into(),
            one.format.as_str().into(),
            text::count(one.objects).into(),
            rows(one).into(),
            text::bytes(one.size_bytes).into(),
            one.created_at.to_string().into(),
            Cell::from(&one.uri),
        ]);
    }
    out.table(&table)
}

fn name(one: &DatasetVersionView) -> String {
    format!("{}/{}", one.dataset, one.version)
}

/// Prints a version with its files and columns.
pub fn show(out: &mut Output, one: &DatasetDetail) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(one),
        OutputForm::Name => return out.line(name(&one.version)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let DatasetDetail { version, manifest } = one;
    out.line(format!("version {} of dataset {}: {}", version.version, version.dataset, version.format))?;
    let columns = manifest.columns.iter().take(MAX_SHOWN).map(|column| match column.kind {
        mlctl_protocol::dataset::ColumnKind::Number => column.name.clone(),
        mlctl_protocol::dataset::ColumnKind::Text => format!("{} (text)", column.name),
    });
    let more = if manifest.columns.len() > MAX_SHOWN { ", …" } else { "" };
    let columns = format!("{}{more}", columns.collect::<Vec<_>>().join(", "));
    let facts = [
        ("uri", version.uri.clone()),
        ("targets", version.targets_uri.clone().unwrap_or_default()),
        ("rows", version.rows.map_or_else(String::new, text::count)),
        (
            "columns",
            if manifest.columns.is_empty() { String::new() } else { format!("{}: {columns}", manifest.columns.len()) },
        ),
        ("size", format!("{} in {} files", text::bytes(version.size_bytes), text::count(version.objects))),
        ("manifest", version.manifest_uri.clone()),
        ("digest", version.digest.clone()),
        ("added", format!("{} by {}", version.created_at, version.created_by)),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        out.line(format!("  {name:<11}{}", text::visible_line(value)))?;
    }
    use Column::{Flexible, Right};
    let mut table = Table::new(&[("FILE", Flexible), ("ROWS", Right), ("SIZE", Right), ("BLAKE3", Flexible)]);
    for object in manifest.all().take(MAX_SHOWN) {
        table.row([
            Cell::from(&object.name),
            object.rows.map_or_else(|| "-".to_owned(), text::count).into(),
            text::bytes(object.size_bytes).into(),
            Cell::from(&object.blake3),
        ]);
    }
    out.table(&table)?;
    if manifest.all().count() > MAX_SHOWN {
        out.say("there are more files than these; `-o json` lists all");
    }
    Ok(())
}

/// Prints a version that was added, or was there.
pub fn added(out: &mut Output, one: &DatasetVersionView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(one),
        OutputForm::Name => out.line(name(one)),
        OutputForm::Table | OutputForm::Wide => {
            let rows = one.rows.map_or_else(String::new, |rows| format!("{} rows, ", text::count(rows)));
            let (files, size) = (text::count(one.objects), text::bytes(one.size_bytes));
            let uri = text::visible_line(&one.uri);
            out.line(format!(
                "version {} of dataset {}: {rows}{size} in {files} files of {uri}",
                one.version, one.dataset
            ))
        }
    }
}

/// Prints what became of a version's files.
pub fn verified(out: &mut Output, found: &Verified) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(found),
        OutputForm::Name => return found.changed.iter().try_for_each(|one| out.line(&one.uri)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    for one in &found.changed {
        out.line(format!("{}: {}", text::visible_line(&one.uri), one.what))?;
    }
    let name = format!("version {} of dataset {}", found.version, found.dataset);
    let files = text::count(found.objects);
    match found.changed.len() {
        0 => out.line(format!("{name} is as it was: {files} files, {}", text::bytes(found.size_bytes)))?,
        changed => out.line(format!("{name} is not as it was: {} of {files} files", text::count(changed as u64)))?,
    }
    if !found.unlisted.is_empty() {
        let count = text::count(found.unlisted.len() as u64);
        out.say(format!(
            "{count} files there are none of the version, and are not read; `mlctl dataset pin {}` makes a version with them",
            found.dataset
        ));
    }
    Ok(())
}

/// Prints a version that was removed.
pub fn removed(out: &mut Output, one: &DatasetVersionView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(one),
        OutputForm::Name => out.line(name(one)),
        OutputForm::Table | OutputForm::Wide => out
            .line(format!("version {} of dataset {} removed; its files stay where they are", one.version, one.dataset)),
    }
}
