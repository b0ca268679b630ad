//! Text to filter: words, then a grammar of `or`, `and`, `not`, parentheses and comparisons. What a comparison says wrongly is noted and reading goes on; a mistake in the grammar ends it.

use std::{
    fmt::{self, Write as _},
    ops::Range,
};

use jiff::{Span, SpanRelativeTo, Timestamp, civil::DateTime, tz::TimeZone};
use mlctl_protocol::ExitClass;

use super::{Field, Filter, FilterError, MAX_BYTES, MAX_DEPTH, MAX_TESTS, Nature, Operator, Value};
use crate::domain::JobState;

/// Words that are no values unless they stand after an operator.
const WORDS: [&str; 3] = ["and", "or", "not"];

const EXAMPLE: &str = "write for example `state=failed and label.team=vision`";

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Open,
    Close,
    Operator(Operator),
    /// A word as it stands there.
    Word(String),
    /// `label.` and a key.
    Label(String),
    /// A text in quotes.
    Quoted(String),
}

struct Placed {
    token: Token,
    at: Range<usize>,
}

pub(super) fn parse(text: &str) -> Result<Filter, Vec<FilterError>> {
    if text.len() > MAX_BYTES {
        let message = format!("the filter has more than {MAX_BYTES} bytes");
        return Err(vec![error(0..1, message, "ask for less at a time")]);
    }
    let tokens = lex(text).map_err(|error| vec![error])?;
    let end = text.chars().count();
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), end, tests: 0, wrong: Vec::new() };
    let parsed = parser.any(0).and_then(|filter| match parser.tokens.next() {
        None => Ok(filter),
        Some(Placed { token: Token::Close, at }) => {
            Err(error(at, "nothing was opened that this closes", "leave it out"))
        }
        Some(Placed { at, .. }) => Err(error(at, "a comparison ends before this", "join comparisons by `and` or `or`")),
    });
    match parsed {
        Ok(filter) if parser.wrong.is_empty() => Ok(filter),
        Ok(_) => Err(parser.wrong),
        Err(last) => {
            parser.wrong.push(last);
            Err(parser.wrong)
        }
    }
}

fn error(at: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> FilterError {
    FilterError { column: at.start, end: at.end, message: message.into(), hint: hint.into() }
}

/// Whether a text may stand without quotes.
fn is_bare(character: char) -> bool {
    character.is_alphanumeric() || "_-.:/@+*?%,".contains(character)
}

/// A text as a filter reads it.
pub(super) fn write_text(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if !text.is_empty() && text.chars().all(is_bare) {
        return out.write_str(text);
    }
    out.write_char('"')?;
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.write_char('\\')?;
        }
        out.write_char(character)?;
    }
    out.write_char('"')
}

fn lex(text: &str) -> Result<Vec<Placed>, FilterError> {
    let characters: Vec<char> = text.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&character) = characters.get(at) {
        let start = at;
        let next = characters.get(at + 1);
        let token = match character {
            _ if character.is_whitespace() => {
                at += 1;
                continue;
            }
            '(' | ')' => {
                at += 1;
                if character == '(' { Token::Open } else { Token::Close }
            }
            '"' | '\'' => Token::Quoted(quoted(&characters, &mut at)?),
            '=' | '!' | '<' | '>' | '~' => {
                let (operator, length) = match (character, next) {
                    ('=', Some('=')) => (Operator::Equal, 2),
                    ('=', _) => (Operator::Equal, 1),
                    ('!', Some('=')) => (Operator::Differs, 2),
                    ('!', Some('~')) => (Operator::Unlike, 2),
                    ('<', Some('=')) => (Operator::AtMost, 2),
                    ('<', _) => (Operator::Less, 1),
                    ('>', Some('=')) => (Operator::AtLeast, 2),
                    ('>', _) => (Operator::Greater, 1),
                    ('~', _) => (Operator::Like, 1),
                    _ => return Err(error(at..at + 1, "`!` alone is no operator", "write `not`, `!=` or `!~`")),
                };
                at += length;
                Token::Operator(operator)
            }
            _ if is_bare(character) => {
                let word = word(&characters, &mut at);
                match word.strip_prefix("label.") {
                    Some("") if matches!(characters.get(at), Some('"' | '\'')) => {
                        Token::Label(quoted(&characters, &mut at)?)
                    }
                    Some(key) => Token::Label(key.to_owned()),
                    None => Token::Word(word),
                }
            }
            _ => {
                let message = format!("{character:?} means nothing here");
                return Err(error(at..at + 1, message, "put texts with such characters in quotes"));
            }
        };
        tokens.push(Placed { token, at: start..at });
    }
    Ok(tokens)
}

