//! The bytes of an object that is to be written, in the pieces in which they lie in memory: they are hashed and sent from there, and never copied together.
//! Made by who writes a checkpoint; read by `checkpoint`.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use object_store::PutPayload;
use tokio::sync::OnceCell;

use crate::{
    ArtifactError, Location, Upload,
    chunks::{self, Chunks},
    crc,
    transfer::{self, PART_BYTES, WHOLE_BYTES},
};

/// The bytes of an object. Cheap to clone: clones share them.
#[derive(Clone, Default)]
pub struct Body {
    pieces: Vec<Bytes>,
    size: u64,
    is_shared: bool,
    /// What was found out once, for all clones.
    known: Arc<Known>,
}

#[derive(Default)]
struct Known {
    sums: OnceCell<(String, Option<Chunks>)>,
    stored: OnceLock<String>,
}

impl Body {
    /// An object of these pieces, one after the other.
    #[must_use]
    pub fn new(pieces: Vec<Bytes>) -> Self {
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, size, ..Self::default() }
    }

    /// The same bytes as what other checkpoints of the job hold too: they are stored once.
    #[must_use]
    pub fn shared(self, is_shared: bool) -> Self {
        Self { is_shared, ..self }
    }

    pub(crate) const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Where it was stored to be shared.
    pub(crate) fn stored(&self) -> Option<&str> {
        self.known.stored.get().map(String::as_str)
    }

    /// It is stored there from now on: what says so otherwise, as the manifest of the checkpoint that a run began with, may be gone when the next one is written.
    pub(crate) fn remember(&self, at: &Location) {
        // The first place is as good as any other.
        let _ = self.known.stored.set(at.uri().to_owned());
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
        let sums = self.known.sums.get_or_init(|| async {
            let body = self.clone();
            match tokio::task::spawn_blocking(move || chunks::sums(&body.pieces, body.size)).await {
                Ok(sums) => sums,
                // The runtime is shutting down and took no more tasks; the answer is needed all the same.
                Err(_) => chunks::sums(&self.pieces, self.size),
            }
        });
        sums.await.clone()
    }

    /// Writes it to a place, over an older object if there is one: readers see the old or the new one whole. Little of it is in memory twice.
    pub(crate) async fn put(&self, at: &Location) -> Result<(), ArtifactError> {
        if at.is_remote() && self.size > WHOLE_BYTES as u64 {
            return transfer::put(at, self).await;
        }
        if self.pieces.len() == 1 || self.size <= WHOLE_BYTES as u64 {
            return at.put(self.whole()).await;
        }
        let mut upload = Upload::new(at.clone());
        for chunk in self.pieces.iter().flat_map(|piece| piece.chunks(PART_BYTES)) {
            upload.write(chunk).await?;
        }
        upload.finish().await.map(|_| ())
    }
}

impl Body {
    /// Its CRC-64/NVME.
    pub(crate) fn crc(&self) -> u64 {
        let mut crc = crc::Running::default();
        self.pieces.iter().for_each(|piece| crc.update(piece));
        crc.finish()
    }

    /// Parts of `size` bytes and a last one, over the same memory.
    pub(crate) fn parts(&self, size: usize) -> Vec<PutPayload> {
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
