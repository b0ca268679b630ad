//! What data is: its files with sizes and checksums, its rows and columns, as a dataset's manifest has it. One pass reads and checks every row; in memory is one of them. Called by the program when it
//! is asked for a survey, without a job and without a daemon.

use std::io::{self, BufRead, Write};

use mlctl_artifacts::{Location, Stores};
use mlctl_protocol::{
    ExitClass,
    dataset::{Column, ColumnKind, MANIFEST_FORM, Manifest, Object, Survey, Surveyed},
    spec::{DataFormat, DataSource},
};
use tokio::runtime::Handle;

use super::{
    columns::Wanted,
    files::Files,
    pool,
    stream::{Access, Stream},
    table::Table,
};
use crate::fault::Fault;

/// The longest line that asks for a survey, in bytes.
const MAX_ASKED_BYTES: u64 = 128 * 1024;

/// Rows between two words about how far it has come.
const ROWS_PER_WORD: u64 = 1 << 16;

/// Files of which the store is asked at a time.
const ASKED_AT_ONCE: usize = 16;

/// Answers the survey that is asked for on `input` with lines on `output`. Returns whether it could be made.
///
/// # Errors
/// When the answer cannot be written.
pub fn answer(input: impl BufRead, mut output: impl Write, runtime: &Handle) -> io::Result<bool> {
    let mut say = |surveyed: &Surveyed| {
        serde_json::to_writer(&mut output, surveyed)?;
        output.write_all(b"\n")?;
        output.flush()
    };
    let mut unsaid = Ok(());
    let made = asked(input).and_then(|Survey { source, s3, .. }| {
        let access = Access::without_job(Stores::with_s3(s3), runtime.clone());
        make(&access, &source, &mut |records| {
            if unsaid.is_ok() {
                unsaid = say(&Surveyed::Progress { records });
            }
        })
    });
    unsaid?;
    let is_made = made.is_ok();
    say(&match made {
        Ok(manifest) => Surveyed::Done { manifest },
        Err(Fault { class, message, hint }) => {
            Surveyed::Failed { is_temporary: class == ExitClass::Storage, message, hint }
        }
    })?;
    Ok(is_made)
}

fn asked(input: impl BufRead) -> Result<Survey, Fault> {
    let mut line = String::new();
    let read = input.take(MAX_ASKED_BYTES).read_line(&mut line);
    let wrong = |why: String| Fault::spec(why, "`mlctl dataset add` asks for surveys");
    read.map_err(|error| wrong(format!("what is asked for cannot be read: {error}")))?;
    let survey: Survey =
        serde_json::from_str(&line).map_err(|error| wrong(format!("what is asked for is no survey: {error}")))?;
    match survey.v {
        1 => Ok(survey),
        other => Err(wrong(format!("a survey of form {other} is asked for, and this worker makes form 1"))),
    }
}

/// Reads all of some data and says what it is. `told` hears how many rows, or bytes of text, were read.
///
/// # Errors
/// `spec` with file and row when the data cannot be learnt from, `storage` when it cannot be read.
pub fn make(access: &Access<'_>, source: &DataSource, told: &mut dyn FnMut(u64)) -> Result<Manifest, Fault> {
    match source {
        DataSource::Text { uri, .. } => of_text(access, uri, told),
        source => match Table::open(access, source)? {
            Some(table) => of_table(access, source, table, told),
            None => Err(Fault::spec("there are no files to look at", "name files: generated data needs no dataset")),
        },
    }
}

fn of_text(access: &Access<'_>, uri: &str, told: &mut dyn FnMut(u64)) -> Result<Manifest, Fault> {
    let files = Files::find(access, uri)?;
    let versions = versions(access, &files)?;
    let (mut digests, mut bytes) = (Vec::with_capacity(files.len()), 0);
    for number in 0..files.len() {
        let mut stream = Stream::open(access, files.get(number).map_or(uri, |file| file.uri.as_str()))?;
        while let Some(piece) = stream.next()? {
            bytes += piece.len() as u64;
            told(bytes);
        }
        digests.push(stream.content_digest());
    }
    if bytes == 0 {
        return Err(Fault::spec(format!("{uri} is empty"), "bring some text"));
    }
    Ok(Manifest {
        v: MANIFEST_FORM,
        format: DataFormat::Text,
        uri: uri.to_owned(),
        targets_uri: None,
        rows: None,
        columns: Vec::new(),
        objects: objects(&files, versions, digests, None),
        targets: Vec::new(),
    })
}

