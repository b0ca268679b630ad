//! One field of a crontab line: numbers or names, ranges, steps, lists. Called by `crontab`; what fields mean together is decided there.

use super::crontab::CrontabError;

/// What may stand in a field.
pub(super) struct Kind {
    /// As in an error: "minute 60 is out of range".
    pub(super) name: &'static str,
    pub(super) low: u8,
    pub(super) high: u8,
    /// Names of the values from `low` on, in lower case.
    names: &'static [&'static str],
    /// What may be written, for a hint.
    allowed: &'static str,
}

pub(super) const MINUTE: Kind =
    Kind { name: "minute", low: 0, high: 59, names: &[], allowed: "minutes go from 0 to 59" };
pub(super) const HOUR: Kind = Kind { name: "hour", low: 0, high: 23, names: &[], allowed: "hours go from 0 to 23" };
pub(super) const DAY: Kind =
    Kind { name: "day of month", low: 1, high: 31, names: &[], allowed: "days of the month go from 1 to 31" };
pub(super) const MONTH: Kind = Kind {
    name: "month",
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    allowed: "months go from 1 to 12, or from jan to dec",
};
pub(super) const WEEKDAY: Kind = Kind {
    name: "day of week",
    low: 0,
    high: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    allowed: "days of the week go from 0 to 7 (0 and 7 are Sunday), or from sun to sat",
};

/// A field, read.
pub(super) struct Field {
    /// A bit for each value.
    pub(super) bits: u64,
    /// Whether it begins with `*`, which changes what the line means.
    pub(super) star: bool,
    /// The column of its first character.
    pub(super) column: usize,
    /// What a person may not have meant.
    pub(super) remarks: Vec<String>,
}

/// Reads the field that begins at `column`.
///
/// # Errors
/// The first mistake in it.
pub(super) fn parse(kind: &Kind, text: &str, column: usize) -> Result<Field, CrontabError> {
    let mut reader = Reader { kind, text: text.as_bytes(), at: 0, column, remarks: Vec::new() };
    let mut bits = 0;
    loop {
        bits |= reader.item()?;
        match reader.peek() {
            None => break,
            Some(b',') => reader.at += 1,
            Some(_) => return Err(reader.unexpected()),
        }
    }
    Ok(Field { bits, star: text.starts_with('*'), column, remarks: reader.remarks })
}

struct Reader<'a> {
    kind: &'a Kind,
    text: &'a [u8],
    at: usize,
    column: usize,
    remarks: Vec<String>,
}

/// A value as written.
#[derive(Clone, Copy)]
struct Value {
    number: u8,
    named: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn error(&self, at: usize, message: String, hint: impl Into<String>) -> CrontabError {
        CrontabError { column: self.column + at, message, hint: hint.into() }
    }

