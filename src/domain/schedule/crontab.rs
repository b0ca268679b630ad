//! The crontab line as people write it: five fields, or `@daily` and the like. Read here and nowhere else: the calendar engine behind it has another syntax, in which
//! Monday is 2 and `*5` is no mistake, and never sees what a user wrote.

use super::field::{self, DAY, Field, HOUR, MINUTE, MONTH, WEEKDAY};

/// The longest expression read, in bytes; a list of every minute has 169.
pub const MAX_EXPRESSION_BYTES: usize = 1000;

/// The fields of a line, for hints.
const FIELDS: &str = "the five fields are: minute, hour, day of month, month, day of week";

/// The lines behind the short names.
const SHORT: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// A month's longest form, in days, from January on.
const LONGEST: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A crontab line, checked: it names at least one time that comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crontab {
    expression: String,
    pub(super) minutes: u64,
    pub(super) hours: u64,
    pub(super) days: u64,
    pub(super) months: u64,
    /// Sunday is bit 0.
    pub(super) weekdays: u64,
    /// Whether one of day of month and day of week is enough.
    pub(super) either_day: bool,
    pub(super) follows_the_clock: bool,
    remarks: Vec<String>,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct CrontabError {
    /// The first wrong character, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Crontab {
    /// Reads a line of five fields, or one of the short names.
    ///
    /// # Errors
    /// The first mistake, with its column.
    pub fn parse(expression: &str) -> Result<Self, CrontabError> {
        legible(expression)?;
        let line = expression.trim_matches([' ', '\t']);
        if line.starts_with('@') {
            let column = expression.len() - expression.trim_start_matches([' ', '\t']).len() + 1;
            return Ok(Self { expression: line.to_owned(), ..Self::parse(short(line, column)?)? });
        }
        let words = words(expression);
        let [minute, hour, day, month, weekday] = words.as_slice() else { return Err(miscounted(expression, &words)) };
        let read = |kind, (column, word): &(usize, &str)| field::parse(kind, word, *column);
        let (minute, hour) = (read(&MINUTE, minute)?, read(&HOUR, hour)?);
        let (day, month, weekday) = (read(&DAY, day)?, read(&MONTH, month)?, read(&WEEKDAY, weekday)?);
        let either_day = !day.star && !weekday.star;
        if !either_day {
            some_date(&day, &month)?;
        }
        let remarks = [&minute, &hour, &day, &month, &weekday].into_iter().flat_map(|field| field.remarks.clone());
        let mut remarks: Vec<_> = remarks.collect();
        let weekdays = (weekday.bits | weekday.bits >> 7) & 0x7f;
        let (all_days, all_weekdays) = (day.bits == all(1, 31), weekdays == all(0, 6));
        if either_day && !all_days && !all_weekdays {
            remarks.push("day of month and day of week are both given: runs when either fits, as in crontab".into());
        } else if !either_day && !all_days && !all_weekdays {
            remarks
                .push("one of day of month and day of week begins with `*`: runs when both fit, as in crontab".into());
        }
        Ok(Self {
            expression: line.to_owned(),
            minutes: minute.bits,
            hours: hour.bits,
            days: day.bits,
            months: month.bits,
            weekdays,
            either_day,
            follows_the_clock: minute.star || hour.star,
            remarks,
        })
    }

    /// The expression as written, without the blanks around it.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Whether its minute or hour begins with `*`: it follows the clock on the wall through a change of the offset.
    #[must_use]
    pub const fn follows_the_clock(&self) -> bool {
        self.follows_the_clock
    }

    /// What it means that a person may not have meant, each a line.
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

/// The bits from `low` to `high`.
pub(super) fn all(low: u8, high: u8) -> u64 {
    (low..=high).fold(0, |bits, value| bits | 1 << value)
}

/// The values of a field.
pub(super) fn values(bits: u64) -> impl Iterator<Item = u8> {
    (0..64).filter(move |value| bits >> value & 1 == 1)
}

/// Bounded, and nothing but printable ASCII and blanks, so that a column is a byte.
fn legible(expression: &str) -> Result<(), CrontabError> {
    if expression.len() > MAX_EXPRESSION_BYTES {
        let message = format!("an expression has at most {MAX_EXPRESSION_BYTES} bytes, this one {}", expression.len());
        return Err(CrontabError { column: 1, message, hint: "write ranges and steps instead of lists".into() });
    }
    let strange = |(_, char): &(usize, char)| !matches!(char, '\t' | ' '..='~');
    match expression.chars().enumerate().find(strange) {
        None => Ok(()),
        Some((at, char)) => Err(CrontabError {
            column: at + 1,
            message: format!("{char:?} has no meaning in an expression"),
            hint: "fields are made of digits, letters and `* , - /`, and parted by spaces".into(),
        }),
    }
}

/// The words of a line with the column of each.
fn words(expression: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut column = 1;
    for word in expression.split([' ', '\t']) {
        if !word.is_empty() {
            words.push((column, word));
        }
        column += word.len() + 1;
    }
    words
}

/// The line behind a short name.
fn short(line: &str, column: usize) -> Result<&'static str, CrontabError> {
    let word = line.to_ascii_lowercase();
    if let Some((_, fields)) = SHORT.iter().find(|(name, _)| *name == word) {
        return Ok(fields);
    }
    let hint = match word.split([' ', '\t']).next() {
        Some("@reboot") => "a schedule has no boot to run at: submit a job instead, or name a time".into(),
        Some("@every") => "write a step: `*/15 * * * *` is every quarter of an hour".into(),
        _ => format!("allowed: {}; or {FIELDS}", SHORT.map(|(name, _)| name).join(", ")),
    };
    Err(CrontabError { column, message: format!("`{line}` is no time of a schedule"), hint })
}

/// Not five fields.
fn miscounted(expression: &str, words: &[(usize, &str)]) -> CrontabError {
    if words.first().is_some_and(|(_, word)| word.contains('=')) {
        return CrontabError {
            column: words[0].0,
            message: format!("`{}` is no field", words[0].1),
            hint: "the time zone is given beside the expression, with --zone or `zone = `".into(),
        };
    }
    let count = words.len();
    let Some((column, _)) = words.get(5) else {
        let column = expression.trim_end_matches([' ', '\t']).len() + 1;
        let message =
            if count == 0 { "nothing is given".into() } else { format!("only {count} of five fields are given") };
        return CrontabError { column, message, hint: FIELDS.into() };
    };
    let hint = match count {
        6 => format!("leave out the seconds or the year; {FIELDS}"),
        7 => format!("leave out the seconds and the year; {FIELDS}"),
        _ => format!("only the time belongs here; {FIELDS}"),
    };
    CrontabError { column: *column, message: format!("{count} fields are given, and a line has five"), hint }
}

/// Whether one of the months has one of the days.
fn some_date(day: &Field, month: &Field) -> Result<(), CrontabError> {
    let has = |month: &u8| values(day.bits).next().is_some_and(|first| first <= LONGEST[usize::from(*month) - 1]);
    if values(month.bits).any(|month| has(&month)) {
        return Ok(());
    }
    let first = values(day.bits).next().unwrap_or_default();
    let names: Vec<_> = values(month.bits).map(|month| MONTHS[usize::from(month) - 1]).collect();
    let longest = values(month.bits).map(|month| LONGEST[usize::from(month) - 1]).max().unwrap_or_default();
    Err(CrontabError {
        column: day.column,
        message: format!("{first} {} does not exist: this would never run", names.join(" or ")),
        hint: format!("name a day up to {longest}"),
    })
}
