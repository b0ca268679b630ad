//! Handlers that hand over stored objects as they are: those of a checkpoint, of a job's final model and of a version of a model, for `mlctl checkpoint pull` and `mlctl model export`. Called by the router. A piece is read when the
//! client has taken the last but one, so that large objects go through in little memory; whoever takes nothing for long is hung up on. What arrived is checked by the client.

use std::{io, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use mlctl_artifacts::{Location, Pieces, keys, restore::Reader};
use mlctl_protocol::{JobId, result::ModelRef};
use tokio::{sync::mpsc, time::timeout};
use tracing::warn;

use super::{
    Context,
    error::Failure,
    extract::{Asked, Named, NamedVersion, Object, Step},
    query::DownloadQuery,
    types::{ErrorCode, ModelDetail, SCHEMA, StoredView},
};
use crate::domain::{alias::Pick, causes};

/// Objects that are downloaded at a time. Each keeps a few pieces of 8 MiB in memory.
pub(super) const MAX_DOWNLOADS: usize = 8;

/// How long a client may take over a piece of 8 MiB.
const TAKE_LIMIT: Duration = Duration::from_secs(120);

/// `GET /v1/jobs/{job}/checkpoints/{step}/objects/{object}`: the manifest, or what it lists.
pub(super) async fn checkpoint_object(
    State(api): State<Context>,
    Named(id): Named,
    (Step(step), Object(name)): (Step, Object),
    Asked(query): Asked<DownloadQuery>,
) -> Result<Response, Failure> {
    let kept = api.store.checkpoints(id).await?;
    let found = kept.into_iter().map(|(_, found)| found).find(|found| found.step == step).ok_or_else(|| {
        let hint = format!("`mlctl checkpoint ls {id}` lists those that are kept");
        Failure::new(ErrorCode::NotFound, format!("job {id} keeps no checkpoint of step {step}"), hint)
    })?;
    let at = if name == keys::MANIFEST {
        api.artifacts.open(&found.uri)?.join(&name)?
    } else {
        let reader = Reader::open(&api.artifacts, &found).await?;
        let object = reader.manifest().objects.iter().find(|object| object.name == name);
        reader.place(object.ok_or_else(|| absent(id, &name))?)?
    };
    send(&api, &at, query).await
}

/// `GET /v1/jobs/{job}/model`: what the final model of a job is made of.
pub(super) async fn model(State(api): State<Context>, Named(id): Named) -> Result<Json<ModelDetail>, Failure> {
    let ModelRef { uri, digest } = published(&api, id).await?;
    let objects = api.artifacts.open(&uri)?.list().await?;
    let objects = objects.into_iter().filter(|object| is_plain(&object.name));
    let objects = objects.map(|object| StoredView { name: object.name, size_bytes: object.size }).collect();
    Ok(Json(ModelDetail { schema: SCHEMA, id, uri, digest, objects }))
}

/// `GET /v1/jobs/{job}/model/objects/{object}`.
pub(super) async fn model_object(
    State(api): State<Context>,
    Named(id): Named,
    Object(name): Object,
    Asked(query): Asked<DownloadQuery>,
) -> Result<Response, Failure> {
    let model = published(&api, id).await?;
    send(&api, &api.artifacts.open(&model.uri)?.join(&name)?, query).await
}

/// `GET /v1/models/{model}/versions/{version}/objects/{object}`.
pub(super) async fn version_object(
    State(api): State<Context>,
    NamedVersion { model, version }: NamedVersion,
    Object(name): Object,
    Asked(query): Asked<DownloadQuery>,
) -> Result<Response, Failure> {
    let found = api.store.model_version(&model, &Pick::Number(version)).await?;
    if !found.content.objects.iter().any(|object| object.name == name) {
        let message = format!("{model}/{version} has no object {name:?}");
        return Err(Failure::new(
            ErrorCode::NotFound,
            message,
            format!("`mlctl model show {model}/{version}` lists them"),
        ));
    }
    send(&api, &api.artifacts.open(&found.content.uri)?.join(&name)?, query).await
}

async fn published(api: &Context, id: JobId) -> Result<ModelRef, Failure> {
    let job = api.store.job(id).await?.job;
    job.model.ok_or_else(|| {
        let message = format!("job {id} has published no model");
        Failure::new(ErrorCode::NotFound, message, format!("`mlctl show {id}` shows where it stands"))
    })
}

fn absent(id: JobId, name: &str) -> Failure {
    let message = format!("the checkpoint of job {id} has no object {name:?}");
    Failure::new(ErrorCode::NotFound, message, format!("`mlctl checkpoint show {id}` lists what it has"))
}

/// Plain names only: an object in a folder of its own is none of ours.
pub(super) fn is_plain(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

async fn send(api: &Context, at: &Location, query: DownloadQuery) -> Result<Response, Failure> {
    let DownloadQuery { offset } = query;
    let busy = |_| Failure::new(ErrorCode::Busy, "too many objects are downloaded already", "try again in a while");
    let slot = api.downloads.clone().try_acquire_owned().map_err(busy)?;
    let mut pieces = at.pieces(u64::MAX).await?;
    let Some(length) = pieces.size().checked_sub(offset) else {
        let message = format!("{} has {} bytes, and what follows {offset} was asked for", at.uri(), pieces.size());
        return Err(Failure::bad_request(message, "begin again from 0"));
    };
    pieces.skip(offset);
    let (sender, receiver) = mpsc::channel(1);
    let stop = api.stop.clone();
    api.tasks.spawn(async move {
        let _slot = slot;
        let _ = stop.run_until_cancelled(hand_over(pieces, sender)).await;
    });
    let body = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let response = Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length)
        .body(Body::from_stream(body));
    response.map_err(|error| Failure::internal("an answer could not be made", &error))
}

/// Sends pieces until the end, an error, or a client that is gone or takes too long: then the body ends before it should, which the client notices.
async fn hand_over(mut pieces: Pieces, sender: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let piece = match pieces.next().await {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => return,
            Err(error) => {
                warn!(error = causes(&error), "a download ends before its end");
                Err(io::Error::other("the object could not be read on"))
            }
        };
        let is_last = piece.is_err();
        if !matches!(timeout(TAKE_LIMIT, sender.send(piece)).await, Ok(Ok(()))) || is_last {
            return;
        }
    }
}
