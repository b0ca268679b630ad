//! The filter language of lists: `state=failed and label.team=vision and not name~"tmp*"`. A filter is parsed once, bounded in size and depth, and tried on one job after the other. Pure:
//! called by the API, which hands it to the store, and by the CLI, which shows what is wrong with one before the daemon is asked.

mod parse;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, collections::BTreeSet, fmt};

use jiff::Timestamp;

use super::job::{Job, JobState};

/// The longest text of a filter, in bytes.
pub const MAX_BYTES: usize = 4096;

/// Comparisons in a filter at most.
pub const MAX_TESTS: usize = 64;

/// Parentheses and `not`s within one another at most.
pub const MAX_DEPTH: usize = 32;

/// What is wrong with a filter, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {}: {message}", column + 1)]
pub struct FilterError {
    /// The character at which it begins, from 0.
    pub column: usize,
    /// The character after it.
    pub end: usize,
    /// What is wrong, a lower-case fragment.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// Which jobs are meant. Its `Display` is a text that means the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All of these, at least two.
    And(Vec<Self>),
    /// One of these, at least two.
    Or(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// A value that need not be there is there.
    Has(Field),
    /// A comparison.
    Test(Field, Operator, Value),
}

/// What of a job is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Its number.
    Id,
    /// Its name.
    Name,
    /// `train`, `infer` …
    Kind,
    /// `queued`, `running` …
    State,
    /// The submitter, by login name or by user id in digits.
    User,
    /// Its queue.
    Queue,
    /// 0 to 100.
    Priority,
    /// The value of this label.
    Label(String),
    /// How its last attempt ended.
    ExitClass,
    /// How often it was started.
    Attempt,
    /// Retries used up.
    Retries,
    /// Cores.
    Cpus,
    /// GPUs.
    Gpus,
    /// The array that it is a member of.
    Array,
    /// When it was submitted.
    Submitted,
    /// When it was last started.
    Started,
    /// When it ended.
    Finished,
    /// How long ago it was submitted.
    Age,
}

/// What the values of a field are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Text,
    Number,
    Moment,
    Duration,
}

impl Field {
    /// Every field but labels, with its name.
    const NAMED: [(&str, Self); 17] = [
        ("id", Self::Id),
        ("name", Self::Name),
        ("kind", Self::Kind),
        ("state", Self::State),
        ("user", Self::User),
        ("queue", Self::Queue),
        ("priority", Self::Priority),
        ("exit_class", Self::ExitClass),
        ("attempt", Self::Attempt),
        ("retries", Self::Retries),
        ("cpus", Self::Cpus),
        ("gpus", Self::Gpus),
        ("array", Self::Array),
        ("submitted", Self::Submitted),
        ("started", Self::Started),
        ("finished", Self::Finished),
        ("age", Self::Age),
    ];

    const fn nature(&self) -> Nature {
        match self {
            Self::Name | Self::Kind | Self::State | Self::User | Self::Queue | Self::Label(_) | Self::ExitClass => {
                Nature::Text
            }
            Self::Id | Self::Priority | Self::Attempt | Self::Retries | Self::Cpus | Self::Gpus | Self::Array => {
                Nature::Number
            }
            Self::Submitted | Self::Started | Self::Finished => Nature::Moment,
            Self::Age => Nature::Duration,
        }
    }

    /// Whether a job may be without it.
    const fn is_optional(&self) -> bool {
        matches!(self, Self::Label(_) | Self::ExitClass | Self::Array | Self::Started | Self::Finished)
    }
}

/// How a field is compared with a value. A value that is not there differs from every other, and is neither less nor greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Is it.
    Equal,
    /// Is another, or not there.
    Differs,
    /// Less, or earlier.
    Less,
    /// At most.
    AtMost,
    /// Greater, or later.
    Greater,
    /// At least.
    AtLeast,
    /// Fits a pattern, in which `*` is any text and `?` any character.
    Like,
    /// Fits it not, or is not there.
    Unlike,
}

