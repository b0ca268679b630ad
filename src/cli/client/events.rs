//! A stream of events that outlives the daemon: when it breaks before its `end`, it is asked for again from the last id that was seen.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, body::Incoming};
use tokio::time::{Instant, sleep, timeout};

use super::{ANSWER_LIMIT, Call, Client, Trouble, sse};
use crate::{api::types::follow, cli::Failure};

/// How long a stream may be silent: the daemon says something every few seconds, if only that it is still there.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How long a daemon may be away before it is given up.
const AWAY_LIMIT: Duration = Duration::from_secs(300);

/// The waits between attempts to reach it again, the first and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// A stream of events.
pub struct Events<'a> {
    client: &'a Client,
    path: String,
    last_id: Option<String>,
    body: Option<Incoming>,
    parser: sse::Parser,
    ready: VecDeque<sse::Message>,
    /// Since when the daemon is away.
    away: Option<Instant>,
    retry_after: Duration,
    has_begun: bool,
    is_over: bool,
}

/// What comes of following.
#[derive(Debug)]
pub enum Followed {
    /// A message; the last one is `end`.
    Message(sse::Message),
    /// The daemon is gone; it is waited for.
    Away,
    /// The daemon is there again.
    Back,
}

impl<'a> Events<'a> {
    pub(super) fn new(client: &'a Client, path: String) -> Self {
        Self {
            client,
            path,
            last_id: None,
            body: None,
            parser: sse::Parser::default(),
            ready: VecDeque::new(),
            away: None,
            retry_after: RETRY_FIRST,
            has_begun: false,
            is_over: false,
        }
    }

    /// What comes next; nothing after `end`. May be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// The daemon refuses, cannot be reached at first, or is away for too long.
    pub async fn next(&mut self) -> Result<Option<Followed>, Failure> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                if message.id.is_some() {
                    self.last_id.clone_from(&message.id);
                }
                self.is_over |= message.event == follow::END;
                return Ok(Some(Followed::Message(message)));
            }
            if self.is_over {
                return Ok(None);
            }
            let Some(body) = &mut self.body else {
                match self.open().await? {
                    Some(step) => return Ok(Some(step)),
                    None => continue,
                }
            };
            match timeout(SILENCE_LIMIT, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let fed = frame.into_data().map(|data| self.parser.feed(&data));
                    match fed {
                        Ok(Ok(messages)) => self.ready.extend(messages),
                        Ok(Err(sse::TooLarge)) => {
                            return Err(self.client.failure(Trouble::Broken("a message is too large".into())));
                        }
                        Err(_) => {}
                    }
                }
                // Cut off: by the daemon's stop, its death, or because it says nothing any more.
                Ok(Some(Err(_)) | None) | Err(_) => {
                    self.body = None;
                    self.parser = sse::Parser::default();
                    self.away = Some(Instant::now());
                    return Ok(Some(Followed::Away));
                }
            }
        }
    }

    /// Opens the stream. Says so when the daemon had been away.
    async fn open(&mut self) -> Result<Option<Followed>, Failure> {
        if self.away.is_some() {
            sleep(self.retry_after).await;
            self.retry_after = (self.retry_after * 2).min(RETRY_MOST);
        }
        let last_event = self.last_id.as_deref();
        let call = Call { method: Method::GET, path: &self.path, body: Bytes::new(), last_event, limit: ANSWER_LIMIT };
        match self.client.call(&call).await {
            Ok(response) if response.status().is_success() => {
                self.body = Some(response.into_body());
                self.has_begun = true;
                self.retry_after = RETRY_FIRST;
                Ok(self.away.take().map(|_| Followed::Back))
            }
            // A daemon that is stopping still answers, and is then away.
            Ok(response) if response.status().is_server_error() && self.has_begun => {
                self.waited_too_long(Trouble::Broken(response.status().to_string()))
            }
            Ok(response) => Err(self.client.refusal(response).await),
            Err(trouble) if self.has_begun => self.waited_too_long(trouble),
            Err(trouble) => Err(self.client.failure(trouble)),
        }
    }

    fn waited_too_long(&mut self, trouble: Trouble) -> Result<Option<Followed>, Failure> {
        match self.away {
            Some(since) if since.elapsed() > AWAY_LIMIT => Err(self.client.failure(trouble)),
            _ => Ok(None),
        }
    }
}
