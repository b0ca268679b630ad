//! Handlers about a job's checkpoints: list, show, verify, take one now, remove one. Called by the router. Nothing here is larger than a manifest: objects are read back in pieces.

use axum::{Json, extract::State};
use mlctl_artifacts::{ArtifactError, checkpoint, manifest::Role};
use mlctl_protocol::{JobId, result::CheckpointRef};

use super::{
    Context, Shared,
    error::Failure,
    extract::{Named, Sent, Step},
    types::{
        CheckpointDetail, CheckpointList, ErrorCode, ObjectView, RemovedCheckpointView, SCHEMA, VerifiedView,
        VerifyRequest, VerifyView,
    },
    view,
};
use crate::{store::StoreError, supervisor::Judged};

/// `GET /v1/jobs/{job}/checkpoints`.
pub(super) async fn list(State(api): State<Context>, Named(id): Named) -> Result<Json<CheckpointList>, Failure> {
    let job = api.store.job(id).await?.job;
    let judged = api.supervisor.judged(id).await?;
    let checkpoints = judged.iter().map(|judged| view::checkpoint(&job, judged)).collect();
    Ok(Json(CheckpointList { schema: SCHEMA, id, checkpoints }))
}

/// `GET /v1/jobs/{job}/checkpoints/{step}`: the newest one of that step.
pub(super) async fn show(
    State(api): State<Context>,
    Named(id): Named,
    Step(step): Step,
) -> Result<Json<CheckpointDetail>, Failure> {
    let judged = api.supervisor.judged(id).await?;
    let found = judged.into_iter().find(|found| found.kept.checkpoint.step == step);
    Ok(Json(detail(&api, id, &found.ok_or_else(|| none(id, Some(step)))?).await?))
}

/// `POST /v1/jobs/{job}/checkpoint`: a running job takes one now; the answer comes when it is durable.
pub(super) async fn take(State(api): State<Context>, Named(id): Named) -> Result<Json<CheckpointDetail>, Failure> {
    let taken = api.supervisor.checkpoint(id).await?;
    let judged = api.supervisor.judged(id).await?;
    let found = judged.into_iter().find(|found| found.kept.checkpoint.uri == taken.uri);
    Ok(Json(detail(&api, id, &found.ok_or_else(|| none(id, Some(taken.step)))?).await?))
}

/// `DELETE /v1/jobs/{job}/checkpoints/{step}`: all of that step that are on record.
pub(super) async fn remove(
    State(api): State<Context>,
    Named(id): Named,
    Step(step): Step,
) -> Result<Json<RemovedCheckpointView>, Failure> {
    api.check_sound()?;
    let judged = api.supervisor.judged(id).await?;
    let newest = judged.first().map(|newest| newest.kept.checkpoint.uri.clone());
    let mut view = RemovedCheckpointView { schema: SCHEMA, id, step, uris: Vec::new(), size_bytes: 0 };
    let mut found = judged.into_iter().filter(|found| found.kept.checkpoint.step == step).peekable();
    found.peek().ok_or_else(|| none(id, Some(step)))?;
    for Judged { kept, .. } in found {
        let CheckpointRef { uri, size_bytes, .. } = kept.checkpoint;
        if !api.supervisor.remove_checkpoint(id, &uri).await? {
            let (why, hint) = match kept.needed_by {
                Some(who) => (format!("{who} needs it"), "remove that first, or wait until it has ended".to_owned()),
                None if newest.as_ref() == Some(&uri) => (
                    "it is the newest, which the job goes on from".into(),
                    format!("`mlctl rm {id}` removes the job with it"),
                ),
                None => ("something needs it by now".into(), format!("`mlctl checkpoint ls {id}` says what")),
            };
            let message = format!("the checkpoint of job {id} at step {step} stays: {why}");
            return Err(Failure::new(ErrorCode::WrongState, message, hint));
        }
        view.size_bytes += size_bytes;
        view.uris.push(uri);
    }
    Ok(Json(view))
}

async fn detail(api: &Shared, id: JobId, judged: &Judged) -> Result<CheckpointDetail, Failure> {
    let job = api.store.job(id).await?.job;
    let manifest = checkpoint::manifest(&api.artifacts, &judged.kept.checkpoint).await?;
    let objects = manifest.objects.into_iter().map(|object| ObjectView {
        name: object.name,
        role: match object.role {
            Role::Model => "model",
            Role::Optimizer => "optimizer",
            Role::State => "state",
        }
        .into(),
        size_bytes: object.size_bytes,
        blake3: object.blake3,
    });
    let objects = objects.collect();
    Ok(CheckpointDetail { schema: SCHEMA, id, checkpoint: view::checkpoint(&job, judged), objects })
}

/// `POST /v1/jobs/{job}/checkpoints/verify`: reads them back, every byte.
pub(super) async fn verify(
    State(api): State<Context>,
    Named(id): Named,
    Sent(VerifyRequest { step }): Sent<VerifyRequest>,
) -> Result<Json<VerifyView>, Failure> {
    let mut kept = api.store.checkpoints(id).await?;
    kept.retain(|(_, found)| step.is_none_or(|step| found.step == step));
    if kept.is_empty() {
        return Err(none(id, step));
    }
    let mut checkpoints = Vec::with_capacity(kept.len());
    for (attempt, found) in kept {
        let problems = problems(&api, &found).await?;
        // One that was deleted meanwhile for being old is not damaged.
        if problems.is_empty() || stays(&api, id, &found).await? {
            checkpoints.push(VerifiedView { step: found.step, attempt: attempt.0, uri: found.uri, problems });
        }
    }
    let ok = checkpoints.iter().all(|found| found.problems.is_empty());
    Ok(Json(VerifyView { schema: SCHEMA, id, ok, checkpoints }))
}

async fn problems(api: &Shared, found: &CheckpointRef) -> Result<Vec<String>, Failure> {
    match checkpoint::verify(&api.artifacts, found).await {
        Ok(report) => Ok(report.problems),
        Err(
            error @ (ArtifactError::NotFound { .. } | ArtifactError::Corrupt { .. } | ArtifactError::TooLarge { .. }),
        ) => Ok(vec![error.to_string()]),
        Err(error) => Err(error.into()),
    }
}

/// Whether a checkpoint is still on record: the row of one that is deleted goes before its objects do.
async fn stays(api: &Shared, id: JobId, checkpoint: &CheckpointRef) -> Result<bool, StoreError> {
    Ok(api.store.checkpoints(id).await?.iter().any(|(_, kept)| kept.uri == checkpoint.uri))
}

fn none(id: JobId, step: Option<u64>) -> Failure {
    let message = match step {
        Some(step) => format!("job {id} keeps no checkpoint of step {step}"),
        None => format!("job {id} has no checkpoint"),
    };
    Failure::new(ErrorCode::NotFound, message, format!("`mlctl checkpoint ls {id}` lists those that are kept"))
}
