//! An object of any size read in order and in pieces, of which the next are fetched while the caller works on the last: one from a disk, a few
//! over a network. Used for data sets and for checksums; it keeps five pieces at most, and never mixes two versions of an object.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::{ArtifactError, Location, transfer};

/// How much of an object is read at once.
const PIECE_BYTES: u64 = transfer::PART_BYTES as u64;

/// What is left to read of an object. Made by [`Location::pieces`].
#[derive(Debug)]
pub struct Pieces {
    at: Location,
    size: u64,
    /// Where reading ends: the size, unless a range was asked for.
    end: u64,
    /// What names this version of the object, where the store has such a thing.
    version: Option<String>,
    asked: u64,
    /// How many pieces are fetched before they are asked for.
    depth: usize,
    ahead: VecDeque<JoinHandle<Result<Bytes, ArtifactError>>>,
}

impl Pieces {
    pub(crate) const fn new(at: Location, size: u64, version: Option<String>) -> Self {
        let depth = if at.is_remote() { transfer::PARALLEL } else { 1 };
        Self { at, size, end: size, version, asked: 0, depth, ahead: VecDeque::new() }
    }

    /// Begins at this byte instead of the first. Before anything is read.
    pub fn skip(&mut self, bytes: u64) {
        self.asked = bytes.min(self.size);
    }

    /// The same version of the object, from one byte to before another; nothing is asked of the store yet.
    #[must_use]
    pub fn range(&self, range: Range<u64>) -> Self {
        let end = range.end.min(self.size);
        let (at, version) = (self.at.clone(), self.version.clone());
        Self {
            at,
            size: self.size,
            end,
            version,
            asked: range.start.min(end),
            depth: self.depth,
            ahead: VecDeque::new(),
        }
    }

    /// What tells this version of the object from others, of whatever store: of a local file it is made of its number, size and time.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What the store calls this version of the object, its ETag; `None` for a local file, which has no such thing.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref().filter(|_| self.at.is_remote())
    }

    /// The size of the whole object in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The next piece, at most 8 MiB and never empty; `None` at the end.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] when the object was changed since it was opened; else as [`Location::get`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ArtifactError> {
        while self.ahead.len() <= self.depth {
            let Some(piece) = self.fetch() else { break };
            self.ahead.push_back(piece);
        }
        let Some(piece) = self.ahead.pop_front() else { return Ok(None) };
        let joined = piece.await;
        joined
            .map_err(|error| ArtifactError::Unavailable { uri: self.at.uri().to_owned(), source: error.into() })?
            .map(Some)
    }

    fn fetch(&mut self) -> Option<JoinHandle<Result<Bytes, ArtifactError>>> {
        let range: Range<u64> = self.asked..self.end.min(self.asked + PIECE_BYTES);
        if range.is_empty() {
            return None;
        }
        self.asked = range.end;
        let (at, version) = (self.at.clone(), self.version.clone());
        Some(tokio::spawn(async move { at.piece(range, version).await }))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.ahead.iter().for_each(JoinHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stores;

    #[tokio::test]
    async fn pieces_put_together_are_the_object() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0_u64, 1, PIECE_BYTES, 2 * PIECE_BYTES + 5] {
            let at = Stores::new().open(&format!("file://{}/x-{size}", dir.path().display())).unwrap();
            let content: Bytes = (0..size).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
            at.put(content.clone()).await.unwrap();
            let mut pieces = at.pieces(size).await.unwrap();
            assert_eq!(pieces.size(), size);
            let mut read = Vec::new();
            while let Some(piece) = pieces.next().await.unwrap() {
                read.extend_from_slice(&piece);
            }
            assert!(read == content, "{size}");
            assert!(pieces.next().await.unwrap().is_none());
            let mut rest = at.pieces(size).await.unwrap();
            rest.skip(size.saturating_sub(3));
            let last = rest.next().await.unwrap().unwrap_or_default();
            assert_eq!(last, content.slice(content.len().saturating_sub(3)..), "{size}: the end alone");
            let mut middle = at.pieces(size).await.unwrap().range(1..4);
            let found = middle.next().await.unwrap().unwrap_or_default();
            assert_eq!(found, content.slice(content.len().min(1)..content.len().min(4)), "{size}: the middle alone");
            assert!(middle.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn what_is_too_large_missing_or_replaced_meanwhile_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let stores = Stores::new();
        let open = |name: &str| stores.open(&format!("file://{}/{name}", dir.path().display())).unwrap();
        assert!(matches!(open("gone").pieces(9).await, Err(ArtifactError::NotFound { .. })));
        let at = open("x");
        at.put(vec![1; 10].into()).await.unwrap();
        assert!(matches!(at.pieces(9).await, Err(ArtifactError::TooLarge { size: 10, limit: 9, .. })));
        let mut pieces = at.pieces(10).await.unwrap();
        at.put(vec![2; 10].into()).await.unwrap();
        let error = pieces.next().await.unwrap_err();
        assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error}");
    }
}
