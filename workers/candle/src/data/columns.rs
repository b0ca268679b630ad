//! Which columns of a file a job uses, and what their fields say. Everything a user can get wrong in a table is told here, with the row, the
//! line, the column and the text.

use std::fmt;

use super::record::Record;
use crate::fault::Fault;

/// Characters of a field shown in a message.
const SHOWN: usize = 40;

/// A column that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name in the header.
    pub name: String,
    /// Its place from 0.
    at: usize,
}

impl Column {
    /// Its place from 0.
    pub(super) const fn place(&self) -> usize {
        self.at
    }
}

/// What a job wants of a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Columns to learn from, in order; every other column when empty.
    pub features: &'a [String],
    /// Columns to learn.
    pub targets: &'a [String],
    /// The column that names a row.
    pub id: Option<&'a str>,
}

/// The columns found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// To learn from, in order.
    pub features: Vec<Column>,
    /// To learn, in order.
    pub targets: Vec<Column>,
    /// What names a row.
    pub id: Option<Column>,
    /// Fields that every record must have.
    width: usize,
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Its number from 0, in its file.
    pub row: u64,
    /// Rows of the files before, where there are several.
    pub before: u64,
    /// Its file's name, where there are several.
    pub file: Option<String>,
    /// The line it begins on, in a file that has lines.
    pub line: Option<u64>,
    /// The column, where it is one.
    pub column: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}, ")?;
        }
        write!(f, "row {}", self.row)?;
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        if let Some(column) = &self.column {
            write!(f, ", column {column:?}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl BadRow {
    /// The end of a job that cannot do without this row.
    #[must_use]
    pub fn into_fault(self, uri: &str) -> Fault {
        let bad = Self { file: None, ..self };
        Fault::spec(
            format!("{uri}: {bad}"),
            "correct the row or take it out; rows are counted from 0, lines from 1, a header's too",
        )
    }

    fn of(record: Record<'_>, column: Option<&Column>, what: String) -> Self {
        let line = Some(record.line);
        Self { line, ..Self::of_row(record.row, column.map(|column| column.name.clone()), what) }
    }

    /// One of a file that has no lines.
    #[must_use]
    pub const fn of_row(row: u64, column: Option<String>, what: String) -> Self {
        Self { row, before: 0, file: None, line: None, column, what }
    }

    /// Its number from 0, over all files.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.before + self.row
    }
}

impl Columns {
    /// Finds the columns that are wanted in a header.
    ///
    /// # Errors
    /// `spec` when one is missing, is there twice, or is wanted for two things, and when no feature is left.
    pub fn find(uri: &str, header: &[String], wanted: Wanted<'_>) -> Result<Self, Fault> {
        let find = |name: &str| find(uri, header, name);
        let all = |names: &[String]| {
            let found = names.iter().map(|name| match array(header, name) {
                Some(columns) => Ok(columns),
                None => find(name).map(|column| vec![column]),
            });
            found.collect::<Result<Vec<_>, Fault>>().map(|columns| columns.concat())
        };
        let targets = all(wanted.targets)?;
        let id = wanted.id.map(find).transpose()?;
        let features = if wanted.features.is_empty() {
            let used = |name: &String| targets.iter().chain(&id).any(|column| column.name == *name);
            header.iter().filter(|name| !used(name)).map(|name| find(name)).collect::<Result<Vec<_>, _>>()?
        } else {
            all(wanted.features)?
        };
        if features.is_empty() {
            return Err(Fault::spec(
                format!("{uri} has no column left to learn from"),
                format!("its columns are {}", list(header)),
            ));
        }
        twice(features.iter().chain(&targets))?;
        Ok(Self { features, targets, id, width: header.len() })
    }

    /// Those of a table whose first columns are features and whose others are targets.
    #[must_use]
    pub fn in_order(header: &[String], features: usize) -> Self {
        let column = |(at, name): (usize, &String)| Column { name: name.clone(), at };
        let targets = header.iter().enumerate().skip(features).map(column).collect();
        let features = header.iter().enumerate().take(features).map(column).collect();
        Self { features, targets, id: None, width: header.len() }
    }

    /// Appends the numbers of a record's features.
    ///
    /// # Errors
    /// When the record has more or fewer fields than the header, or one of them is no number. Nothing is appended then.
    pub fn features(&self, record: Record<'_>, out: &mut Vec<f32>) -> Result<(), BadRow> {
        self.check_width(record)?;
        numbers(&self.features, record, out)
    }

    /// Appends the numbers of a record's targets.
    ///
    /// # Errors
    /// As [`Self::features`].
    pub fn targets(&self, record: Record<'_>, out: &mut Vec<f32>) -> Result<(), BadRow> {
        self.check_width(record)?;
        numbers(&self.targets, record, out)
    }

    /// Appends the numbers of some columns of a record of the right width.
    ///
    /// # Errors
    /// When one of them is no number.
    pub(super) fn are_numbers(columns: &[Column], record: Record<'_>, out: &mut Vec<f32>) -> Result<(), BadRow> {
        numbers(columns, record, out)
    }

