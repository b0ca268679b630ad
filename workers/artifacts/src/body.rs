//! The bytes of an object that is to be written, in the pieces in which they lie in memory: they are hashed and sent from there, and never copied together.
//! Made by who writes a checkpoint; read by `checkpoint`.

use std::fmt;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::PutPayload;

use crate::{
    ArtifactError, Location, Upload,
    chunks::{self, Chunks},
    transfer::{self, PART_BYTES, WHOLE_BYTES},
};

/// The bytes of an object. Cheap to clone: clones share them.
#[derive(Clone, Default)]
pub struct Body {
    pieces: Vec<Bytes>,
    size: u64,
}

impl Body {
    /// An object of these pieces, one after the other.
    #[must_use]
    pub fn new(pieces: Vec<Bytes>) -> Self {
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, size }
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// All of it in one, which is a copy where there are several pieces.
    #[must_use]
    pub fn whole(&self) -> Bytes {
        match self.pieces.as_slice() {
            [one] => one.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// BLAKE3 of its bytes, and of its chunks where it has several.
    pub(crate) async fn sums(&self) -> (String, Option<Chunks>) {
        let body = self.clone();
        match tokio::task::spawn_blocking(move || chunks::sums(&body.pieces, body.size)).await {
            Ok(sums) => sums,
            // The runtime is shutting down and took no more tasks; the answer is needed all the same.
            Err(_) => chunks::sums(&self.pieces, self.size),
        }
    }

    /// Writes it to a place, over an older object if there is one: readers see the old or the new one whole. Little of it is in memory twice.
    pub(crate) async fn put(&self, at: &Location) -> Result<(), ArtifactError> {
        if self.pieces.len() == 1 || self.size <= WHOLE_BYTES as u64 {
            return at.put(self.whole()).await;
        }
        if at.is_remote() {
            return self.send(at).await;
        }
        let mut upload = Upload::new(at.clone());
        for chunk in self.pieces.iter().flat_map(|piece| piece.chunks(PART_BYTES)) {
            upload.write(chunk).await?;
        }
        upload.finish().await.map(|_| ())
    }
}

impl Body {
    /// Writes a large one to a store over the network, in parts; on failure nothing of it stays.
    async fn send(&self, at: &Location) -> Result<(), ArtifactError> {
        let sort = |error| ArtifactError::from_store(at.uri(), error);
        let size = transfer::part_bytes(usize::try_from(self.size).unwrap_or(usize::MAX));
        let mut upload = at.begin_parts().await?;
        let parts = stream::iter(self.parts(size)).map(|part| upload.put_part(part));
        if let Err(error) = parts.buffer_unordered(transfer::PARALLEL).try_collect::<()>().await {
            transfer::abort(at.uri(), &mut *upload).await;
            return Err(sort(error));
        }
        match upload.complete().await.map_err(sort) {
            Ok(_) => Ok(()),
            // It was complete, the answer was lost, and the library asked again: the upload is gone because the object is there.
            Err(ArtifactError::NotFound { .. }) if self.is_at(at).await? => Ok(()),
            Err(error) => {
                transfer::abort(at.uri(), &mut *upload).await;
                Err(error)
            }
        }
    }

    async fn is_at(&self, at: &Location) -> Result<bool, ArtifactError> {
        match at.digest().await {
            Ok((size, digest)) => Ok(size == self.size && digest == self.sums().await.0),
            Err(ArtifactError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Parts of `size` bytes and a last one, over the same memory.
    fn parts(&self, size: usize) -> Vec<PutPayload> {
        let (mut parts, mut part, mut room) = (Vec::new(), Vec::new(), size);
        for piece in &self.pieces {
            let mut rest = piece.clone();
            while !rest.is_empty() {
                let now = rest.split_to(room.min(rest.len()));
                room -= now.len();
                part.push(now);
                if room == 0 {
                    parts.push(std::mem::take(&mut part).into_iter().collect());
                    room = size;
                }
            }
        }
        if !part.is_empty() {
            parts.push(part.into_iter().collect());
        }
        parts
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::new(vec![bytes])
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size && self.pieces.iter().flatten().eq(other.pieces.iter().flatten())
    }
}

impl Eq for Body {}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Stores, blake3_hex};

    #[tokio::test]
    async fn pieces_are_written_and_hashed_as_if_they_were_one() {
        let dir = tempfile::tempdir().unwrap();
        let piece = |size, of: u8| (0..=250_u8).cycle().map(|byte| byte.wrapping_add(of)).take(size).collect::<Bytes>();
        let parts = [piece(300, 1), piece(PART_BYTES + 5, 2), Bytes::new(), piece(2 * PART_BYTES, 3)];
        for pieces in 0..=parts.len() {
            let body = Body::new(parts[..pieces].to_vec());
            let whole = parts[..pieces].concat();
            let at = Stores::new().open(&format!("file://{}/x-{pieces}", dir.path().display())).unwrap();
            body.put(&at).await.unwrap();
            assert_eq!((at.get(1 << 30).await.unwrap() == whole, body.size()), (true, whole.len() as u64));
            assert_eq!(body.sums().await.0, blake3_hex(&whole));
            assert_eq!(body, Body::from(whole));
        }
        assert_ne!(Body::new(parts[..2].to_vec()), Body::new(parts[1..2].to_vec()));
    }

    #[test]
    fn parts_are_alike_and_all_of_it() {
        let body = Body::new(vec![
            Bytes::from_static(b"ab"),
            Bytes::new(),
            Bytes::from_static(b"cdefg"),
            Bytes::from_static(b"h"),
        ]);
        for (size, expected) in [(1, 8), (3, 3), (4, 2), (8, 1), (9, 1)] {
            let parts = body.parts(size);
            assert!(parts.len() == expected && parts.iter().rev().skip(1).all(|part| part.content_length() == size));
            let joined: Vec<u8> = parts
                .iter()
                .flat_map(|part| part.iter().flat_map(|bytes| bytes.to_vec()).collect::<Vec<_>>())
                .collect();
            assert_eq!(joined, b"abcdefgh", "{size}");
        }
    }
}
