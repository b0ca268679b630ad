//! A TOML document that remembers where everything in it was written, so that each mistake can be shown with line, column and the text itself, and all
//! of them at once. Called for `mld.toml`, for the CLI's own settings and for job specs; it knows none of them: what is allowed comes in as a
//! JSON Schema. It reads no file and prints nothing.

mod check;
mod nearest;
mod place;
mod report;
mod tree;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, path::Path};

use schemars::Schema;
use serde::de::DeserializeOwned;

pub use nearest::nearest;
pub use place::Place;
use place::Source;
pub use report::{FlagMistake, Located, Problem, Report};
use tree::{Entry, Node, Table, Value};

/// Syntax errors shown of one document: what follows the first few is mostly their echo.
const MAX_SYNTAX_PROBLEMS: usize = 10;

/// A document, perhaps with values laid over it by flags.
#[derive(Debug, Clone)]
pub struct Document {
    sources: Vec<Source>,
    root: Node,
}

impl Document {
    /// Parses `text`, which messages call `name`: a path as the user wrote it, or `-`.
    ///
    /// # Errors
    /// The syntax errors.
    pub fn parse(name: &str, text: &str) -> Result<Self, Report> {
        let source = Source::file(name, text);
        match syntax(0, text) {
            Ok(root) => Ok(Self { sources: vec![source], root }),
            Err(problems) => Err(Report::new(vec![source], problems)),
        }
    }

    /// Lays `key=value` over the document: `key` is dotted, `value` is TOML, where a bare word stands for a string. `flag` is what messages call it.
    ///
    /// # Errors
    /// What makes it no assignment.
    pub fn set(&mut self, flag: &str, assignment: &str) -> Result<(), Problem> {
        let source = self.sources.len();
        let parsed = match syntax(source, assignment) {
            Ok(node) => Ok(node),
            Err(problems) => bare_assignment(source, assignment).ok_or(problems),
        };
        self.sources.push(Source::flag(flag, assignment));
        let node = parsed.map_err(|problems| {
            let place = Place::new(source, 0..assignment.len());
            let why = problems.into_iter().next().map_or_else(String::new, |problem| format!(": {}", problem.message));
            Problem::at(place, "", format!("this is no `key=value` in TOML{why}"))
                .hint("for example --set train.batch_size=64 or --set 'name=\"digits\"'")
        })?;
        match node.value {
            Value::Table(table) if !table.is_empty() => {
                merge(&mut self.root, table);
                Ok(())
            }
            _ => {
                let place = Place::new(source, 0..assignment.len());
                Err(Problem::at(place, "", "this sets nothing").hint("write it as key=value"))
            }
        }
    }

    /// Lays a string over the document that was given by a flag of its own, such as `--name NAME`.
    pub fn set_text(&mut self, flag: &str, path: &[&str], text: &str) {
        self.overlay(flag, path, text, Value::Text(text.to_owned()));
    }

    /// Lays a whole number over the document that was given by a flag of its own, such as `--priority N`.
    pub fn set_integer(&mut self, flag: &str, path: &[&str], number: i64) {
        self.overlay(flag, path, &number.to_string(), Value::Integer(number.into()));
    }

    /// Lays a list of strings over the document that was given by a flag of its own, such as `--retry-on oom,crash`.
    pub fn set_texts(&mut self, flag: &str, path: &[&str], texts: &[&str]) {
        let shown = texts.join(",");
        let place = Place::new(self.sources.len(), 0..shown.len());
        let items = texts.iter().map(|text| Node { place, inline: true, value: Value::Text((*text).to_owned()) });
        self.overlay(flag, path, &shown, Value::Array(items.collect()));
    }

    /// Lays `true` over the document that was given by a flag of its own, such as `--preemptible`.
    pub fn set_true(&mut self, flag: &str, path: &[&str]) {
        self.overlay(flag, path, "true", Value::Bool(true));
    }

    fn overlay(&mut self, flag: &str, path: &[&str], shown: &str, value: Value) {
        let place = Place::new(self.sources.len(), 0..shown.len());
        self.sources.push(Source::flag(flag, shown));
        let leaf = Node { place, inline: true, value };
        let mut keys = path.iter().rev();
        let Some(last) = keys.next() else { return };
        let wrap = |key: &str, node: Node| Table::from([(key.to_owned(), Entry { key: place, node })]);
        let table = keys
            .fold(wrap(last, leaf), |inner, key| wrap(key, Node { place, inline: false, value: Value::Table(inner) }));
        merge(&mut self.root, table);
    }

