//! NumPy arrays as they stream in, a row at a time: one file of features, one of targets. The format is described in NumPy's
//! `numpy/lib/_format_impl.py`. The header is text in a file that anybody may have written, so it is read by a parser that knows the three keys
//! it has, and every size is checked before memory is taken.

use bytes::{Buf, Bytes};
use mlctl_artifacts::Pieces;

use super::{
    columns::{BadRow, class_of},
    record::{MAX_COLUMNS, MAX_RECORD_BYTES},
    stream::{self, Access, Stream},
};
use crate::fault::Fault;

/// How such a file begins.
const MAGIC: &[u8] = b"\x93NUMPY";

/// The longest header: NumPy's takes about a hundred bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// What to do about an array of another form.
const SAVE_AGAIN: &str = "save it again as numbers: np.save(path, np.ascontiguousarray(array, dtype=np.float32))";

/// Features and, where there are some, targets, row by row.
#[derive(Debug)]
pub struct Arrays<'a> {
    features: Array<'a>,
    targets: Option<Array<'a>>,
    /// Rows read.
    read: u64,
}

impl<'a> Arrays<'a> {
    /// Opens the files and reads their headers.
    ///
    /// # Errors
    /// When one cannot be read or is no array of numbers, or they are not of as many rows.
    pub fn open(access: &Access<'a>, uri: &str, targets_uri: Option<&str>) -> Result<Self, Fault> {
        let features = Array::open(access, uri)?;
        let targets = targets_uri.map(|uri| Array::open(access, uri)).transpose()?;
        if let Some(targets) = targets.as_ref().filter(|targets| targets.header.rows != features.header.rows) {
            let (rows, target_rows) = (features.header.rows, targets.header.rows);
            return Err(Fault::spec(
                format!("{uri} has {rows} rows, and {} has {target_rows}", targets.stream.uri()),
                "save both arrays from the same table, a row of one for each row of the other",
            ));
        }
        Ok(Self { features, targets, read: 0 })
    }

    /// Some rows of files whose headers were read.
    pub(super) fn part(access: &Access<'a>, files: &Headers, rows: std::ops::Range<u64>) -> Self {
        let array = |(uri, pieces, header, at): &(String, Pieces, Header, u64)| {
            let size = (header.width * header.kind.size()) as u64;
            let stream = Stream::of(access, uri, pieces.range(at + rows.start * size..at + rows.end * size));
            let header = Header { rows: rows.end - rows.start, ..*header };
            Array { stream, chunk: Bytes::new(), header, row: vec![0; header.width * header.kind.size()] }
        };
        Self { features: array(&files.features), targets: files.targets.as_ref().map(array), read: 0 }
    }

    /// Bytes of a row in all files, where the rows can be read from any on: not of compressed ones.
    pub(super) fn row_bytes(&self) -> Option<u64> {
        let arrays = || [Some(&self.features), self.targets.as_ref()].into_iter().flatten();
        let compressed = arrays().any(|array| array.stream.is_compressed());
        (!compressed).then(|| arrays().map(|array| array.row.len() as u64).sum())
    }

