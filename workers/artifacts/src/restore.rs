//! Reads objects of a checkpoint in chunks, a few at a time and in their order, each verified before it is handed on: what is made of them need not hold an object in whole, and only what is
//! needed is read. An object without checksums of chunks, as earlier releases wrote them, is one chunk.

use std::{num::NonZeroUsize, ops::Range};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use mlctl_protocol::result::CheckpointRef;

use crate::{
    ArtifactError, Location, Stores,
    checkpoint::{self, MISSING, Which, whole, wrong_size},
    manifest::{Manifest, Object},
    sharing,
};

/// Bytes that are on their way or wait to be taken, at most, where chunks are not larger.
const AHEAD_BYTES: u64 = 64 * 1024 * 1024;

/// A checkpoint of which nothing but the manifest has been read.
#[derive(Debug, Clone)]
pub struct Reader {
    folder: Location,
    manifest: Manifest,
    reference: CheckpointRef,
}

/// A part of an object that has been verified.
#[derive(Debug)]
pub struct Piece {
    /// Which of the objects asked for.
    pub object: usize,
    /// Its bytes, the next ones of that object.
    pub bytes: Bytes,
}

impl Reader {
    /// Opens a checkpoint.
    ///
    /// # Errors
    /// Those of reading its manifest, as [`checkpoint::read`].
    pub async fn open<'a>(stores: &Stores, which: impl Into<Which<'a>>) -> Result<Self, ArtifactError> {
        let (folder, manifest, reference) = checkpoint::open(stores, which.into()).await?;
        Ok(Self { folder, manifest, reference })
    }

    /// What it is.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its reference, as [`checkpoint::write()`] returned it.
    #[must_use]
    pub const fn reference(&self) -> &CheckpointRef {
        &self.reference
    }

    /// Where one of its objects lies.
    ///
    /// # Errors
    /// [`ArtifactError::BadUri`] for a name that is none.
    pub fn place(&self, object: &Object) -> Result<Location, ArtifactError> {
        sharing::place(&self.folder, object)
    }

    /// Where it is.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.folder.uri()
    }

    /// What is said of a checkpoint whose objects are not what they should be.
    #[must_use]
    pub fn corrupt(&self, what: impl Into<String>) -> ArtifactError {
        ArtifactError::corrupt(self.uri(), what)
    }

    /// An object of a name, in whole; `None` where the manifest lists none.
    ///
    /// # Errors
    /// [`ArtifactError::TooLarge`] beyond `max_bytes`; else as [`checkpoint::read`].
    pub async fn get(&self, name: &str, max_bytes: u64) -> Result<Option<Bytes>, ArtifactError> {
        let Some(object) = self.manifest.objects.iter().find(|object| object.name == name) else { return Ok(None) };
        let at = sharing::place(&self.folder, object)?;
        if object.size_bytes > max_bytes {
            let size = object.size_bytes;
            return Err(ArtifactError::TooLarge { uri: at.uri().to_owned(), size, limit: max_bytes });
        }
        whole(&at, object).await.map(Some)
    }

    /// Reads objects of this checkpoint, one after the other, and hands their verified pieces to `take`, in order. What it has been given means nothing before this returns.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] when anything is missing, cut or changed, or `take` says what is wrong with it; else as [`Location::get`].
    pub async fn read(
        &self,
        objects: &[&Object],
        mut take: impl FnMut(Piece) -> Result<(), String>,
    ) -> Result<(), ArtifactError> {
        let mut places = Vec::new();
        for object in objects {
            places.push(sharing::place(&self.folder, object)?);
        }
        let sizes = places.iter().map(|at| async move { at.size().await });
        let sizes: Vec<_> = stream::iter(sizes).buffered(PARALLEL_SIZES).try_collect().await?;
        for ((at, object), size) in places.iter().zip(objects).zip(sizes) {
            let size = size.ok_or_else(|| ArtifactError::corrupt(at.uri(), MISSING))?;
            if size != object.size_bytes {
                return Err(ArtifactError::corrupt(at.uri(), wrong_size(size, object)));
            }
        }
        let chunks =
            objects.iter().enumerate().flat_map(|(place, object)| chunks(object).map(move |chunk| (place, chunk)));
        let fetch = |(place, (number, range)): (usize, (usize, Range<u64>))| {
            let (at, object) = (places[place].clone(), Object::clone(objects[place]));
            async move { Ok::<_, ArtifactError>(Piece { object: place, bytes: fetch(&at, &object, number, range).await? }) }
        };
        let mut pieces = stream::iter(chunks).map(fetch).buffered(ahead(objects).get());
        while let Some(piece) = pieces.try_next().await? {
            let at = &places[piece.object];
            take(piece).map_err(|what| ArtifactError::corrupt(at.uri(), what))?;
        }
        Ok(())
    }
}

/// Objects whose size is asked for at a time.
const PARALLEL_SIZES: usize = 8;

/// How many chunks may be on their way.
fn ahead(objects: &[&Object]) -> NonZeroUsize {
    let largest = objects.iter().filter_map(|object| object.chunks.as_ref()).map(|chunks| chunks.size_bytes).max();
    let ahead = AHEAD_BYTES / largest.unwrap_or(AHEAD_BYTES);
    usize::try_from(ahead).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}

/// The chunks of an object, by number and range.
fn chunks(object: &Object) -> impl Iterator<Item = (usize, Range<u64>)> + use<> {
    let size = object.size_bytes;
    let (chunk, count) = object.chunks.as_ref().map_or((size, 1), |chunks| (chunks.size_bytes, chunks.blake3.len()));
    (0..count).map(move |number| (number, number as u64 * chunk..size.min((number as u64 + 1) * chunk)))
}

/// Reads a chunk and verifies it.
async fn fetch(at: &Location, object: &Object, number: usize, range: Range<u64>) -> Result<Bytes, ArtifactError> {
    let Some(chunks) = object.chunks.clone() else { return whole(at, object).await };
    let bytes = match at.piece(range.clone(), None).await {
        Err(ArtifactError::NotFound { .. }) => return Err(ArtifactError::corrupt(at.uri(), MISSING)),
        other => other?,
    };
    let hashed = bytes.clone();
    let is_right = tokio::task::spawn_blocking(move || chunks.is_chunk(number, &hashed)).await;
    match is_right {
        Ok(true) => Ok(bytes),
        Ok(false) => {
            let what = format!("the checksum of its bytes {} to {} is not the manifest's", range.start, range.end);
            Err(ArtifactError::corrupt(at.uri(), what))
        }
        Err(error) => Err(ArtifactError::Unavailable { uri: at.uri().to_owned(), source: error.into() }),
    }
}
