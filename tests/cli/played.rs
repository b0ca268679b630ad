//! A played daemon: a Unix socket that answers requests as it was told, and keeps what it was asked.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value as Json;

/// What is answered to a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A status and a JSON body.
    Json(u16, Json),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Events, after which the connection is closed.
    Events(String),
    /// Events, after which nothing more comes until the client goes away.
    Hold(String),
    /// The connection is closed without an answer.
    Break,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method, path and query: `GET /v1/jobs?limit=5`.
    pub line: String,
    /// The id of the last event that the client saw.
    pub last_event: Option<String>,
    /// The body, null where there is none.
    pub body: Json,
}

/// The played daemon. Its thread ends with the test's process.
pub struct Daemon {
    asked: Arc<Mutex<Vec<Asked>>>,
}

type Script = Arc<Mutex<HashMap<String, VecDeque<Answer>>>>;

impl Daemon {
    /// Answers each request with the next of its answers; the last one is given again and again.
    pub fn start(folder: &Path, script: &[(&str, &[Answer])]) -> Self {
        let listener = UnixListener::bind(folder.join("mld.sock")).unwrap();
        let script = script.iter().map(|(line, answers)| ((*line).to_owned(), answers.iter().cloned().collect()));
        let script: Script = Arc::new(Mutex::new(script.collect()));
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                thread::spawn(move || serve(stream.unwrap(), &script, &log));
            }
        });
        Self { asked }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: UnixStream, script: &Script, log: &Mutex<Vec<Asked>>) {
    let Some(asked) = read(&stream) else { return };
    log.lock().unwrap().push(asked.clone());
    let answer = match script.lock().unwrap().get_mut(&asked.line) {
        Some(answers) if answers.len() > 1 => answers.pop_front(),
        Some(answers) => answers.front().cloned(),
        None => None,
    };
    let error = serde_json::json!({"error": {"code": "not_found", "message": format!("no answer to {}", asked.line), "hint": null}});
    respond(stream, answer.unwrap_or(Answer::Json(404, error)));
}

fn read(stream: &UnixStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let line = first.trim_end().strip_suffix(" HTTP/1.1")?.to_owned();
    let (mut length, mut last_event) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            Some((name, value)) if name.eq_ignore_ascii_case("last-event-id") => last_event = Some(value.to_owned()),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = if body.is_empty() { Json::Null } else { serde_json::from_slice(&body).ok()? };
    Some(Asked { line, last_event, body })
}

/// A client that is gone is no trouble here.
fn respond(mut stream: UnixStream, answer: Answer) {
    let (status, kind, body) = match &answer {
        Answer::Json(status, body) => (*status, "application/json", body.to_string().into_bytes()),
        Answer::Bytes(bytes) => (200, "text/plain", bytes.clone()),
        Answer::Events(events) | Answer::Hold(events) => (200, "text/event-stream", events.clone().into_bytes()),
        Answer::Break => return,
    };
    let length = match answer {
        Answer::Events(_) | Answer::Hold(_) => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{length}connection: close\r\n\r\n");
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
    if let (Ok(()), Answer::Hold(_)) = (sent, answer) {
        // Ends when the client closes its end.
        let _ = stream.read(&mut [0]);
    }
}