impl Operator {
    const ALL: [(&str, Self); 8] = [
        ("=", Self::Equal),
        ("!=", Self::Differs),
        ("<", Self::Less),
        ("<=", Self::AtMost),
        (">", Self::Greater),
        (">=", Self::AtLeast),
        ("~", Self::Like),
        ("!~", Self::Unlike),
    ];

    fn fits(self, nature: Nature) -> bool {
        match self {
            Self::Equal | Self::Differs => matches!(nature, Nature::Text | Nature::Number),
            Self::Less | Self::AtMost | Self::Greater | Self::AtLeast => nature != Nature::Text,
            Self::Like | Self::Unlike => nature == Nature::Text,
        }
    }

    /// Whether what is there stands so to the value.
    fn holds<T: Ord>(self, found: Option<T>, value: T) -> bool {
        let order = found.map(|found| found.cmp(&value));
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::Differs => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => order == Some(Ordering::Greater),
            Self::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            // No filter that was parsed compares these so.
            Self::Like | Self::Unlike => false,
        }
    }
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text or a pattern.
    Text(String),
    /// A number.
    Number(u64),
    /// A moment.
    Moment(Timestamp),
    /// A duration in seconds.
    Seconds(u64),
}

/// A job as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The job.
    pub job: &'a Job,
    /// The login name of its user, where there is one.
    pub user: Option<&'a str>,
    /// The present, which ages are counted from.
    pub now: Timestamp,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// All that is wrong with it; of its grammar the first mistake alone.
    pub fn parse(text: &str) -> Result<Self, Vec<FilterError>> {
        parse::parse(text)
    }

    /// Whether a job is meant.
    #[must_use]
    pub fn fits(&self, seen: Seen<'_>) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.fits(seen)),
            Self::Or(parts) => parts.iter().any(|part| part.fits(seen)),
            Self::Not(part) => !part.fits(seen),
            Self::Has(field) => match field.nature() {
                Nature::Text => text(field, seen).is_some(),
                Nature::Number => number(field, seen.job).is_some(),
                Nature::Moment | Nature::Duration => moment(field, seen.job).is_some(),
            },
            Self::Test(Field::User, operator, Value::Text(value)) => {
                let id = seen.job.user.0.to_string();
                match operator {
                    Operator::Differs | Operator::Unlike => {
                        compare(*operator, Some(&id), value)
                            && seen.user.is_none_or(|name| compare(*operator, Some(name), value))
                    }
                    _ => compare(*operator, Some(&id), value) || compare(*operator, seen.user, value),
                }
            }
            Self::Test(field, operator, value) => match value {
                Value::Text(value) => compare(*operator, text(field, seen), value),
                Value::Number(value) => operator.holds(number(field, seen.job), *value),
                Value::Moment(value) => operator.holds(moment(field, seen.job), *value),
                Value::Seconds(value) => {
                    let age = seen.now.duration_since(seen.job.submitted_at).as_secs();
                    operator.holds(Some(u64::try_from(age).unwrap_or(0)), *value)
                }
            },
        }
    }

    /// The states of all jobs that it can mean; `None` where it does not say. A list need not look at others.
    #[must_use]
    pub fn states(&self) -> Option<BTreeSet<&'static str>> {
        match self {
            Self::And(parts) => parts.iter().filter_map(Self::states).reduce(|one, other| &one & &other),
            Self::Or(parts) => {
                let all: Option<Vec<_>> = parts.iter().map(Self::states).collect();
                Some(all?.into_iter().flatten().collect())
            }
            Self::Not(_) => None,
            Self::Has(Field::Finished) => Some(JobState::ENDED.into()),
            Self::Test(Field::Finished, ..) => Some(JobState::ENDED.into()),
            Self::Test(Field::State, operator, Value::Text(value)) => {
                Some(JobState::names().filter(|state| compare(*operator, Some(state), value)).collect())
            }
            Self::Has(_) | Self::Test(..) => None,
        }
    }
}

