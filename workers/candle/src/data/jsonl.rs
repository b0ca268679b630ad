//! A JSONL file, an object a line, read line by line as it streams in: two pieces of the file and one line are all that is in memory. The columns are
//! the keys of the first line, in its order; a key that a later line lacks is an empty field of it.

use std::{borrow::Cow, collections::HashMap, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    record::{MAX_COLUMNS, MAX_RECORD_BYTES, Record},
    stream::Stream,
};
use crate::{fault::Fault, job::Job};

/// What a line must look like.
const EXAMPLE: &str = "each line is one JSON object of numbers, such as {\"x\": 1.5, \"y\": 0}";

/// A file being read.
pub struct Reader<'a> {
    stream: Stream<'a>,
    chunk: Bytes,
    header: Vec<String>,
    /// The place of each column.
    places: HashMap<String, usize>,
    /// The current line, its end apart.
    text: Vec<u8>,
    /// Its number, from 1.
    line: u64,
    /// Whether the current line is still to be given out: the header was taken from it.
    pending: bool,
    /// Lines given out.
    rows: u64,
    fields: Vec<u8>,
    ends: Vec<usize>,
    wrong: Option<String>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("uri", &self.stream.uri()).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// Opens a file and takes the names of the columns from its first line.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or does not begin with a JSON object.
    pub fn open(job: Job<'a>, uri: &str) -> Result<Self, Fault> {
        let mut reader = Self {
            stream: Stream::open(job, uri)?,
            chunk: Bytes::new(),
            header: Vec::new(),
            places: HashMap::new(),
            text: Vec::new(),
            line: 0,
            pending: true,
            rows: 0,
            fields: Vec::new(),
            ends: Vec::new(),
            wrong: None,
        };
        if !reader.read_line()? {
            return Err(Fault::spec(format!("{} is empty", reader.uri()), EXAMPLE));
        }
        let Object(entries) = serde_json::from_slice(&reader.text).map_err(|error| {
            Fault::spec(format!("{}, line {}: {}", reader.uri(), reader.line, problem(&error)), EXAMPLE)
        })?;
        if entries.len() > MAX_COLUMNS {
            return Err(reader.too_long("keys", MAX_COLUMNS));
        }
        reader.header = entries.into_iter().map(|(key, _)| key.0.into_owned()).collect();
        reader.places = reader.header.iter().enumerate().map(|(place, name)| (name.clone(), place)).collect();
        Ok(reader)
    }

    /// The names of the columns.
    #[must_use]
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The file.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.stream.uri()
    }

    /// The next record; `None` at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read on, or a line is longer than [`MAX_RECORD_BYTES`].
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, Fault> {
        if !std::mem::take(&mut self.pending) && !self.read_line()? {
            return Ok(None);
        }
        let row = self.rows;
        self.rows += 1;
        self.split();
        let wrong = self.wrong.as_deref();
        Ok(Some(Record { row, line: self.line, wrong, text: &self.fields, ends: &self.ends }))
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

    /// Puts the values of the current line into `fields` and `ends`, or says in `wrong` why it has none.
    fn split(&mut self) {
        self.fields.clear();
        self.ends.clear();
        self.wrong = None;
        let entries = match serde_json::from_slice(&self.text) {
            Ok(Object(entries)) => entries,
            Err(error) => {
                self.wrong = Some(problem(&error));
                return;
            }
        };
        let mut values = vec![None; self.header.len()];
        for (at, (Key(key), value)) in entries.into_iter().enumerate() {
            // Lines are mostly alike, and then nothing is to be looked up.
            let alike = self.header.get(at).is_some_and(|name| *name == key);
            if let Some(place) = if alike { Some(at) } else { self.places.get(key.as_ref()).copied() } {
                values[place] = Some(value);
            }
        }
        for value in values {
            match value.map(RawValue::get) {
                None | Some("null") => {}
                Some(text) if text.starts_with('"') => {
                    let text: Cow<'_, str> = serde_json::from_str(text).unwrap_or_default();
                    self.fields.extend_from_slice(text.as_bytes());
                }
                Some(text) => self.fields.extend_from_slice(text.as_bytes()),
            }
            self.ends.push(self.fields.len());
        }
    }

    /// Reads the next line that is not blank; whether there was one.
    fn read_line(&mut self) -> Result<bool, Fault> {
        loop {
            let ended = !self.read_raw_line()?;
            if self.line == 1 && self.text.starts_with(b"\xef\xbb\xbf") {
                self.text.drain(..3);
            }
            if !self.text.trim_ascii().is_empty() {
                return Ok(true);
            }
            if ended {
                return Ok(false);
            }
        }
    }

    /// Reads up to a line's end; whether there was one before the end of the file.
    fn read_raw_line(&mut self) -> Result<bool, Fault> {
        self.text.clear();
        self.line += 1;
        loop {
            if self.chunk.is_empty() {
                let next = self.stream.next().map_err(|fault| self.at_line(fault))?;
                let Some(chunk) = next else { return Ok(false) };
                self.chunk = chunk;
            }
            let end = self.chunk.iter().position(|byte| *byte == b'\n');
            let part = self.chunk.split_to(end.unwrap_or(self.chunk.len()));
            self.text.extend_from_slice(&part);
            if self.text.len() > MAX_RECORD_BYTES {
                return Err(self.too_long("bytes", MAX_RECORD_BYTES));
            }
            if end.is_some() {
                drop(self.chunk.split_to(1));
                return Ok(true);
            }
        }
    }

    fn at_line(&self, fault: Fault) -> Fault {
        if self.stream.is_compressed() {
            return Fault { message: format!("{}, at line {}", fault.message, self.line), ..fault };
        }
        fault
    }

    fn too_long(&self, unit: &str, limit: usize) -> Fault {
        Fault::spec(format!("line {} of {} has more than {limit} {unit}", self.line, self.uri()), EXAMPLE)
    }
}

/// What is wrong with a line, without the line's number, which is counted elsewhere.
fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("it is no JSON object: {what} at its byte {}", error.column())
}

/// The entries of an object, in their order.
struct Object<'a>(Vec<(Key<'a>, &'a RawValue)>);

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
