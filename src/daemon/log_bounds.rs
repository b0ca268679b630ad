//! What keeps the daemon's log within bounds: a line has a size, a place in the program that logs again and again is cut short and says so, and a log that cannot be written costs nothing but itself. Between the
//! formatting of lines and standard error; used by `logging` alone.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tracing::{Metadata, callsite::Identifier};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// The longest line, in bytes, and the longest text in a longer line of JSON.
const MAX_LINE_BYTES: usize = 16 * 1024;
const MAX_TEXT_BYTES: usize = 1024;

/// Lines of one place in the program in so much time; further ones are counted.
const BURST: u64 = 1000;
const PERIOD: Duration = Duration::from_secs(10);

/// Writes lines, bounded. Clones share what is known of places.
#[derive(Clone)]
pub(super) struct Bounded<W> {
    format: LogFormat,
    out: W,
    places: Arc<Mutex<HashMap<Identifier, Place>>>,
}

/// A place in the program that logs.
#[derive(Debug, Clone, Copy)]
struct Place {
    since: Instant,
    lines: u64,
    left_out: u64,
}

/// What is to become of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is written, after so many of its place were left out.
    Write {
        left_out: u64,
    },
    /// It is the last of its place that is written for a while.
    Last,
    LeaveOut,
}

impl Place {
    fn take(&mut self, now: Instant) -> Verdict {
        if now.saturating_duration_since(self.since) >= PERIOD {
            let left_out = self.left_out;
            *self = Self { since: now, lines: 1, left_out: 0 };
            return Verdict::Write { left_out };
        }
        self.lines += 1;
        match self.lines {
            lines if lines < BURST => Verdict::Write { left_out: 0 },
            BURST => Verdict::Last,
            _ => {
                self.left_out += 1;
                Verdict::LeaveOut
            }
        }
    }
}

impl<W> Bounded<W> {
    pub(super) fn new(format: LogFormat, out: W) -> Self {
        Self { format, out, places: Arc::default() }
    }

    fn verdict(&self, place: Identifier, now: Instant) -> Verdict {
        // As many places as the program has.
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(place).or_insert(Place { since: now, lines: 0, left_out: 0 }).take(now)
    }
}

impl<'a, W: Clone + Write + 'a> MakeWriter<'a> for Bounded<W> {
    type Writer = Line<W>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { format: self.format, out: self.out.clone(), verdict: Verdict::Write { left_out: 0 } }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { verdict: self.verdict(meta.callsite(), Instant::now()), ..self.make_writer() }
    }
}

/// Standard error, which clones share.
#[derive(Clone)]
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line on its way.
pub(super) struct Line<W> {
    format: LogFormat,
    out: W,
    verdict: Verdict,
}

impl<W: Write> Write for Line<W> {
    /// A whole line at once, as they are formatted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let note = match self.verdict {
            Verdict::LeaveOut => return Ok(line.len()),
            Verdict::Write { left_out: 0 } => None,
            Verdict::Write { left_out } => Some(format!("{left_out} lines like this one were left out before it")),
            Verdict::Last => {
                Some(format!("further lines like this one are left out for up to {} seconds", PERIOD.as_secs()))
            }
        };
        let bounded = match self.format {
            LogFormat::Text => text(line, note.as_deref()),
            LogFormat::Json => json(line, note.as_deref()),
        };
        // Nobody can be told, and the work goes on: a full disk or a pipe whose reader has gone is no reason to end it. Told of an error, the library would panic over it.
        let _ = self.out.write_all(&bounded);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of text on one line, cut to size.
fn text(line: &[u8], note: Option<&str>) -> Vec<u8> {
    let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
    let mut text = cut(&line, MAX_LINE_BYTES).replace('\n', "\\n").replace('\r', "\\r");
    if let Some(note) = note {
        text.push_str(&format!(" ({note})"));
    }
    text.push('\n');
    text.into_bytes()
}

