//! Parquet: the columns that are wanted, row group by row group, by ranged reads. A file that anybody may have written: its footer, a row group and a page are
//! bounded before memory is taken, and what the decoder makes of damaged bytes is an error of the file, never the end of the process. A list of numbers is a
//! column for each, as in JSONL; text that reads as a number is one, as in CSV.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use mlctl_artifacts::{ArtifactError, Location, Pieces};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tokio::task::JoinHandle;

use super::{
    columns::{BadRow, Columns, class_of, shown},
    memory,
    parquet_column::{Cells, Column, Leaf, Source},
    record::MAX_COLUMNS,
    stream::Access,
    thrift,
};
use crate::fault::Fault;

/// The longest footer, which describes all row groups.
const MAX_FOOTER_BYTES: u64 = 64 * 1024 * 1024;

/// The most that is read of a row group at once, whatever memory there is.
const MAX_GROUP_BYTES: u64 = 1024 * 1024 * 1024;

/// Rows decoded at a time, and their numbers: rows of many numbers are fewer.
const ROWS: usize = 1024;
const NUMBERS: usize = 4 * 1024 * 1024;

/// The most bytes of the names of all columns, those of lists among them.
const MAX_NAMES_BYTES: usize = 256 * 1024 * 1024;

/// What follows the footer: its length in four bytes, and this.
const MAGIC: &[u8] = b"PAR1";

const WRITE_AGAIN: &str =
    "copy it again from where it came from, or write it again; snappy, zstd and no compression are read";

/// A file's footer, and how its version is read.
#[derive(Debug, Clone)]
pub struct Footer {
    uri: String,
    at: Location,
    pieces: Arc<Pieces>,
    meta: Arc<ParquetMetaData>,
    leaves: Arc<Vec<Leaf>>,
}

/// A file being read.
pub struct Parquet<'a> {
    access: Access<'a>,
    footer: Footer,
    /// The leaves that are read, and for each column of the header where its numbers are in a row.
    read: Vec<usize>,
    places: Vec<Option<usize>>,
    width: usize,
    columns: Vec<Column>,
    /// The next row group, and the one after the last.
    groups: std::ops::Range<usize>,
    /// Rows left in the group, and those decoded.
    left: usize,
    cells: Cells,
    at: usize,
    rows: u64,
    hashing: Option<JoinHandle<Result<String, ArtifactError>>>,
    digest: String,
}

