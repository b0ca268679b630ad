//! A proxy between a client and a real S3 server, which spoils what passes. It reads requests and answers whole, so that what it does to them is exact; the host's name is passed on as it
//! came, so that signatures hold. The server is asked over a connection of its own each time.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// What is done to a request or to its answer. A place in a body is a share of it in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The proxy answers with this status and S3's name for an error; the server hears nothing.
    Say(u16, &'static str),
    /// The server does what it is asked, and the proxy answers so in its place.
    SayAfter(u16, &'static str),
    /// The connection is cut; the server hears nothing.
    HangUp,
    /// The server does what it is asked, and the connection is cut before the answer.
    Lose,
    /// The request breaks off here on its way to the server.
    CutRequest(u64),
    /// The answer breaks off here.
    CutAnswer(u64),
    /// The answer ends here, and says that this is all.
    Shorten(u64),
    /// A bit of the request is flipped here.
    SpoilRequest(u64),
    /// A bit of the answer is flipped here.
    SpoilAnswer(u64),
    /// The answer comes in small pieces with pauses.
    Drip,
    /// The first answer that this request ever had.
    Stale,
}

/// What passes.
#[derive(Debug, Clone)]
pub struct Request {
    /// `PUT /bucket/key?query`.
    pub line: String,
    /// The line and the headers as they came, without the empty line.
    head: Vec<String>,
    body: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Answer {
    /// Status line and headers, those of the connection and the body's length left out.
    head: Vec<String>,
    /// What HEAD says of the length.
    length: Option<String>,
    body: Vec<u8>,
}

/// The proxy; it ends with the process.
#[derive(Debug)]
pub struct Proxy {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    seen: Seen,
}

/// Lines of requests, each with what was done to it.
type Seen = Arc<Mutex<Vec<(String, Option<Fault>)>>>;

/// Says what is done to the n-th request, from 0.
type Play = dyn Fn(usize, &Request) -> Option<Fault> + Send + Sync;

struct Shared {
    upstream: String,
    play: Box<Play>,
    seen: Seen,
    first: Mutex<HashMap<String, Answer>>,
}

impl Proxy {
    /// Stands before the server at `upstream`, `http://HOST:PORT`.
    pub fn before(upstream: &str, play: impl Fn(usize, &Request) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new(Shared {
            upstream: upstream.trim_start_matches("http://").to_owned(),
            play: Box::new(play),
            seen: seen.clone(),
            first: Mutex::default(),
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                // A connection that breaks is what this is for.
                thread::spawn(move || drop(shared.serve(&stream.unwrap())));
            }
        });
        Self { url, seen }
    }

    /// What has passed, with what was done to it.
    pub fn seen(&self) -> Vec<(String, Option<Fault>)> {
        self.seen.lock().unwrap().clone()
    }

    /// How often something was done.
    pub fn faults(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|(_, fault)| fault.is_some()).count()
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        while let Some(request) = Request::read(&mut reader)? {
            let fault = {
                let mut seen = self.seen.lock().unwrap();
                let fault = (self.play)(seen.len(), &request);
                seen.push((request.line.clone(), fault));
                fault
            };
            if !self.pass(client, request, fault)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the connection lives on.
    fn pass(&self, client: &TcpStream, mut request: Request, fault: Option<Fault>) -> io::Result<bool> {
        match fault {
            Some(Fault::HangUp) => return Ok(false),
            Some(Fault::Say(status, code)) => return Answer::error(status, code).send(client, &request).map(|()| true),
            Some(Fault::CutRequest(share)) => {
                request.send(&self.upstream, Some(share))?;
                return Ok(false);
            }
            Some(Fault::SpoilRequest(share)) => flip(&mut request.body, share),
            _ => {}
        }
        let mut answer = Answer::read(request.send(&self.upstream, None)?, &request)?;
        let first = self.first.lock().unwrap().entry(request.line.clone()).or_insert_with(|| answer.clone()).clone();
        match fault {
            Some(Fault::Lose) => return Ok(false),
            Some(Fault::SayAfter(status, code)) => answer = Answer::error(status, code),
            Some(Fault::Stale) => answer = first,
            Some(Fault::Shorten(share)) => answer.body.truncate(place(&answer.body, share)),
            Some(Fault::SpoilAnswer(share)) => flip(&mut answer.body, share),
            Some(Fault::CutAnswer(share)) => {
                let cut = place(&answer.body, share);
                let mut client = client;
                client.write_all(answer.bytes(&request).as_bytes())?;
                client.write_all(&answer.body[..cut])?;
                return Ok(false);
            }
            Some(Fault::Drip) => {
                let mut client = client;
                client.write_all(answer.bytes(&request).as_bytes())?;
                for piece in answer.body.chunks(answer.body.len().div_ceil(20).max(1)) {
                    client.write_all(piece)?;
                    thread::sleep(Duration::from_millis(10));
                }
                return Ok(true);
            }
            _ => {}
        }
        answer.send(client, &request).map(|()| true)
    }
}

impl Request {
    /// Whether it is to create something that is not there.
    pub fn is_create(&self) -> bool {
        header(&self.head, "if-none-match").is_some()
    }

    fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let head = lines(reader)?;
        let Some((line, _)) = head.first().and_then(|first| first.rsplit_once(' ')) else { return Ok(None) };
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        assert!(header(&head, "transfer-encoding").is_none(), "the client sends no body of unknown length");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Some(Self { line: line.to_owned(), head, body }))
    }

    /// Sends it on, all of it or up to a share of its body.
    fn send(&self, upstream: &str, share: Option<u64>) -> io::Result<TcpStream> {
        let mut server = TcpStream::connect(upstream)?;
        let head = format!("{}\r\nconnection: close\r\n\r\n", self.head.join("\r\n"));
        server.write_all(head.as_bytes())?;
        server.write_all(&self.body[..share.map_or(self.body.len(), |share| place(&self.body, share))])?;
        Ok(server)
    }
}

