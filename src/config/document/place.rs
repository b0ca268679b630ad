//! Where something was written: in bytes for the program, in lines and columns for people. Called by the other files of the document.

use std::ops::Range;

/// Where something was written: a span of bytes in one of a document's sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(super) source: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Place {
    pub(super) fn new(source: usize, range: Range<usize>) -> Self {
        Self { source, start: range.start, end: range.end.max(range.start) }
    }
}

/// A text that values come from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The file as the user named it, or the flag.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Whether it is a flag, whose lines need no numbers.
    pub is_flag: bool,
}

impl Source {
    pub(super) fn file(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), is_flag: false }
    }

    pub(super) fn flag(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), is_flag: true }
    }

    /// The line a byte stands on and the column it has there, both from 1, the column in characters; and the line itself.
    pub(super) fn locate(&self, byte: usize) -> Spot<'_> {
        let byte = floor(&self.text, byte);
        let start = line_start(&self.text, byte);
        let line = self.text[..start].matches('\n').count() + 1;
        let text = self.text[start..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
        Spot { line, column: self.text[start..byte].chars().count() + 1, text }
    }

    /// The characters from one byte to another, or to the end of the line if that comes first; at least 1.
    pub(super) fn width(&self, place: Place) -> usize {
        let start = floor(&self.text, place.start);
        let end = floor(&self.text, place.end).max(start);
        let shown = self.text[start..end].split(['\n', '\r']).next().unwrap_or_default();
        shown.chars().count().max(1)
    }
}

/// A byte of a source as people count.
pub(super) struct Spot<'a> {
    pub line: usize,
    pub column: usize,
    pub text: &'a str,
}

/// The byte at which the line that holds `byte` starts.
pub(super) fn line_start(text: &str, byte: usize) -> usize {
    text[..floor(text, byte)].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The nearest character boundary at or before `byte`: spans come from a parser, and a wrong one must not end the program.
fn floor(text: &str, byte: usize) -> usize {
    text.floor_char_boundary(byte.min(text.len()))
}
