//! HTTP over the daemon's Unix socket: one connection a request, which costs microseconds here and never meets one that has gone stale. Every wait has a limit. Knows the
//! bodies of `api::types` and what their errors mean; what is done with an answer is the verbs' business.

mod connect;
mod events;
mod sse;

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};

use super::{Failure, exit::Exit};
use crate::api::types::ErrorBody;

pub use events::{Events, Followed};

/// How long an answer may take.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long the daemon may look at the whole of something, or wait for a worker: a little longer than it gives itself.
pub const LONG_LIMIT: Duration = Duration::from_secs(100);

/// How long it may read large objects.
pub const READ_LIMIT: Duration = Duration::from_secs(3600);

/// How long a submit whose connection broke is tried again: as long as a daemon takes to start anew.
const RETRY_FOR: Duration = Duration::from_secs(10);
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// The largest answer that is read as JSON: a list of the most jobs that one list has.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The way to the daemon.
pub struct Client {
    sockets: Vec<PathBuf>,
    /// The command that starts a daemon.
    starter: String,
}

/// Why there is no answer.
enum Trouble {
    /// No socket was answered at.
    Unreachable(Failure),
    /// The connection broke before the answer was there.
    Broken(String),
    /// The answer took too long.
    Slow(Duration),
}

/// A request without a connection.
struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Bytes,
    last_event: Option<&'a str>,
    limit: Duration,
}

impl Client {
    /// A client that tries these sockets in order.
    pub fn new(sockets: Vec<PathBuf>, starter: String) -> Self {
        Self { sockets, starter }
    }