    /// `*`, `a` or `a-b`, with `/n` behind it or not.
    fn item(&mut self) -> Result<u64, CrontabError> {
        let Kind { low, high, .. } = *self.kind;
        let begin = self.at;
        let (first, last) = if self.peek() == Some(b'*') {
            self.at += 1;
            if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                let number = self.digits();
                let message = format!("a number follows `*` in the {}", self.kind.name);
                return Err(self.error(begin, message, format!("a step is written `*/{number}`")));
            }
            (low, high)
        } else {
            let first = self.value()?;
            match self.peek() {
                Some(b'-') => {
                    self.at += 1;
                    (first.number, self.range_end(begin, first)?)
                }
                Some(b'/') => (first.number, high),
                _ => (first.number, first.number),
            }
        };
        let step = if self.peek() == Some(b'/') { self.step(first, last)? } else { 1 };
        Ok((first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value))
    }

    fn range_end(&mut self, begin: usize, first: Value) -> Result<u8, CrontabError> {
        let Value { number: last, named } = self.value()?;
        // Friday to Sunday: Sunday is the seventh day as well.
        let last = if named && self.kind.high == 7 && last == 0 && first.number > 0 { 7 } else { last };
        if last < first.number {
            let Kind { name, low, high, .. } = *self.kind;
            let high = if high == 7 { 6 } else { high };
            let message = format!("the {name} range goes backwards, from {} to {last}", first.number);
            return Err(self.error(begin, message, format!("write two ranges: {}-{high},{low}-{last}", first.number)));
        }
        Ok(last)
    }

    fn step(&mut self, first: u8, last: u8) -> Result<usize, CrontabError> {
        self.at += 1;
        let begin = self.at;
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            let message = format!("a step of the {} is missing its number", self.kind.name);
            return Err(self.error(begin, message, "a step is written `*/15`, `10-50/15` or `5/15`"));
        }
        let step = self.digits();
        if step == 0 {
            let message = format!("a step of the {} is 0", self.kind.name);
            return Err(self.error(begin, message, "take 1 or more"));
        }
        if step > u32::from(last - first) && last > first {
            let name = self.kind.name;
            self.remarks
                .push(format!("a step of {step} leaves only {name} {first}: steps begin again with every round"));
        }
        Ok(usize::try_from(step).unwrap_or(usize::MAX))
    }

    /// A number too large for anything stays too large.
    fn digits(&mut self) -> u32 {
        let mut number = 0_u32;
        while let Some(byte) = self.peek().filter(u8::is_ascii_digit) {
            number = number.saturating_mul(10).saturating_add(u32::from(byte - b'0'));
            self.at += 1;
        }
        number
    }

    fn value(&mut self) -> Result<Value, CrontabError> {
        let begin = self.at;
        let Kind { name, low, high, names, allowed } = *self.kind;
        match self.peek() {
            Some(byte) if byte.is_ascii_digit() => {
                let number = self.digits();
                let fits = u8::try_from(number).ok().filter(|number| (low..=high).contains(number));
                let text = || String::from_utf8_lossy(&self.text[begin..self.at]).into_owned();
                let number =
                    fits.ok_or_else(|| self.error(begin, format!("{name} {} is out of range", text()), allowed))?;
                Ok(Value { number, named: false })
            }
            Some(byte) if byte.is_ascii_alphabetic() => {
                while self.peek().is_some_and(|byte| byte.is_ascii_alphabetic()) {
                    self.at += 1;
                }
                let word = String::from_utf8_lossy(&self.text[begin..self.at]).to_lowercase();
                let found = names.iter().position(|name| *name == word).and_then(|at| u8::try_from(at).ok());
                let found =
                    found.ok_or_else(|| self.error(begin, format!("`{word}` is no {name}"), self.foreign(&word)))?;
                Ok(Value { number: low + found, named: true })
            }
            None | Some(b',' | b'-' | b'/') => {
                Err(self.error(begin, format!("a value of the {name} is missing"), allowed))
            }
            Some(_) => Err(self.unexpected()),
        }
    }

    /// What to do about a word that is no value.
    fn foreign(&self, word: &str) -> String {
        match word {
            "l" | "lw" | "w" => "crontab has no last or nearest day; name days, as in `28-31`".into(),
            "h" => "a hash for a minute is Jenkins' own; name a minute".into(),
            long if long.len() > 3 && self.kind.names.iter().any(|name| long.starts_with(name)) => {
                format!("names have three letters: {}", &long[..3])
            }
            _ => self.kind.allowed.into(),
        }
    }

    fn unexpected(&self) -> CrontabError {
        let Kind { name, allowed, .. } = *self.kind;
        let byte = self.peek().unwrap_or(b' ');
        let hint = match byte {
            b'?' => "crontab has no `?`; write `*`",
            b'#' => "crontab has no nth weekday; name days and weekdays",
            b'*' => "`/` comes before a step, and `,` between values",
            byte if byte.is_ascii_alphabetic() => "fields are parted by spaces, values of a field by `,`",
            _ => allowed,
        };
        self.error(self.at, format!("`{}` is not expected in the {name}", char::from(byte)), hint)
    }
}
