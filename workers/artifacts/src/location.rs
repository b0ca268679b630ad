//! A place in a store: an object or a folder, with bounded reads and durable writes. Made by `Stores::open` and `join`; everything in this
//! crate reads and writes through it, so that a store's peculiarities are met here and in `local` only.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    GetOptions, GetResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path,
};

use crate::{
    ArtifactError,
    lanes::Weather,
    local::{self, LocalFiles},
    pieces::Pieces,
    s3::{Bucket, WholeCrc},
    transfer,
    uploads::{self, Parts},
    uri::{MAX_URI_BYTES, bad_uri, is_staging_name, normalise},
    walk::Walk,
};

/// The most names a listing gives; a folder with more is an error, not a loss of memory.
pub(crate) const MAX_ENTRIES: usize = 100_000;

/// Objects of a folder that are deleted at a time.
const PARALLEL_DELETES: usize = 16;

/// An object or a folder of a store, whether it exists or not. Cheap to clone.
#[derive(Clone)]
pub struct Location {
    store: Arc<dyn ObjectStore>,
    path: Path,
    uri: String,
    /// Present for local files, absent for stores that are durable by themselves.
    files: Option<LocalFiles>,
    /// How the store takes an object in parts, where that can be picked up by another process.
    parts: Option<Parts>,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Location").field(&self.uri).finish()
    }
}

/// What is known of an object before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// What names this version of it, where the store has such a thing.
    pub(crate) version: Option<String>,
    /// Its CRC-64/NVME, where the store keeps it.
    pub(crate) crc64nvme: Option<u64>,
}

