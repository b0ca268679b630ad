//! An HTTP server that answers as it is told, for what no real server can be made to do at a chosen moment. It checks no signature and keeps nothing.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use mlctl_artifacts::Stores;
use mlctl_protocol::s3::{S3Access, S3Checksum, S3Credentials};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `PUT /bucket/key`.
    pub line: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Asked {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// What to do about it.
pub enum Answer {
    /// Status, headers as lines, body.
    Say(u16, &'static str, Vec<u8>),
    /// Status, headers as lines, body; then cut the connection though so many bytes more were announced.
    Cut(u16, &'static str, Vec<u8>, usize),
    /// Cut the connection without a word.
    HangUp,
}

/// A server.
pub struct Puppet {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Puppet {
    /// Answers the n-th request, from 0, as `play` says.
    pub fn new(play: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, play) = (asked.clone(), Arc::new(play));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, play) = (seen.clone(), play.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*play));
            }
        });
        Self { url, asked }
    }

    /// Access to it, with a second for trying again.
    pub fn access(&self) -> S3Access {
        S3Access {
            endpoint: Some(self.url.clone()),
            region: "us-east-1".into(),
            path_style: true,
            checksum: S3Checksum::None,
            ca_pem: None,
            proxy: None,
            retry_seconds: 1,
            credentials: S3Credentials {
                access_key_id: "key".into(),
                secret_access_key: "canary".into(),
                session_token: Some("canary-token".into()),
            },
        }
    }

    /// Stores that ask it.
    pub fn stores(&self) -> Stores {
        Stores::with_s3(Some(self.access()))
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Asked>>, play: &dyn Fn(usize, &Asked) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(asked) = read(&mut reader) {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(asked.clone());
            seen.len() - 1
        };
        match play(number, &asked) {
            Answer::HangUp => return,
            Answer::Cut(status, headers, body, missing) => {
                let length = body.len() + missing;
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
                // Whoever has gone already misses it.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                return;
            }
            Answer::Say(status, headers, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
                let is_head = asked.line.starts_with("HEAD ");
                let sent = stream.write_all(head.as_bytes());
                if sent.is_err() || (!is_head && stream.write_all(&body).is_err()) {
                    return;
                }
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let asked = Asked { line: first.rsplit_once(' ')?.0.to_owned(), headers };
    let length: usize = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(asked)
}