fn text<'a>(field: &Field, Seen { job, user, .. }: Seen<'a>) -> Option<&'a str> {
    match field {
        Field::Name => Some(&job.name),
        Field::Kind => Some(&job.kind),
        Field::State => Some(job.state.name()),
        Field::User => user,
        Field::Queue => Some(&job.queue),
        Field::Label(key) => job.labels.get(key).map(String::as_str),
        Field::ExitClass => job.exit.as_ref().map(|exit| exit.class.as_str()),
        _ => None,
    }
}

fn number(field: &Field, job: &Job) -> Option<u64> {
    match field {
        Field::Id => Some(job.id.0),
        Field::Priority => Some(job.priority.into()),
        Field::Attempt => Some(job.attempt.into()),
        Field::Retries => Some(job.retries_used.into()),
        Field::Cpus => Some(job.resources.cpus.into()),
        Field::Gpus => Some(job.resources.gpus.into()),
        Field::Array => job.array.as_ref().map(|array| array.id.0),
        _ => None,
    }
}

const fn moment(field: &Field, job: &Job) -> Option<Timestamp> {
    match field {
        Field::Submitted => Some(job.submitted_at),
        Field::Started => job.started_at,
        Field::Finished => job.finished_at,
        _ => None,
    }
}

fn compare(operator: Operator, found: Option<&str>, value: &str) -> bool {
    match operator {
        Operator::Like => found.is_some_and(|found| is_like(found, value)),
        Operator::Unlike => !found.is_some_and(|found| is_like(found, value)),
        _ => operator.holds(found, value),
    }
}

/// Whether a text fits a pattern. Takes no more steps than one length times the other.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut in_pattern) = (0, 0);
    // The last `*`, and where in the text what follows it was last tried.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(in_pattern) {
            Some('*') => {
                star = Some((in_pattern, at));
                in_pattern += 1;
            }
            Some(wanted) if *wanted == '?' || Some(wanted) == text.get(at) => {
                at += 1;
                in_pattern += 1;
            }
            _ => {
                let Some((of_star, tried)) = star else { return false };
                star = Some((of_star, tried + 1));
                (at, in_pattern) = (tried + 1, of_star + 1);
            }
        }
    }
    pattern.iter().skip(in_pattern).all(|rest| *rest == '*')
}

impl fmt::Display for Filter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(parts) => join(out, parts, " and ", |part| matches!(part, Self::And(_) | Self::Or(_))),
            Self::Or(parts) => join(out, parts, " or ", |part| matches!(part, Self::Or(_))),
            Self::Not(part) if matches!(**part, Self::And(_) | Self::Or(_)) => write!(out, "not ({part})"),
            Self::Not(part) => write!(out, "not {part}"),
            Self::Has(field) => write!(out, "{field}"),
            Self::Test(field, operator, value) => write!(out, "{field}{operator}{value}"),
        }
    }
}

fn join(
    out: &mut fmt::Formatter<'_>,
    parts: &[Filter],
    word: &str,
    is_wrapped: impl Fn(&Filter) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        out.write_str(if index > 0 { word } else { "" })?;
        if is_wrapped(part) { write!(out, "({part})") } else { write!(out, "{part}") }?;
    }
    Ok(())
}

impl fmt::Display for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(key) => {
                out.write_str("label.")?;
                parse::write_text(out, key)
            }
            field => out.write_str(Self::NAMED.iter().find(|(_, named)| named == field).map_or("", |(name, _)| name)),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(Self::ALL.iter().find(|(_, named)| named == self).map_or("", |(name, _)| name))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => parse::write_text(out, text),
            Self::Number(number) => write!(out, "{number}"),
            Self::Moment(moment) => write!(out, "{moment}"),
            Self::Seconds(seconds) => write!(out, "{seconds}s"),
        }
    }
}
