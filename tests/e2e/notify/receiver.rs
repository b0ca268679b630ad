//! Somebody who receives webhooks: a small HTTP server that checks every signature by itself, and answers as it is told.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use serde_json::Value;

use crate::support::until;

/// The key that both sides know.
pub const KEY: &[u8; 32] = b"thirty-two bytes that are secret";

/// One answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: String,
    pub after: Duration,
}

impl Reply {
    pub fn of(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

/// A message as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub id: String,
    pub is_signed: bool,
    /// Whether another key would have signed it, too: never.
    pub fits_another_key: bool,
    pub path: String,
    pub body: Value,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    replies: Mutex<VecDeque<Reply>>,
    is_closed: AtomicBool,
}

/// The server. It ends with the test.
pub struct Receiver {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        // Wakes who accepts.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Receiver {
    pub fn start() -> Self {
        Self::at(0)
    }

    /// At this port, or at any for 0.
    pub fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let own = own.clone();
                std::thread::spawn(move || serve(&own, stream));
            }
        });
        Self { port, shared }
    }

    /// A port at which nobody listens.
    pub fn free_port() -> u16 {
        TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
    }

    /// What the next requests are answered with; 204 when there is nothing left.
    pub fn answer(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.replies.lock().unwrap().extend(replies);
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits until so many requests have come, each with a signature that fits.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        let all = until(&format!("{count} messages come"), || {
            Some(self.received()).filter(|received| received.len() >= count)
        });
        assert!(all.iter().all(|one| one.is_signed && !one.fits_another_key), "{all:#?}");
        all
    }

    /// Waits for a message about this job.
    pub fn about(&self, job: &str) -> Received {
        until(&format!("job {job} is told of"), || {
            self.received().into_iter().find(|one| one.body["data"]["job"]["id"] == job)
        })
    }
}

/// A file with the key, for the daemon alone.
pub fn secret_file(folder: &std::path::Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let file = folder.join("webhook-secret");
    std::fs::write(&file, format!("whsec_{}\n", STANDARD.encode(KEY))).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn serve(shared: &Shared, stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(received) = read(&mut reader) {
        let reply = shared.replies.lock().unwrap().pop_front().unwrap_or_else(|| Reply::of(204));
        shared.received.lock().unwrap().push(received);
        std::thread::sleep(reply.after);
        let Reply { status, headers, .. } = reply;
        let body = if status == 204 { "" } else { "busy\nand more" };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} Some\r\n{headers}content-length: {length}\r\n\r\n{body}");
        if (&stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Received> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    assert!(line.starts_with("POST "), "{line}");
    let mut headers = std::collections::BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    let id = headers["webhook-id"].clone();
    let signed = [format!("{id}.{}.", headers["webhook-timestamp"]).into_bytes(), body.clone()].concat();
    let signature = STANDARD.decode(headers["webhook-signature"].strip_prefix("v1,").unwrap()).unwrap();
    let fits = |key: &[u8]| hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), &signed, &signature).is_ok();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["id"], id);
    let is_signed = fits(KEY);
    Some(Received { id, is_signed, fits_another_key: fits(b"another key, of as many bytes :-)"), path, body })
}