impl std::fmt::Debug for Parquet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parquet").field("uri", &self.footer.uri).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Footer {
    /// Reads a file's footer, and from its first row how long its lists are.
    pub(super) fn read(access: &Access<'_>, uri: &str) -> Result<Self, Fault> {
        let (at, pieces) = access.open(uri)?;
        let (uri, size) = (at.uri().to_owned(), pieces.size());
        let none = || Fault::spec(format!("{uri} is no Parquet file"), "check the path and train.data.format");
        let tail = range(access, (&at, &pieces), size.saturating_sub(8)..size)?;
        let length = tail.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes).ok_or_else(none)?;
        if &tail[4..] != MAGIC {
            return Err(none());
        }
        let length = u64::from(length);
        if length > MAX_FOOTER_BYTES || length + 12 > size {
            return Err(damaged(&uri, &format!("its footer is to have {length} bytes")));
        }
        let bytes = range(access, (&at, &pieces), size - 8 - length..size - 8)?;
        if !thrift::is_sane_file(&bytes) {
            return Err(damaged(&uri, "its footer makes no sense"));
        }
        let meta = guarded(&uri, || ParquetMetaDataReader::decode_metadata(&bytes))?;
        let leaves = Leaf::all(meta.file_metadata().schema_descr());
        let mut footer =
            Self { at: at.clone(), uri, pieces: Arc::new(pieces), meta: Arc::new(meta), leaves: Arc::new(leaves) };
        footer.measure_lists(access)?;
        Ok(footer)
    }

    /// The names of the columns: a list has one for each of its numbers.
    fn header(&self) -> Vec<String> {
        self.leaves.iter().flat_map(Leaf::names).collect()
    }

    /// The version of the file.
    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    pub(super) fn groups(&self) -> usize {
        self.meta.num_row_groups()
    }

    /// Rows of a row group.
    pub(super) fn rows_of(&self, group: usize) -> Result<usize, Fault> {
        let rows = self.meta.row_groups().get(group).map_or(0, |group| group.num_rows());
        usize::try_from(rows).map_err(|_| damaged(&self.uri, &format!("row group {group} is to have {rows} rows")))
    }

    fn measure_lists(&mut self, access: &Access) -> Result<(), Fault> {
        let lists: Vec<_> = (0..self.leaves.len()).filter(|leaf| self.leaves[*leaf].is_list()).collect();
        let mut first = None;
        for group in 0..self.groups() {
            if self.rows_of(group)? > 0 {
                first = Some(group);
                break;
            }
        }
        let mut leaves = self.leaves.as_ref().clone();
        if let Some(group) = first {
            let mut columns = self.open(access, group, &lists)?;
            for (leaf, column) in lists.iter().zip(&mut columns) {
                leaves[*leaf].length = guarded(&self.uri, || column.first_length())?;
            }
        }
        let names = leaves.iter().map(Leaf::names_bytes).fold(0, usize::saturating_add);
        if names > MAX_NAMES_BYTES {
            return Err(Fault::spec(
                format!("{} has too many columns, those of its lists among them", self.uri),
                "write it with fewer columns, or with shorter names",
            ));
        }
        self.leaves = Arc::new(leaves);
        Ok(())
    }

    /// Fetches some columns of a row group.
    fn open(&self, access: &Access<'_>, group: usize, leaves: &[usize]) -> Result<Vec<Column>, Fault> {
        let Some(meta) = self.meta.row_groups().get(group) else { return Ok(Vec::new()) };
        let limit = MAX_GROUP_BYTES.min(memory::budget());
        let (mut stored, mut unpacked) = (0_u64, 0_u64);
        let mut ranges = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let wrong = || damaged(&self.uri, &format!("row group {group} lies outside of it"));
            let chunk = meta.columns().get(*leaf).ok_or_else(wrong)?;
            let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
            let sizes = [start, chunk.compressed_size(), chunk.uncompressed_size()].map(u64::try_from);
            let [Ok(start), Ok(size), Ok(plain)] = sizes else { return Err(wrong()) };
            let end = start.checked_add(size).filter(|end| *end <= self.pieces.size()).ok_or_else(wrong)?;
            (stored, unpacked) = (stored.saturating_add(size), unpacked.saturating_add(plain));
            ranges.push(start..end);
        }
        if stored > limit || unpacked > limit.saturating_mul(4) {
            return Err(Fault::spec(
                format!(
                    "row group {group} of {} takes too much memory: {} MiB, {} MiB decompressed, and {} MiB are read at once",
                    self.uri,
                    stored >> 20,
                    unpacked >> 20,
                    limit >> 20
                ),
                "write the file in smaller row groups, or name fewer columns",
            ));
        }
        let mut columns = Vec::with_capacity(leaves.len());
        for (leaf, range) in leaves.iter().zip(ranges) {
            let bytes = self::range(access, (&self.at, &self.pieces), range.clone())?;
            let source = Source::new(range.start, bytes, self.pieces.size());
            let make = || Column::new(&self.meta, (group, *leaf), &self.leaves[*leaf], source);
            columns.push(guarded(&self.uri, make)?);
        }
        Ok(columns)
    }
}

impl<'a> Parquet<'a> {
    /// Opens a file. Nothing of its rows is read before [`Self::select`].
    ///
    /// # Errors
    /// When it cannot be read, or is no such file.
    pub fn open(access: &Access<'a>, uri: &str) -> Result<Self, Fault> {
        let footer = Footer::read(access, uri)?;
        let hashing = access.runtime().spawn(digest(Arc::clone(&footer.pieces)));
        let mut file = Self::over(access, footer, None);
        file.hashing = Some(hashing);
        Ok(file)
    }