impl Answer {
    fn error(status: u16, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>so it is</Message></Error>");
        Self { head: vec![format!("HTTP/1.1 {status} X")], length: None, body: body.into_bytes() }
    }

    fn read(server: TcpStream, request: &Request) -> io::Result<Self> {
        let mut reader = BufReader::new(server);
        let mut head = lines(&mut reader)?;
        let length = header(&head, "content-length").map(str::to_owned);
        let is_chunked = header(&head, "transfer-encoding").is_some();
        let mut body = Vec::new();
        if !request.line.starts_with("HEAD ") {
            if is_chunked {
                read_chunks(&mut reader, &mut body)?;
            } else {
                reader.read_to_end(&mut body)?;
            }
        }
        let own = ["content-length", "transfer-encoding", "connection"];
        head.retain(|line| line.split_once(':').is_none_or(|(name, _)| !own.contains(&name.to_lowercase().as_str())));
        Ok(Self { head, length, body })
    }

    /// The head as it is sent.
    fn bytes(&self, request: &Request) -> String {
        let length = match &self.length {
            Some(length) if request.line.starts_with("HEAD ") => length.clone(),
            _ => self.body.len().to_string(),
        };
        let is_bare = self.head.first().is_some_and(|status| status.contains(" 204 ") || status.contains(" 304 "));
        let length = if is_bare { String::new() } else { format!("content-length: {length}\r\n") };
        format!("{}\r\n{length}\r\n", self.head.join("\r\n"))
    }

    fn send(&self, mut client: &TcpStream, request: &Request) -> io::Result<()> {
        client.write_all(self.bytes(request).as_bytes())?;
        if request.line.starts_with("HEAD ") { Ok(()) } else { client.write_all(&self.body) }
    }
}

/// Lines up to an empty one; none at the end of the connection.
fn lines(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(lines);
        }
        lines.push(line.trim_end().to_owned());
    }
}

fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let found = head.iter().filter_map(|line| line.split_once(':')).find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}

fn read_chunks(reader: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        reader.by_ref().take(size).read_to_end(body)?;
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// A share of a body as a place in it.
fn place(body: &[u8], share: u64) -> usize {
    usize::try_from(body.len() as u64 * share.min(999) / 1000).unwrap()
}

fn flip(body: &mut [u8], share: u64) {
    let at = place(body, share);
    if let Some(byte) = body.get_mut(at) {
        *byte ^= 0x10;
    }
}
