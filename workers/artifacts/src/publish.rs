//! Results for others to read: a folder that is whole or not there, or a single file. Called by workers at the end of a job; a retry of the
//! job publishes over what an earlier attempt left, and a reader never takes a mixture for a result.

use bytes::Bytes;

use crate::{ArtifactError, Location};

/// Publishes files as one folder. `marker` names the file among them that readers open first: it is deleted before anything
/// changes and written after everything is durable, so a folder without it is not there. Files an earlier try left under
/// other names are deleted.
///
/// # Errors
/// [`ArtifactError::BadUri`] when `marker` is not among the files; else as [`Location::put`]. After an error the folder may be
/// without its marker; call again.
pub async fn folder(at: &Location, files: Vec<(String, Bytes)>, marker: &str) -> Result<(), ArtifactError> {
    let Some(last) = files.iter().position(|(name, _)| name == marker) else {
        return Err(ArtifactError::BadUri { uri: at.uri().into(), why: format!("{marker:?} is not among the files") });
    };
    let marker = at.join(marker)?;
    marker.delete().await?;
    for left in at.list().await? {
        if !files.iter().any(|(name, _)| *name == left.name) {
            at.join(&left.name)?.delete().await?;
        }
    }
    for (index, (name, bytes)) in files.iter().enumerate() {
        if index != last {
            at.join(name)?.put(bytes.clone()).await?;
        }
    }
    marker.put(files[last].1.clone()).await
}

/// Publishes a single object, over an older one if there is one.
///
/// # Errors
/// As [`Location::put`].
pub async fn file(at: &Location, bytes: Bytes) -> Result<(), ArtifactError> {
    at.put(bytes).await
}