    /// Rows in all.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.features.header.rows
    }

    /// Feature and target columns.
    #[must_use]
    pub fn widths(&self) -> (usize, usize) {
        (self.features.header.width, self.targets.as_ref().map_or(0, |targets| targets.header.width))
    }

    /// The number of the current row, from 0.
    #[must_use]
    pub const fn row(&self) -> u64 {
        self.read.saturating_sub(1)
    }

    /// Goes to the next row; false at the end.
    ///
    /// # Errors
    /// When a file cannot be read on, or is shorter or longer than its header says.
    pub fn advance(&mut self) -> Result<bool, Fault> {
        if self.read == self.rows() {
            self.features.end()?;
            self.targets.as_mut().map_or(Ok(()), Array::end)?;
            return Ok(false);
        }
        self.features.next()?;
        self.targets.as_mut().map_or(Ok(()), Array::next)?;
        self.read += 1;
        Ok(true)
    }

    /// Appends the current row's features.
    ///
    /// # Errors
    /// When one of them is no finite f32. Nothing is appended then.
    pub fn features(&self, out: &mut Vec<f32>) -> Result<(), BadRow> {
        self.values(&self.features, 'x', out)
    }

    /// Appends the current row's targets.
    ///
    /// # Errors
    /// As [`Self::features`].
    pub fn targets(&self, out: &mut Vec<f32>) -> Result<(), BadRow> {
        self.targets.as_ref().map_or(Ok(()), |targets| self.values(targets, 'y', out))
    }

    /// The class number of the current row, below `classes`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn class(&self, classes: u32) -> Result<u32, BadRow> {
        let number = self.targets.as_ref().and_then(|targets| targets.numbers().next());
        let bad = |what| BadRow::of_row(self.row(), Some("y0".into()), what);
        match number {
            None => Err(bad("there is no column of classes".into())),
            Some(number) => class_of(number, classes).map_err(|why| bad(format!("{number:?} {why}"))),
        }
    }

    /// What the store calls the versions of the files, where it has such a thing.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        let targets = self.targets.as_ref().map(|targets| targets.stream.version());
        match (self.features.stream.version(), targets) {
            (Some(features), Some(Some(targets))) => Some(format!("{features} and {targets}")),
            (features, _) => features,
        }
    }

    /// What the files hold, once they are read to their end: the file's BLAKE3, or that of both digests where there are two.
    #[must_use]
    pub fn content_digest(&self) -> String {
        match self.digests() {
            (features, None) => features,
            (features, Some(targets)) => {
                let text = format!("mlctl npy 1\nfeatures {features}\ntargets {targets}\n");
                blake3::hash(text.as_bytes()).to_hex().to_string()
            }
        }
    }

    /// BLAKE3 of each of the files, once they are read to their end: that of features, and that of targets.
    #[must_use]
    pub fn digests(&self) -> (String, Option<String>) {
        let targets = self.targets.as_ref().map(|targets| targets.stream.content_digest());
        (self.features.stream.content_digest(), targets)
    }

    fn values(&self, array: &Array<'_>, letter: char, out: &mut Vec<f32>) -> Result<(), BadRow> {
        let before = out.len();
        for (column, number) in array.numbers().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
            let value = number as f32;
            if !value.is_finite() {
                out.truncate(before);
                let what = format!(
                    "{number:?} is {}",
                    if number.is_finite() { "too large a number" } else { "no finite number" }
                );
                return Err(BadRow::of_row(self.row(), Some(format!("{letter}{column}")), what));
            }
            out.push(value);
        }
        Ok(())
    }
}

/// The headers of files, and how their versions of this moment are read.
#[derive(Debug)]
pub struct Headers {
    features: (String, Pieces, Header, u64),
    targets: Option<(String, Pieces, Header, u64)>,
}

impl Headers {
    pub(super) fn read(access: &Access<'_>, uri: &str, targets_uri: Option<&str>) -> Result<Self, Fault> {
        let one = |uri: &str| {
            let (at, pieces) = access.open(uri)?;
            let head = || Stream::of(access, at.uri(), pieces.range(0..MAX_HEADER_BYTES as u64 + 12));
            let (header, place) = match Array::over(head()) {
                Ok(array) => (array.header, array.stream.made() - array.chunk.len() as u64),
                // It is read as a whole, with the header that it has then.
                Err(_) if head().next()?.is_some_and(|bytes| stream::is_compressed(&bytes)) => (NO_HEADER, 0),
                Err(fault) => return Err(fault),
            };
            Ok::<_, Fault>((at.uri().to_owned(), pieces, header, place))
        };
        Ok(Self { features: one(uri)?, targets: targets_uri.map(one).transpose()? })
    }

    /// The versions of the files.
    pub(super) fn pieces(&self) -> Vec<&Pieces> {
        [Some(&self.features), self.targets.as_ref()].into_iter().flatten().map(|(_, pieces, ..)| pieces).collect()
    }
}

/// A file being read.
struct Array<'a> {
    stream: Stream<'a>,
    chunk: Bytes,
    header: Header,
    /// The bytes of the current row.
    row: Vec<u8>,
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Array").field("uri", &self.stream.uri()).field("header", &self.header).finish_non_exhaustive()
    }
}

impl<'a> Array<'a> {
    fn open(access: &Access<'a>, uri: &str) -> Result<Self, Fault> {
        Self::over(Stream::open(access, uri)?)
    }

