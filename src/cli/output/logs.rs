//! Logs in print: as bytes, or made harmless.

use super::{Output, text};
use crate::cli::Failure;

/// The longest line that is held back until its end comes, in bytes.
const MAX_HELD: usize = 64 * 1024;

/// Prints a log that comes in pieces, which may end anywhere.
pub struct Printer {
    is_raw: bool,
    /// An unfinished line.
    rest: Vec<u8>,
}

impl Printer {
    /// `is_raw`: the bytes as they are.
    pub fn new(is_raw: bool) -> Self {
        Self { is_raw, rest: Vec::new() }
    }

    /// Prints a piece: up to its last whole line, or a long one without its end.
    pub fn print(&mut self, out: &mut Output, piece: &[u8]) -> Result<(), Failure> {
        if self.is_raw {
            return out.bytes(piece);
        }
        match self.take(piece) {
            Some(shown) => out.bytes(shown.as_bytes()),
            None => Ok(()),
        }
    }

    /// Prints what is left, and ends its line.
    pub fn finish(&mut self, out: &mut Output) -> Result<(), Failure> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Ok(()) } else { out.line(text::visible(&String::from_utf8_lossy(&rest))) }
    }

    fn take(&mut self, piece: &[u8]) -> Option<String> {
        self.rest.extend_from_slice(piece);
        let end = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            None if self.rest.len() > MAX_HELD => self.rest.len(),
            None => return None,
        };
        let rest = self.rest.split_off(end);
        let whole = std::mem::replace(&mut self.rest, rest);
        Some(text::visible(&String::from_utf8_lossy(&whole)))
    }
}

/// Says that a followed log goes on in another attempt.
pub fn attempt(out: &mut Output, attempt: u32) {
    // What was printed so far belongs before it; an error is met again by the next line.
    let _ = out.flush();
    out.say(format!("--- attempt {attempt} ---"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_the_log_is_cut() {
        let log = "eins\nzwei ü\x1b[1m\n";
        for size in 1..=log.len() {
            let mut printer = Printer::new(false);
            let shown: String = log.as_bytes().chunks(size).filter_map(|piece| printer.take(piece)).collect();
            assert_eq!(shown, "eins\nzwei ü^[[1m\n", "{size}");
        }
        let mut printer = Printer::new(false);
        assert_eq!(printer.take(&vec![b'x'; MAX_HELD + 1]).map(|shown| shown.len()), Some(MAX_HELD + 1), "bounded");
    }
}
