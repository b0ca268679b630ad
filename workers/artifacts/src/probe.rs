//! Whether a store keeps what everything here relies on: that an object comes back as it was written, and that of several who create an object one alone succeeds.
//! Some servers answer a conditional create with success and overwrite what is there; a checkpoint there could be overwritten by an attempt that has lost its job.

use bytes::Bytes;

use crate::{ArtifactError, Location, digest};

/// What a probe object holds, at most.
const PROBE_BYTES: u64 = 64;

/// What is wrong with a store that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// An object was read back otherwise than written.
    #[error("an object was read back otherwise than it was written")]
    Mangles,
    /// A create of what is there succeeded.
    #[error("it lets an object be created over one that is there (it ignores If-None-Match on PUT)")]
    Overwrites,
}

/// Writes, reads, creates again and deletes an object of a random name under `folder`.
///
/// # Errors
/// As [`Location::put`] and [`Location::get`].
pub async fn run(folder: &Location) -> Result<Result<(), Unfit>, ArtifactError> {
    let name = digest::nonce()
        .map_err(|error| ArtifactError::Unavailable { uri: folder.uri().to_owned(), source: error.into() })?;
    let at = folder.join(&name)?;
    let found = look(&at).await;
    at.delete().await?;
    found
}

async fn look(at: &Location) -> Result<Result<(), Unfit>, ArtifactError> {
    let (first, second) = (Bytes::from_static(b"mlctl probe 1"), Bytes::from_static(b"mlctl probe 2"));
    match at.create(first.clone()).await {
        // The name is random: it is our own try, whose answer was lost.
        Ok(()) | Err(ArtifactError::AlreadyExists { .. }) => {}
        Err(error) => return Err(error),
    }
    let overwrote = match at.create(second.clone()).await {
        Ok(()) => true,
        Err(ArtifactError::AlreadyExists { .. }) => false,
        Err(error) => return Err(error),
    };
    let read = at.get(PROBE_BYTES).await?;
    Ok(if overwrote || read == second {
        Err(Unfit::Overwrites)
    } else if read != first {
        Err(Unfit::Mangles)
    } else {
        Ok(())
    })
}
