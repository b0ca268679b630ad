//! A file to a store: small ones by one request, large ones in parts. What takes the parts and can be gone on with is in `parts`; a local disk is simply written.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Sent, Step, Streams, local::Source, parts::Parted, patience::patiently};
use crate::{ArtifactError, Location, local::blocking, transfer};

/// A file up to this size is sent by one request, in bytes.
pub(super) const WHOLE_BYTES: u64 = transfer::PART_BYTES as u64;

impl Streams {
    /// Writes a file as an object, over an older one if there is one. Readers see the old or the new one whole; on return it is durable.
    ///
    /// # Errors
    /// As [`Location::put`], with the file's URI where it is the file that cannot be read; [`ArtifactError::Corrupt`] when it changed meanwhile, or when what the store holds then is something else.
    pub async fn send(&self, file: &Path, to: &Location) -> Result<Sent, ArtifactError> {
        let source = Arc::new(Source::open(file.to_owned()).await?);
        let size = source.identity.size;
        self.tell(Step::Expect(size));
        if size <= WHOLE_BYTES {
            return self.send_whole(source, to).await;
        }
        let part_bytes = part_bytes(to, size)?;
        match to.parts() {
            Some(parts) => Parted { streams: self, to, parts, source, part_bytes }.send().await,
            None => self.send_to_disk(&source, to, part_bytes).await,
        }
    }

    /// By one request.
    pub(super) async fn send_whole(&self, source: Arc<Source>, to: &Location) -> Result<Sent, ArtifactError> {
        let size = source.identity.size;
        let reserved = self.buffers.reserve(usize::try_from(size).unwrap_or(usize::MAX)).await;
        let lane = self.lanes.enter(to.weather()).await;
        let reading = Arc::clone(&source);
        let read = blocking(move || {
            let mut buffer = reserved.buffer();
            reading.read(buffer.as_mut(), 0)?;
            Ok(buffer.share())
        });
        let bytes: Bytes = read.await.map_err(|error| source.failed(error))?;
        source.require_unchanged()?;
        patiently(patience(to), || to.put(lent(to, &bytes))).await?;
        lane.done(size);
        self.tell(Step::Moved(size));
        Ok(Sent { size, reused: 0, crc64nvme: None })
    }

    async fn send_to_disk(&self, source: &Arc<Source>, to: &Location, part: u64) -> Result<Sent, ArtifactError> {
        let size = source.identity.size;
        let mut upload = to.begin_parts().await?;
        let written = async {
            for at in (0..size).step_by(usize::try_from(part).unwrap_or(usize::MAX)) {
                let (bytes, _) = self.read(source, at..size.min(at + part)).await?;
                let length = bytes.len() as u64;
                let written = upload.put_part(bytes.into()).await;
                written.map_err(|error| ArtifactError::from_store(to.uri(), error))?;
                self.tell(Step::Moved(length));
            }
            source.require_unchanged()?;
            upload.complete().await.map_err(|error| ArtifactError::from_store(to.uri(), error))
        };
        if let Err(error) = written.await {
            transfer::abort(to.uri(), &mut *upload).await;
            return Err(error);
        }
        Ok(Sent { size, reused: 0, crc64nvme: None })
    }

    /// A part of a file in kept memory, and its checksum.
    async fn read(&self, source: &Arc<Source>, range: std::ops::Range<u64>) -> Result<(Bytes, u64), ArtifactError> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let reserved = self.buffers.reserve(length).await;
        super::parts::read(source, range.start, reserved).await
    }
}

/// Bytes as a store is handed them. One that keeps things in memory would keep ours, and the budget would be used up.
pub(super) fn lent(to: &Location, bytes: &Bytes) -> Bytes {
    let keeps = to.is_remote() && to.bucket().is_none();
    if keeps { Bytes::copy_from_slice(bytes) } else { bytes.clone() }
}

/// For how long what may pass is tried again.
pub(super) fn patience(at: &Location) -> Duration {
    at.bucket().map_or(Duration::ZERO, |bucket| bucket.patience)
}

fn part_bytes(to: &Location, size: u64) -> Result<u64, ArtifactError> {
    let too_large = |_| ArtifactError::TooLarge { uri: to.uri().to_owned(), size, limit: usize::MAX as u64 };
    Ok(transfer::part_bytes(usize::try_from(size).map_err(too_large)?) as u64)
}