/// A line of JSON, with its texts cut where it is too long: it stays an object.
fn json(line: &[u8], note: Option<&str>) -> Vec<u8> {
    if note.is_none() && line.len() <= MAX_LINE_BYTES {
        return line.to_vec();
    }
    let mut fields: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
    if line.len() > MAX_LINE_BYTES {
        for value in fields.values_mut() {
            match value {
                Value::String(text) => *text = cut(text, MAX_TEXT_BYTES),
                Value::Array(_) | Value::Object(_) => *value = cut(&value.to_string(), MAX_TEXT_BYTES).into(),
                _ => {}
            }
        }
    }
    fields.extend(note.map(|note| ("note".to_owned(), note.into())));
    let mut line = Value::Object(fields).to_string();
    line.push('\n');
    line.into_bytes()
}

/// The beginning of a text that is too long, and how long it is.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", &text[..text.floor_char_boundary(limit)], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::fmt;

    /// What was written, which clones share.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, work: impl FnOnce()) -> Vec<String> {
        let page = Page::default();
        let writer = Bounded::new(format, page.clone());
        match format {
            LogFormat::Text => {
                tracing::subscriber::with_default(fmt().with_ansi(false).with_writer(writer).finish(), work);
            }
            LogFormat::Json => {
                let lines = fmt().json().flatten_event(true).with_writer(writer);
                tracing::subscriber::with_default(lines.finish(), work);
            }
        }
        page.lines()
    }

    #[test]
    fn a_flood_is_cut_short_and_drowns_nothing_else() {
        let lines = logged(LogFormat::Text, || {
            for n in 0..20_000 {
                tracing::warn!(n, "the flood");
                if n % 5_000 == 0 {
                    tracing::info!("something else");
                }
            }
        });
        let of = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
        assert_eq!((of("the flood"), of("something else")), (usize::try_from(BURST).unwrap(), 4));
        assert!(lines.iter().any(|line| line.contains("n=999 (further lines like this one are left out")), "{lines:?}");
    }

    #[test]
    fn after_a_while_it_is_told_how_many_were_left_out() {
        let (begin, mut verdicts) = (Instant::now(), Vec::new());
        let mut place = Place { since: begin, lines: 0, left_out: 0 };
        for _ in 0..BURST + 7 {
            verdicts.push(place.take(begin));
        }
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::LeaveOut).count(), 7);
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Last).count(), 1);
        assert_eq!(place.take(begin + PERIOD), Verdict::Write { left_out: 7 });
        assert_eq!(place.take(begin + PERIOD), Verdict::Write { left_out: 0 });
        assert_eq!(
            String::from_utf8(text(b"a line\n", Some("7 lines like this one were left out before it"))).unwrap(),
            "a line (7 lines like this one were left out before it)\n"
        );
    }

    #[test]
    fn a_giant_line_is_cut_and_stays_one_line_and_one_object() {
        let giant = "ü\n".repeat(1 << 20);
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = logged(format, || tracing::warn!(giant = giant.as_str(), small = 7, "what {giant} says"));
            assert_eq!(lines.len(), 1, "{format:?}");
            assert!(lines[0].len() <= 2 * MAX_LINE_BYTES, "{} bytes", lines[0].len());
            assert!(lines[0].contains(" bytes)"), "{}", lines[0]);
        }
        let lines = logged(LogFormat::Json, || tracing::warn!(giant = giant.as_str(), small = 7, "short"));
        let fields: Map<String, Value> = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (&fields["message"], &fields["small"], &fields["level"]),
            (&"short".into(), &7.into(), &"WARN".into())
        );
        let lines = logged(LogFormat::Json, || (0..BURST).for_each(|n| tracing::info!(n, "again")));
        let last: Map<String, Value> = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert!(last["note"].as_str().unwrap().contains("left out"), "{last:?}");
    }

    #[test]
    fn a_log_that_cannot_be_written_is_nobodys_misfortune() {
        #[derive(Clone)]
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        let writer = Bounded::new(LogFormat::Text, Full);
        assert_eq!(writer.make_writer().write(b"a line\n").unwrap(), 7);
    }
}
