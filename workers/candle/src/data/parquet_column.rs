//! A column of a Parquet file while its row group is read: from the bytes of its chunk to numbers and texts of some rows. Knows the crate's types, so that
//! `parquet` need not.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, Bytes};
use parquet::{
    basic::{ConvertedType, LogicalType, Type},
    column::{
        page::{Page, PageMetadata, PageReader},
        reader::{ColumnReader, ColumnReaderImpl, get_column_reader},
    },
    data_type::{ByteArray, DataType},
    errors::{ParquetError, Result},
    file::{
        metadata::ParquetMetaData,
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
    schema::types::{ColumnDescriptor, SchemaDescriptor},
};

use super::{columns::shown, thrift};

/// The largest page, decompressed: writers make them of a megabyte.
const MAX_PAGE_BYTES: u64 = 256 * 1024 * 1024;

/// The longest header of a page: its statistics are values of the column.
const MAX_HEADER_BYTES: usize = 16 * 1024 * 1024;

/// The most values of a dictionary.
const MAX_DICTIONARY: usize = 16 * 1024 * 1024;

/// The longest list.
const MAX_LIST: usize = 100_000;

/// The most values of lists on the pages that are decoded for one read: as runs of the same they take no bytes.
const MAX_LIST_VALUES: usize = 32 * 1024 * 1024;

/// The bytes of a column chunk, at their place in the file.
pub(super) struct Source {
    start: u64,
    bytes: Bytes,
    size: u64,
}

impl Source {
    pub(super) const fn new(start: u64, bytes: Bytes, size: u64) -> Self {
        Self { start, bytes, size }
    }

    fn at(&self, place: u64) -> Result<Bytes> {
        let at = place.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let at = at.filter(|at| *at <= self.bytes.len());
        at.map(|at| self.bytes.slice(at..))
            .ok_or_else(|| ParquetError::General("a page lies outside of its chunk".into()))
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Source {
    type T = bytes::buf::Reader<Bytes>;

    /// Called where a page begins, so that its size is seen before the decoder takes memory for it.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        let bytes = self.at(start)?;
        let header = bytes.slice(..bytes.len().min(MAX_HEADER_BYTES));
        match page_bytes(&header).filter(|_| thrift::is_sane(&header)) {
            Some(size) if size <= MAX_PAGE_BYTES => Ok(bytes.reader()),
            Some(size) => Err(ParquetError::General(format!("a page is to have {size} bytes"))),
            None => Err(ParquetError::General("a page has no sane header".into())),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.at(start)?;
        if length > bytes.len() {
            return Err(ParquetError::General("a page goes on behind its chunk".into()));
        }
        Ok(bytes.slice(..length))
    }
}

/// The size of a page, decompressed, of its header: Thrift's compact form, whose first two fields are the type and this, both i32.
fn page_bytes(header: &[u8]) -> Option<u64> {
    const FIELD: u8 = 0x15;
    let (first, rest) = header.split_first().filter(|(field, _)| **field == FIELD)?;
    let (_, rest) = varint(rest)?;
    let (_, rest) = rest.split_first().filter(|(field, _)| *field == first)?;
    let (zigzag, _) = varint(rest)?;
    Some(zigzag / 2).filter(|_| zigzag % 2 == 0)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// A column as the file's schema has it.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    name: String,
    list: bool,
    /// Why it holds no numbers; and why it names no rows.
    problem: Option<String>,
    /// How many numbers a list has, by the first row.
    pub(super) length: usize,
}

impl Leaf {
    pub(super) fn all(schema: &SchemaDescriptor) -> Vec<Self> {
        let leaf = |column: &parquet::schema::types::ColumnDescPtr| {
            let list = column.max_rep_level() == 1;
            let parts = column.path().parts();
            let name = if list { parts.first().cloned().unwrap_or_default() } else { parts.join(".") };
            Self { name, list, problem: problem(column), length: 0 }
        };
        schema.columns().iter().map(leaf).collect()
    }

    pub(super) const fn is_list(&self) -> bool {
        self.list && self.problem.is_none()
    }

    /// Numbers a row.
    pub(super) const fn width(&self) -> usize {
        if self.is_list() { self.length } else { 1 }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let list = self.is_list();
        (0..self.width()).map(move |at| if list { format!("{}[{at}]", self.name) } else { self.name.clone() })
    }

    /// Why it cannot be used as numbers, or to name rows.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// About how many bytes all its names take.
    pub(super) fn names_bytes(&self) -> usize {
        self.width().saturating_mul(self.name.len() + 2 * size_of::<String>())
    }
}

/// Why a column cannot be used. What its values mean is said in two ways, of which older files have the second alone.
fn problem(column: &ColumnDescriptor) -> Option<String> {
    use ConvertedType as As;
    let (logical, converted) = (column.logical_type_ref(), column.converted_type());
    let plain = match (column.physical_type(), logical) {
        (Type::BOOLEAN | Type::FLOAT | Type::DOUBLE, _) => true,
        (Type::INT32 | Type::INT64, Some(logical)) => matches!(logical, LogicalType::Integer { .. }),
        (Type::INT32 | Type::INT64, None) => matches!(
            converted,
            As::NONE
                | As::INT_8
                | As::INT_16
                | As::INT_32
                | As::INT_64
                | As::UINT_8
                | As::UINT_16
                | As::UINT_32
                | As::UINT_64
        ),
        (Type::BYTE_ARRAY, Some(logical)) => {
            matches!(logical, LogicalType::String | LogicalType::Enum | LogicalType::Json)
        }
        (Type::BYTE_ARRAY, None) => matches!(converted, As::NONE | As::UTF8 | As::ENUM | As::JSON),
        (Type::FIXED_LEN_BYTE_ARRAY, logical) => matches!(logical, Some(LogicalType::Float16)),
        (Type::INT96, _) => false,
    };
    if column.max_rep_level() > 1 {
        return Some("it holds lists of lists".into());
    }
    if plain {
        return None;
    }
    Some(match logical {
        Some(logical) => format!("it is of the type {logical:?}"),
        None if converted != As::NONE => format!("it is of the type {converted}"),
        None => format!("it is of the type {}", column.physical_type()),
    })
}

/// Pages whose numbers of values are bounded before they are decoded: runs of the same value are as many as a page says.
struct Checked {
    pages: SerializedPageReader<Source>,
    list: bool,
    /// Values of lists on the pages since the last read began.
    values: Arc<AtomicUsize>,
}

impl Iterator for Checked {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Checked {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        let Some(known) = &page else { return Ok(None) };
        let values = known.num_values() as usize;
        let too_many = match known {
            Page::DictionaryPage { buf, .. } => values > buf.len().min(MAX_DICTIONARY),
            _ if self.list => {
                let before = self.values.fetch_add(values, Ordering::Relaxed);
                before.saturating_add(values) > MAX_LIST_VALUES
            }
            _ => false,
        };
        if too_many { Err(ParquetError::General(format!("a page is to have {values} values"))) } else { Ok(page) }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}

/// Some rows of the columns that are read, row-major.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) rows: usize,
    width: usize,
    numbers: Vec<f64>,
    /// What texts there are, by their place.
    texts: HashMap<usize, Bytes>,
    /// Numbers that f64 does not hold.
    integers: HashMap<usize, i64>,
    /// What is wrong, by row and column; of a list, at its first number.
    wrong: HashMap<usize, String>,
    nulls: HashSet<usize>,
}

impl Cells {
    pub(super) fn clear(&mut self, rows: usize, width: usize) {
        (self.rows, self.width) = (rows, width);
        self.numbers.clear();
        self.numbers.resize(rows * width, f64::NAN);
        self.texts.clear();
        self.integers.clear();
        self.wrong.clear();
        self.nulls.clear();
    }

    pub(super) fn number(&self, row: usize, column: usize) -> f64 {
        self.numbers.get(row * self.width + column).copied().filter(|_| column < self.width).unwrap_or(f64::NAN)
    }

    pub(super) fn problem(&self, row: usize, column: usize) -> Option<String> {
        self.wrong.get(&(row * self.width + column)).cloned()
    }

    pub(super) fn text(&self, row: usize, column: usize) -> Option<String> {
        let place = row * self.width + column;
        if let Some(text) = self.texts.get(&place) {
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        if let Some(integer) = self.integers.get(&place) {
            return Some(integer.to_string());
        }
        if self.nulls.contains(&place) { None } else { Some(self.number(row, column).to_string()) }
    }

    fn set(&mut self, place: usize, value: Option<Value>) {
        const EXACT: i64 = 1 << 53;
        #[expect(clippy::cast_precision_loss, reason = "f32 holds no more digits in the end")]
        let number = match value {
            Some(Value::Number(number)) => number,
            Some(Value::Integer(integer)) => {
                if integer.abs_diff(0) > EXACT.unsigned_abs() {
                    self.integers.insert(place, integer);
                }
                integer as f64
            }
            Some(Value::Text(text)) => {
                let parsed = std::str::from_utf8(text.trim_ascii()).ok().and_then(|text| text.parse::<f64>().ok());
                if parsed.is_none() {
                    let what =
                        if text.trim_ascii().is_empty() { "is where a number must be" } else { "is not a number" };
                    self.wrong.insert(place, format!("{} {what}", shown(text.trim_ascii())));
                }
                self.texts.insert(place, text);
                parsed.unwrap_or(f64::NAN)
            }
            None => {
                self.nulls.insert(place);
                self.wrong.insert(place, "null is where a number must be".into());
                f64::NAN
            }
        };
        if let Some(cell) = self.numbers.get_mut(place) {
            *cell = number;
        }
    }
}

/// What stands in a column.
enum Value {
    Number(f64),
    Integer(i64),
    Text(Bytes),
}

/// A column of a row group being read.
pub(super) struct Column {
    reader: ColumnReader,
    leaf: Leaf,
    present: i16,
    unsigned: bool,
    /// See [`Checked`].
    values: Arc<AtomicUsize>,
}

impl Column {
    pub(super) fn new(
        meta: &ParquetMetaData,
        (group, at): (usize, usize),
        leaf: &Leaf,
        source: Source,
    ) -> Result<Self> {
        let group = meta.row_group(group);
        let chunk = group.column(at);
        let rows = usize::try_from(group.num_rows())?;
        let descr = chunk.column_descr_ptr();
        let present = descr.max_def_level();
        let logical = descr.logical_type_ref();
        let converted = descr.converted_type();
        let unsigned = matches!(logical, Some(LogicalType::Integer(int)) if !int.is_signed)
            || matches!(
                converted,
                ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
            );
        let pages = SerializedPageReader::new(Arc::new(source), chunk, rows, None)?;
        let (list, values) = (leaf.list, Arc::default());
        let pages = Checked { pages, list, values: Arc::clone(&values) };
        Ok(Self { reader: get_column_reader(descr, Box::new(pages)), leaf: leaf.clone(), present, unsigned, values })
    }

    pub(super) const fn width(&self) -> usize {
        self.leaf.width()
    }

    /// How many numbers the list of the first row has.
    pub(super) fn first_length(&mut self) -> Result<usize> {
        let mut length = 0;
        self.values(1, |_, at, value| {
            if value.is_some() {
                length = at + 1;
            }
        })?;
        if length > MAX_LIST {
            return Err(ParquetError::General(format!("a list has {length} numbers")));
        }
        Ok(length)
    }

    /// Reads the next rows into their places.
    pub(super) fn read(&mut self, cells: &mut Cells, start: usize) -> Result<()> {
        let (rows, width, own, list) = (cells.rows, cells.width, self.leaf.width(), self.leaf.list);
        let mut lengths = vec![0_usize; if list { rows } else { 0 }];
        self.values(rows, |row, at, value| {
            if !list {
                cells.set(row * width + start, value);
            } else if value.is_some() {
                lengths[row] = at + 1;
                if at < own {
                    cells.set(row * width + start + at, value);
                }
            }
        })?;
        for (row, length) in lengths.into_iter().enumerate().filter(|(_, length)| *length != own) {
            let what = format!("{:?} has {length} numbers, and {own} in the first row", self.leaf.name);
            for at in 0..own {
                let place = row * width + start + at;
                cells.numbers[place] = f64::NAN;
                cells.wrong.insert(place, what.clone());
            }
        }
        Ok(())
    }

    /// Calls `each` with row, place in the row and value of the next rows, of which there must be as many.
    fn values(&mut self, rows: usize, each: impl FnMut(usize, usize, Option<Value>)) -> Result<()> {
        self.values.store(0, Ordering::Relaxed);
        let (present, unsigned) = (self.present, self.unsigned);
        let whole = |value: i64| Value::Integer(value);
        match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => {
                read(reader, rows, present, |value| Value::Number(f64::from(u8::from(*value))), each)
            }
            ColumnReader::Int32ColumnReader(reader) => {
                let value =
                    |value: &i32| whole(if unsigned { i64::from(value.cast_unsigned()) } else { i64::from(*value) });
                read(reader, rows, present, value, each)
            }
            ColumnReader::Int64ColumnReader(reader) => {
                #[expect(clippy::cast_precision_loss, reason = "f32 holds no more digits in the end")]
                let value = |value: &i64| match value {
                    value if unsigned && *value < 0 => Value::Number(value.cast_unsigned() as f64),
                    value => whole(*value),
                };
                read(reader, rows, present, value, each)
            }
            ColumnReader::FloatColumnReader(reader) => {
                read(reader, rows, present, |value| Value::Number(f64::from(*value)), each)
            }
            ColumnReader::DoubleColumnReader(reader) => {
                read(reader, rows, present, |value| Value::Number(*value), each)
            }
            ColumnReader::ByteArrayColumnReader(reader) => {
                read(reader, rows, present, |value: &ByteArray| Value::Text(Bytes::copy_from_slice(value.data())), each)
            }
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                let half =
                    |bytes: &[u8]| bytes.try_into().map_or(f64::NAN, |bytes| half::f16::from_le_bytes(bytes).to_f64());
                read(reader, rows, present, |value| Value::Number(half(value.data())), each)
            }
            ColumnReader::Int96ColumnReader(_) => Err(ParquetError::General("INT96 is no number".into())),
        }
    }
}

fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    present: i16,
    convert: impl Fn(&T::T) -> Value,
    mut each: impl FnMut(usize, usize, Option<Value>),
) -> Result<()> {
    let (mut defs, mut reps, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (read, _, levels) = reader.read_records(rows, Some(&mut defs), Some(&mut reps), &mut values)?;
    if read != rows {
        return Err(ParquetError::General(format!("a row group ends {} rows early", rows - read)));
    }
    let mut values = values.iter();
    let (mut row, mut at) = (0, 0);
    for level in 0..levels {
        if level > 0 {
            (row, at) = if reps.get(level).is_some_and(|rep| *rep > 0) { (row, at + 1) } else { (row + 1, 0) };
        }
        let is_present = defs.get(level).is_none_or(|def| *def == present);
        let value = if is_present { values.next().map(&convert) } else { None };
        if row < rows {
            each(row, at, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_values_mean_is_heeded_in_files_that_say_it_the_old_way() {
        use ConvertedType as As;
        let problem_of = |physical, converted| {
            let mut leaf =
                parquet::schema::types::Type::primitive_type_builder("a", physical).with_converted_type(converted);
            if converted == As::DECIMAL {
                leaf = leaf.with_precision(5).with_scale(2);
            }
            let leaf = Arc::new(leaf.build().unwrap());
            let root =
                parquet::schema::types::Type::group_type_builder("root").with_fields(vec![leaf]).build().unwrap();
            problem(&SchemaDescriptor::new(Arc::new(root)).column(0))
        };
        for (physical, converted) in [
            (Type::INT32, As::NONE),
            (Type::INT32, As::UINT_8),
            (Type::INT64, As::INT_64),
            (Type::BYTE_ARRAY, As::UTF8),
            (Type::BYTE_ARRAY, As::NONE),
        ] {
            assert_eq!(problem_of(physical, converted), None, "{converted}");
        }
        for (physical, converted) in [
            (Type::INT32, As::DATE),
            (Type::INT32, As::DECIMAL),
            (Type::INT64, As::DECIMAL),
            (Type::INT64, As::TIMESTAMP_MILLIS),
            (Type::INT64, As::TIMESTAMP_MICROS),
            (Type::INT32, As::TIME_MILLIS),
            (Type::BYTE_ARRAY, As::DECIMAL),
            (Type::BYTE_ARRAY, As::BSON),
        ] {
            let why = problem_of(physical, converted).unwrap_or_else(|| panic!("{converted}"));
            assert!(why.contains(&converted.to_string()), "{why}");
        }
    }
}
