//! Large objects to and from a store over the network: in parts of one size, several at a time, so that none takes longer than a request may and little of it is in
//! memory twice. Called by `location`, `upload` and `pieces`.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{MultipartUpload, PutPayload};
use tokio::task::JoinSet;

use crate::{ArtifactError, Body, Location, crc, lanes::Lanes};

/// What is read or written by one request, in bytes. S3 takes parts from 5 MiB on.
pub(crate) const PART_BYTES: usize = 8 * 1024 * 1024;

/// An object up to this size is written by one request, in bytes.
pub(crate) const WHOLE_BYTES: usize = 2 * PART_BYTES;

/// Parts on their way at a time.
pub(crate) const PARALLEL: usize = 4;

/// The most parts of an object.
pub(crate) const MAX_PARTS: usize = 10_000;

/// The size of the parts of an object of `size` bytes: all alike but the last, and no more than there may be.
pub(crate) const fn part_bytes(size: usize) -> usize {
    let least = size.div_ceil(MAX_PARTS);
    if least <= PART_BYTES { PART_BYTES } else { least.next_multiple_of(1024 * 1024) }
}

/// Writes an object in parts; on failure nothing of it stays.
pub(crate) async fn put(at: &Location, body: &Body) -> Result<(), ArtifactError> {
    let mut upload = at.begin_parts().await?;
    let parts = body.parts(part_bytes(usize::try_from(body.size()).unwrap_or(usize::MAX)));
    let mut tasks = JoinSet::new();
    if let Err(error) = put_parts(at, &mut *upload, parts, &mut tasks).await {
        // A part that arrives after its upload was aborted may stay for ever.
        while tasks.join_next().await.is_some() {}
        abort(at.uri(), &mut *upload).await;
        return Err(error);
    }
    complete(at, upload, || (body.size(), body.crc())).await
}

/// Has an object appear whose parts are all there; `content` tells its size in bytes and its CRC-64/NVME. On failure nothing of it stays.
pub(crate) async fn complete(
    at: &Location,
    mut upload: Box<dyn MultipartUpload>,
    content: impl FnOnce() -> (u64, u64),
) -> Result<(), ArtifactError> {
    let error = match upload.complete().await {
        Ok(_) => return Ok(()),
        Err(error) => ArtifactError::from_store(at.uri(), error),
    };
    if !at.is_remote() || !matches!(error, ArtifactError::NotFound { .. }) {
        abort(at.uri(), &mut *upload).await;
        return Err(error);
    }
    // Its success may be our own: the answer was lost, the library asked again, and the upload is gone because the object is there.
    match found(at).await {
        Ok(found) if found == content() => Ok(()),
        Ok(_) | Err(ArtifactError::NotFound { .. }) => Err(unknown_upload(at)),
        Err(error) => Err(error),
    }
}

/// What a part failed with. That there is no such upload says nothing of the object: somebody gave it up, or its name came damaged. Another may do.
pub(crate) fn part_failed(at: &Location, error: object_store::Error) -> ArtifactError {
    match ArtifactError::from_store(at.uri(), error) {
        ArtifactError::NotFound { .. } if at.is_remote() => unknown_upload(at),
        error => error,
    }
}

pub(crate) fn unknown_upload(at: &Location) -> ArtifactError {
    let source = "the store does not know the upload any more".into();
    ArtifactError::Unavailable { uri: at.uri().to_owned(), source }
}

/// The size in bytes and the CRC-64/NVME of what is at a place.
async fn found(at: &Location) -> Result<(u64, u64), ArtifactError> {
    let (mut pieces, mut crc) = (at.pieces(u64::MAX).await?, crc::Running::default());
    while let Some(piece) = pieces.next().await? {
        crc.update(&piece);
    }
    Ok((pieces.size(), crc.finish()))
}

/// Sends parts, as many at a time as the store answers well.
async fn put_parts(
    at: &Location,
    upload: &mut dyn MultipartUpload,
    parts: Vec<PutPayload>,
    tasks: &mut JoinSet<object_store::Result<()>>,
) -> Result<(), ArtifactError> {
    // All that are on their way share the line, and none may take longer than a request may.
    let lanes = Lanes::beginning_with(PARALLEL);
    let sort = |ended: Result<object_store::Result<()>, tokio::task::JoinError>| match ended {
        Ok(sent) => sent.map_err(|error| part_failed(at, error)),
        Err(error) => Err(ArtifactError::Unavailable { uri: at.uri().to_owned(), source: error.into() }),
    };
    for part in parts {
        let lane = lanes.enter(at.weather()).await;
        while let Some(ended) = tasks.try_join_next() {
            sort(ended)?;
        }
        let bytes = part.content_length() as u64;
        let sent = upload.put_part(part);
        tasks.spawn(async move {
            sent.await?;
            lane.done(bytes);
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        sort(ended)?;
    }
    Ok(())
}

/// Gives up what was sent of an object, so that it is not paid for.
pub(crate) async fn abort(uri: &str, upload: &mut dyn MultipartUpload) {
    if let Err(error) = upload.abort().await {
        tracing::debug!(uri, %error, "an upload that was given up could not be cleared away");
    }
}

/// Reads an object of a known size and version in parts, several at a time.
pub(crate) async fn get(at: &Location, size: u64, version: Option<String>) -> Result<Bytes, ArtifactError> {
    let part = PART_BYTES as u64;
    let ranges = (0..size.div_ceil(part)).map(|n| n * part..size.min((n + 1) * part));
    let mut parts = stream::iter(ranges).map(|range| at.piece(range, version.clone())).buffered(PARALLEL);
    let capacity = usize::try_from(size).map_err(|_| ArtifactError::TooLarge {
        uri: at.uri().to_owned(),
        size,
        limit: usize::MAX as u64,
    })?;
    let mut whole = Vec::with_capacity(capacity);
    while let Some(part) = parts.try_next().await? {
        whole.extend_from_slice(&part);
    }
    Ok(whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_alike_and_not_too_many() {
        const GIB: usize = 1 << 30;
        for size in [1, WHOLE_BYTES + 1, 78 * GIB, 79 * GIB, 5 << 40] {
            let part = part_bytes(size);
            assert!(size.div_ceil(part) <= MAX_PARTS && part >= PART_BYTES, "{size}: {part}");
        }
        assert_eq!(part_bytes(WHOLE_BYTES), PART_BYTES);
    }
}