    /// The sockets that are tried, in order.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.get_within(path, ANSWER_LIMIT).await
    }

    /// Asks for something that may take long.
    pub async fn get_within<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, Failure> {
        let call = Call { method: Method::GET, path, body: Bytes::new(), last_event: None, limit };
        let response = self.call(&call).await.map_err(|trouble| self.failure(trouble))?;
        self.answer(response, limit).await
    }

    /// Asks for something to be done.
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.post_body(path, &(), ANSWER_LIMIT).await
    }

    /// Asks for something to be done as the body says, which may take long; `()` is no body.
    pub async fn post_body<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, Failure> {
        let call = Call { method: Method::POST, path, body: encode(body)?, last_event: None, limit };
        let response = self.call(&call).await.map_err(|trouble| self.failure(trouble))?;
        self.answer(response, limit).await
    }

    /// Asks for something to be removed.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let limit = LONG_LIMIT;
        let call = Call { method: Method::DELETE, path, body: Bytes::new(), last_event: None, limit };
        let response = self.call(&call).await.map_err(|trouble| self.failure(trouble))?;
        self.answer(response, limit).await
    }

    /// Asks for something that may be asked for twice, as its body carries an idempotency key or a name: when the connection breaks, it is asked for again, until a restarting daemon
    /// should be back. The status tells whether it was new.
    pub async fn post_safely<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(StatusCode, T), Failure> {
        let call = Call { method: Method::POST, path, body: encode(body)?, last_event: None, limit: ANSWER_LIMIT };
        let mut retry_until = None;
        loop {
            let trouble = match self.call(&call).await {
                Ok(response) => match self.read(response, ANSWER_LIMIT).await {
                    Ok((status, bytes)) => return Ok((status, decode(status, &bytes)?)),
                    Err(trouble) => trouble,
                },
                Err(trouble) => trouble,
            };
            let now = Instant::now();
            match (&trouble, retry_until) {
                // Nothing was ever sent.
                (Trouble::Unreachable(_), None) => return Err(self.failure(trouble)),
                (_, None) => retry_until = Some(now + RETRY_FOR),
                (_, Some(until)) if now >= until => return Err(self.failure(trouble)),
                _ => {}
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Asks for bytes that are handed over as they come.
    pub async fn download(&self, path: &str) -> Result<Download, Failure> {
        let call = Call { method: Method::GET, path, body: Bytes::new(), last_event: None, limit: ANSWER_LIMIT };
        let response = self.call(&call).await.map_err(|trouble| self.failure(trouble))?;
        if response.status().is_success() {
            return Ok(Download { body: response.into_body() });
        }
        Err(self.refusal(response).await)
    }

    /// Asks for something to be done of which is told as it goes on.
    pub async fn post_and_listen(&self, path: &str, body: &impl Serialize) -> Result<Download, Failure> {
        let call = Call { method: Method::POST, path, body: encode(body)?, last_event: None, limit: ANSWER_LIMIT };
        let response = self.call(&call).await.map_err(|trouble| self.failure(trouble))?;
        if response.status().is_success() {
            return Ok(Download { body: response.into_body() });
        }
        Err(self.refusal(response).await)
    }

    /// Follows a stream of events to its end, over restarts of the daemon.
    pub fn events(&self, path: String) -> Events<'_> {
        Events::new(self, path)
    }

    async fn call(&self, call: &Call<'_>) -> Result<Response<Incoming>, Trouble> {
        let mut sender = connect::connect(&self.sockets, &self.starter).await.map_err(Trouble::Unreachable)?;
        let mut request = Request::builder().method(&call.method).uri(call.path).header(HOST, "mld");
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(id) = call.last_event {
            request = request.header("Last-Event-ID", id);
        }
        let request = request.header(ACCEPT, "*/*").body(Full::new(call.body.clone()));
        let request = request.map_err(|error| Trouble::Broken(error.to_string()))?;
        match timeout(call.limit, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Trouble::Broken(broken(&error))),
            Err(_) => Err(Trouble::Slow(call.limit)),
        }
    }

    async fn read(&self, response: Response<Incoming>, limit: Duration) -> Result<(StatusCode, Bytes), Trouble> {
        let status = response.status();
        match timeout(limit, Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect()).await {
            Ok(Ok(body)) => Ok((status, body.to_bytes())),
            Ok(Err(error)) => Err(Trouble::Broken(error.to_string())),
            Err(_) => Err(Trouble::Slow(limit)),
        }
    }

    async fn answer<T: DeserializeOwned>(&self, response: Response<Incoming>, limit: Duration) -> Result<T, Failure> {
        let (status, bytes) = self.read(response, limit).await.map_err(|trouble| self.failure(trouble))?;
        decode(status, &bytes)
    }

    async fn refusal(&self, response: Response<Incoming>) -> Failure {
        match self.read(response, ANSWER_LIMIT).await {
            Ok((status, bytes)) => refused(status, &bytes),
            Err(trouble) => self.failure(trouble),
        }
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Unreachable(failure) => failure,
            Trouble::Broken(why) => {
                Failure::new(Exit::Unreachable, format!("the connection to the daemon broke: {why}"))
                    .hint("ask again; `mlctl daemon status` says whether it runs")
            }
            Trouble::Slow(limit) => {
                let why = format!("the daemon did not answer within {} s", limit.as_secs());
                Failure::new(Exit::Unreachable, why).hint("ask again; `mlctl doctor` looks at what may be slow")
            }
        }
    }
}

/// A body that is handed over as it comes.
pub struct Download {
    body: Incoming,
}

impl Download {
    /// The next bytes; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match timeout(ANSWER_LIMIT, self.body.frame()).await {
                Ok(frame) => frame,
                Err(_) => return Err(Failure::new(Exit::Unreachable, "the daemon stopped sending")),
            };
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    return Err(Failure::new(Exit::Unreachable, format!("the connection broke: {}", broken(&error))));
                }
            }
        }
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, Failure> {
    let text = serde_json::to_vec(body).map_err(|error| Failure::caused("write the request", &error))?;
    Ok(if text == b"null" { Bytes::new() } else { text.into() })
}

/// An error and its causes in one line: hyper's own words alone say little.
fn broken(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn decode<T: DeserializeOwned>(status: StatusCode, bytes: &[u8]) -> Result<T, Failure> {
    if !status.is_success() {
        return Err(refused(status, bytes));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::caused("the daemon's answer is not understood", &error)
            .hint("mlctl and mld must be of the same release: `mlctl version`, `mlctl daemon status`")
    })
}

fn refused(status: StatusCode, bytes: &[u8]) -> Failure {
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => body.error.into(),
        Err(_) => Failure::new(Exit::Failed, format!("the daemon answered with status {status} and no reason"))
            .hint("is it a daemon of mlctl's that listens there?"),
    }
}