fn word(characters: &[char], at: &mut usize) -> String {
    let word: String = characters.iter().skip(*at).take_while(|character| is_bare(**character)).collect();
    *at += word.chars().count();
    word
}

/// A text in quotes, in which a backslash stands before a quote or a backslash.
fn quoted(characters: &[char], at: &mut usize) -> Result<String, FilterError> {
    let (start, quote) = (*at, characters.get(*at).copied());
    let mut text = String::new();
    *at += 1;
    while let Some(&character) = characters.get(*at) {
        *at += 1;
        if Some(character) == quote {
            return Ok(text);
        }
        let escaped = characters.get(*at).filter(|next| character == '\\' && matches!(next, '"' | '\'' | '\\'));
        text.push(escaped.copied().unwrap_or(character));
        *at += usize::from(escaped.is_some());
    }
    Err(error(start..start + 1, "this quote is not closed", "close it with the same quote"))
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Placed>>,
    end: usize,
    tests: usize,
    /// Comparisons that say something wrong.
    wrong: Vec<FilterError>,
}

impl Parser {
    /// Takes a word of the grammar if it is the next token.
    fn takes(&mut self, word: &str) -> bool {
        let is_next = |placed: &Placed| matches!(&placed.token, Token::Word(text) if text.eq_ignore_ascii_case(word));
        self.tokens.next_if(is_next).is_some()
    }

    fn any(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut parts = vec![self.all(depth)?];
        while self.takes("or") {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Filter::Or))
    }

    fn all(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut parts = vec![self.single(depth)?];
        while self.takes("and") {
            parts.push(self.single(depth)?);
        }
        Ok(one_or(parts, Filter::And))
    }

    fn single(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let at = self.tokens.peek().map_or(self.end..self.end + 1, |placed| placed.at.clone());
        if depth > MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} parentheses and `not`s are within one another");
            return Err(error(at, message, "write it in a simpler way"));
        }
        if self.takes("not") {
            return Ok(Filter::Not(Box::new(self.single(depth + 1)?)));
        }
        if self.tokens.next_if(|placed| placed.token == Token::Open).is_some() {
            let inner = self.any(depth + 1)?;
            return match self.tokens.next() {
                Some(Placed { token: Token::Close, .. }) => Ok(inner),
                _ => Err(error(at, "this parenthesis is not closed", "close it")),
            };
        }
        self.test()
    }

    fn test(&mut self) -> Result<Filter, FilterError> {
        let Some(Placed { token, at }) = self.tokens.next() else {
            return Err(error(self.end..self.end + 1, "a comparison is missing at the end", EXAMPLE));
        };
        self.tests += 1;
        if self.tests > MAX_TESTS {
            return Err(error(at, format!("there are more than {MAX_TESTS} comparisons"), "ask for less at a time"));
        }
        let field = match token {
            Token::Word(word) if WORDS.contains(&word.to_ascii_lowercase().as_str()) => {
                return Err(error(at, format!("a comparison is missing before `{word}`"), EXAMPLE));
            }
            Token::Word(word) => self.field(&word, at.clone()),
            Token::Label(key) if key.is_empty() => {
                self.wrong.push(error(at.clone(), "the label has no key", "write `label.KEY`"));
                None
            }
            Token::Label(key) => Some(Field::Label(key)),
            _ => return Err(error(at, "a comparison begins with the name of a field", EXAMPLE)),
        };
        let next = self.tokens.next_if(|placed| matches!(placed.token, Token::Operator(_)));
        let Some(Placed { token: Token::Operator(operator), at: of_operator }) = next else {
            let field = field.filter(|field| self.may_stand_alone(field, &at));
            return Ok(Filter::Has(field.unwrap_or(Field::Id)));
        };
        let is_value = |placed: &Placed| matches!(placed.token, Token::Word(_) | Token::Quoted(_) | Token::Label(_));
        let Some(Placed { token, at: of_value }) = self.tokens.next_if(is_value) else {
            return Err(error(
                of_operator,
                "a value is missing after this",
                "a text with other signs in it needs quotes",
            ));
        };
        let text = match token {
            Token::Word(text) | Token::Quoted(text) => text,
            Token::Label(key) => format!("label.{key}"),
            _ => String::new(),
        };
        // What is wrong is noted by now, and the filter is never used.
        let unread = Filter::Has(Field::Id);
        let Some(field) = field else { return Ok(unread) };
        if !operator.fits(field.nature()) {
            self.wrong.push(misfit(&field, operator, of_operator));
            return Ok(unread);
        }
        match value(&field, operator, &text) {
            Ok(value) => Ok(Filter::Test(field, operator, value)),
            Err((message, hint)) => {
                self.wrong.push(error(of_value, message, hint));
                Ok(unread)
            }
        }
    }

    fn field(&mut self, word: &str, at: Range<usize>) -> Option<Field> {
        let found = Field::NAMED.into_iter().find(|(name, _)| *name == word);
        if found.is_none() {
            let names: Vec<&str> = Field::NAMED.iter().map(|(name, _)| *name).collect();
            let shown: String = word.chars().take(40).collect();
            self.wrong.push(error(
                at,
                format!("jobs have no field {shown:?}"),
                format!("there is {} and label.KEY", names.join(", ")),
            ));
        }
        found.map(|(_, field)| field)
    }

    fn may_stand_alone(&mut self, field: &Field, at: &Range<usize>) -> bool {
        let may = field.is_optional();
        if !may {
            let message = format!("every job has `{field}`: compare it with something");
            self.wrong.push(error(at.clone(), message, EXAMPLE));
        }
        may
    }
}

