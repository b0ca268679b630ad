//! A file of text with named columns, CSV or JSONL: one way to read both, record by record.

use super::{csv, jsonl, record::Record};
use crate::{fault::Fault, job::Job};

/// A file being read.
#[derive(Debug)]
pub enum Lines<'a> {
    /// A record a line, and a header before them.
    Csv(Box<csv::Reader<'a>>),
    /// An object a line.
    Jsonl(Box<jsonl::Reader<'a>>),
}

impl<'a> Lines<'a> {
    /// Opens a CSV file.
    ///
    /// # Errors
    /// When it cannot be read or has no header.
    pub fn csv(job: Job<'a>, uri: &str) -> Result<Self, Fault> {
        csv::Reader::open(job, uri).map(|reader| Self::Csv(Box::new(reader)))
    }

    /// Opens a JSONL file.
    ///
    /// # Errors
    /// When it cannot be read or does not begin with an object.
    pub fn jsonl(job: Job<'a>, uri: &str) -> Result<Self, Fault> {
        jsonl::Reader::open(job, uri).map(|reader| Self::Jsonl(Box::new(reader)))
    }

    /// The names of the columns.
    #[must_use]
    pub fn header(&self) -> &[String] {
        match self {
            Self::Csv(reader) => reader.header(),
            Self::Jsonl(reader) => reader.header(),
        }
    }

    /// The file.
    #[must_use]
    pub fn uri(&self) -> &str {
        match self {
            Self::Csv(reader) => reader.uri(),
            Self::Jsonl(reader) => reader.uri(),
        }
    }

    /// The next record; `None` at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read on, or a record is too long.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, Fault> {
        match self {
            Self::Csv(reader) => reader.next_record(),
            Self::Jsonl(reader) => reader.next_record(),
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
