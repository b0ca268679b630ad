//! A JSONL file, an object a line, read line by line as it streams in: two pieces of the file and one line are all that is in memory. The columns are
//! the keys of the first line, in its order; a key that a later line lacks is an empty field of it. A key with an array of numbers is a column for each,
//! `x[0]`, `x[1]` and so on, and every line has as many.

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    record::{MAX_COLUMNS, MAX_RECORD_BYTES, Record},
    stream::{Access, Stream},
};
use crate::fault::Fault;

/// What a line must look like.
const EXAMPLE: &str =
    "each line is one JSON object of numbers, such as {\"x\": 1.5, \"y\": 0} or {\"x\": [1.5, 2], \"y\": 0}";

/// A file being read.
pub struct Reader<'a> {
    stream: Stream<'a>,
    chunk: Bytes,
    keys: Arc<Keys>,
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

/// The keys of the first line, which all lines have.
#[derive(Debug, Default)]
pub struct Keys {
    header: Vec<String>,
    slots: Vec<Slot>,
    /// The place of each key.
    places: HashMap<String, usize>,
}

impl Keys {
    /// Takes them from a line.
    fn of(line: &[u8]) -> serde_json::Result<Self> {
        let Object(entries) = serde_json::from_slice(line)?;
        let slot = |(key, value): (Key<'_>, &RawValue)| Slot {
            key: key.0.into_owned(),
            array: array(value).map(|items| items.len()),
        };
        let slots: Vec<_> = entries.into_iter().map(slot).collect();
        let header = slots.iter().flat_map(Slot::columns).collect();
        let places = slots.iter().enumerate().map(|(place, slot)| (slot.key.clone(), place)).collect();
        Ok(Self { header, slots, places })
    }
}

/// A key of the first line.
#[derive(Debug)]
struct Slot {
    key: String,
    /// How many numbers it has where it has an array.
    array: Option<usize>,
}

impl Slot {
    /// The names of its columns.
    fn columns(&self) -> Vec<String> {
        match self.array {
            None => vec![self.key.clone()],
            Some(length) => (0..length).map(|at| format!("{}[{at}]", self.key)).collect(),
        }
    }

    /// Appends the fields that a line has for it, or says what is wrong with them.
    fn fields(&self, value: Option<&RawValue>, text: &mut Vec<u8>, ends: &mut Vec<usize>) -> Result<(), String> {
        let value = value.filter(|value| value.get() != "null");
        let Some(length) = self.array else {
            value.map_or(Ok(()), |value| field(value, text))?;
            ends.push(text.len());
            return Ok(());
        };
        let Some(value) = value else {
            ends.extend(std::iter::repeat_n(text.len(), length));
            return Ok(());
        };
        let Some(items) = array(value) else {
            return Err(format!("{:?} is no array, and in the first line it is one", self.key));
        };
        if items.len() != length {
            return Err(format!("{:?} has {} numbers, and {length} in the first line", self.key, items.len()));
        }
        for item in items {
            field(item, text)?;
            ends.push(text.len());
        }
        Ok(())
    }
}

/// Appends a value as the text of a field: that of a string, and anything else as it is written.
fn field(value: &RawValue, text: &mut Vec<u8>) -> Result<(), String> {
    if value.get().starts_with('"') {
        let string: Cow<'_, str> = serde_json::from_str(value.get()).map_err(|error| problem(&error))?;
        text.extend_from_slice(string.as_bytes());
    } else {
        text.extend_from_slice(value.get().as_bytes());
    }
    Ok(())
}

/// The items of an array; `None` for anything else.
fn array(value: &RawValue) -> Option<Vec<&RawValue>> {
    if value.get().starts_with('[') { serde_json::from_str(value.get()).ok() } else { None }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("uri", &self.stream.uri()).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// Opens a file. The names of the columns are those of its first line, unless other keys are given: then it is one of several files, and may be
    /// empty.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or does not begin with a JSON object.
    pub fn open(access: &Access<'a>, uri: &str, keys: Option<Arc<Keys>>) -> Result<Self, Fault> {
        let mut reader = Self::over(Stream::open(access, uri)?, keys.clone().unwrap_or_default());
        if keys.is_some() {
            return Ok(reader);
        }
        if !reader.read_line()? {
            return Err(Fault::spec(format!("{} is empty", reader.uri()), EXAMPLE));
        }
        let keys = Keys::of(&reader.text).map_err(|error| {
            Fault::spec(format!("{}, line {}: {}", reader.uri(), reader.line, problem(&error)), EXAMPLE)
        })?;
        if keys.header.len() > MAX_COLUMNS {
            return Err(reader.too_long("columns", MAX_COLUMNS));
        }
        reader.keys = Arc::new(keys);
        reader.pending = true;
        Ok(reader)
    }

    /// A reader of lines with these keys.
    pub(super) fn over(stream: Stream<'a>, keys: Arc<Keys>) -> Self {
        Self {
            stream,
            chunk: Bytes::new(),
            keys,
            text: Vec::new(),
            line: 0,
            pending: false,
            rows: 0,
            fields: Vec::new(),
            ends: Vec::new(),
            wrong: None,
        }
    }

    /// How many bytes of the file are used up, where lines can be read from there on: not of a compressed one.
    pub(super) fn place(&self) -> Option<u64> {
        (!self.stream.is_compressed()).then(|| self.stream.made() - self.chunk.len() as u64)
    }

    /// The keys, for another file with the same ones.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys)
    }

    /// The names of the columns.
    #[must_use]
    pub fn header(&self) -> &[String] {
        &self.keys.header
    }

    fn uri(&self) -> &str {
        self.stream.uri()
    }

    /// Goes to the next record; false at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read on, or a line is longer than [`MAX_RECORD_BYTES`].
    pub fn advance(&mut self) -> Result<bool, Fault> {
        if !std::mem::take(&mut self.pending) && !self.read_line()? {
            return Ok(false);
        }
        self.rows += 1;
        self.split();
        Ok(true)
    }

    /// The current record.
    #[must_use]
    pub fn record(&self) -> Record<'_> {
        let (row, wrong) = (self.rows.saturating_sub(1), self.wrong.as_deref());
        Record { row, line: self.line, wrong, text: &self.fields, ends: &self.ends }
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
        let mut values = vec![None; self.keys.slots.len()];
        for (at, (Key(key), value)) in entries.into_iter().enumerate() {
            // Lines are mostly alike, and then nothing is to be looked up.
            let alike = self.keys.slots.get(at).is_some_and(|slot| slot.key == key);
            if let Some(place) = if alike { Some(at) } else { self.keys.places.get(key.as_ref()).copied() } {
                values[place] = Some(value);
            }
        }
        for (slot, value) in self.keys.slots.iter().zip(values) {
            if let Err(wrong) = slot.fields(value, &mut self.fields, &mut self.ends) {
                self.wrong = Some(wrong);
                return;
            }
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