    /// The class number of a record, below `classes`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn class(&self, record: Record<'_>, classes: u32) -> Result<u32, BadRow> {
        self.check_width(record)?;
        let Some(column) = self.targets.first() else {
            return Err(BadRow::of(record, None, "there is no column of classes".into()));
        };
        let bytes = record.field(column.at);
        let bad = |why: &str| BadRow::of(record, Some(column), format!("{} {why}", shown(bytes)));
        let number = parse::<f64>(bytes).ok_or_else(|| bad("is not a class number"))?;
        class_of(number, classes).map_err(|why| bad(&why))
    }

    /// The text of a record's first target; empty where there is none.
    #[must_use]
    pub fn first_target<'a>(&self, record: Record<'a>) -> &'a [u8] {
        self.targets.first().map_or(&[], |column| record.field(column.at))
    }

    /// The text that names a record; `None` when rows are named by their numbers.
    #[must_use]
    pub fn id(&self, record: Record<'_>) -> Option<String> {
        self.id.as_ref().map(|column| String::from_utf8_lossy(record.field(column.at)).into_owned())
    }

    fn check_width(&self, record: Record<'_>) -> Result<(), BadRow> {
        if let Some(wrong) = record.wrong {
            return Err(BadRow::of(record, None, wrong.to_owned()));
        }
        if record.len() == self.width {
            return Ok(());
        }
        let what = format!("it has {} fields and the header has {}", record.len(), self.width);
        Err(BadRow::of(record, None, what))
    }
}

/// The class that a number means, below `classes`; or what it is not.
pub(super) fn class_of(number: f64, classes: u32) -> Result<u32, String> {
    if number.fract() != 0.0 || !number.is_finite() {
        return Err("is not a whole number, and classes are numbered from 0".into());
    }
    if number < 0.0 || number >= f64::from(classes) {
        let last = classes.saturating_sub(1);
        return Err(format!("is not a class of a model with {classes} outputs, whose classes are 0 to {last}"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let class = number as u32;
    Ok(class)
}

fn numbers(columns: &[Column], record: Record<'_>, out: &mut Vec<f32>) -> Result<(), BadRow> {
    let before = out.len();
    for column in columns {
        let bytes = record.field(column.at);
        let why = match parse::<f32>(bytes) {
            Some(value) if value.is_finite() => {
                out.push(value);
                continue;
            }
            Some(_) if bytes.iter().any(u8::is_ascii_digit) => "is too large a number",
            Some(_) => "is no finite number",
            None if bytes.is_empty() => "is where a number must be",
            None => "is not a number",
        };
        out.truncate(before);
        return Err(BadRow::of(record, Some(column), format!("{} {why}", shown(bytes))));
    }
    Ok(())
}

fn parse<N: std::str::FromStr>(bytes: &[u8]) -> Option<N> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// A field as a message shows it.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(SHOWN) {
        _ if text.is_empty() => "nothing".into(),
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn find(uri: &str, header: &[String], name: &str) -> Result<Column, Fault> {
    let mut places = header.iter().enumerate().filter(|(_, found)| *found == name).map(|(at, _)| at);
    match (places.next(), places.next()) {
        (Some(at), None) => Ok(Column { name: name.to_owned(), at }),
        (Some(_), Some(_)) => Err(Fault::spec(
            format!("{uri} has more than one column {name:?}"),
            "name every column differently, or leave it out of `features`",
        )),
        (None, _) => Err(Fault::spec(format!("{uri} has no column {name:?}"), advice(header, name))),
    }
}

/// The columns `name[0]`, `name[1]`, … of an array, in the header's order; `None` where there is no such one.
fn array(header: &[String], name: &str) -> Option<Vec<Column>> {
    if header.iter().any(|found| found == name) {
        return None;
    }
    let of_it = |found: &str| found.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?.parse::<usize>().ok();
    let columns = header.iter().enumerate().filter(|(_, found)| of_it(found).is_some());
    let columns: Vec<_> = columns.map(|(at, found)| Column { name: found.clone(), at }).collect();
    (!columns.is_empty()).then_some(columns)
}

fn advice(header: &[String], name: &str) -> String {
    if !header.is_empty() && header.iter().all(|found| found.parse::<f64>().is_ok()) {
        return "the first line holds numbers only: it must be a header that names the columns".into();
    }
    let likeness = |found: &&String| strsim::jaro_winkler(&found.to_lowercase(), &name.to_lowercase());
    let nearest = header.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|found| likeness(found) > 0.8) {
        Some(found) => format!("did you mean {found:?}?"),
        None => format!("its columns are {}", list(header)),
    }
}

fn list(names: &[String]) -> String {
    let shown = names.iter().take(12).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(12) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn twice<'a>(columns: impl Iterator<Item = &'a Column>) -> Result<(), Fault> {
    let mut seen = std::collections::BTreeSet::new();
    for Column { name, .. } in columns {
        if !seen.insert(name) {
            return Err(Fault::spec(
                format!("column {name:?} is named twice in the spec"),
                "a column is a feature or a target, once",
            ));
        }
    }
    Ok(())
}
