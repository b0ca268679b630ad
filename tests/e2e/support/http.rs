//! The API over its socket, spoken by hand: what a test sees is what is on the wire, whatever the CLI makes of it. A connection per request.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use serde_json::Value;

use super::CEILING;

/// Talks to the daemon at a socket.
#[derive(Debug, Clone)]
pub struct Client {
    /// The socket.
    pub socket: PathBuf,
}

/// What the daemon said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as it came.
    pub text: String,
    /// The body as JSON; null where it is none.
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text);
        self.body
    }

    /// The code of a failure.
    pub fn error(&self) -> &str {
        assert!(self.status >= 400, "{}: {}", self.status, self.text);
        self.body["error"]["code"].as_str().unwrap_or_else(|| panic!("no error in {}", self.text))
    }
}

impl Client {
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &body.to_string()).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// One request. An error means that no whole answer came, which says nothing about what the daemon did.
    pub fn send(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(CEILING))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        answer(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut off"))
    }
}

/// Reads a whole answer; `None` when it is not whole.
fn answer(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    };
    let text = match header("content-length") {
        Some(length) => rest.get(..length.parse().ok()?)?.to_owned(),
        None if header("transfer-encoding").is_some_and(|encoding| encoding == "chunked") => unchunk(rest)?,
        None => rest.to_owned(),
    };
    let body = serde_json::from_str(&text).unwrap_or_default();
    Some(Answer { status, text, body })
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut text = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(text);
        }
        text.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}
