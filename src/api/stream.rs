//! Server-sent events: a task that makes messages, a bounded channel, a body. Called by the handlers that follow something. A stream ends when its task does: at its
//! own end, when the client is gone, when the daemon stops.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::HeaderMap,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};

use super::{Context, error::Failure, types::ErrorCode};

/// Streams at a time.
const MAX_STREAMS: usize = 128;

/// Messages on their way to a client; one that reads slowly is waited for.
const MESSAGES: usize = 16;

/// A sign of life is sent after so long without a message, so that a client that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How many more streams there may be.
#[derive(Debug)]
pub(super) struct Streams {
    slots: Arc<Semaphore>,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { slots: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}

/// The client's end of a stream is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// Where a stream's task puts its messages.
pub(super) struct Messages {
    sender: mpsc::Sender<Event>,
}

impl Messages {
    /// Sends a message. With an `id`, a client that comes back with it goes on after this message.
    pub(super) async fn send(&self, name: &str, id: Option<i64>, data: &impl Serialize) -> Result<(), Gone> {
        // What is sent are plain bodies, which have a form in JSON.
        let event = Event::default().event(name).json_data(data).map_err(|_| Gone)?;
        let event = match id {
            Some(id) => event.id(id.to_string()),
            None => event,
        };
        self.sender.send(event).await.map_err(|_| Gone)
    }
}

/// A stream of what `work` sends, until it is done.
pub(super) fn open<W>(api: &Context, work: impl FnOnce(Messages) -> W) -> Result<Response, Failure>
where
    W: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let busy = |_| {
        let message = format!("{MAX_STREAMS} clients follow something already");
        Failure::new(ErrorCode::Busy, message, "end some of them, or look without following")
    };
    let slot = api.streams.slots.clone().try_acquire_owned().map_err(busy)?;
    let (sender, receiver) = mpsc::channel(MESSAGES);
    let gone = sender.clone();
    let work = work(Messages { sender });
    let stop = api.stop.clone();
    api.tasks.spawn(async move {
        let _slot = slot;
        tokio::select! {
            _ = work => {}
            () = gone.closed() => {}
            () = stop.cancelled() => {}
        }
    });
    let messages = stream::unfold(receiver, |mut receiver| async {
        let message = receiver.recv().await?;
        Some((Ok::<_, Infallible>(message), receiver))
    });
    Ok(Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// The id of the last message that a client had before it came back.
pub(super) fn last_id(headers: &HeaderMap) -> Result<Option<i64>, Failure> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    id.map(Some).ok_or_else(|| {
        Failure::bad_request("Last-Event-ID is not a number", "send back the id of the last message, or none")
    })
}
