//! The document as a tree of values that know their places: what the TOML parser gives, without its lifetimes, so that values from flags can be laid over it.

use std::collections::BTreeMap;

use serde_json::{Map, Number};
use toml::{Spanned, de::DeTable, de::DeValue};

use super::place::Place;

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// The value's own span; a table's header, or the key by which it is implied.
    pub place: Place,
    /// Whether it is written between braces, and so replaces another as a whole.
    pub inline: bool,
    /// The value.
    pub value: Value,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
    Date(String),
    Array(Vec<Node>),
    Table(Table),
}

/// A table's entries, by key.
pub(super) type Table = BTreeMap<String, Entry>;

/// A key's place and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: Place,
    pub node: Node,
}

impl Node {
    /// The node at a dotted path, or the nearest around it.
    pub(super) fn find(&self, path: &str) -> &Self {
        let mut node = self;
        for step in steps(path) {
            match node.step(step) {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// The node at a dotted path.
    pub(super) fn get(&self, path: &str) -> Option<&Self> {
        steps(path).try_fold(self, |node, step| node.step(step))
    }

    fn step(&self, step: &str) -> Option<&Self> {
        match &self.value {
            Value::Table(table) => table.get(step).map(|entry| &entry.node),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// Puts a value where a tree of one branch ends.
    pub(super) fn replace_leaf(&mut self, value: Value, place: &Place) {
        match &mut self.value {
            Value::Table(table) => {
                if let Some(entry) = table.values_mut().next() {
                    entry.node.replace_leaf(value, place);
                }
            }
            leaf => {
                *leaf = value;
                self.place = *place;
            }
        }
    }
}

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty())
}

impl Value {
    /// The value as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) | Self::Date(text) => serde_json::Value::String(text.clone()),
            Self::Integer(number) => Number::from_i128(*number).map_or(serde_json::Value::Null, Into::into),
            Self::Float(number) => Number::from_f64(*number).map_or(serde_json::Value::Null, Into::into),
            Self::Bool(value) => serde_json::Value::Bool(*value),
            Self::Array(items) => items.iter().map(|item| item.value.json()).collect(),
            Self::Table(table) => {
                let pairs = table.iter().map(|(key, entry)| (key.clone(), entry.node.value.json()));
                serde_json::Value::Object(Map::from_iter(pairs))
            }
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number as it is written; empty for anything else.
    pub(super) fn digits(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            _ => String::new(),
        }
    }

    /// The value in a message: `the string "big"`.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) if text.chars().count() <= 40 => format!("the string {text:?}"),
            Self::Text(_) => "a string".into(),
            Self::Integer(_) => format!("the integer {}", self.digits()),
            Self::Float(_) => format!("the number {}", self.digits()),
            Self::Bool(value) => value.to_string(),
            Self::Date(_) => "a date".into(),
            Self::Array(_) => "an array".into(),
            Self::Table(_) => "a table".into(),
        }
    }
}

/// A parsed document as a tree. `text` tells inline tables from others.
pub(super) fn document(source: usize, text: &str, root: Spanned<DeTable<'_>>) -> Node {
    // The parser's span of the root is the whole text; what is missing there is missing from its first line.
    Node { place: Place::new(source, 0..0), inline: false, value: Value::Table(table(source, text, root.into_inner())) }
}

fn table(source: usize, text: &str, table: DeTable<'_>) -> Table {
    let entry = |(key, value): (Spanned<_>, _)| {
        let place = Place::new(source, key.span());
        let key: std::borrow::Cow<'_, str> = key.into_inner();
        (key.into_owned(), Entry { key: place, node: node(source, text, value) })
    };
    table.into_iter().map(entry).collect()
}

fn node(source: usize, text: &str, value: Spanned<DeValue<'_>>) -> Node {
    let span = value.span();
    let inline = text.as_bytes().get(span.start) == Some(&b'{');
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        // The parser has checked the digits; more than 128 bits of them are as wrong as infinity.
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).map_or(Value::Float(f64::INFINITY), Value::Integer)
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::INFINITY)),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(items) => Value::Array(items.into_iter().map(|item| node(source, text, item)).collect()),
        DeValue::Table(inner) => Value::Table(table(source, text, inner)),
    };
    Node { place: Place::new(source, span), inline, value }
}
