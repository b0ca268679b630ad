//! What several checkpoints of a job hold, as weights that are not trained do, is stored once: in a folder of the attempt that wrote it first, by its BLAKE3. Each manifest says where, so
//! that a later attempt goes on naming what an earlier one stored, and who deletes asks the manifests (`references`). Nobody changes it: a name is a content. Called by `checkpoint`.

use crate::{
    ArtifactError, Body, Location, keys,
    manifest::{MAX_MANIFEST_BYTES, Manifest, Object},
};

/// Where an object of a checkpoint lies. A copy of a checkpoint somewhere else has all of them beside its manifest; nothing outside of the job is ever read.
pub(crate) fn place(folder: &Location, object: &Object) -> Result<Location, ArtifactError> {
    let shared = object.uri.as_deref().and_then(|uri| {
        // <job>/<attempt>/checkpoints/<step>
        let job = folder.above()?.above()?.above()?;
        let relative = uri.strip_prefix(job.uri())?.strip_prefix('/')?;
        let (attempt, rest) = relative.split_once('/')?;
        let is_ours = !attempt.is_empty() && rest.split_once('/') == Some((keys::SHARED, object.blake3.as_str()));
        is_ours.then(|| job.join(relative))
    });
    shared.unwrap_or_else(|| folder.join(&object.name))
}

/// Where an attempt stores an object that is shared.
pub(crate) fn home(attempt: &Location, object: &Object) -> Result<Location, ArtifactError> {
    attempt.join(&format!("{}/{}", keys::SHARED, object.blake3))
}

/// Where an object that is shared is in the store already: where it was stored by this process, written by this attempt, or named by the checkpoint that it began with.
pub(crate) async fn stored(
    attempt: &Location,
    parent: Option<&Manifest>,
    (object, bytes): (&Object, &Body),
) -> Result<Option<Location>, ArtifactError> {
    if let Some(uri) = bytes.stored() {
        let known = Object { uri: Some(uri.to_owned()), ..object.clone() };
        let at = place(&attempt.join(&keys::checkpoint(0))?, &known)?;
        if at.uri() == uri {
            return Ok(Some(at));
        }
    }
    let own = home(attempt, object)?;
    if own.size().await? == Some(object.size_bytes) {
        return Ok(Some(own));
    }
    let is_named = |theirs: &&Object| theirs.uri.is_some() && theirs.is_like(object);
    let Some(theirs) = parent.and_then(|parent| parent.objects.iter().find(is_named)) else { return Ok(None) };
    // From any checkpoint of this attempt the way to the job is the same.
    let at = place(&attempt.join(&keys::checkpoint(0))?, theirs)?;
    let is_there = theirs.uri.as_deref() == Some(at.uri()) && at.size().await? == Some(object.size_bytes);
    Ok(is_there.then_some(at))
}

/// The manifest of the checkpoint that an attempt began with, if it is one of the same job. That it cannot be had only costs sharing.
pub(crate) async fn parent(attempt: &Location, uri: Option<&str>) -> Option<Manifest> {
    let job = attempt.above()?;
    let relative = uri?.strip_prefix(job.uri())?.strip_prefix('/')?;
    let json = job.join(relative).ok()?.join(keys::MANIFEST).ok()?.get(MAX_MANIFEST_BYTES).await.ok()?;
    Manifest::from_json(&json).ok()
}
