//! Mistakes and the one way in which they are shown: `file:line:col: what`, the line with a caret, what to do. Made by the document and by whoever reads one; shown
//! by `cli::output` and by `mld`'s main function.

use std::{
    fmt::{self, Write as _},
    ops::Range,
};

use serde::Serialize;

use super::place::{Place, Source};

/// The widest part of a line that is shown, in characters.
const SHOWN_WIDTH: usize = 100;

/// Something wrong in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// The dotted path of the key that is meant; empty for the document as a whole.
    pub path: String,
    /// What is wrong, a lower-case fragment.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn at(place: Place, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place, path: path.into(), message: message.into(), hint: None }
    }

    /// The problem with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// A problem with its place in words, as it stands in JSON errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Located {
    /// The file as it was named, or the flag.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The dotted path of the key that is meant; empty for the document as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A mistake in the text of a flag that is no document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagMistake<'a> {
    /// The flag: `--cron`.
    pub flag: &'static str,
    /// Its text.
    pub text: &'a str,
    /// The characters that are wrong, from 0.
    pub span: Range<usize>,
    /// What the flag sets.
    pub path: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// All that is wrong with a document, in the order in which it is written, with the texts to show it in. Its `Display` is for people and ends without a newline.
#[derive(Debug, Clone)]
pub struct Report {
    sources: Vec<Source>,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(sources: Vec<Source>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        problems.dedup();
        Self { sources, problems }
    }

    /// Mistakes in flags.
    #[must_use]
    pub fn of_flags(mistakes: Vec<FlagMistake<'_>>) -> Self {
        let (mut sources, mut problems) = (Vec::new(), Vec::new());
        for FlagMistake { flag, text, span, path, message, hint } in mistakes {
            let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
            let place = Place::new(sources.len(), byte(span.start)..byte(span.end));
            sources.push(Source::flag(flag, text));
            problems.push(Problem::at(place, path, message).hint(hint));
        }
        Self::new(sources, problems)
    }

    /// How many problems there are; at least one in a report that is worth showing.
    #[must_use]
    pub fn len(&self) -> usize {
        self.problems.len()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The problems with their places in words.
    #[must_use]
    pub fn located(&self) -> Vec<Located> {
        let locate = |problem: &Problem| {
            let source = self.sources.get(problem.place.source)?;
            let spot = source.locate(problem.place.start);
            Some(Located {
                file: source.name.clone(),
                line: spot.line,
                column: spot.column,
                path: problem.path.clone(),
                message: problem.message.clone(),
                hint: problem.hint.clone(),
            })
        };
        self.problems.iter().filter_map(locate).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let Some(source) = self.sources.get(problem.place.source) else { continue };
            if index > 0 {
                f.write_str("\n\n")?;
            }
            show(f, source, problem)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

fn show(f: &mut fmt::Formatter<'_>, source: &Source, problem: &Problem) -> fmt::Result {
    let spot = source.locate(problem.place.start);
    let number = if source.is_flag { String::new() } else { spot.line.to_string() };
    if source.is_flag {
        writeln!(f, "{}: {}", source.name, problem.message)?;
    } else {
        writeln!(f, "{}:{}:{}: {}", source.name, spot.line, spot.column, problem.message)?;
    }
    let window = window(spot.text, spot.column - 1);
    writeln!(f, " {number} | {}", window.text)?;
    let left = window.text.chars().count().saturating_sub(window.column).max(1);
    let carets = "^".repeat(source.width(problem.place).min(left));
    write!(f, " {:width$} | {:column$}{carets}", "", "", width = number.len(), column = window.column)?;
    if let Some(hint) = &problem.hint {
        write!(f, "\n {:width$} = hint: {hint}", "", width = number.len())?;
    }
    Ok(())
}

/// The part of a line that is shown, and the column of the caret in it, from 0.
struct Window {
    text: String,
    column: usize,
}

/// Cuts a long line around `column`, and replaces what would move the caret or the cursor.
fn window(line: &str, column: usize) -> Window {
    let from = if column < SHOWN_WIDTH * 3 / 4 { 0 } else { column - SHOWN_WIDTH / 2 };
    let mut text = String::new();
    if from > 0 {
        text.push('…');
    }
    let mut rest = line.chars().skip(from);
    for c in rest.by_ref().take(SHOWN_WIDTH) {
        text.push(if c == '\t' {
            ' '
        } else if is_unsafe(c) {
            '\u{fffd}'
        } else {
            c
        });
    }
    if rest.next().is_some() {
        let _ = text.write_char('…');
    }
    Window { text, column: column - from + usize::from(from > 0) }
}

/// Whether a terminal would obey the character instead of showing it.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
