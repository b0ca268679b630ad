//! Handlers about queues: list, show, set, remove; and whether a job may come into one. Called by the router and by whatever takes jobs. What a queue's limits mean is the planner's.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Extension, Json, extract::State};
use mlctl_protocol::spec::Resources;

use super::{
    Context, Shared,
    error::Failure,
    extract::{NamedQueue, Sent},
    permit::Peer,
    types::{QueueList, QueueRequest, QueueView, SCHEMA},
    view,
};
use crate::{
    domain::{
        Change,
        queue::{DEFAULT_QUEUE, Queue, QueueEdit, missing, queue_name},
        rules::Problem,
    },
    store::{Running, StoreError},
};

/// Queues named in a hint at most.
const MAX_NAMED: usize = 10;

/// `GET /v1/queues`.
pub(super) async fn list(State(api): State<Context>) -> Result<Json<QueueList>, Failure> {
    Ok(Json(QueueList { schema: SCHEMA, queues: views(&api).await?.into_values().collect() }))
}

/// `GET /v1/queues/{queue}`.
pub(super) async fn show(State(api): State<Context>, NamedQueue(name): NamedQueue) -> Result<Json<QueueView>, Failure> {
    let found = views(&api).await?.remove(&name);
    Ok(Json(found.ok_or(StoreError::NoQueue(name))?))
}

/// `POST /v1/queues/{queue}`.
pub(super) async fn set(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedQueue(name): NamedQueue,
    Sent(request): Sent<QueueRequest>,
) -> Result<Json<QueueView>, Failure> {
    if let Some(Problem { message, hint, .. }) = queue_name(&name) {
        return Err(Failure::bad_request(message, hint.unwrap_or_default()));
    }
    let QueueRequest { running, cpus, gpus, per_user, order, state } = request;
    let change = |limit: Option<Option<u32>>| limit.map(Change::from);
    let edit = QueueEdit {
        running: change(running),
        cpus: change(cpus),
        gpus: change(gpus),
        per_user: change(per_user),
        order,
        flow: state,
    };
    // One that is only stopped or opened is to be there: a slip of the fingers is to make no queue.
    let only_flows = edit.flow.is_some() && edit == QueueEdit { flow: edit.flow, ..QueueEdit::default() };
    if only_flows && !is_there(&api, &name).await? {
        return Err(StoreError::NoQueue(name).into());
    }
    let row = api.store.edit_queue(&name, edit, peer.uid).await?;
    // As it is by now, or as it was made where it is gone again already.
    let view = views(&api).await?.remove(&name);
    let made = || view::queue::view(&row.queue, Some(&row), BTreeMap::new(), Resources::NONE, &api.scene());
    Ok(Json(view.unwrap_or_else(made)))
}

/// `DELETE /v1/queues/{queue}`.
pub(super) async fn remove(
    State(api): State<Context>,
    NamedQueue(name): NamedQueue,
) -> Result<Json<QueueView>, Failure> {
    let row = api.store.remove_queue(&name).await?;
    Ok(Json(view::queue::view(&row.queue, Some(&row), BTreeMap::new(), Resources::NONE, &api.scene())))
}

/// Whether there is such a queue: one that has a row or jobs, or the default one.
async fn is_there(api: &Shared, name: &str) -> Result<bool, StoreError> {
    let is_known = name == DEFAULT_QUEUE || api.store.queues().contains_key(name);
    Ok(is_known || api.store.queue_counts().await?.contains_key(name))
}

/// All queues by name: those that have a row, those that have jobs, and the default one.
async fn views(api: &Shared) -> Result<BTreeMap<String, QueueView>, StoreError> {
    let rows = api.store.queues();
    let mut counts = api.store.queue_counts().await?;
    let mut used: BTreeMap<String, Resources> = BTreeMap::new();
    for Running { queue, has, .. } in api.store.occupants().await? {
        let used = used.entry(queue).or_insert(Resources::NONE);
        used.cpus = used.cpus.saturating_add(has.cpus);
        used.gpus = used.gpus.saturating_add(has.gpus);
        used.memory_mib = used.memory_mib.saturating_add(has.memory_mib);
    }
    let names: BTreeSet<String> = counts.keys().chain(rows.keys()).cloned().chain([DEFAULT_QUEUE.to_owned()]).collect();
    let scene = api.scene();
    let view = |name: String| {
        let row = rows.get(&name);
        let queue = row.map_or_else(|| Queue::open(&*name), |row| row.queue.clone());
        let counts = counts.remove(&name).unwrap_or_default();
        let used = used.remove(&name).unwrap_or(Resources::NONE);
        (name, view::queue::view(&queue, row, counts, used, &scene))
    };
    Ok(names.into_iter().map(view).collect())
}

/// Why a job may not come into its queue.
pub(super) fn problem(api: &Shared, queue: &str, needs: &Resources) -> Option<Problem> {
    let rows = api.store.queues();
    if let Some(row) = rows.get(queue) {
        return row.queue.refusal(needs);
    }
    let problem = missing(queue).filter(|_| queue_name(queue).is_none())?;
    let others = rows.keys().map(String::as_str).filter(|name| *name != DEFAULT_QUEUE).take(MAX_NAMED);
    let known: Vec<&str> = [DEFAULT_QUEUE].into_iter().chain(others).collect();
    let hint = format!("there are {}; `mlctl queue set {queue}` makes one", known.join(", "));
    Some(Problem { hint: Some(hint), ..problem })
}
