//! A CSV file with a header, read record by record as it streams in: two pieces of the file and one record are all that is in
//! memory. Knows lines, records and the file's checksum; what the fields mean is for `columns`.

use bytes::Bytes;
use csv_core::ReadRecordResult;

use super::{
    record::{MAX_COLUMNS, MAX_RECORD_BYTES, Record},
    stream::{Access, Stream},
};
use crate::fault::Fault;

/// A file being read.
pub struct Reader<'a> {
    stream: Stream<'a>,
    piece: Bytes,
    /// How much of the piece is used up.
    at: usize,
    ended: bool,
    core: csv_core::Reader,
    header: Vec<String>,
    /// The line that the next byte is on, from 1.
    line: u64,
    /// The line that the current record begins on.
    begun: u64,
    /// Records read after the header.
    rows: u64,
    text: Vec<u8>,
    ends: Vec<usize>,
    /// Fields of the record in `ends`.
    fields: usize,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("uri", &self.stream.uri()).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When the file cannot be read or has no header.
    pub fn open(access: &Access<'a>, uri: &str) -> Result<Self, Fault> {
        let mut reader = Self::over(Stream::open(access, uri)?);
        reader.read_header()?;
        Ok(reader)
    }

    /// A reader of records without a header before them.
    pub(super) fn over(stream: Stream<'a>) -> Self {
        Self {
            stream,
            piece: Bytes::new(),
            at: 0,
            ended: false,
            core: csv_core::Reader::new(),
            header: Vec::new(),
            line: 1,
            begun: 1,
            rows: 0,
            text: vec![0; 4096],
            ends: vec![0; 64],
            fields: 0,
        }
    }

    /// How many bytes of the file are used up, where records can be read from there on: not of a compressed one.
    pub(super) fn place(&self) -> Option<u64> {
        let left = (self.piece.len() - self.at) as u64;
        (!self.stream.is_compressed()).then(|| self.stream.made() - left)
    }

    /// The names of the columns.
    #[must_use]
    pub fn header(&self) -> &[String] {
        &self.header
    }

    fn uri(&self) -> &str {
        self.stream.uri()
    }

    /// Goes to the next record; false at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read on, or a record is longer than [`MAX_RECORD_BYTES`].
    pub fn advance(&mut self) -> Result<bool, Fault> {
        let Some(line) = self.read()? else { return Ok(false) };
        self.begun = line;
        self.rows += 1;
        Ok(true)
    }

    /// The current record.
    #[must_use]
    pub fn record(&self) -> Record<'_> {
        let row = self.rows.saturating_sub(1);
        Record { row, line: self.begun, wrong: None, text: &self.text, ends: &self.ends[..self.fields] }
    }

    /// What the store calls this version of the file, where it has such a thing.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        self.stream.version()
    }

    /// The BLAKE3 of the file, once it is read to its end.
    #[must_use]
    pub fn content_digest(&self) -> String {
        self.stream.content_digest()
    }

    fn read_header(&mut self) -> Result<(), Fault> {
        let Some(line) = self.read()? else {
            return Err(Fault::spec(
                format!("{} is empty", self.uri()),
                "the first line must be a header that names the columns",
            ));
        };
        let record = Record { row: 0, line, wrong: None, text: &self.text, ends: &self.ends[..self.fields] };
        let names = (0..record.len()).map(|column| std::str::from_utf8(record.field(column)).map(str::to_owned));
        self.header = names.collect::<Result<_, _>>().map_err(|_| {
            Fault::spec(format!("the header of {} is not UTF-8 text", self.uri()), "export the file as CSV in UTF-8")
        })?;
        Ok(())
    }

    /// Reads a record into `text` and `ends`; the line it begins on, or `None` at the end.
    fn read(&mut self) -> Result<Option<u64>, Fault> {
        let (mut text, mut ends, mut begins) = (0, 0, None);
        loop {
            if self.at == self.piece.len() && !self.ended {
                self.refill()?;
            }
            if begins.is_none() {
                self.skip_line_ends();
                if self.at == self.piece.len() && !self.ended {
                    continue;
                }
            }
            let begun = *begins.get_or_insert(self.line);
            let input = &self.piece[self.at..];
            let (result, read, written, ended) =
                self.core.read_record(input, &mut self.text[text..], &mut self.ends[ends..]);
            self.line += line_ends(&input[..read]);
            self.at += read;
            text += written;
            ends += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.text.len() >= MAX_RECORD_BYTES => {
                    return Err(self.too_long(begun, "bytes", MAX_RECORD_BYTES));
                }
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if self.ends.len() > MAX_COLUMNS => {
                    return Err(self.too_long(begun, "columns", MAX_COLUMNS));
                }
                ReadRecordResult::OutputEndsFull => {
                    self.ends.resize((self.ends.len() * 2).min(MAX_COLUMNS + 1), 0);
                }
                ReadRecordResult::Record if ends > MAX_COLUMNS => {
                    return Err(self.too_long(begun, "columns", MAX_COLUMNS));
                }
                ReadRecordResult::Record => {
                    self.fields = ends;
                    return Ok(Some(begun));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    fn refill(&mut self) -> Result<(), Fault> {
        match self.stream.next().map_err(|fault| self.at_line(fault))? {
            Some(piece) => (self.piece, self.at) = (piece, 0),
            None => self.ended = true,
        }
        Ok(())
    }

    fn at_line(&self, fault: Fault) -> Fault {
        if self.stream.is_compressed() {
            return Fault { message: format!("{}, at line {}", fault.message, self.line), ..fault };
        }
        fault
    }

    /// Goes over the rest of a line end, and over empty lines, which are no records.
    fn skip_line_ends(&mut self) {
        let input = &self.piece[self.at..];
        let skipped = input.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        self.line += line_ends(&input[..skipped]);
        self.at += skipped;
    }

    fn too_long(&self, line: u64, unit: &str, limit: usize) -> Fault {
        Fault::spec(
            format!("line {line} of {} has more than {limit} {unit}", self.uri()),
            "look for a quotation mark that is opened and not closed, or whether it is a CSV file at all",
        )
    }
}

#[expect(clippy::naive_bytecount, reason = "a line is short, and a crate for it is not worth it")]
fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
