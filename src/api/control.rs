//! Handlers of what a person does to jobs: cancel, stop, pause, hold, release, edit, retry. Called by the router. What is legal is `domain::state`'s.

use std::collections::BTreeMap;

use axum::{Extension, Json, extract::State};
use jiff::Timestamp;
use mlctl_protocol::spec::Resources;

use super::{
    Context, Shared,
    error::Failure,
    extract::{Named, Sent},
    permit::Peer,
    queues,
    types::{EditRequest, HoldRequest, JobView, MAX_HOLD_REASON},
};
use crate::domain::{
    Change, Command, Edit, Hold, Terms, Uid,
    queue::queue_name,
    rules::{self, Problem},
};

/// `POST /v1/jobs/{job}/cancel`.
pub(super) async fn cancel(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Named(id): Named,
) -> Result<Json<JobView>, Failure> {
    api.supervisor.cancel(id, peer.uid).await?;
    Ok(Json(api.job_view(id).await?))
}

/// `POST /v1/jobs/{job}/stop`.
pub(super) async fn stop(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Named(id): Named,
) -> Result<Json<JobView>, Failure> {
    api.supervisor.stop(id, peer.uid).await?;
    Ok(Json(api.job_view(id).await?))
}

/// `POST /v1/jobs/{job}/hold`.
pub(super) async fn hold(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Named(id): Named,
    Sent(HoldRequest { reason }): Sent<HoldRequest>,
) -> Result<Json<JobView>, Failure> {
    let hold = held_by(peer.uid, reason)?;
    api.store.command(id, None, Command::Hold { hold }).await?;
    Ok(Json(api.job_view(id).await?))
}

/// `POST /v1/jobs/{job}/pause`.
pub(super) async fn pause(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Named(id): Named,
    Sent(HoldRequest { reason }): Sent<HoldRequest>,
) -> Result<Json<JobView>, Failure> {
    api.supervisor.pause(id, held_by(peer.uid, reason)?).await?;
    Ok(Json(api.job_view(id).await?))
}

/// `POST /v1/jobs/{job}/release`.
pub(super) async fn release(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Named(id): Named,
) -> Result<Json<JobView>, Failure> {
    api.store.command(id, None, Command::Release { by: peer.uid }).await?;
    Ok(Json(api.job_view(id).await?))
}

/// `POST /v1/jobs/{job}/edit`.
pub(super) async fn edit(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Named(id): Named,
    Sent(request): Sent<EditRequest>,
) -> Result<Json<JobView>, Failure> {
    let edit = asked(request);
    // As it is now: two who edit at once could together exceed the number of labels, which harms nothing.
    let job = api.store.job(id).await?.job;
    let moved = edit.queue.as_ref().filter(|queue| **queue != job.queue);
    check(&api, &edit, &job.labels, moved.map(|_| &job.resources))?;
    api.supervisor.edit(id, peer.uid, edit).await?;
    Ok(Json(api.job_view(id).await?))
}

/// What a request wants changed.
pub(super) fn asked(request: EditRequest) -> Edit {
    let EditRequest { priority, queue, labels, begin, deadline, time_limit_seconds, retries } = request;
    let whole =
        |at: Option<Timestamp>| Change::from(at.and_then(|at| Timestamp::from_microsecond(at.as_microsecond()).ok()));
    let terms = Terms {
        begin: begin.map(whole),
        deadline: deadline.map(whole),
        time_limit_seconds: time_limit_seconds.map(Change::from),
        retries,
    };
    Edit { priority, queue, labels, terms }
}

/// Whether an edit can be of jobs with these labels, of which those that move to its queue need so much.
pub(super) fn check<'a>(
    api: &Shared,
    edit: &Edit,
    labels: &BTreeMap<String, String>,
    moved: impl IntoIterator<Item = &'a Resources>,
) -> Result<(), Failure> {
    let closed = edit.queue.as_ref().and_then(|queue| {
        moved.into_iter().find_map(|needs| queue_name(queue).or_else(|| queues::problem(api, queue, needs)))
    });
    let kept = edit.labels_of(labels);
    let problems = closed.into_iter().chain(rules::of_edit(edit.priority, &kept)).chain(rules::of_terms(&edit.terms));
    match problems.into_iter().next() {
        None => Ok(()),
        Some(Problem { path, message, hint }) => {
            Err(Failure::bad_request(format!("{path}: {message}"), hint.unwrap_or_default()))
        }
    }
}

/// `POST /v1/jobs/{job}/retry`.
pub(super) async fn retry(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Named(id): Named,
) -> Result<Json<JobView>, Failure> {
    api.store.command(id, None, Command::Retry { by: peer.uid }).await?;
    Ok(Json(api.job_view(id).await?))
}

/// A hold, if its reason is a line of a bounded length.
pub(super) fn held_by(by: Uid, reason: Option<String>) -> Result<Hold, Failure> {
    let hint = "say in a line what it waits for";
    if reason.as_deref().is_some_and(|reason| reason.chars().any(char::is_control)) {
        return Err(Failure::bad_request("the reason of a hold has control characters in it", hint));
    }
    if reason.as_deref().is_some_and(|reason| reason.chars().count() > MAX_HOLD_REASON) {
        let message = format!("the reason of a hold has more than {MAX_HOLD_REASON} characters");
        return Err(Failure::bad_request(message, hint));
    }
    Ok(Hold { by, reason: reason.filter(|reason| !reason.trim().is_empty()), not_before: None })
}
