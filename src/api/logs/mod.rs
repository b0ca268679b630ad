//! `GET /v1/jobs/{job}/logs`: what workers printed, as it is or as it goes on. Called by the router. The files are read on threads that may block; they are looked at
//! ten times a second while somebody follows, since a worker that writes to its own file tells nobody.

mod files;

use std::{io, path::PathBuf, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream::try_unfold;
use mlctl_protocol::{AttemptNumber, JobId, spec::CommandSpec};
use tokio::task::spawn_blocking;

use self::files::{Decoder, Snapshot, Tail};
use super::{
    Context, Shared,
    error::Failure,
    extract::{Asked, Named},
    follow::{Cut, Looks, close},
    query::{LogStream, LogsQuery},
    stream::{self, Messages},
    types::{ErrorCode, LogAttempt, LogPiece, follow},
};
use crate::{store::JobDetail, supervisor::Stream};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// While there is no attempt to look at, the store's word is waited for.
const LONG_LOOK: Duration = Duration::from_secs(60);

/// `GET /v1/jobs/{job}/logs`.
pub(super) async fn logs(
    State(api): State<Context>,
    Named(id): Named,
    Asked(query): Asked<LogsQuery>,
) -> Result<Response, Failure> {
    let LogsQuery { attempt, stream, tail, follow } = query;
    let job = api.store.job(id).await?.job;
    let stream = match (stream, job.kind.as_str()) {
        (Some(LogStream::Stdout), _) | (None, CommandSpec::KIND) => Stream::Stdout,
        (Some(LogStream::Stderr) | None, _) => Stream::Stderr,
    };
    let started = job.attempt;
    if let Some(attempt) = attempt
        && !(1..=started).contains(&attempt)
    {
        let message = format!("job {id} has no attempt {attempt}; it was started {started} times");
        return Err(Failure::new(ErrorCode::NotFound, message, "leave --attempt away for the last one"));
    }
    if follow {
        let asked = Followed { id, stream, only: attempt, tail };
        let shared = api.clone();
        return stream::open(&api, move |messages| async move { close(id, asked.run(&shared, &messages).await) });
    }
    let attempt = attempt.unwrap_or(started);
    if attempt == 0 {
        let message = format!("job {id} has not been started, and nothing was printed");
        return Err(Failure::new(ErrorCode::WrongState, message, format!("`mlctl logs -f {id}` waits for it")));
    }
    let path = api.supervisor.log_path(id, AttemptNumber(attempt), stream);
    let (snapshot, begin) = open(path, tail).await.map_err(|error| unreadable(&error))?;
    Ok((
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        Body::from_stream(try_unfold((snapshot, begin), |(snapshot, offset)| async move {
            let (snapshot, piece) = read(snapshot, offset).await?;
            let next = offset + piece.len() as u64;
            Ok::<_, io::Error>((!piece.is_empty()).then(|| (Bytes::from(piece), (snapshot, next))))
        })),
    )
        .into_response())
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::internal("the log cannot be read", error)
}

/// The files, and where to begin.
async fn open(path: PathBuf, tail: Option<u32>) -> io::Result<(Snapshot, u64)> {
    blocking(move || {
        let snapshot = Snapshot::open(&path)?;
        let begin = tail.map_or(Ok(0), |lines| snapshot.last_lines(lines))?;
        Ok((snapshot, begin))
    })
    .await
}

async fn read(snapshot: Snapshot, offset: u64) -> io::Result<(Snapshot, Vec<u8>)> {
    blocking(move || snapshot.read(offset).map(|piece| (snapshot, piece))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A log that is followed.
struct Followed {
    id: JobId,
    stream: Stream,
    /// No other attempt.
    only: Option<u32>,
    /// Lines of the first attempt's past.
    tail: Option<u32>,
}

impl Followed {
    async fn run(self, api: &Shared, messages: &Messages) -> Result<(), Cut> {
        let mut looks = Looks::new(api);
        let mut shown = None;
        loop {
            looks.begin();
            let detail = api.store.job(self.id).await?;
            let next = match (shown, self.only) {
                (None, Some(only)) => Some(only),
                (Some(_), Some(_)) => None,
                (None, None) => (detail.job.attempt > 0).then_some(detail.job.attempt),
                (Some(shown), None) => (detail.job.attempt > shown).then_some(shown + 1),
            };
            match next {
                Some(attempt) => {
                    let tail = if shown.is_none() { self.tail } else { None };
                    self.attempt(api, messages, attempt, tail).await?;
                    shown = Some(attempt);
                }
                None if detail.job.state.is_terminal() || self.only.is_some() => {
                    messages.send(follow::END, None, &api.job_view(self.id).await?).await?;
                    return Ok(());
                }
                None => looks.next(LONG_LOOK).await,
            }
        }
    }

    /// All that an attempt prints, until it is over.
    async fn attempt(&self, api: &Shared, messages: &Messages, attempt: u32, tail: Option<u32>) -> Result<(), Cut> {
        messages.send(follow::ATTEMPT, None, &LogAttempt { attempt }).await?;
        let path = api.supervisor.log_path(self.id, AttemptNumber(attempt), self.stream);
        let mut pieces = Pieces { messages, attempt, decoder: Decoder::default() };
        let (mut snapshot, mut offset) = open(path.clone(), tail).await?;
        let written = snapshot.current_size();
        loop {
            let (same, piece) = read(snapshot, offset).await?;
            if piece.is_empty() {
                break;
            }
            snapshot = same;
            offset += piece.len() as u64;
            pieces.send(&piece).await?;
        }
        let mut end = Tail::new(path, written);
        let mut looks = Looks::new(api);
        let mut over = is_over(&api.store.job(self.id).await?, attempt);
        loop {
            // Whether it is over, before what it printed: what comes after its end is nothing.
            if looks.begin() {
                over = is_over(&api.store.job(self.id).await?, attempt);
            }
            loop {
                let piece;
                (end, piece) = blocking(move || end.read().map(|piece| (end, piece))).await?;
                if piece.is_empty() {
                    break;
                }
                pieces.send(&piece).await?;
            }
            if over {
                return pieces.finish().await;
            }
            looks.next(LOOK).await;
        }
    }
}

fn is_over(detail: &JobDetail, attempt: u32) -> bool {
    let ended = detail.attempt.as_ref().is_some_and(|last| last.ended_at.is_some());
    detail.job.attempt > attempt || ended
}

/// An attempt's print on its way to the client.
struct Pieces<'a> {
    messages: &'a Messages,
    attempt: u32,
    decoder: Decoder,
}

impl Pieces<'_> {
    async fn send(&mut self, piece: &[u8]) -> Result<(), Cut> {
        let text = self.decoder.decode(piece);
        self.text(text).await
    }

    async fn finish(&mut self) -> Result<(), Cut> {
        let text = self.decoder.finish();
        self.text(text).await
    }

    async fn text(&self, text: String) -> Result<(), Cut> {
        if text.is_empty() {
            return Ok(());
        }
        Ok(self.messages.send(follow::LOG, None, &LogPiece { attempt: self.attempt, text }).await?)
    }
}