fn of_table(
    access: &Access<'_>,
    source: &DataSource,
    mut table: Table<'_>,
    told: &mut dyn FnMut(u64),
) -> Result<Manifest, Fault> {
    let layout = table.layout();
    let (files, targets) = layout.all_files();
    let (mut found, mut found_targets) = (versions(access, files)?, Vec::new());
    if let Some(targets) = targets {
        found_targets = versions(access, targets)?;
    }
    table.select(Wanted::default())?;
    let (mut is_text, mut numbers, mut rows) = (vec![false; table.header().len()], Vec::new(), 0);
    while let Some(row) = table.next_row()? {
        numbers.clear();
        row.note_texts(&mut is_text, &mut numbers).map_err(|bad| bad.into_fault(row.uri()))?;
        rows += 1;
        if rows % ROWS_PER_WORD == 0 {
            told(rows);
        }
    }
    if rows == 0 {
        return Err(Fault::spec(
            format!("{} has no rows", table.uri()),
            "a header alone is not enough: bring at least one row",
        ));
    }
    let kind = |is_text: bool| if is_text { ColumnKind::Text } else { ColumnKind::Number };
    let columns = table.header().iter().zip(is_text);
    let columns = columns.map(|(name, is_text)| Column { name: name.clone(), kind: kind(is_text) }).collect();
    let counts = table.counts();
    let (digests, target_digests): (Vec<_>, Vec<_>) = table.digests().iter().cloned().unzip();
    let target_digests = target_digests.into_iter().flatten().collect();
    let (format, uri, targets_uri) = named(source)?;
    Ok(Manifest {
        v: MANIFEST_FORM,
        format,
        uri,
        targets_uri,
        rows: Some(rows),
        columns,
        objects: objects(files, std::mem::take(&mut found), digests, Some(&counts)),
        targets: targets.map_or_else(Vec::new, |files| objects(files, found_targets, target_digests, Some(&counts))),
    })
}

fn named(source: &DataSource) -> Result<(DataFormat, String, Option<String>), Fault> {
    Ok(match source {
        DataSource::Csv { uri, .. } => (DataFormat::Csv, uri.clone(), None),
        DataSource::Jsonl { uri, .. } => (DataFormat::Jsonl, uri.clone(), None),
        DataSource::Parquet { uri, .. } => (DataFormat::Parquet, uri.clone(), None),
        DataSource::Npy { uri, targets_uri } => (DataFormat::Npy, uri.clone(), targets_uri.clone()),
        DataSource::Text { uri, .. } => (DataFormat::Text, uri.clone(), None),
        DataSource::Randn { .. } | DataSource::Dataset { .. } => {
            return Err(Fault::spec("there are no files to look at", "name files"));
        }
    })
}

/// A file as the store has it.
struct Version {
    name: String,
    size_bytes: u64,
    etag: Option<String>,
}

fn versions(access: &Access<'_>, files: &Files) -> Result<Vec<Version>, Fault> {
    pool::each(files.len(), ASKED_AT_ONCE, |number| {
        let uri = files.get(number).map_or(files.uri(), |file| file.uri.as_str());
        let (at, pieces): (Location, _) = access.apart().open(uri)?;
        let name = files.name(number).unwrap_or_else(|| at.name()).to_owned();
        Ok(Version { name, size_bytes: pieces.size(), etag: pieces.version().map(str::to_owned) })
    })
}

fn objects(files: &Files, versions: Vec<Version>, digests: Vec<String>, rows: Option<&[u64]>) -> Vec<Object> {
    let rows = (0..files.len()).map(|number| rows.and_then(|rows| rows.get(number).copied()));
    let all = versions.into_iter().zip(digests).zip(rows);
    let object = |((Version { name, size_bytes, etag }, blake3), rows)| Object { name, size_bytes, etag, blake3, rows };
    all.map(object).collect()
}