/// An object found by [`Location::list`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its path under the folder listed, without a slash at its start.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Location {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, path: Path, uri: String, files: Option<LocalFiles>) -> Self {
        Self { store, path, uri, files, parts: None }
    }

    pub(crate) fn in_parts(self, parts: Parts) -> Self {
        Self { parts: Some(parts), ..self }
    }

    pub(crate) const fn parts(&self) -> Option<&Parts> {
        self.parts.as_ref()
    }

    pub(crate) fn bucket(&self) -> Option<&Bucket> {
        self.parts.as_ref()?.bucket.as_ref()
    }

    pub(crate) fn weather(&self) -> Option<&Weather> {
        self.bucket().map(|bucket| &bucket.weather)
    }

    pub(crate) const fn key(&self) -> &Path {
        &self.path
    }

    /// The URI, without a slash at its end.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The last name of the URI.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.filename().unwrap_or_default()
    }

    /// A place under this one. `relative` is one name or several between slashes.
    ///
    /// # Errors
    /// [`ArtifactError::BadUri`] when it is empty, or holds `..` or control characters.
    pub fn join(&self, relative: &str) -> Result<Self, ArtifactError> {
        let bad = |why: &str| bad_uri(&format!("{}/{relative}", self.uri), why);
        let clean = normalise(relative).map_err(|why| bad(&why))?;
        let uri = format!("{}/{clean}", self.uri);
        if clean.is_empty() || uri.len() > MAX_URI_BYTES {
            return Err(bad("the name under the folder is empty or too long"));
        }
        let path = Path::parse(format!("{}/{clean}", self.path)).map_err(|error| bad(&error.to_string()))?;
        Ok(Self { path, uri, ..self.clone() })
    }

    /// The place with another last name: `config.json` beside `model.safetensors`.
    ///
    /// # Errors
    /// [`ArtifactError::BadUri`] as [`Self::join`], and when there is no folder above.
    pub fn sibling(&self, name: &str) -> Result<Self, ArtifactError> {
        let above = self.above().ok_or_else(|| bad_uri(&self.uri, "there is no folder above it"))?;
        above.join(name)
    }

    /// The folder it lies in; nothing where there is none above.
    pub(crate) fn above(&self) -> Option<Self> {
        let (path, (uri, _)) = (self.path.parent()?, self.uri.rsplit_once('/')?);
        Some(Self { path, uri: uri.to_owned(), ..self.clone() })
    }

    /// Reads an object of at most `max_bytes`. Its size is checked before anything is read.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], [`ArtifactError::TooLarge`], [`ArtifactError::Refused`], [`ArtifactError::Unavailable`];
    /// [`ArtifactError::Corrupt`] when fewer or more bytes came than the store had announced.
    pub async fn get(&self, max_bytes: u64) -> Result<Bytes, ArtifactError> {
        self.require_readable().await?;
        let found = self.store.get(&self.path).await.map_err(|error| self.sort(error))?;
        let size = found.meta.size;
        if size > max_bytes {
            return Err(ArtifactError::TooLarge { uri: self.uri.clone(), size, limit: max_bytes });
        }
        if self.is_remote() && size > transfer::WHOLE_BYTES as u64 {
            let version = found.meta.e_tag.clone();
            drop(found);
            return transfer::get(self, size, version).await;
        }
        let bytes = found.bytes().await.map_err(|error| self.sort(error))?;
        if bytes.len() as u64 != size {
            return Err(ArtifactError::corrupt(&self.uri, format!("{} of {size} bytes were read", bytes.len())));
        }
        Ok(bytes)
    }

    /// [`Self::get`], with `None` for an object that is not there.
    ///
    /// # Errors
    /// As [`Self::get`], without [`ArtifactError::NotFound`].
    pub async fn get_optional(&self, max_bytes: u64) -> Result<Option<Bytes>, ArtifactError> {
        match self.get(max_bytes).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ArtifactError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size of an object in bytes; `None` when it is not there.
    ///
    /// # Errors
    /// [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
    pub async fn size(&self) -> Result<Option<u64>, ArtifactError> {
        self.refuse_staging_name()?;
        match self.head().await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(ArtifactError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is known of an object: size, version, checksum.
    pub(crate) async fn look(&self) -> Result<Looked, ArtifactError> {
        self.require_readable().await?;
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = match self.reader().get_opts(&self.path, options).await.map_err(|error| self.sort(error)) {
            Ok(found) => found,
            // Why, or without a question for a checksum that it does not understand.
            Err(ArtifactError::NotFound { .. } | ArtifactError::Denied { .. } | ArtifactError::Refused { .. }) => {
                let ObjectMeta { size, e_tag, .. } = self.head().await?;
                return Ok(Looked { size, version: e_tag, crc64nvme: None });
            }
            Err(error) => return Err(error),
        };
        let crc64nvme = found.extensions.get::<WholeCrc>().map(|crc| crc.0);
        Ok(Looked { size: found.meta.size, version: found.meta.e_tag, crc64nvme })
    }

    /// Begins to read an object or a range of it, of the version that was looked at if there is one.
    pub(crate) async fn fetch(
        &self,
        range: Option<Range<u64>>,
        version: Option<String>,
    ) -> Result<GetResult, ArtifactError> {
        let options = GetOptions { range: range.map(Into::into), if_match: version, ..GetOptions::default() };
        match self.reader().get_opts(&self.path, options).await {
            Err(object_store::Error::Precondition { .. }) => {
                Err(ArtifactError::corrupt(&self.uri, "it changed while it was read"))
            }
            found => found.map_err(|error| self.sort(error)),
        }
    }

    fn reader(&self) -> &dyn ObjectStore {
        match self.bucket() {
            Some(bucket) => &*bucket.reader,
            None => &*self.store,
        }
    }

    /// An answer to HEAD has no body, so that a refusal does not say why: that is asked by a GET of one byte.
    async fn head(&self) -> Result<ObjectMeta, ArtifactError> {
        let error = match self.store.head(&self.path).await {
            Ok(meta) => return Ok(meta),
            Err(error) => self.sort(error),
        };
        if !self.is_remote() || !matches!(error, ArtifactError::NotFound { .. } | ArtifactError::Denied { .. }) {
            return Err(error);
        }
        let options = GetOptions { range: Some((0..1).into()), ..GetOptions::default() };
        match self.store.get_opts(&self.path, options).await.map_err(|error| self.sort(error)) {
            Err(denied @ ArtifactError::Denied { .. }) => Err(denied),
            _ => Err(error),
        }
    }

    /// Opens an object of at most `max_bytes` to be read in pieces. Its size is checked before anything is read.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn pieces(&self, max_bytes: u64) -> Result<Pieces, ArtifactError> {
        self.require_readable().await?;
        let meta = self.head().await?;
        if meta.size > max_bytes {
            return Err(ArtifactError::TooLarge { uri: self.uri.clone(), size: meta.size, limit: max_bytes });
        }
        Ok(Pieces::new(self.clone(), meta.size, meta.e_tag))
    }

    /// The size in bytes and the BLAKE3 of an object of any size, read in pieces and not kept.
    ///
    /// # Errors
    /// As [`Self::get`], without [`ArtifactError::TooLarge`].
    pub async fn digest(&self) -> Result<(u64, String), ArtifactError> {
        let mut pieces = self.pieces(u64::MAX).await?;
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = pieces.next().await? {
            let hashed = tokio::task::spawn_blocking(move || {
                hasher.update(&piece);
                hasher
            });
            hasher = hashed
                .await
                .map_err(|error| ArtifactError::Unavailable { uri: self.uri.clone(), source: error.into() })?;
        }
        Ok((pieces.size(), hasher.finalize().to_hex().to_string()))
    }

    /// Reads a range of the version of an object that was opened, or fails.
    pub(crate) async fn piece(&self, range: Range<u64>, version: Option<String>) -> Result<Bytes, ArtifactError> {
        let changed = || ArtifactError::corrupt(&self.uri, "it changed while it was read");
        let expected = range.end - range.start;
        let options = GetOptions { range: Some(range.into()), if_match: version, ..GetOptions::default() };
        let found = match self.store.get_opts(&self.path, options).await {
            Err(object_store::Error::Precondition { .. }) => return Err(changed()),
            found => found.map_err(|error| self.sort(error))?,
        };
        let piece = found.bytes().await.map_err(|error| self.sort(error))?;
        if piece.len() as u64 == expected { Ok(piece) } else { Err(changed()) }
    }

    /// Writes an object, over an older one if there is one. Readers see the old or the new one whole; on return it is durable.
    ///
    /// # Errors
    /// [`ArtifactError::Full`], [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
    pub async fn put(&self, bytes: Bytes) -> Result<(), ArtifactError> {
        if self.is_remote() && bytes.len() > transfer::WHOLE_BYTES {
            return transfer::put(self, &bytes.into()).await;
        }
        self.write(bytes, PutMode::Overwrite).await
    }

    /// Writes an object only if there is none: of several writers exactly one succeeds. On return it is durable.
    ///
    /// # Errors
    /// [`ArtifactError::AlreadyExists`], also when it was our own try that took effect and its answer was lost: compare what is
    /// there. Else as [`Self::put`].
    pub async fn create(&self, bytes: Bytes) -> Result<(), ArtifactError> {
        self.write(bytes, PutMode::Create).await
    }

    async fn write(&self, bytes: Bytes, mode: PutMode) -> Result<(), ArtifactError> {
        self.prepare_write().await?;
        let written = self.store.put_opts(&self.path, bytes.into(), PutOptions::from(mode)).await;
        written.map(|_| ()).map_err(|error| self.sort(error))
    }

    /// Begins an object that is written in parts.
    pub(crate) async fn begin_parts(&self) -> Result<Box<dyn MultipartUpload>, ArtifactError> {
        self.prepare_write().await?;
        if let Some(Parts { store, record: Some(record), .. }) = &self.parts {
            return uploads::begin(store.clone(), self.path.clone(), &self.uri, record.clone()).await;
        }
        self.store.put_multipart(&self.path).await.map_err(|error| self.sort(error))
    }

    /// Makes a folder, and has it and all above it survive a power cut. A store that has no folders has nothing to do.
    ///
    /// # Errors
    /// [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
    pub async fn make_durable(&self) -> Result<(), ArtifactError> {
        match self.local() {
            Some((files, folder)) => files.make_folder(folder).await.map_err(|error| self.sort_io(error)),
            None => Ok(()),
        }
    }

    async fn prepare_write(&self) -> Result<(), ArtifactError> {
        self.refuse_staging_name()?;
        match self.local() {
            Some((files, file)) => files.make_folder_of(file).await.map_err(|error| self.sort_io(error)),
            None => Ok(()),
        }
    }

    /// Makes sure that an object somebody wrote survives a power cut.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], [`ArtifactError::Unavailable`].
    pub(crate) async fn sync(&self) -> Result<(), ArtifactError> {
        match self.local() {
            Some((_, file)) => local::sync_existing(file).await.map_err(|error| self.sort_io(error)),
            None => Ok(()),
        }
    }

    /// All objects under this folder at any depth, sorted by name. A folder that is not there is empty.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] for more than 100,000 objects, [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
    pub async fn list(&self) -> Result<Vec<Entry>, ArtifactError> {
        let listed = self.store.list(Some(&self.path)).map_err(|error| self.sort(error));
        let entries = listed.try_fold(Vec::new(), |mut entries, meta| async move {
            if entries.len() >= MAX_ENTRIES {
                return Err(self.too_many());
            }
            entries.extend(self.relative(&meta.location).map(|name| Entry { name, size: meta.size }));
            Ok(entries)
        });
        let mut entries = entries.await?;
        entries.sort_unstable();
        Ok(entries)
    }

    /// A walk over all objects under this folder, for one that holds more than fit into memory.
    #[must_use]
    pub fn walk(&self) -> Walk {
        Walk::new(self.clone(), self.store.list(Some(&self.path)))
    }

    /// The names of the folders directly under this one, sorted.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn folders(&self) -> Result<Vec<String>, ArtifactError> {
        let listed = self.store.list_with_delimiter(Some(&self.path)).await.map_err(|error| self.sort(error))?;
        if listed.common_prefixes.len() > MAX_ENTRIES {
            return Err(self.too_many());
        }
        let mut folders: Vec<_> = listed.common_prefixes.iter().filter_map(|path| self.relative(path)).collect();
        folders.sort_unstable();
        Ok(folders)
    }

    /// The objects directly under this folder, and the names of the folders there, each sorted.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn children(&self) -> Result<(Vec<Entry>, Vec<String>), ArtifactError> {
        let listed = self.store.list_with_delimiter(Some(&self.path)).await.map_err(|error| self.sort(error))?;
        if listed.common_prefixes.len() + listed.objects.len() > MAX_ENTRIES {
            return Err(self.too_many());
        }
        let entry = |meta: &ObjectMeta| Some(Entry { name: self.relative(&meta.location)?, size: meta.size });
        let mut objects: Vec<_> = listed.objects.iter().filter_map(entry).collect();
        let mut folders: Vec<_> = listed.common_prefixes.iter().filter_map(|path| self.relative(path)).collect();
        objects.sort_unstable();
        folders.sort_unstable();
        Ok((objects, folders))
    }

    /// Deletes an object; on return that is durable. An object that is not there is no error.
    ///
    /// # Errors
    /// [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
    pub async fn delete(&self) -> Result<(), ArtifactError> {
        if let Some((_, file)) = self.local() {
            return local::delete_file(file).await.map_err(|error| self.sort_io(error));
        }
        match self.store.delete(&self.path).await.map_err(|error| self.sort(error)) {
            Ok(()) | Err(ArtifactError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes everything under this folder, and the folder; on return that is durable. A folder that is not there is no error.
    ///
    /// # Errors
    /// [`ArtifactError::BadUri`] for a folder directly under the root, which nobody means; else as [`Self::delete`].
    pub async fn delete_prefix(&self) -> Result<(), ArtifactError> {
        if self.path.parts_count() < 2 {
            return Err(bad_uri(&self.uri, "a folder directly under the root is not deleted"));
        }
        if let Some((_, folder)) = self.local() {
            return local::delete_folder(folder).await.map_err(|error| self.sort_io(error));
        }
        let entries = self.list().await?;
        let deletes = stream::iter(entries).map(|entry| async move { self.join(&entry.name)?.delete().await });
        deletes.buffer_unordered(PARALLEL_DELETES).try_collect().await
    }

    /// Whether the store is reached over a network, and durable by itself.
    #[must_use]
    pub const fn is_remote(&self) -> bool {
        self.files.is_none()
    }

    fn local(&self) -> Option<(&LocalFiles, PathBuf)> {
        self.files.as_ref().map(|files| (files, PathBuf::from(format!("/{}", self.path))))
    }

    async fn require_readable(&self) -> Result<(), ArtifactError> {
        self.refuse_staging_name()?;
        match self.local() {
            Some((_, file)) => local::require_regular_file(file).await.map_err(|error| self.sort_io(error)),
            None => Ok(()),
        }
    }

    /// The storage library takes names that end in `#` and digits for files that are still being written.
    fn refuse_staging_name(&self) -> Result<(), ArtifactError> {
        match !self.is_remote() && is_staging_name(self.path.as_ref()) {
            true => Err(bad_uri(&self.uri, "the name of an object cannot end in `#` and digits")),
            false => Ok(()),
        }
    }

    fn relative(&self, path: &Path) -> Option<String> {
        path.as_ref().strip_prefix(self.path.as_ref())?.strip_prefix('/').map(str::to_owned)
    }

    fn too_many(&self) -> ArtifactError {
        ArtifactError::Corrupt { uri: self.uri.clone(), what: format!("it holds more than {MAX_ENTRIES} objects") }
    }

    fn sort(&self, error: object_store::Error) -> ArtifactError {
        ArtifactError::from_store(&self.uri, error)
    }

    fn sort_io(&self, error: std::io::Error) -> ArtifactError {
        ArtifactError::from_io(&self.uri, error)
    }
}