    fn over(stream: Stream<'a>) -> Result<Self, Fault> {
        let mut array = Self { stream, chunk: Bytes::new(), header: NO_HEADER, row: Vec::new() };
        let mut start = [0; 8];
        let is_npy = array.fill(&mut start)? == start.len() && start.starts_with(MAGIC);
        // Version 1 has a length of two bytes, later ones of four.
        let mut length = [0; 4];
        let size = if start[6] == 1 { 2 } else { 4 };
        if !is_npy || !(1..=3).contains(&start[6]) || array.fill(&mut length[..size])? < size {
            return Err(Fault::spec(
                format!("{} is not a .npy file of NumPy", array.stream.uri()),
                "check the path; an .npz archive holds several: save the one array with np.save",
            ));
        }
        let length = u32::from_le_bytes(length) as usize;
        let mut text = vec![0; length.min(MAX_HEADER_BYTES)];
        if length > MAX_HEADER_BYTES || array.fill(&mut text)? < length {
            return Err(array.unusable("its header has no sane length"));
        }
        array.header = Header::parse(&String::from_utf8_lossy(&text)).map_err(|what| array.unusable(&what))?;
        array.row = vec![0; array.header.width * array.header.kind.size()];
        Ok(array)
    }

    /// Reads the next row.
    fn next(&mut self) -> Result<(), Fault> {
        let mut row = std::mem::take(&mut self.row);
        let read = self.fill(&mut row)?;
        self.row = row;
        if read < self.row.len() {
            return Err(self.unusable("it ends before the last row that its header tells of"));
        }
        Ok(())
    }

    /// Makes sure that nothing follows the last row.
    fn end(&mut self) -> Result<(), Fault> {
        if self.fill(&mut [0])? > 0 {
            return Err(self.unusable("it goes on behind the last row that its header tells of"));
        }
        Ok(())
    }

    /// Fills a buffer as far as there is something; how far that is.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let mut filled = 0;
        while filled < out.len() {
            if self.chunk.is_empty() {
                let Some(chunk) = self.stream.next()? else { break };
                self.chunk = chunk;
            }
            let n = self.chunk.len().min(out.len() - filled);
            self.chunk.copy_to_slice(&mut out[filled..filled + n]);
            filled += n;
        }
        Ok(filled)
    }

    /// The numbers of the current row.
    fn numbers(&self) -> impl Iterator<Item = f64> {
        let Header { kind, big_endian, .. } = self.header;
        self.row.chunks_exact(kind.size()).map(move |bytes| {
            let mut eight = [0; 8];
            let place = &mut eight[..bytes.len()];
            place.copy_from_slice(bytes);
            if big_endian {
                place.reverse();
            }
            kind.number(u64::from_le_bytes(eight))
        })
    }

    fn unusable(&self, what: &str) -> Fault {
        Fault::spec(format!("the array in {} cannot be used: {what}", self.stream.uri()), SAVE_AGAIN)
    }
}

/// What is known of an array before its header is read.
const NO_HEADER: Header = Header { kind: Kind::F32, big_endian: false, rows: 0, width: 0 };

/// A type of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F16,
    F32,
    F64,
    /// Integers of so many bytes.
    Signed(usize),
    Unsigned(usize),
}

impl Kind {
    const fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Signed(size) | Self::Unsigned(size) => size,
        }
    }

    /// The number that some bytes mean, given as the lowest of eight.
    #[expect(clippy::cast_possible_truncation, reason = "the upper bytes are 0")]
    #[expect(clippy::cast_precision_loss, reason = "f32 holds no more digits in the end")]
    fn number(self, bits: u64) -> f64 {
        match self {
            Self::F16 => half::f16::from_bits(bits as u16).to_f64(),
            Self::F32 => f64::from(f32::from_bits(bits as u32)),
            Self::F64 => f64::from_bits(bits),
            Self::Unsigned(_) => bits as f64,
            Self::Signed(size) => {
                let unused = 64 - 8 * size;
                ((bits << unused).cast_signed() >> unused) as f64
            }
        }
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    kind: Kind,
    big_endian: bool,
    rows: u64,
    /// Values a row; further dimensions are laid out behind each other.
    width: usize,
}

impl Header {
    /// Reads a dict such as `{'descr': '<f4', 'fortran_order': False, 'shape': (100, 4), }`.
    fn parse(text: &str) -> Result<Self, String> {
        let after = |key: &str| {
            let at = text.find(&format!("'{key}':")).ok_or_else(|| format!("its header has no {key:?}"))?;
            Ok::<_, String>(text[at + key.len() + 3..].trim_start())
        };
        let descr = after("descr")?;
        let name = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(name, _)| name);
        let (kind, big_endian) = name.and_then(dtype).ok_or_else(|| {
            format!(
                "its type {} is none of numbers",
                name.map_or("is a structured one, which".into(), |name| format!("{name:?}"))
            )
        })?;
        let fortran = after("fortran_order")?;
        let shape = after("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let shape = shape.map(|(inside, _)| inside.split(',').map(str::trim).filter(|part| !part.is_empty()));
        let shape = shape.and_then(|parts| parts.map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>());
        let shape = shape.ok_or("its header has no sane shape")?;
        let Some((rows, rest)) = shape.split_first() else { return Err("it is a single number, without rows".into()) };
        if !fortran.starts_with("False") && !rest.is_empty() {
            return Err("it is laid out column by column (Fortran order)".into());
        }
        let width =
            rest.iter().try_fold(1_u64, |width, n| width.checked_mul(*n)).and_then(|width| usize::try_from(width).ok());
        let fits = |width: &usize| (1..=MAX_COLUMNS).contains(width) && width * kind.size() <= MAX_RECORD_BYTES;
        let width = width
            .filter(fits)
            .ok_or_else(|| format!("a row of its shape {shape:?} has none or more than {MAX_COLUMNS} values"))?;
        Ok(Self { kind, big_endian, rows: *rows, width })
    }
}

