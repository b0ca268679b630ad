//! A message as a mail for sendmail's standard input: RFC 5322, with RFC 2047 for words that are not ASCII. Recipients stand in the header and are taken from there (`-t`).

use jiff::{Timestamp, fmt::rfc2822, tz::TimeZone};

use super::Message;

/// Bytes of a text that become one encoded word: 75 characters at most with what is around them.
const WORD: usize = 42;

/// The mail about a message. The addresses were looked at before (`is_address`); all else is made harmless here: a job's name can end no header.
#[must_use]
pub fn compose(message: &Message, from: &str, to: &[String], now: Timestamp) -> Vec<u8> {
    let date = rfc2822::to_string(&now.to_zoned_datetime(TimeZone::UTC)).unwrap_or_default();
    let host = from.split_once('@').map_or("localhost", |(_, host)| host);
    let body = message.body();
    let is_plain = body.is_ascii() && body.lines().all(|line| line.len() <= 900);
    let (charset, encoding, body) = match is_plain {
        true => ("us-ascii", "7bit", body),
        false => ("utf-8", "base64", wrapped(&base64(body.as_bytes()))),
    };
    let mut headers = vec![format!("From: {from}"), format!("To: {}", to.join(",\n "))];
    headers.push(format!("Subject: {}", header_text(&message.subject())));
    headers.push(format!("Date: {date}"));
    headers.push(format!("Message-ID: <{}@{host}>", message.id));
    headers.extend(
        ["MIME-Version: 1.0", "Auto-Submitted: auto-generated", "X-Auto-Response-Suppress: All"].map(str::to_owned),
    );
    headers.push(format!("Content-Type: text/plain; charset={charset}"));
    headers.push(format!("Content-Transfer-Encoding: {encoding}"));
    format!("{}\n\n{body}", headers.join("\n")).into_bytes()
}

/// A text of one line as a header can hold it.
fn header_text(text: &str) -> String {
    // What looks like an encoded word would be read as one.
    if text.chars().all(|c| matches!(c, ' '..='~')) && !text.contains("=?") {
        return text.to_owned();
    }
    let mut words = vec![String::new()];
    for c in text.chars().filter(|c| !c.is_control()) {
        let is_full = words.last().is_some_and(|word| word.len() + c.len_utf8() > WORD);
        if is_full {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let encoded: Vec<String> = words.iter().map(|word| format!("=?utf-8?B?{}?=", base64(word.as_bytes()))).collect();
    encoded.join("\n ")
}

/// In lines of 76 characters.
fn wrapped(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + text.len() / 76 + 1);
    for (place, c) in text.chars().enumerate() {
        if place > 0 && place % 76 == 0 {
            lines.push('\n');
        }
        lines.push(c);
    }
    lines.push('\n');
    lines
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
