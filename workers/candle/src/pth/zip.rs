//! The zip archive around a PyTorch file: its directory, and the bytes of its entries once their checksum is found right. PyTorch compresses
//! nothing, so nothing is ever decompressed here, and every size is checked against the file's.

use std::collections::HashMap;

use flate2::Crc;

use super::{SAVE_AGAIN, pickle};
use crate::fault::Fault;

/// Entries at most: one a tensor and a few more.
const MAX_ENTRIES: u64 = 100_000;

/// How far from the end the directory's end record can be: itself and a comment.
const END_BYTES: usize = 22;
const MAX_COMMENT: usize = 65_535;

/// Stands where a number is in the entry's zip64 field.
const IN_ZIP64: u64 = 0xffff_ffff;
/// The kind of that field.
const ZIP64_FIELD: u64 = 1;

/// An entry of the directory.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where its own header begins.
    header: u64,
    size: u64,
    crc: u32,
    stored: bool,
}

/// A PyTorch file's directory, over its bytes.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: HashMap<&'a str, Entry>,
    /// The folder that all entries are in, with its slash.
    root: &'a str,
}

impl<'a> Archive<'a> {
    /// Reads the directory.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        let entries = directory(bytes)?;
        let mut roots = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
        let root = match (roots.next(), roots.next()) {
            (Some(root), None) if root.is_empty() || root.ends_with('/') => root,
            (None, _) => {
                return Err(Fault::spec("the zip archive holds no data.pkl: PyTorch did not write it", SAVE_AGAIN));
            }
            _ => return Err(damaged("it holds more than one data.pkl")),
        };
        let archive = Self { bytes, entries, root };
        if archive.entries.contains_key(format!("{root}constants.pkl").as_str()) {
            return Err(Fault::spec(
                "the file is a TorchScript program, not a state_dict",
                "load it with torch.jit.load and save its state_dict: torch.save(model.state_dict(), path)",
            ));
        }
        match archive.entry("byteorder")? {
            None | Some(b"little") => Ok(archive),
            Some(_) => Err(Fault::spec("the file was written on a big-endian machine", SAVE_AGAIN)),
        }
    }

    /// The pickle, of sane size.
    pub(super) fn program(&self) -> Result<&'a [u8], Fault> {
        let bytes = self.entry("data.pkl")?.ok_or_else(|| damaged("data.pkl is gone"))?;
        if bytes.len() > pickle::MAX_BYTES {
            let (size, most) = (bytes.len(), pickle::MAX_BYTES);
            return Err(damaged(&format!("its data.pkl has {size} bytes, more than {most}")));
        }
        Ok(bytes)
    }

    /// The bytes of an entry in the folder, once its checksum is found right; `None` when there is no such entry.
    pub(super) fn entry(&self, name: &str) -> Result<Option<&'a [u8]>, Fault> {
        let name = format!("{}{name}", self.root);
        let Some(entry) = self.entries.get(name.as_str()) else { return Ok(None) };
        if !entry.stored {
            return Err(Fault::spec(
                format!("the entry {name:?} is compressed, which PyTorch never does"),
                format!("the archive was packed again by another program: unpack it with that, or {SAVE_AGAIN}"),
            ));
        }
        let at = usize::try_from(entry.header).map_err(|_| damaged("an entry lies beyond its end"))?;
        let field = |from: usize, n| number(self.bytes, at.checked_add(from), n);
        if field(0, 4) != Some(0x0403_4b50) {
            return Err(damaged(&format!("the entry {name:?} does not begin where the directory says")));
        }
        let before = field(26, 2).zip(field(28, 2)).map(|(name, extra)| 30 + name + extra);
        let range = before.and_then(|before| {
            let start = entry.header.checked_add(before)?;
            Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(entry.size)?).ok()?)
        });
        let bytes = range.and_then(|range| self.bytes.get(range));
        let bytes = bytes.ok_or_else(|| damaged(&format!("the entry {name:?} is cut off")))?;
        let mut crc = Crc::new();
        crc.update(bytes);
        if crc.sum() != entry.crc {
            return Err(damaged(&format!("the checksum of the entry {name:?} is wrong")));
        }
        Ok(Some(bytes))
    }
}

/// A fault of a file that is not what PyTorch wrote.
pub(super) fn damaged(what: &str) -> Fault {
    Fault::spec(format!("the PyTorch file is damaged: {what}"), "copy it again from where it came from")
}

