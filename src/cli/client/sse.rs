//! Server-sent events: bytes to messages. Pure; the daemon's text is taken as it is, but never more than a bounded piece of it is held.

/// The largest message, in bytes: a job's view is some kilobytes, a piece of a log no more than the daemon reads at once.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Its kind; `message` is the empty string here.
    pub event: String,
    /// Its data: the lines, joined by newlines.
    pub data: String,
    /// Its id, where it has one.
    pub id: Option<String>,
}

/// What has come of a message that is not over yet.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// An unfinished line.
    rest: Vec<u8>,
    message: Message,
    has_data: bool,
}

/// The stream sends a message that is too large to hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Parser {
    /// The messages that `bytes` complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>, TooLarge> {
        let mut messages = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if self.rest.len() + self.message.data.len() > MAX_MESSAGE_BYTES {
                return Err(TooLarge);
            }
            if self.rest.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.rest);
                let line = String::from_utf8_lossy(&line);
                messages.extend(self.line(line.trim_end_matches(['\n', '\r'])));
            }
        }
        Ok(messages)
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return std::mem::take(&mut self.has_data).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.message.event),
            "id" => self.message.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
                self.has_data = true;
            }
            // A comment, which keeps the connection alive, or a field of a later version.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 100\n\n: still there\n\nevent: job\ndata: {\"a\":\ndata: 1}\n\nid: 7\r\nevent:metrics\r\ndata:x: y\r\n\r\nevent: end\n\ndata\n\n";

    fn message(event: &str, data: &str, id: Option<&str>) -> Message {
        Message { event: event.into(), data: data.into(), id: id.map(Into::into) }
    }

    #[test]
    fn messages_come_out_whole_however_the_bytes_are_cut() {
        let expected =
            [message("job", "{\"a\":\n1}", None), message("metrics", "x: y", Some("7")), message("", "", None)];
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let pieces = STREAM.as_bytes().chunks(size);
            let found: Vec<_> = pieces.flat_map(|piece| parser.feed(piece).unwrap()).collect();
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let mut parser = Parser::default();
        let line = vec![b'x'; 1024 * 1024];
        let refused = (0..32).any(|_| parser.feed(&line) == Err(TooLarge));
        assert!(refused);
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &line, b"\n"].concat();
        let refused = (0..32).any(|_| parser.feed(&line) == Err(TooLarge));
        assert!(refused);
    }
}
