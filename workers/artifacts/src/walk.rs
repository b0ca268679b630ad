//! All objects under a folder, one after the other: a store may hold more of them than fit into memory. Called by the daemon where it looks for what nothing needs.

use futures_util::{TryStreamExt, stream::BoxStream};
use object_store::ObjectMeta;

use crate::{ArtifactError, Location, uri};

/// An object that a walk came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path under the folder, without a slash at its start.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written last, by the store's clock: microseconds since 1970.
    pub modified_us: i64,
}

/// A walk over all objects under a folder, at any depth. What is in one folder comes together.
pub struct Walk {
    folder: Location,
    found: BoxStream<'static, object_store::Result<ObjectMeta>>,
}

impl Walk {
    pub(crate) fn new(folder: Location, found: BoxStream<'static, object_store::Result<ObjectMeta>>) -> Self {
        Self { folder, found }
    }

    /// The next object; nothing at the end. A folder that is not there is empty.
    ///
    /// # Errors
    /// [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
    pub async fn next(&mut self) -> Result<Option<Found>, ArtifactError> {
        loop {
            let found = match self.found.try_next().await {
                Ok(Some(found)) => found,
                Ok(None) | Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(ArtifactError::from_store(self.folder.uri(), error)),
            };
            let path = found.location.as_ref().strip_prefix(self.folder.key().as_ref());
            let Some(name) = path.and_then(|path| path.strip_prefix('/')) else { continue };
            let modified_us = found.last_modified.timestamp_micros();
            return Ok(Some(Found { name: name.to_owned(), size: found.size, modified_us }));
        }
    }
}

impl Location {
    /// Removes a folder of a local disk in which nothing is any more. Answers whether it is gone; a store that has no folders has nothing to do.
    pub async fn remove_empty(&self) -> bool {
        match uri::to_path(self.uri()) {
            Ok(Some(folder)) => tokio::fs::remove_dir(folder).await.is_ok(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Stores;

    #[tokio::test]
    async fn a_walk_comes_by_every_object_with_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let local = format!("file://{}/x", dir.path().display());
        let stores = Stores::with_memory();
        for folder in [local.as_str(), "memory:///x"] {
            let folder = stores.open(folder).unwrap();
            assert_eq!(folder.walk().next().await.unwrap(), None, "it is not there");
            for name in ["b/2", "a/1", "c"] {
                folder.join(name).unwrap().put(name.as_bytes().to_vec().into()).await.unwrap();
            }
            let (mut walk, mut found) = (folder.walk(), Vec::new());
            while let Some(one) = walk.next().await.unwrap() {
                assert!(one.modified_us > 1_600_000_000_000_000 && one.size == one.name.len() as u64);
                found.push(one.name);
            }
            found.sort();
            assert_eq!(found, ["a/1", "b/2", "c"]);
            let b = folder.join("b").unwrap();
            assert!(!b.remove_empty().await, "something is in it");
            b.join("2").unwrap().delete().await.unwrap();
            assert_eq!(b.remove_empty().await, !b.is_remote());
        }
    }
}