/// The only one, or all of them together.
fn one_or(mut parts: Vec<Filter>, together: fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            together(parts)
        }
    }
}

fn misfit(field: &Field, operator: Operator, at: Range<usize>) -> FilterError {
    let fitting = Operator::ALL.iter().filter(|(_, operator)| operator.fits(field.nature())).map(|(sign, _)| *sign);
    let hint = format!("it is compared by {}", fitting.collect::<Vec<_>>().join(" "));
    error(at, format!("`{field}` is not compared by {operator}"), hint)
}

/// The value that a text means for a field, or what is wrong with it and what to do.
fn value(field: &Field, operator: Operator, text: &str) -> Result<Value, (String, String)> {
    let shown: String = text.chars().take(40).collect();
    match field.nature() {
        Nature::Text => {
            let known: Vec<&str> = match field {
                Field::State => JobState::names().collect(),
                Field::ExitClass => ExitClass::ALL.iter().map(|class| class.as_str()).collect(),
                _ => Vec::new(),
            };
            let is_exact = matches!(operator, Operator::Equal | Operator::Differs);
            if is_exact && !known.is_empty() && !known.contains(&text) {
                return Err((format!("there is no {field} {shown:?}"), format!("there is {}", known.join(", "))));
            }
            Ok(Value::Text(text.to_owned()))
        }
        Nature::Number => {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits);
            let expected = || (format!("{shown:?} is no number"), format!("`{field}` is a whole number, such as 7"));
            number.map(Value::Number).ok_or_else(expected)
        }
        Nature::Moment => moment(text).map(Value::Moment).ok_or_else(|| {
            let hint = "write a date or a time, in UTC where it names no offset: 2026-11-25 or 2026-11-25T02:30:00Z; \
                        for how long ago there is `age`";
            (format!("{shown:?} is no time"), hint.to_owned())
        }),
        Nature::Duration => seconds(text).map(Value::Seconds).ok_or_else(|| {
            (format!("{shown:?} is no duration"), "write 90s, 10m, 2h or 7d, in whole seconds".to_owned())
        }),
    }
}

/// A time with its offset from UTC, or a date or a time in UTC.
fn moment(text: &str) -> Option<Timestamp> {
    let local = || text.parse::<DateTime>().and_then(|local| TimeZone::UTC.to_timestamp(local));
    text.parse::<Timestamp>().or_else(|_| local()).ok()
}

/// A duration in which a day has 24 hours; a bare number is seconds.
fn seconds(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let duration = text.parse::<Span>().ok()?.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    u64::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0)
}
