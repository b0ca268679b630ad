//! A file of text with named columns, CSV or JSONL: one way to read both, record by record.

use super::{csv, jsonl, record::Record};
use crate::fault::Fault;

/// A file being read.
#[derive(Debug)]
pub enum Lines<'a> {
    /// A record a line, and a header before them.
    Csv(Box<csv::Reader<'a>>),
    /// An object a line.
    Jsonl(Box<jsonl::Reader<'a>>),
}

impl Lines<'_> {
    /// The names of the columns.
    #[must_use]
    pub fn header(&self) -> &[String] {
        match self {
            Self::Csv(reader) => reader.header(),
            Self::Jsonl(reader) => reader.header(),
        }
    }

    /// Goes to the next record; false at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read on, or a record is too long.
    pub fn advance(&mut self) -> Result<bool, Fault> {
        match self {
            Self::Csv(reader) => reader.advance(),
            Self::Jsonl(reader) => reader.advance(),
        }
    }

    /// How many bytes of the file are used up, where records can be read from there on.
    pub(super) fn place(&self) -> Option<u64> {
        match self {
            Self::Csv(reader) => reader.place(),
            Self::Jsonl(reader) => reader.place(),
        }
    }

    /// The current record.
    #[must_use]
    pub fn record(&self) -> Record<'_> {
        match self {
            Self::Csv(reader) => reader.record(),
            Self::Jsonl(reader) => reader.record(),
        }
    }

    /// What the store calls this version of the file, where it has such a thing.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        match self {
            Self::Csv(reader) => reader.version(),
            Self::Jsonl(reader) => reader.version(),
        }
    }

    /// The BLAKE3 of the file, once it is read to its end.
    #[must_use]
    pub fn content_digest(&self) -> String {
        match self {
            Self::Csv(reader) => reader.content_digest(),
            Self::Jsonl(reader) => reader.content_digest(),
        }
    }
}
