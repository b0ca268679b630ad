//! Reads what a worker printed from files that the supervisor may cut at any moment (supervisor/logs.rs says how). Called by the handlers, on threads that may block.
//! A cut that falls into the reading loses or doubles a moment's lines at worst; it never fails the reading.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// Files of a stream at most, as the settings allow.
const MAX_FILES: u32 = 100;

/// How often a reading is begun anew because the files were cut under it.
const TRIES: u32 = 3;

/// Bytes read at a time.
pub(super) const PIECE: usize = 32 * 1024;

/// What the first line of a file begins with from which something is missing.
const DROPPED: &[u8] = b"[";

/// A stream's files at one moment, as one text: the oldest first. Empty where nothing was ever printed.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    parts: Vec<(File, u64)>,
}

impl Snapshot {
    /// Opens the file that the worker writes to and all that was cut off it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        for _ in 1..TRIES {
            let (snapshot, whole) = Self::try_open(path)?;
            if whole {
                return Ok(snapshot);
            }
        }
        Ok(Self::try_open(path)?.0)
    }

    /// The snapshot, and whether nothing was cut meanwhile.
    fn try_open(path: &Path) -> io::Result<(Self, bool)> {
        let Some(current) = open(path)? else { return Ok((Self::default(), true)) };
        let mut files = vec![current];
        let mut seen = vec![identity(&files[0].metadata()?)];
        for number in 1..MAX_FILES {
            let Some(file) = open(&numbered(path, number))? else { break };
            let identity = identity(&file.metadata()?);
            // It was moved between two looks.
            if !seen.contains(&identity) {
                seen.push(identity);
                files.push(file);
            }
        }
        let sized = files.into_iter().map(|file| file.metadata().map(|found| (file, found.len())));
        let mut parts = sized.collect::<io::Result<Vec<_>>>()?;
        let newest = parts.get(1).map(|(file, _)| file.metadata()).transpose()?;
        let newest_now = fs::metadata(numbered(path, 1)).ok();
        let whole = newest.as_ref().map(state) == newest_now.as_ref().map(state);
        parts.reverse();
        Ok((Self { parts }, whole))
    }

    /// Bytes in all.
    pub(super) fn size(&self) -> u64 {
        self.parts.iter().map(|(_, size)| size).sum()
    }

    /// Bytes in the file that the worker writes to.
    pub(super) fn current_size(&self) -> u64 {
        self.parts.last().map_or(0, |(_, size)| *size)
    }

    /// At most a piece from `offset` on; empty at the end.
    pub(super) fn read(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut skip = offset;
        for (file, size) in &self.parts {
            if skip < *size {
                return read_at(file, skip, *size - skip);
            }
            skip -= size;
        }
        Ok(Vec::new())
    }

    /// Where the last `lines` lines begin. A line without an end counts.
    pub(super) fn last_lines(&self, lines: u32) -> io::Result<u64> {
        let mut left = u64::from(lines);
        let mut after = self.size();
        if lines == 0 {
            return Ok(after);
        }
        for (file, size) in self.parts.iter().rev() {
            let begin = after - size;
            let mut end = *size;
            while end > 0 {
                let from = end.saturating_sub(PIECE as u64);
                let piece = read_at(file, from, end - from)?;
                for (index, byte) in piece.iter().enumerate().rev() {
                    let at = begin + from + index as u64;
                    // The very last byte ends the last line and begins none.
                    if *byte == b'\n' && at + 1 < self.size() {
                        left -= 1;
                        if left == 0 {
                            return Ok(at + 1);
                        }
                    }
                }
                end = from;
            }
            after = begin;
        }
        Ok(0)
    }
}

/// The end of a file that grows and is cut.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    /// What was cut off before it was read, and how far it has been read.
    rest: Option<(File, u64)>,
}

impl Tail {
    /// Goes on at `offset` of the file that the worker writes to.
    pub(super) fn new(path: PathBuf, offset: u64) -> Self {
        Self { path, file: None, offset, rest: None }
    }

    /// At most a piece of what has been printed and not been read; empty when there is nothing for now.
    pub(super) fn read(&mut self) -> io::Result<Vec<u8>> {
        if let Some((file, offset)) = &mut self.rest {
            let piece = read_at(file, *offset, u64::MAX)?;
            if !piece.is_empty() {
                *offset += piece.len() as u64;
                return Ok(piece);
            }
            self.rest = None;
        }
        if self.file.is_none() {
            self.file = open(&self.path)?;
        }
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        if file.metadata()?.len() < self.offset {
            self.rest = cut_off(&self.path, self.offset)?;
            self.offset = 0;
            return self.read();
        }
        let piece = read_at(file, self.offset, u64::MAX)?;
        self.offset += piece.len() as u64;
        Ok(piece)
    }
}

/// What was cut off and not been read up to `offset`. From a file that begins by saying that something is missing, all of it.
fn cut_off(path: &Path, offset: u64) -> io::Result<Option<(File, u64)>> {
    let Some(file) = open(&numbered(path, 1))? else { return Ok(None) };
    let begin = read_at(&file, 0, 64)?;
    let dropped = begin.starts_with(DROPPED) && begin.windows(13).any(|window| window == b"bytes dropped");
    Ok(Some((file, if dropped { 0 } else { offset })))
}

