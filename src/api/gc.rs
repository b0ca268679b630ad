//! The handler of the collection: begins one, and says line by line how far it has come. Called by the router. What goes is the registry's to decide. Who hangs up does not end it.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use jiff::SignedDuration;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    Context, Shared,
    error::Failure,
    extract::Sent,
    types::{DEFAULT_GRACE_SECONDS, ErrorCode, GarbageView, GcRequest, GcView, SCHEMA, SumView},
};
use crate::{
    registry::gc::{Collected, GcError, Sum, Terms},
    scheduler::dispatch::DAMAGED_HINT,
};

/// How often it is said how far it has come.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// The longest grace, in seconds: ten years.
const MAX_GRACE_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// `POST /v1/gc`.
pub(super) async fn collect(State(api): State<Context>, Sent(request): Sent<GcRequest>) -> Result<Response, Failure> {
    api.check_sound()?;
    let grace = request.grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    if grace > MAX_GRACE_SECONDS {
        let message = format!("a grace time is at most {MAX_GRACE_SECONDS} seconds");
        return Err(Failure::bad_request(message, "for example 86400, a day"));
    }
    let (lines, receiver) = mpsc::channel(4);
    let stop = api.stop.clone();
    let shared = api.clone();
    api.tasks.spawn(async move {
        stop.run_until_cancelled(work(&shared, &request, grace, lines)).await;
    });
    let body = stream::unfold(receiver, |mut receiver| async {
        let line: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), receiver))
    });
    let response = Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from_stream(body));
    response.map_err(|error| Failure::internal("an answer could not be made", &error))
}

/// Collects, and says how far it has come to who listens.
async fn work(api: &Shared, request: &GcRequest, grace_seconds: u64, lines: mpsc::Sender<Bytes>) {
    let grace = SignedDuration::from_secs(i64::try_from(grace_seconds).unwrap_or(i64::MAX));
    let terms = Terms { grace, with_results: request.results };
    let heard = watch::Sender::new(Collected::default());
    let view = |collected: &Collected, is_done| GcView {
        dry_run: request.dry_run,
        grace_seconds,
        is_done,
        ..view(collected, is_done)
    };
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let collecting = api.collector.collect(terms, request.dry_run, &heard);
    tokio::pin!(collecting);
    let done = loop {
        tokio::select! {
            done = &mut collecting => break done,
            _ = ticks.tick() => {
                // A client that reads slowly or has gone misses a line, and keeps nothing from its end.
                if let Some(line) = line(&view(&heard.borrow(), false)) {
                    let _ = lines.try_send(line);
                }
            }
        }
    };
    let last = match done {
        Ok(collected) => view(&collected, true),
        Err(error) => GcView { error: Some(Failure::from(error).into_view()), ..view(&heard.borrow(), true) },
    };
    if let Some(line) = line(&last) {
        let _ = lines.send_timeout(line, Duration::from_secs(30)).await;
    }
}

fn line(view: &GcView) -> Option<Bytes> {
    let mut text = serde_json::to_vec(view).ok()?;
    text.push(b'\n');
    Some(text.into())
}

fn view(collected: &Collected, is_done: bool) -> GcView {
    let sum = |sum: Sum| SumView { objects: sum.objects, size_bytes: sum.bytes };
    let folders = collected.folders.iter().filter(|_| is_done).map(|(uri, sum)| GarbageView {
        uri: uri.clone(),
        objects: sum.objects,
        size_bytes: sum.bytes,
    });
    GcView {
        schema: SCHEMA,
        seen: sum(collected.seen),
        needed: sum(collected.needed),
        young: sum(collected.young),
        foreign: sum(collected.foreign),
        garbage: sum(collected.garbage),
        deleted: sum(collected.deleted),
        failed: collected.failed,
        folders: folders.collect(),
        has_more: collected.has_more,
        ..GcView::default()
    }
}

impl From<GcError> for Failure {
    fn from(error: GcError) -> Self {
        let message = error.to_string();
        match error {
            GcError::Busy => Self::new(ErrorCode::Busy, message, "wait until it is over, and ask again"),
            GcError::Unsound => Self::new(ErrorCode::Damaged, message, DAMAGED_HINT),
            GcError::Store(error) => error.into(),
            GcError::Artifact(error) => error.into(),
            GcError::Unreadable(cause) => Self::new(
                ErrorCode::Storage,
                format!("{message}: {cause}"),
                "`mlctl checkpoint verify` finds it; once its job is removed with `mlctl rm`, nothing of it is asked",
            ),
        }
    }
}