    /// The rows of some row groups of a file whose footer was read.
    pub(super) fn over(access: &Access<'a>, footer: Footer, groups: Option<std::ops::Range<usize>>) -> Self {
        let groups = groups.unwrap_or(0..footer.groups());
        Self {
            access: access.clone(),
            footer,
            read: Vec::new(),
            places: Vec::new(),
            width: 0,
            columns: Vec::new(),
            groups,
            left: 0,
            cells: Cells::default(),
            at: 0,
            rows: 0,
            hashing: None,
            digest: String::new(),
        }
    }

    /// The row group after the current row, where that is the last of its own.
    pub(super) const fn group_after(&self) -> Option<u64> {
        if self.left == 0 && self.at + 1 == self.cells.rows { Some(self.groups.start as u64) } else { None }
    }

    /// The names of the columns.
    #[must_use]
    pub fn header(&self) -> Vec<String> {
        self.footer.header()
    }

    /// Rows in all, as the footer has it.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::try_from(self.footer.meta.file_metadata().num_rows()).unwrap_or(0)
    }

    /// Says which columns are read.
    ///
    /// # Errors
    /// When one of them holds no numbers, or there are too many.
    pub fn select(&mut self, columns: &Columns) -> Result<(), Fault> {
        let leaves = &self.footer.leaves;
        let of: Vec<usize> = leaves.iter().enumerate().flat_map(|(at, leaf)| leaf.names().map(move |_| at)).collect();
        let wanted: Vec<_> = columns.features.iter().chain(&columns.targets).chain(columns.id.iter()).collect();
        self.read = wanted.iter().filter_map(|column| of.get(column.place()).copied()).collect();
        self.read.sort_unstable();
        self.read.dedup();
        for column in &wanted {
            let Some(why) = of.get(column.place()).and_then(|leaf| leaves[*leaf].problem()) else { continue };
            return Err(Fault::spec(
                format!("column {:?} of {} cannot be used: {why}", column.name, self.footer.uri),
                "name the columns of numbers in `features`, or write it as numbers",
            ));
        }
        let mut starts = vec![None; leaves.len()];
        self.width = 0;
        for leaf in &self.read {
            starts[*leaf] = Some(self.width);
            self.width += leaves[*leaf].width();
        }
        if self.width > MAX_COLUMNS {
            return Err(Fault::spec(
                format!("{} columns of {} are too many", self.width, self.footer.uri),
                format!("at most {MAX_COLUMNS} are read"),
            ));
        }
        let mut within = vec![0; leaves.len()];
        self.places = of
            .iter()
            .map(|leaf| {
                let place = starts[*leaf].map(|start| start + within[*leaf]);
                within[*leaf] += 1;
                place
            })
            .collect();
        Ok(())
    }

    /// Goes to the next row; false at the end.
    ///
    /// # Errors
    /// When the file cannot be read on, or is damaged.
    pub fn advance(&mut self) -> Result<bool, Fault> {
        self.at += 1;
        while self.at >= self.cells.rows {
            if self.left == 0 && !self.next_group()? {
                return self.end();
            }
            let rows = self.left.min(ROWS).min(NUMBERS / self.width.max(1));
            let Self { columns, cells, width, footer, .. } = self;
            cells.clear(rows, *width);
            let mut start = 0;
            for column in columns {
                guarded(&footer.uri, || column.read(cells, start))?;
                start += column.width();
            }
            self.left -= rows;
            self.at = 0;
        }
        self.rows += 1;
        Ok(true)
    }

    fn next_group(&mut self) -> Result<bool, Fault> {
        self.columns.clear();
        let Some(group) = self.groups.next() else { return Ok(false) };
        self.left = self.footer.rows_of(group)?;
        self.columns = self.footer.open(&self.access, group, &self.read)?;
        Ok(true)
    }

    fn end(&mut self) -> Result<bool, Fault> {
        if let Some(hashing) = self.hashing.take() {
            let joined = self.access.runtime().block_on(hashing);
            let crash = |error| Fault::new(mlctl_protocol::ExitClass::Crash, format!("the checksum failed: {error}"));
            let mut first = Some(joined.map_err(crash)?);
            let again = || match first.take() {
                Some(Err(ArtifactError::Unavailable { .. })) | None => {
                    self.access.runtime().block_on(digest(Arc::clone(&self.footer.pieces)))
                }
                Some(known) => known,
            };
            self.digest = self.access.patiently(&self.footer.at, again)?;
        }
        Ok(false)
    }

    /// The number of the current row, from 0.
    #[must_use]
    pub const fn row(&self) -> u64 {
        self.rows.saturating_sub(1)
    }

    /// Appends the current row's numbers of some columns.
    ///
    /// # Errors
    /// When one of them is no finite f32. Nothing is appended then.
    pub fn numbers(&self, columns: &[super::columns::Column], out: &mut Vec<f32>) -> Result<(), BadRow> {
        let before = out.len();
        for column in columns {
            let number = self.number(column);
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
            let value = number as f32;
            if !value.is_finite() {
                out.truncate(before);
                let what = self.cells.problem(self.at, self.place(column)).unwrap_or_else(|| {
                    format!(
                        "{number:?} is {}",
                        if number.is_finite() { "too large a number" } else { "no finite number" }
                    )
                });
                return Err(BadRow::of_row(self.row(), Some(column.name.clone()), what));
            }
            out.push(value);
        }
        Ok(())
    }

    /// The current row's class number, below `classes`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn class(&self, column: Option<&super::columns::Column>, classes: u32) -> Result<u32, BadRow> {
        let Some(column) = column else {
            return Err(BadRow::of_row(self.row(), None, "there is no column of classes".into()));
        };
        let number = self.number(column);
        let what = match self.cells.problem(self.at, self.place(column)) {
            Some(what) => what,
            None => match class_of(number, classes) {
                Ok(class) => return Ok(class),
                Err(why) => format!("{} {why}", shown(number.to_string().as_bytes())),
            },
        };
        Err(BadRow::of_row(self.row(), Some(column.name.clone()), what))
    }

    /// The current row's text or number in a column; `None` for one that is null.
    #[must_use]
    pub fn text(&self, column: &super::columns::Column) -> Option<String> {
        self.cells.text(self.at, self.place(column))
    }

    /// What the store calls this version of the file, where it has such a thing.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        self.footer.pieces.version().map(str::to_owned)
    }

    /// The BLAKE3 of the file, once its rows are read to the end.
    #[must_use]
    pub fn content_digest(&self) -> String {
        self.digest.clone()
    }

    fn place(&self, column: &super::columns::Column) -> usize {
        self.places.get(column.place()).copied().flatten().unwrap_or(usize::MAX)
    }

    fn number(&self, column: &super::columns::Column) -> f64 {
        self.cells.number(self.at, self.place(column))
    }
}