/// `None` where there is no file. Only the supervisor and the worker make files here; a pipe put in place of one is not waited for.
fn open(path: &Path) -> io::Result<Option<File>> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(File::open(path)?)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "it is not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_at(file: &File, offset: u64, at_most: u64) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; usize::try_from(at_most).unwrap_or(usize::MAX).min(PIECE)];
    let mut filled = 0;
    while filled < piece.len() {
        match file.read_at(&mut piece[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    piece.truncate(filled);
    Ok(piece)
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn state(found: &Metadata) -> (u64, i64, i64) {
    (found.ino(), found.mtime(), found.mtime_nsec())
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Text from pieces that may end within a character.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    carry: Vec<u8>,
}

impl Decoder {
    /// The text of a piece, without a character that is not there whole yet. What is no UTF-8 becomes `�`.
    pub(super) fn decode(&mut self, piece: &[u8]) -> String {
        self.carry.extend_from_slice(piece);
        let mut text = String::with_capacity(self.carry.len());
        let mut keep = 0;
        for chunk in self.carry.utf8_chunks() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let read = keep + chunk.valid().len() + invalid.len();
            let begun = read == self.carry.len() && is_begun(invalid);
            if !invalid.is_empty() && !begun {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            keep = if begun { read - invalid.len() } else { read };
        }
        self.carry.drain(..keep);
        text
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.carry)).into_owned()
    }
}

/// Whether more bytes could make a character of it.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(snapshot: &Snapshot, from: u64) -> String {
        let (mut text, mut offset) = (Vec::new(), from);
        loop {
            let piece = snapshot.read(offset).unwrap();
            if piece.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            offset += piece.len() as u64;
            text.extend(piece);
        }
    }

    #[test]
    fn files_are_one_text_and_its_last_lines_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr.log");
        assert_eq!(all(&Snapshot::open(&path).unwrap(), 0), "", "nothing was printed");
        fs::write(numbered(&path, 2), "a\nb").unwrap();
        fs::write(numbered(&path, 1), "b\nc\n").unwrap();
        fs::write(&path, "d\ne").unwrap();
        fs::write(numbered(&path, 4), "left from larger bounds").unwrap();
        let snapshot = Snapshot::open(&path).unwrap();
        assert_eq!(all(&snapshot, 0), "a\nbb\nc\nd\ne");
        assert_eq!((snapshot.size(), snapshot.current_size()), (10, 3));
        for (lines, text) in [(0, ""), (1, "e"), (2, "d\ne"), (3, "c\nd\ne"), (4, "bb\nc\nd\ne"), (5, "a\nbb\nc\nd\ne")]
        {
            assert_eq!(all(&snapshot, snapshot.last_lines(lines).unwrap()), text, "{lines}");
        }
        assert_eq!(snapshot.last_lines(u32::MAX).unwrap(), 0);
        fs::write(&path, "d\ne\n").unwrap();
        let snapshot = Snapshot::open(&path).unwrap();
        assert_eq!(all(&snapshot, snapshot.last_lines(1).unwrap()), "e\n", "an end begins no line");
    }

    #[test]
    fn long_files_are_read_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout.log");
        let text: String = (0..30_000).map(|number| format!("line {number}\n")).collect();
        fs::write(&path, &text).unwrap();
        let snapshot = Snapshot::open(&path).unwrap();
        assert_eq!(all(&snapshot, 0), text);
        assert!(snapshot.read(0).unwrap().len() <= PIECE);
        let tail = all(&snapshot, snapshot.last_lines(20_000).unwrap());
        assert!(tail.starts_with("line 10000\n") && tail.ends_with("line 29999\n"));
        fs::write(&path, "").unwrap();
        assert_eq!(all(&snapshot, 0), "", "cut under the reading");
    }

    #[test]
    fn a_tail_goes_on_over_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr.log");
        let mut tail = Tail::new(path.clone(), 0);
        let mut more = || String::from_utf8(tail.read().unwrap()).unwrap();
        assert_eq!(more(), "", "no file yet");
        fs::write(&path, "one\n").unwrap();
        assert_eq!(more(), "one\n");
        assert_eq!(more(), "");
        fs::write(numbered(&path, 1), "one\ntwo\n").unwrap();
        fs::write(&path, "x\n").unwrap();
        assert_eq!((more(), more(), more()), ("two\n".into(), "x\n".into(), String::new()));
        fs::write(numbered(&path, 1), "[9 bytes dropped: so]\nlast\n").unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(more(), "[9 bytes dropped: so]\nlast\n");
        fs::remove_file(numbered(&path, 1)).unwrap();
        fs::write(&path, "abcdef").unwrap();
        assert_eq!(more(), "abcdef");
        fs::write(&path, "g").unwrap();
        assert_eq!(more(), "g", "one file alone is emptied");
    }

    #[test]
    fn characters_are_whole_however_they_are_cut() {
        let text = "aü€😀\u{fffd}z";
        for cut in 0..=text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            let mut decoder = Decoder::default();
            let decoded = decoder.decode(left) + &decoder.decode(right) + &decoder.finish();
            assert_eq!(decoded, text, "{cut}");
        }
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(b"a\xffb\xc3"), "a\u{fffd}b");
        assert_eq!(decoder.decode(b"("), "\u{fffd}(", "no character after all");
        assert_eq!(decoder.decode(b"\xe2\x82"), "");
        assert_eq!(decoder.finish(), "\u{fffd}");
    }
}
