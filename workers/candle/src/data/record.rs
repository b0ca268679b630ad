//! A record of a text file, whatever the format: fields in the order of the header, as bytes. `csv` and `jsonl` make them, `columns` reads them.

/// The longest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 32 * 1024 * 1024;

/// The most columns.
pub const MAX_COLUMNS: usize = 100_000;

/// A record of the file, the header apart.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its number from 0.
    pub row: u64,
    /// The line it begins on, from 1.
    pub line: u64,
    /// Why it has no fields, where it is no record.
    pub wrong: Option<&'a str>,
    pub(super) text: &'a [u8],
    /// Where each field ends in the text.
    pub(super) ends: &'a [usize],
}

impl<'a> Record<'a> {
    /// The number of its fields.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has no field, which no record of a file has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A field's bytes without white space around them; nothing for a field that is not there.
    #[must_use]
    pub fn field(&self, column: usize) -> &'a [u8] {
        let start = column.checked_sub(1).map_or(0, |before| self.ends.get(before).copied().unwrap_or(0));
        let end = self.ends.get(column).copied().unwrap_or(start);
        self.text.get(start..end).unwrap_or_default().trim_ascii()
    }
}