/// The type that NumPy writes as `<f4`, and whether its bytes are the other way round.
fn dtype(name: &str) -> Option<(Kind, bool)> {
    let mut chars = name.chars();
    let order = chars.next()?;
    let kind = match chars.as_str() {
        "f2" => Kind::F16,
        "f4" => Kind::F32,
        "f8" => Kind::F64,
        "b1" | "u1" => Kind::Unsigned(1),
        "u2" => Kind::Unsigned(2),
        "u4" => Kind::Unsigned(4),
        "u8" => Kind::Unsigned(8),
        "i1" => Kind::Signed(1),
        "i2" => Kind::Signed(2),
        "i4" => Kind::Signed(4),
        "i8" => Kind::Signed(8),
        _ => return None,
    };
    matches!(order, '<' | '>' | '|').then_some((kind, order == '>'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(descr: &str, order: &str, shape: &str) -> Result<Header, String> {
        Header::parse(&format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}   \n"))
    }

    #[test]
    fn numpys_headers_are_understood() {
        let of = |kind, big_endian, rows, width| Ok(Header { kind, big_endian, rows, width });
        assert_eq!(header("'<f4'", "False", "(3, 4)"), of(Kind::F32, false, 3, 4));
        assert_eq!(header("'>f8'", "False", "(3,)"), of(Kind::F64, true, 3, 1));
        assert_eq!(header("'|u1'", "False", "(3, 28, 28)"), of(Kind::Unsigned(1), false, 3, 784));
        assert_eq!(header("'<i8'", "True", "(3,)"), of(Kind::Signed(8), false, 3, 1));
        assert_eq!(header("'<f2'", "False", "(0, 4)"), of(Kind::F16, false, 0, 4));
    }

    #[test]
    fn what_is_no_table_of_numbers_is_told() {
        for (descr, order, shape, why) in [
            ("'|O'", "False", "(3,)", "\"|O\" is none of numbers"),
            ("'<U8'", "False", "(3,)", "\"<U8\" is none of numbers"),
            ("[('a', '<f4')]", "False", "(3,)", "structured"),
            ("'<f4'", "True", "(3, 4)", "Fortran"),
            ("'<f4'", "False", "()", "a single number"),
            ("'<f4'", "False", "(3, 0)", "has none or more"),
            ("'<f4'", "False", "(3, 100001)", "has none or more"),
            ("'<f4'", "False", "(3, 4294967296, 4294967296)", "has none or more"),
            ("'<f4'", "False", "(3, -1)", "no sane shape"),
            ("'<f4'", "False", "(99999999999999999999,)", "no sane shape"),
            ("'<f4'", "False", "3", "no sane shape"),
        ] {
            let found = header(descr, order, shape).unwrap_err();
            assert!(found.contains(why), "{descr} {order} {shape}: {found}");
        }
        assert!(Header::parse("").unwrap_err().contains("no \"descr\""));
    }

    #[test]
    fn bytes_of_every_type_are_the_numbers_they_mean() {
        for (kind, bits, number) in [
            (Kind::F16, 0x3e00, 1.5),
            (Kind::F32, u64::from(0.1_f32.to_bits()), f64::from(0.1_f32)),
            (Kind::F64, 0.1_f64.to_bits(), 0.1),
            (Kind::Unsigned(1), 255, 255.0),
            (Kind::Signed(1), 255, -1.0),
            (Kind::Signed(4), 0xffff_fffe, -2.0),
            (Kind::Signed(8), u64::MAX, -1.0),
            (Kind::Unsigned(8), 1 << 63, 9_223_372_036_854_775_808.0),
        ] {
            assert_eq!(kind.number(bits), number, "{kind:?}");
        }
    }
}
