//! Which files a spec's `uri` means: one, or all of a folder or a pattern, in the order of their names.

use std::sync::Arc;

use mlctl_artifacts::shards::{self, Shard};
use mlctl_protocol::spec::file_set;

use super::{pinned, stream::Access};
use crate::{fault::Fault, pinned::Pinned};

/// The files of a source, never none.
#[derive(Debug, Clone)]
pub(super) struct Files {
    uri: String,
    all: Vec<Shard>,
    /// Whether they were named by a folder or a pattern, so that messages tell which of them is meant.
    several: bool,
    /// What they must be, where they are a version of a dataset.
    pinned: Option<Arc<Pinned>>,
}

impl Files {
    /// Finds them: those of the dataset's version where the job is pinned to one.
    ///
    /// # Errors
    /// `spec` when there is none, `storage` when that cannot be found out.
    pub(super) fn find(access: &Access<'_>, uri: &str) -> Result<Self, Fault> {
        let pinned = access.pinned().cloned();
        if let Some(all) = pinned.as_ref().and_then(|version| pinned::files(version, access, uri)) {
            return Ok(Self { uri: uri.to_owned(), all: all?, several: file_set(uri).is_some(), pinned });
        }
        let Some((folder, pattern)) = file_set(uri) else {
            let one = Shard { name: String::new(), uri: uri.to_owned(), size: 0 };
            return Ok(Self { uri: uri.to_owned(), all: vec![one], several: false, pinned });
        };
        let found = access.runtime().block_on(shards::find(access.stores(), folder, pattern));
        let all = found.map_err(|error| Fault::input("the data", &error))?;
        if all.is_empty() {
            let which = if pattern.is_empty() { "no file" } else { "no file that matches" };
            return Err(Fault::spec(
                format!("{uri}: there is {which} in {folder}"),
                "`*` and `?` stay within a name, `**/` stands for folders; names that begin with `.` or `_` are passed over in a folder",
            ));
        }
        Ok(Self { uri: uri.to_owned(), all, several: true, pinned })
    }

    /// What the spec says.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    pub(super) fn get(&self, at: usize) -> Option<&Shard> {
        self.all.get(at)
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// The name of a file in messages; `None` where there is one alone.
    pub(super) fn name(&self, at: usize) -> Option<&str> {
        self.get(at).filter(|_| self.several).map(|file| file.name.as_str())
    }

    /// Whether a file that was read to its end holds what it must.
    ///
    /// # Errors
    /// `spec` when it does not.
    pub(super) fn check(&self, at: usize, content: &str) -> Result<(), Fault> {
        let (Some(pinned), Some(file)) = (&self.pinned, self.get(at)) else { return Ok(()) };
        pinned.check(&self.uri, at, &file.uri, content)
    }

    /// What all of them hold, by what each holds: the digest of the one, or BLAKE3 over each one's name, size and digest. Names are preceded by their
    /// lengths, so that no two lists read the same.
    pub(super) fn digest(&self, contents: &[String]) -> String {
        if !self.several {
            return contents.first().cloned().unwrap_or_default();
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"mlctl shards 1\n");
        for (file, content) in self.all.iter().zip(contents) {
            hasher.update(&(file.name.len() as u64).to_le_bytes());
            hasher.update(file.name.as_bytes());
            hasher.update(&file.size.to_le_bytes());
            hasher.update(content.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}
