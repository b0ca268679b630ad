//! Handlers that remove jobs and arrays for good. Called by the router. Which may go is `domain::state`'s; what is deleted, in which order, is the supervisor's.

use axum::{Extension, Json, extract::State};
use mlctl_protocol::JobId;

use super::{
    Context, Shared,
    error::Failure,
    extract::{Asked, Named, NamedArray},
    permit::Peer,
    query::RemoveQuery,
    types::{ErrorCode, MAX_REMOVED_URIS, RemovedView, SCHEMA},
};
use crate::{
    domain::array::is_final,
    store::StoreError,
    supervisor::{Removal, Removed},
};

/// `DELETE /v1/jobs/{job}`.
pub(super) async fn job(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Named(id): Named,
    Asked(RemoveQuery { objects }): Asked<RemoveQuery>,
) -> Result<Json<RemovedView>, Failure> {
    let found = api.store.job(id).await?.job;
    if let Some(array) = &found.array {
        let message = format!("job {id} is member {} of array {} and is removed with it", array.index, array.id);
        return Err(Failure::new(ErrorCode::WrongState, message, format!("`mlctl rm {}` removes the array", array.id)));
    }
    if !found.state.is_terminal() {
        return Err(unfinished(format!("job {id} is {}", found.state.name()), id));
    }
    let removal = Removal { jobs: vec![id], by: peer.uid, with_array: false, with_objects: objects };
    let removed = api.remove(removal).await?;
    Ok(Json(view(id, found.name, removed)))
}

/// `DELETE /v1/arrays/{array}`: an array of which every member has ended. When the daemon is killed meanwhile, what is left of it is removed by asking again.
pub(super) async fn array(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedArray(id): NamedArray,
    Asked(RemoveQuery { objects }): Asked<RemoveQuery>,
) -> Result<Json<RemovedView>, Failure> {
    let array = api.store.array(id).await?;
    let open: Vec<_> = array.counts.iter().filter(|(tally, _)| !is_final(tally)).collect();
    if !open.is_empty() {
        let open: Vec<_> = open.into_iter().map(|(tally, jobs)| format!("{jobs} {tally}")).collect();
        return Err(unfinished(format!("array {id} has members that have not ended: {}", open.join(", ")), id));
    }
    let jobs = api.store.member_ids(id).await?;
    let removal = Removal { jobs, by: peer.uid, with_array: true, with_objects: objects };
    let removed = api.remove(removal).await?;
    Ok(Json(view(id, array.name, removed)))
}

fn unfinished(what: String, id: JobId) -> Failure {
    let hint = format!("end it first with `mlctl cancel {id}`, and `mlctl wait {id}` until it has");
    Failure::new(ErrorCode::WrongState, format!("{what}, and only what has ended is removed"), hint)
}

impl Shared {
    /// Removes all of these, or fails with the first that stays.
    async fn remove(&self, removal: Removal) -> Result<Vec<Removed>, StoreError> {
        self.supervisor.remove(removal).await?.into_iter().collect()
    }
}

fn view(id: JobId, name: String, removed: Vec<Removed>) -> RemovedView {
    let jobs = removed.len();
    let (mut kept, mut left) = (Vec::new(), Vec::new());
    for job in removed {
        kept.extend(job.kept);
        left.extend(job.left);
    }
    let (kept_count, left_count) = (kept.len(), left.len());
    kept.truncate(MAX_REMOVED_URIS);
    left.truncate(MAX_REMOVED_URIS);
    RemovedView { schema: SCHEMA, id, name, jobs, kept, kept_count, left, left_count }
}
