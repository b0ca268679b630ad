//! A row of a table, whatever the format: its numbers, its class, its name, and what is wrong with it. Made by `table`; read by `load` and `infer`.

use super::{
    columns::{BadRow, Columns},
    files::Files,
    npy::Arrays,
    parquet::Parquet,
    record::Record,
};

/// Where a block lies: in which file, after how many rows of others, and of its own file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) before: u64,
    pub(super) skipped: u64,
}

/// A row of a table.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    of: Of<'a>,
    columns: &'a Columns,
    place: Place,
    files: &'a Files,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    Record(Record<'a>),
    Arrays(&'a Arrays<'a>),
    Parquet(&'a Parquet<'a>),
}

impl<'a> Row<'a> {
    pub(super) const fn new(of: Of<'a>, columns: &'a Columns, place: Place, files: &'a Files) -> Self {
        Self { of, columns, place, files }
    }

    /// Its number from 0, over all files.
    #[must_use]
    pub const fn number(&self) -> u64 {
        let row = match self.of {
            Of::Record(record) => record.row,
            Of::Arrays(arrays) => arrays.row(),
            Of::Parquet(file) => file.row(),
        };
        self.place.before + self.place.skipped + row
    }

    /// Its file's number, from 0.
    #[must_use]
    pub const fn file(&self) -> usize {
        self.place.file
    }

    /// Its file.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.files.get(self.place.file).map_or(self.files.uri(), |file| file.uri.as_str())
    }

    /// Appends its features.
    ///
    /// # Errors
    /// When it has other fields than the columns say, or one of them is no finite f32. Nothing is appended then.
    pub fn features(&self, out: &mut Vec<f32>) -> Result<(), BadRow> {
        let read = match self.of {
            Of::Record(record) => self.columns.features(record, out),
            Of::Arrays(arrays) => arrays.features(out),
            Of::Parquet(file) => file.numbers(&self.columns.features, out),
        };
        read.map_err(|bad| self.placed(bad))
    }

    /// Notes which of its features, which are all columns, are no finite numbers.
    ///
    /// # Errors
    /// When it is no row of these columns.
    pub(super) fn note_texts(&self, is_text: &mut [bool], numbers: &mut Vec<f32>) -> Result<(), BadRow> {
        if let Err(bad) = self.features(numbers)
            && bad.column.is_none()
        {
            return Err(bad);
        }
        if numbers.is_empty() {
            for (column, is_text) in self.columns.features.iter().zip(is_text).filter(|(_, is_text)| !**is_text) {
                let one = std::slice::from_ref(column);
                *is_text = match self.of {
                    Of::Record(record) => Columns::are_numbers(one, record, numbers).is_err(),
                    Of::Arrays(_) => false,
                    Of::Parquet(file) => file.numbers(one, numbers).is_err(),
                };
            }
        }
        Ok(())
    }

    /// Appends its targets.
    ///
    /// # Errors
    /// As [`Self::features`].
    pub fn targets(&self, out: &mut Vec<f32>) -> Result<(), BadRow> {
        let read = match self.of {
            Of::Record(record) => self.columns.targets(record, out),
            Of::Arrays(arrays) => arrays.targets(out),
            Of::Parquet(file) => file.numbers(&self.columns.targets, out),
        };
        read.map_err(|bad| self.placed(bad))
    }

    /// Its class number, below `classes`.
    ///
    /// # Errors
    /// When it has none.
    pub fn class(&self, classes: u32) -> Result<u32, BadRow> {
        let read = match self.of {
            Of::Record(record) => self.columns.class(record, classes),
            Of::Arrays(arrays) => arrays.class(classes),
            Of::Parquet(file) => file.class(self.columns.targets.first(), classes),
        };
        read.map_err(|bad| self.placed(bad))
    }

    /// Whether anything stands where its first target is to be.
    #[must_use]
    pub fn has_target(&self) -> bool {
        match self.of {
            Of::Record(record) => !self.columns.first_target(record).is_empty(),
            Of::Arrays(arrays) => arrays.widths().1 > 0,
            Of::Parquet(file) => self.columns.targets.first().is_some_and(|column| file.text(column).is_some()),
        }
    }

    /// Whether there is a column of targets at all.
    #[must_use]
    pub const fn can_have_target(&self) -> bool {
        !self.columns.targets.is_empty()
    }

    /// What its id column says; `None` where rows are named by their numbers.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        match self.of {
            Of::Record(record) => self.columns.id(record),
            Of::Arrays(_) => None,
            Of::Parquet(file) => self.columns.id.as_ref().map(|column| file.text(column).unwrap_or_default()),
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn bad(&self, column: Option<String>, what: String) -> BadRow {
        let line = match self.of {
            Of::Record(record) => Some(record.line),
            Of::Arrays(_) | Of::Parquet(_) => None,
        };
        let row = self.number() - self.place.before - self.place.skipped;
        self.placed(BadRow { line, ..BadRow::of_row(row, column, what) })
    }

    fn placed(&self, bad: BadRow) -> BadRow {
        let Place { file, before, skipped } = self.place;
        // Lines of a block are not those of its file.
        let line = bad.line.filter(|_| skipped == 0);
        BadRow { row: bad.row + skipped, before, line, file: self.files.name(file).map(str::to_owned), ..bad }
    }
}
