//! From a URI to a place in a store: the one match on the scheme, the one place that knows them all. Made once per process and cloned.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mlctl_protocol::s3::S3Access;
use object_store::{ObjectStore, local::LocalFileSystem, memory::InMemory, path::Path};

use crate::{
    ArtifactError,
    local::LocalFiles,
    location::Location,
    s3::Buckets,
    uploads::{Parts, Record},
    uri::{Parsed, bad_uri, is_staging_name},
};

/// The stores of this process. Cheap to clone; clones share connections and what is known to be durable.
#[derive(Debug, Clone)]
pub struct Stores {
    local: Arc<LocalFileSystem>,
    files: LocalFiles,
    memory: Option<Arc<InMemory>>,
    s3: Option<Arc<Buckets>>,
    record: Option<Record>,
}

impl Default for Stores {
    fn default() -> Self {
        Self::new()
    }
}

impl Stores {
    /// The stores of a program without access to S3: `file://`.
    #[must_use]
    pub fn new() -> Self {
        let local = Arc::new(LocalFileSystem::new().with_fsync(true));
        Self { local, files: LocalFiles::default(), memory: None, s3: None, record: None }
    }

    /// The stores of a program: `file://`, and `s3://` where there is access to it. Nothing is asked of the server yet.
    #[must_use]
    pub fn with_s3(access: Option<S3Access>) -> Self {
        Self { s3: access.map(|access| Arc::new(Buckets::new(access))), ..Self::new() }
    }

    /// The same stores, which write down in a file what they upload in parts: see [`crate::uploads`].
    #[must_use]
    pub fn on_record(self, file: PathBuf) -> Self {
        Self { record: Some(Record::new(file)), ..self }
    }

    /// The same stores, with the knowledge that a folder and all above it survive a power cut, as a daemon has seen to. Nothing else is taken for granted of it.
    #[must_use]
    pub fn given_durable(self, uri: Option<&str>) -> Self {
        match uri.map(Parsed::parse) {
            Some(Ok(Parsed::File(path))) => {
                let folder = PathBuf::from(format!("/{path}"));
                Self { files: self.files.given(folder), ..self }
            }
            _ => self,
        }
    }

    /// The same stores for a look that must not take long: a request that fails is not tried again.
    #[must_use]
    pub fn impatient(&self) -> Self {
        Self { s3: self.s3.as_ref().map(|s3| Arc::new(s3.impatient())), ..self.clone() }
    }

    /// The same stores for one who has something better to do than to wait: a request that fails is tried again for so many seconds at most.
    #[must_use]
    pub fn patient_for(&self, seconds: u32) -> Self {
        Self { s3: self.s3.as_ref().map(|s3| Arc::new(s3.patient_for(seconds))), ..self.clone() }
    }

    /// Whether there is access to S3.
    #[must_use]
    pub const fn has_s3(&self) -> bool {
        self.s3.is_some()
    }

    /// What the S3 store's last answer said of the time, as in HTTP's `Date`, and how long ago it came.
    #[must_use]
    pub fn s3_time(&self) -> Option<(String, Duration)> {
        self.s3.as_ref()?.clock().last()
    }

    /// For tests: beside `file://`, an own, empty `memory:///` that clones share.
    #[must_use]
    pub fn with_memory() -> Self {
        Self { memory: Some(Arc::new(InMemory::new())), ..Self::new() }
    }

    /// The object or folder a URI names. Nothing is read: whether it exists is not known yet.
    ///
    /// # Errors
    /// [`ArtifactError::BadUri`] for anything but an absolute `file://` URI or an `s3://` one, without `..` and control characters, and for
    /// `s3://` where there is no access to it.
    pub fn open(&self, uri: &str) -> Result<Location, ArtifactError> {
        match Parsed::parse(uri)? {
            Parsed::File(path) => {
                let store = Arc::clone(&self.local);
                let key = key(uri, &path)?;
                // The library goes through a URL on its way to the file system. What comes out must be what was asked for.
                let file = store.path_to_filesystem(&key).map_err(|error| bad_uri(uri, &error.to_string()));
                let literal = PathBuf::from(format!("/{path}"));
                if !is_staging_name(&path) && file? != literal {
                    return Err(bad_uri(uri, "the storage library does not keep this name as it is"));
                }
                Ok(Location::new(store, key, format!("file:///{path}"), Some(self.files.clone())))
            }
            Parsed::Memory(path) => match &self.memory {
                Some(store) => {
                    let parts = Parts { store: store.clone(), record: self.record.clone(), bucket: None };
                    let store: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(store);
                    Ok(Location::new(store, key(uri, &path)?, format!("memory:///{path}"), None).in_parts(parts))
                }
                None => Err(bad_uri(uri, "memory:/// exists in tests only; write file:///absolute/path")),
            },
            Parsed::S3 { bucket, key: name } => {
                let Some(s3) = &self.s3 else {
                    return Err(bad_uri(uri, "there are no credentials for S3: see [storage.s3] in mld.toml"));
                };
                let at = format!("s3://{bucket}/{name}");
                let bucket = s3.bucket(&bucket).map_err(|error| ArtifactError::from_store(&at, error))?;
                let store = Arc::clone(&bucket.store);
                let parts = Parts { store: store.clone(), record: self.record.clone(), bucket: Some(bucket) };
                Ok(Location::new(store, key(uri, &name)?, at, None).in_parts(parts))
            }
        }
    }
}

fn key(uri: &str, path: &str) -> Result<Path, ArtifactError> {
    Path::parse(path).map_err(|error| bad_uri(uri, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_is_understood_without_access_to_s3() {
        let stores = Stores::new();
        assert_eq!(stores.open("file:///a//b/").unwrap().uri(), "file:///a/b");
        for uri in ["s3://bucket/key", "gs://bucket/key", "memory:///a", "/a", "file://a", "file:///a/../b"] {
            assert!(matches!(stores.open(uri), Err(ArtifactError::BadUri { .. })), "{uri}");
        }
        assert!(Stores::with_memory().open("memory:///a").is_ok());
    }

    #[test]
    fn names_reach_the_file_system_unchanged_or_not_at_all() {
        let stores = Stores::new();
        for name in
            ["a b", " a ", "ü", "50%", "%2F", "%2e%2e", "a#b", "a?b", "C:", "C|", "a\\b", "a*[~]`^", "a&b=c;d", "x#1/y"]
        {
            assert!(stores.open(&format!("file:///dir/{name}/x")).is_ok(), "{name}");
        }
    }
}