/// A little-endian number of `n` bytes.
fn number(bytes: &[u8], at: Option<usize>, n: usize) -> Option<u64> {
    let at = at?;
    let bytes = bytes.get(at..at.checked_add(n)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The entries by name.
fn directory(bytes: &[u8]) -> Result<HashMap<&str, Entry>, Fault> {
    if !bytes.starts_with(b"PK\x03\x04") {
        return Err(not_a_zip(bytes));
    }
    let last = bytes.len().saturating_sub(END_BYTES);
    let first = last.saturating_sub(MAX_COMMENT);
    let end = (first..=last).rev().find(|at| bytes[*at..].starts_with(b"PK\x05\x06"));
    let end = end.ok_or_else(|| damaged("the end of its directory is missing, so it is cut off"))?;
    let (count, mut at) = place(bytes, end).ok_or_else(|| damaged("its directory has no sane place"))?;
    if count > MAX_ENTRIES {
        return Err(damaged(&format!("its directory has {count} entries, more than {MAX_ENTRIES}")));
    }
    let mut entries = HashMap::new();
    for _ in 0..count {
        let (name, entry, next) = read(bytes, at).ok_or_else(|| damaged("its directory cannot be read"))?;
        let name = std::str::from_utf8(name).map_err(|_| damaged("an entry's name is not text"))?;
        if entries.insert(name, entry).is_some() {
            return Err(damaged(&format!("it has two entries {name:?}")));
        }
        at = next;
    }
    Ok(entries)
}

/// Says what a file that is no zip archive is.
fn not_a_zip(bytes: &[u8]) -> Fault {
    // A pickle of protocol 2 of the number that PyTorch began its files with.
    if bytes.starts_with(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19") {
        return Fault::spec("the file is in PyTorch's format of before version 1.6", SAVE_AGAIN);
    }
    if bytes.starts_with(b"\x80") {
        return Fault::spec("the file is a bare pickle, not a PyTorch file", SAVE_AGAIN);
    }
    let why = if bytes.is_empty() { "the file is empty" } else { "the file is not a zip archive" };
    Fault::spec(format!("{why}, so torch.save did not write it"), "check the path, and that the file was copied whole")
}

/// Number of entries and the first one's place, by the end record at `end` or the zip64 one before it.
fn place(bytes: &[u8], end: usize) -> Option<(u64, usize)> {
    let field = |at: usize, n| number(bytes, Some(at), n);
    let (mut count, mut at) = (field(end + 10, 2)?, field(end + 16, 4)?);
    let locator = end.checked_sub(20).filter(|at| field(*at, 4) == Some(0x0706_4b50));
    if let Some(locator) = locator.filter(|_| count == 0xffff || at == IN_ZIP64) {
        let end = usize::try_from(field(locator + 8, 8)?).ok()?;
        if number(bytes, Some(end), 4)? != 0x0606_4b50 {
            return None;
        }
        (count, at) = (number(bytes, end.checked_add(32), 8)?, number(bytes, end.checked_add(48), 8)?);
    }
    Some((count, usize::try_from(at).ok()?))
}

/// The directory's entry at a place, its name, and where the next one is.
fn read(bytes: &[u8], at: usize) -> Option<(&[u8], Entry, usize)> {
    let field = |from: usize, n| number(bytes, at.checked_add(from), n);
    if field(0, 4)? != 0x0201_4b50 {
        return None;
    }
    let (flags, method, crc) = (field(8, 2)?, field(10, 2)?, field(16, 4)?);
    let (packed, size, header) = (field(20, 4)?, field(24, 4)?, field(42, 4)?);
    let [name, extra, comment] = [field(28, 2)?, field(30, 2)?, field(32, 2)?].map(|n| usize::try_from(n).unwrap_or(0));
    let name_at = at + 46;
    let extra_at = name_at + name;
    let fields = bytes.get(extra_at..extra_at + extra)?;
    let [size, packed, header] = wide(fields, [size, packed, header])?;
    let stored = method == 0 && flags & 1 == 0 && packed == size;
    let entry = Entry { header, size, crc: u32::try_from(crc).ok()?, stored };
    Some((bytes.get(name_at..extra_at)?, entry, extra_at + extra + comment))
}

/// Numbers of an entry, those too large for 32 bits out of its zip64 field.
fn wide(mut fields: &[u8], mut numbers: [u64; 3]) -> Option<[u64; 3]> {
    while numbers.contains(&IN_ZIP64) {
        let (kind, size) = (number(fields, Some(0), 2)?, usize::try_from(number(fields, Some(2), 2)?).ok()?);
        let content = fields.get(4..4 + size)?;
        if kind == ZIP64_FIELD {
            let mut at = 0;
            for value in numbers.iter_mut().filter(|value| **value == IN_ZIP64) {
                *value = number(content, Some(at), 8)?;
                at += 8;
            }
            break;
        }
        fields = &fields[4 + size..];
    }
    Some(numbers)
}