    /// The value as JSON, for serde. Dates become strings; numbers JSON cannot hold become null and are found by [`problems`](Self::problems).
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        self.root.value.json()
    }

    /// Every way in which the document does not fit `schema`.
    #[must_use]
    pub fn problems(&self, schema: &Schema) -> Vec<Problem> {
        check::problems(schema.as_value(), &self.root)
    }

    /// Reads the document as a `T`. Serde stops at the first mistake and knows no bounds, so the schema is asked first; serde has the last word.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn read<T: DeserializeOwned>(&self, schema: &Schema) -> Result<T, Report> {
        self.parse_as(schema).map_err(|problems| self.report(problems))
    }

    /// [`read`](Self::read), for who has more to say.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn parse_as<T: DeserializeOwned>(&self, schema: &Schema) -> Result<T, Vec<Problem>> {
        let problems = self.problems(schema);
        if !problems.is_empty() {
            return Err(problems);
        }
        serde_json::from_value(self.json()).map_err(|error| vec![Problem::at(self.root.place, "", error.to_string())])
    }

    /// This document as a basis for what is tried on it, one thing after the other: problems of all the trials can be shown together by the last of them.
    #[must_use]
    pub fn after(&self, earlier: &Self) -> Self {
        Self { sources: earlier.sources.clone(), root: self.root.clone() }
    }

    /// Where the value at a dotted path was written: `train.model.layers`, `train.model.layers.1` or `train.model.layers[1]`. The nearest thing around it
    /// when it was not written.
    #[must_use]
    pub fn place(&self, path: &str) -> Place {
        self.root.find(path).place
    }

    /// The value at a dotted path as JSON, if one was written there.
    #[must_use]
    pub fn value(&self, path: &str) -> Option<serde_json::Value> {
        self.root.get(path).map(|node| node.value.json())
    }

    /// Whether a value was written at a dotted path.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.root.get(path).is_some()
    }

    /// The place of the key at the top of the document.
    #[must_use]
    pub fn key_place(&self, key: &str) -> Option<Place> {
        match &self.root.value {
            Value::Table(table) => table.get(key).map(|entry| entry.key),
            _ => None,
        }
    }

    /// Whether the value at a dotted path was given by a flag rather than in the file.
    #[must_use]
    pub fn is_from_flag(&self, path: &str) -> bool {
        self.sources.get(self.place(path).source).is_some_and(|source| source.is_flag)
    }

    /// A problem at a dotted path, for rules that know paths and no places.
    #[must_use]
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        Problem::at(self.place(path), path, message)
    }

    /// Problems, with what is needed to show them.
    #[must_use]
    pub fn report(&self, problems: Vec<Problem>) -> Report {
        Report::new(self.sources.clone(), problems)
    }
}

/// Reads a text file, but no more than `max_bytes` of it.
///
/// # Errors
/// The file cannot be read, is larger, or is not UTF-8.
pub fn read_file(path: &Path, max_bytes: u64) -> std::io::Result<String> {
    read_text(std::fs::File::open(path)?, max_bytes)
}

/// Reads text to its end, but no more than `max_bytes` of it.
///
/// # Errors
/// It cannot be read, is larger, or is not UTF-8.
pub fn read_text(reader: impl std::io::Read, max_bytes: u64) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read as _};
    let mut bytes = Vec::new();
    reader.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::new(ErrorKind::InvalidData, format!("it is larger than {max_bytes} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::new(ErrorKind::InvalidData, format!("it is not UTF-8 text (byte {at})"))
    })
}

fn syntax(source: usize, text: &str) -> Result<Node, Vec<Problem>> {
    let (root, errors) = toml::de::DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(tree::document(source, text, root));
    }
    let mut lines = BTreeSet::new();
    let problems = errors.iter().filter_map(|error| {
        let range = error.span().unwrap_or(text.len()..text.len());
        let line = place::line_start(text, range.start);
        // The parser recovers within a line, and then trips over the rest of it.
        lines.insert(line).then(|| Problem::at(Place::new(source, range), "", error.message()))
    });
    Err(problems.take(MAX_SYNTAX_PROBLEMS).collect())
}

/// `key=word` where the word is no TOML value but plainly means a string: `train.loss=mse`, `train.data.uri=./a.csv`.
fn bare_assignment(source: usize, assignment: &str) -> Option<Node> {
    let (key, word) = assignment.split_once('=')?;
    let plain = |c: char| !c.is_control() && !matches!(c, '"' | '\'' | '[' | ']' | '{' | '}' | '#');
    let starts = word.trim_start().starts_with(|c: char| c.is_alphabetic() || matches!(c, '/' | '.' | '_' | '~' | '@'));
    if !starts || !word.chars().all(plain) {
        return None;
    }
    let mut node = syntax(source, &format!("{key}=0")).ok()?;
    let place = Place::new(source, key.len() + 1..assignment.len());
    node.replace_leaf(Value::Text(word.trim().to_owned()), &place);
    Some(node)
}

/// Lays `over` on `base`: tables are joined, anything else, an inline table too, is replaced.
fn merge(base: &mut Node, over: Table) {
    let Value::Table(table) = &mut base.value else {
        base.value = Value::Table(over);
        return;
    };
    for (key, entry) in over {
        match (table.get_mut(&key), entry.node) {
            (Some(Entry { node: old, .. }), Node { value: Value::Table(inner), inline: false, .. })
                if matches!(old.value, Value::Table(_)) =>
            {
                merge(old, inner);
            }
            (_, node) => {
                table.insert(key, Entry { key: entry.key, node });
            }
        }
    }
}
