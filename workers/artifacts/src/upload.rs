//! An object that is written in pieces and appears whole at the end, or not at all. Used for results larger than memory should hold: one
//! piece is in memory at a time, and the next is not taken before it is written.

use bytes::Bytes;
use object_store::MultipartUpload;

use crate::{
    ArtifactError, Location, crc,
    transfer::{self, MAX_PARTS, PART_BYTES},
};

/// The largest object that is written so, in bytes.
const MAX_BYTES: u64 = (PART_BYTES * MAX_PARTS) as u64;

/// An object being written. Dropped before [`Upload::finish`], it leaves nothing that a reader sees.
pub struct Upload {
    at: Location,
    buffer: Vec<u8>,
    /// Begun with the first piece: a small object is written at once.
    parts: Option<Box<dyn MultipartUpload>>,
    written: u64,
    crc: crc::Running,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("at", &self.at).field("written", &self.written).finish_non_exhaustive()
    }
}

impl Upload {
    /// An object to be written at a place, over an older one if there is one.
    #[must_use]
    pub fn new(at: Location) -> Self {
        Self { at, buffer: Vec::new(), parts: None, written: 0, crc: crc::Running::default() }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As [`Location::put`], and [`ArtifactError::TooLarge`] beyond 78 GiB. The object is lost then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.buffer.extend_from_slice(bytes);
        self.written += bytes.len() as u64;
        self.crc.update(bytes);
        if self.written > MAX_BYTES {
            self.clear().await;
            return Err(ArtifactError::TooLarge {
                uri: self.at.uri().to_owned(),
                size: self.written,
                limit: MAX_BYTES,
            });
        }
        while self.buffer.len() >= PART_BYTES {
            let rest = self.buffer.split_off(PART_BYTES);
            let part = std::mem::replace(&mut self.buffer, rest);
            self.put_part(part.into()).await?;
        }
        Ok(())
    }

    /// Makes the object appear; on return it is durable. Answers with its size in bytes.
    ///
    /// # Errors
    /// As [`Location::put`].
    pub async fn finish(mut self) -> Result<u64, ArtifactError> {
        let rest = Bytes::from(std::mem::take(&mut self.buffer));
        if self.parts.is_none() {
            self.at.put(rest).await?;
            return Ok(self.written);
        }
        if !rest.is_empty() {
            self.put_part(rest).await?;
        }
        if let Some(parts) = self.parts.take() {
            transfer::complete(&self.at, parts, || (self.written, self.crc.finish())).await?;
        }
        Ok(self.written)
    }

    /// Gives the object up.
    pub async fn abort(mut self) {
        self.clear().await;
    }

    async fn clear(&mut self) {
        if let Some(mut parts) = self.parts.take() {
            transfer::abort(self.at.uri(), &mut *parts).await;
        }
    }

    async fn put_part(&mut self, bytes: Bytes) -> Result<(), ArtifactError> {
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => self.at.begin_parts().await?,
        };
        if let Err(error) = parts.put_part(bytes.into()).await {
            transfer::abort(self.at.uri(), &mut *parts).await;
            return Err(transfer::part_failed(&self.at, error));
        }
        self.parts = Some(parts);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stores;

    #[tokio::test]
    async fn an_object_appears_whole_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        for pieces in [0_usize, 1, 7, 40] {
            let at = Stores::new().open(&format!("file://{}/deep/x-{pieces}", dir.path().display())).unwrap();
            let mut upload = Upload::new(at.clone());
            let piece: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
            for _ in 0..pieces {
                upload.write(&piece).await.unwrap();
                assert_eq!(at.size().await.unwrap(), None, "nothing is seen before the end");
            }
            assert_eq!(upload.finish().await.unwrap(), (pieces * piece.len()) as u64);
            assert!(at.get(1 << 30).await.unwrap() == piece.repeat(pieces), "{pieces}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("deep")).unwrap().count(), 4, "no staging file is left");
    }

    #[tokio::test]
    async fn what_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = Stores::new().open(&format!("file://{}/x", dir.path().display())).unwrap();
        at.put("old".into()).await.unwrap();
        let mut upload = Upload::new(at.clone());
        upload.write(&vec![1; 2 * PART_BYTES]).await.unwrap();
        upload.abort().await;
        assert_eq!(at.get(9).await.unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
