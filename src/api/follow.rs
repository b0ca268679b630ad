//! Jobs as they go on: the job with its learning curve, and its events, as streams until the job has ended. Called by the router. A change is noticed by the store's
//! word; what is no change of state (progress, points) is looked for every second while somebody follows.

use std::{io, time::Duration};

use axum::{extract::State, http::HeaderMap, response::Response};
use mlctl_protocol::JobId;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::warn;

use super::{
    Context, Shared,
    error::Failure,
    extract::{Asked, Named},
    query::FollowQuery,
    stream::{self, Gone, Messages},
    types::{FollowedPoints, JobView, follow},
    view,
};
use crate::{domain::causes, store::StoreError};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The least time between two looks, however much changes: other jobs' changes wake everybody who follows.
const PAUSE: Duration = Duration::from_millis(50);

/// Points or events read at a time.
const PAGE: u32 = 1000;

/// Why a stream ends early.
pub(super) enum Cut {
    /// The client is gone.
    Gone,
    /// The database failed.
    Store(StoreError),
    /// A file could not be read.
    File(io::Error),
}

impl From<Gone> for Cut {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<StoreError> for Cut {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Cut {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// The end of a stream: a client sees one that was cut off by the missing `end`.
pub(super) fn close(id: JobId, ended: Result<(), Cut>) -> Result<(), Gone> {
    let error = match ended {
        Ok(()) => return Ok(()),
        Err(Cut::Gone) => return Err(Gone),
        Err(Cut::Store(error)) => causes(&error),
        Err(Cut::File(error)) => causes(&error),
    };
    warn!(job_id = %id, error, "a job can no longer be followed");
    Err(Gone)
}

/// Wakes a stream: when something has changed, and once a second, but not more often than is good for the others.
pub(super) struct Looks {
    changes: watch::Receiver<i64>,
    last: Instant,
}

impl Looks {
    pub(super) fn new(api: &Shared) -> Self {
        Self { changes: api.store.changes(), last: Instant::now() }
    }

    /// Call before reading: what changes from here on wakes [`next`](Self::next). Whether anything has changed since the last time.
    pub(super) fn begin(&mut self) -> bool {
        let changed = self.changes.has_changed().unwrap_or(false);
        self.changes.mark_unchanged();
        self.last = Instant::now();
        changed
    }

    /// Waits for a reason to look again, `every` so long at most.
    pub(super) async fn next(&mut self, every: Duration) {
        // An error means that the store is closing: the stop ends the stream.
        let _ = timeout(every, self.changes.clone().changed()).await;
        sleep_until(self.last + PAUSE).await;
    }
}

/// `GET /v1/jobs/{job}/follow`.
pub(super) async fn follow(
    State(api): State<Context>,
    Named(id): Named,
    Asked(query): Asked<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let after = stream::last_id(&headers)?.or(query.after).unwrap_or(0);
    let shared = api.clone();
    stream::open(&api, move |messages| async move { close(id, job(&shared, id, after, &messages).await) })
}

async fn job(api: &Shared, id: JobId, mut after: i64, messages: &Messages) -> Result<(), Cut> {
    let mut looks = Looks::new(api);
    let mut seen: Option<JobView> = None;
    loop {
        looks.begin();
        // The job before its points: when it has ended, no more come.
        let view = api.job_view(id).await?;
        if seen.as_ref() != Some(&view) {
            messages.send(follow::JOB, None, &view).await?;
        }
        loop {
            let points = api.store.metrics(id, after, PAGE).await?;
            let Some((last, _)) = points.last() else { break };
            after = *last;
            let points = FollowedPoints { points: points.into_iter().map(view::point).collect() };
            messages.send(follow::METRICS, Some(after), &points).await?;
        }
        if view.is_terminal() {
            messages.send(follow::END, None, &view).await?;
            return Ok(());
        }
        seen = Some(view);
        looks.next(LOOK).await;
    }
}

/// `GET /v1/jobs/{job}/events?follow=true`.
pub(super) fn events(api: &Context, id: JobId, after: i64) -> Result<Response, Failure> {
    let shared = api.clone();
    stream::open(api, move |messages| async move { close(id, all_events(&shared, id, after, &messages).await) })
}

async fn all_events(api: &Shared, id: JobId, mut after: i64, messages: &Messages) -> Result<(), Cut> {
    let mut looks = Looks::new(api);
    loop {
        looks.begin();
        let view = api.job_view(id).await?;
        loop {
            let events = api.store.events(Some(id), after, PAGE).await?;
            if events.is_empty() {
                break;
            }
            let scene = api.scene();
            for event in events {
                after = event.id;
                messages.send(follow::EVENT, Some(after), &view::event::view(&event, &scene)).await?;
            }
        }
        if view.is_terminal() {
            messages.send(follow::END, None, &view).await?;
            return Ok(());
        }
        // Events are changes: the store says so.
        looks.next(Duration::from_secs(60)).await;
    }
}