/// The BLAKE3 of the version of a file whose footer was read.
async fn digest(pieces: Arc<Pieces>) -> Result<String, ArtifactError> {
    let (mut parts, mut hasher) = (pieces.range(0..pieces.size()), blake3::Hasher::new());
    while let Some(bytes) = parts.next().await? {
        hasher.update(&bytes);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Some bytes of a file, in full.
fn range(
    access: &Access<'_>,
    (at, pieces): (&Location, &Pieces),
    range: std::ops::Range<u64>,
) -> Result<bytes::Bytes, Fault> {
    let read = || {
        access.runtime().block_on(async {
            let mut parts = pieces.range(range.clone());
            let Some(first) = parts.next().await? else { return Ok(bytes::Bytes::new()) };
            let mut all = None;
            while let Some(next) = parts.next().await? {
                all.get_or_insert_with(|| bytes::BytesMut::from(first.as_ref())).extend_from_slice(&next);
            }
            Ok(all.map_or(first, bytes::BytesMut::freeze))
        })
    };
    access.patiently(at, read)
}

/// What the decoder makes of bytes that may be damaged.
fn guarded<T>(uri: &str, decode: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.map_err(|error| damaged(uri, &error.to_string())),
        Err(_) => Err(damaged(uri, "its bytes make no sense")),
    }
}

fn damaged(uri: &str, what: &str) -> Fault {
    Fault::spec(format!("{uri} cannot be read as Parquet: {what}"), WRITE_AGAIN)
}
