//! From a URI to a place in a store: the one match on the scheme, where S3 joins. Made once per process and cloned.

use std::sync::Arc;

use object_store::{ObjectStore, local::LocalFileSystem, memory::InMemory, path::Path};

use crate::{
    ArtifactError,
    local::LocalFiles,
    location::Location,
    uri::{Parsed, bad_uri, is_staging_name},
};

/// The stores of this process. Cheap to clone; clones share connections and what is known to be durable.
#[derive(Debug, Clone)]
pub struct Stores {
    local: Arc<LocalFileSystem>,
    files: LocalFiles,
    memory: Option<Arc<InMemory>>,
}

impl Default for Stores {
    fn default() -> Self {
        Self::new()
    }
}

impl Stores {
    /// The stores a program uses: `file://`.
    #[must_use]
    pub fn new() -> Self {
        Self { local: Arc::new(LocalFileSystem::new().with_fsync(true)), files: LocalFiles::default(), memory: None }
    }

    /// For tests: beside `file://`, an own, empty `memory:///` that clones share.
    #[must_use]
    pub fn with_memory() -> Self {
        Self { memory: Some(Arc::new(InMemory::new())), ..Self::new() }
    }

    /// The object or folder a URI names. Nothing is read: whether it exists is not known yet.
    ///
    /// # Errors
    /// [`ArtifactError::BadUri`] for anything but an absolute `file://` URI without `..` and control characters.
    pub fn open(&self, uri: &str) -> Result<Location, ArtifactError> {
        match Parsed::parse(uri)? {
            Parsed::File(path) => {
                let store = Arc::clone(&self.local);
                let key = key(uri, &path)?;
                // The library goes through a URL on its way to the file system. What comes out must be what was asked for.
                let file = store.path_to_filesystem(&key).map_err(|error| bad_uri(uri, &error.to_string()));
                let literal = std::path::PathBuf::from(format!("/{path}"));
                if !is_staging_name(&path) && file? != literal {
                    return Err(bad_uri(uri, "the storage library does not keep this name as it is"));
                }
                Ok(Location::new(store, key, format!("file:///{path}"), Some(self.files.clone())))
            }
            Parsed::Memory(path) => match &self.memory {
                Some(store) => {
                    let store: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(store);
                    Ok(Location::new(store, key(uri, &path)?, format!("memory:///{path}"), None))
                }
                None => Err(bad_uri(uri, "memory:/// exists in tests only; write file:///absolute/path")),
            },
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
    fn only_file_is_understood() {
        let stores = Stores::new();
        assert_eq!(stores.open("file:///a//b/").unwrap().uri(), "file:///a/b");
        for uri in ["s3://b/k", "memory:///a", "/a", "file://a", "file:///a/../b"] {
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
