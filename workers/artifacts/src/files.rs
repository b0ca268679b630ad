//! Checkpoints that are files of a program of somebody else's making: a file, or a folder with whatever is in it. Each file is an object, and one more says which path each of them has.
//! Otherwise they are checkpoints like all others: the manifest comes last, everything is checked before it is used. Written and read by the worker of commands, which decides when
//! something on its disk is a checkpoint.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use mlctl_protocol::result::CheckpointRef;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    ArtifactError, Location, Stores, Upload,
    checkpoint::{self, Header, MISSING},
    digest, keys, local,
    manifest::{MAX_MANIFEST_BYTES, MAX_OBJECTS, Manifest, Object, Role, is_object_name},
};

/// The format of the list of paths that this build reads and writes.
const FORMAT: u32 = 1;

/// The longest path of a file, in bytes.
const MAX_PATH_BYTES: usize = 1024;

/// Folders in folders at most.
const MAX_DEPTH: usize = 32;

/// The longest part of a path in an object's name, in bytes.
const MAX_NAME_BYTES: usize = 150;

/// What is read of a file at once, in bytes.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What lies under a name, as it is now. Two looks that are equal tell that nobody wrote in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name of the file or the folder.
    pub name: String,
    files: Vec<FoundFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundFile {
    /// From the folder that was looked into, the name included.
    path: String,
    size_bytes: u64,
    modified: SystemTime,
}

impl Found {
    /// Looks at what lies in `dir` under a name, links not followed; nothing where it is no file and no folder with files in it. Blocks.
    ///
    /// # Errors
    /// It cannot be looked at, or holds what cannot be kept, for a person.
    pub fn look(dir: &Path, name: &str) -> Result<Option<Self>, String> {
        let mut files = Vec::new();
        collect(dir, name, 0, &mut files)?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok((!files.is_empty()).then(|| Self { name: name.to_owned(), files }))
    }
}

fn collect(dir: &Path, path: &str, depth: usize, files: &mut Vec<FoundFile>) -> Result<(), String> {
    let at = dir.join(path);
    let unreadable = |error: io::Error| format!("{path} cannot be read: {error}");
    let found = fs::symlink_metadata(&at).map_err(unreadable)?;
    if found.is_dir() {
        if depth == MAX_DEPTH {
            return Err(format!("{path} has more than {MAX_DEPTH} folders in each other"));
        }
        for entry in fs::read_dir(&at).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let name = name.to_str().ok_or_else(|| format!("{path} holds a name that is no UTF-8"))?;
            collect(dir, &format!("{path}/{name}"), depth + 1, files)?;
        }
        return Ok(());
    }
    if !found.is_file() {
        return Err(format!("{path} is neither a file nor a folder"));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("{path} is longer than {MAX_PATH_BYTES} bytes"));
    }
    // One object more lists the paths.
    if files.len() + 1 == MAX_OBJECTS {
        return Err(format!("it holds more than {} files", MAX_OBJECTS - 1));
    }
    let modified = found.modified().map_err(unreadable)?;
    files.push(FoundFile { path: path.to_owned(), size_bytes: found.len(), modified });
    Ok(())
}

/// Which object is which file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    /// [`FORMAT`] of the writer.
    format: u32,
    /// The name under which all of it lies.
    name: String,
    files: Vec<Place>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    path: String,
    object: String,
}

impl Index {
    fn of(found: &Found) -> Self {
        let mut taken = BTreeSet::from([keys::CHECKPOINT_FILES.to_owned()]);
        let files = found.files.iter().enumerate().map(|(number, file)| {
            let object = object_name(number, &file.path, &mut taken);
            Place { path: file.path.clone(), object }
        });
        Self { format: FORMAT, name: found.name.clone(), files: files.collect() }
    }

    /// Reads a list and checks that no path leads out of its folder.
    fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(bytes).map_err(|error| format!("no list of files: {error}"))?;
        if index.format != FORMAT {
            return Err(format!("the list of files has format {}, this build reads {FORMAT}", index.format));
        }
        let mut seen = BTreeSet::new();
        for Place { path, .. } in &index.files {
            let mut steps = Path::new(path).components();
            let begins = steps.next() == Some(Component::Normal(index.name.as_ref()));
            if !begins || !steps.all(|step| matches!(step, Component::Normal(_))) || path.contains('\0') {
                return Err(format!("{path:?} is no path of a file in {:?}", index.name));
            }
            if !seen.insert(path) {
                return Err(format!("{path:?} is listed twice"));
            }
        }
        Ok(index)
    }
}

/// A path as the name of an object: the path itself where that can be one, else its end behind a number.
fn object_name(number: usize, path: &str, taken: &mut BTreeSet<String>) -> String {
    if is_object_name(path) && taken.insert(path.to_owned()) {
        return path.to_owned();
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let plain: String = path.chars().map(plain).collect();
    let end = &plain[plain.len().saturating_sub(MAX_NAME_BYTES)..];
    let mut name = format!("{number:05}-{end}");
    while !taken.insert(name.clone()) {
        name.push('_');
    }
    name
}

/// Writes what was found in `dir` as a checkpoint, in pieces: little of it is in memory. On return it is durable; after an error or a crash at any point it is either not there or whole.
/// Writing the same files at the same step again returns the checkpoint that is there.
///
/// # Errors
/// [`ArtifactError::Corrupt`] when a file was changed since it was found; [`ArtifactError::AlreadyExists`] when the attempt has another checkpoint of that step; else as [`Location::put`].
pub async fn write(
    attempt: &Location,
    header: Header,
    dir: &Path,
    found: &Found,
) -> Result<CheckpointRef, ArtifactError> {
    let folder = attempt.join(&keys::checkpoint(header.step))?;
    let at = folder.join(keys::MANIFEST)?;
    let index = Index::of(found);
    let listed: Bytes =
        serde_json::to_vec(&index).map_err(|error| ArtifactError::corrupt(at.uri(), error.to_string()))?.into();
    let is_there = at.size().await?.is_some();
    let mut objects = Vec::with_capacity(index.files.len() + 1);
    for (file, place) in found.files.iter().zip(&index.files) {
        // What a manifest names already is compared and not touched.
        let to = if is_there { None } else { Some(folder.join(&place.object)?) };
        let (size_bytes, blake3) = send(&dir.join(&file.path), to).await?;
        if size_bytes != file.size_bytes {
            return Err(ArtifactError::corrupt(&local::uri(&dir.join(&file.path)), "it was changed while it was read"));
        }
        objects.push(Object {
            name: place.object.clone(),
            role: Role::State,
            size_bytes,
            blake3,
            uri: None,
            chunks: None,
        });
    }
    let (size_bytes, blake3) = (listed.len() as u64, digest::of(&listed).await);
    objects.push(Object {
        name: keys::CHECKPOINT_FILES.to_owned(),
        role: Role::State,
        size_bytes,
        blake3,
        uri: None,
        chunks: None,
    });
    let manifest = checkpoint::manifest_of(&at, header, objects)?;
    if is_there {
        let existing = checkpoint::same_state(&at, &folder, &manifest).await?;
        return existing.ok_or_else(|| ArtifactError::NotFound { uri: at.uri().to_owned() });
    }
    let (root, name) = (dir.to_owned(), found.name.clone());
    let now = tokio::task::spawn_blocking(move || Found::look(&root, &name)).await;
    if !matches!(now, Ok(Ok(Some(now))) if now == *found) {
        return Err(ArtifactError::corrupt(&local::uri(&dir.join(&found.name)), "it was changed while it was read"));
    }
    folder.join(keys::CHECKPOINT_FILES)?.put(listed).await?;
    checkpoint::commit(&at, &folder, &manifest).await
}

/// Reads a file through, and writes what was read to an object where one is named. Gives its size and its BLAKE3.
async fn send(file: &Path, to: Option<Location>) -> Result<(u64, String), ArtifactError> {
    let here = |error| ArtifactError::from_io(&local::uri(file), error);
    let mut from = tokio::fs::File::open(file).await.map_err(here)?;
    let mut upload = to.map(Upload::new);
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk).await.map_err(here)?;
        let Some(piece) = chunk.get(..read).filter(|piece| !piece.is_empty()) else { break };
        hasher.update(piece);
        size += piece.len() as u64;
        if let Some(upload) = &mut upload {
            upload.write(piece).await?;
        }
    }
    if let Some(upload) = upload {
        upload.finish().await?;
    }
    Ok((size, hasher.finalize().to_hex().to_string()))
}

/// Brings the files of a checkpoint into `dir`, which is made and must not be there yet. Gives the path under which they lie. After an error nothing of it is left.
///
/// # Errors
/// As [`checkpoint::read`]; [`ArtifactError::Corrupt`] too for a checkpoint that is none of files.
pub async fn restore(stores: &Stores, from: &CheckpointRef, dir: &Path) -> Result<PathBuf, ArtifactError> {
    let brought = bring(stores, from, dir).await;
    if brought.is_err() {
        // Nothing in it is of use; one that cannot be removed is in nobody's way.
        let _ = tokio::fs::remove_dir_all(dir).await;
    }
    brought
}

async fn bring(stores: &Stores, from: &CheckpointRef, dir: &Path) -> Result<PathBuf, ArtifactError> {
    let (folder, manifest, _) = checkpoint::open(stores, from.into()).await?;
    let corrupt = |what: String| ArtifactError::corrupt(folder.uri(), what);
    let listed = object(&manifest, keys::CHECKPOINT_FILES).map_err(corrupt)?;
    let at = folder.join(&listed.name)?;
    let bytes = at.get(MAX_MANIFEST_BYTES).await?;
    let found = (bytes.len() as u64, digest::of(&bytes).await);
    checkpoint::compare(listed, &found).map_err(|what| ArtifactError::corrupt(at.uri(), what))?;
    let index = Index::from_json(&bytes).map_err(|what| ArtifactError::corrupt(at.uri(), what))?;
    let here = |error| ArtifactError::from_io(&local::uri(dir), error);
    tokio::fs::create_dir(dir).await.map_err(here)?;
    for Place { path, object: name } in &index.files {
        let object = object(&manifest, name).map_err(corrupt)?;
        let to = dir.join(path);
        if let Some(parent) = to.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(here)?;
        }
        let at = folder.join(name)?;
        let found = fetch(&at, object.size_bytes, &to).await;
        let found = match found {
            Err(ArtifactError::NotFound { .. }) => return Err(ArtifactError::corrupt(at.uri(), MISSING)),
            found => found?,
        };
        checkpoint::compare(object, &found).map_err(|what| ArtifactError::corrupt(at.uri(), what))?;
    }
    Ok(dir.join(index.name))
}

fn object<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a Object, String> {
    let found = manifest.objects.iter().find(|object| object.name == name);
    found.ok_or_else(|| format!("it has no {name}: it is no checkpoint of files"))
}

/// Writes an object to a file. Gives its size and its BLAKE3.
async fn fetch(at: &Location, size_bytes: u64, to: &Path) -> Result<(u64, String), ArtifactError> {
    let here = |error| ArtifactError::from_io(&local::uri(to), error);
    let mut pieces = at.pieces(u64::MAX).await?;
    if pieces.size() != size_bytes {
        return Ok((pieces.size(), String::new()));
    }
    let mut file = tokio::fs::File::create(to).await.map_err(here)?;
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = pieces.next().await? {
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(here)?;
    }
    file.flush().await.map_err(here)?;
    Ok((size_bytes, hasher.finalize().to_hex().to_string()))
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::{AttemptNumber, FencingToken, JobId};

    use super::*;

    fn header(step: u64) -> Header {
        Header {
            job: JobId(1),
            attempt: AttemptNumber(1),
            token: FencingToken(1),
            step,
            epoch: 0,
            created_at: "2026-01-01T00:00:00Z".into(),
            spec_digest: "0".repeat(64),
            dataset_digest: "0".repeat(64),
            parent: None,
            metrics: Default::default(),
        }
    }

    struct Scene {
        dir: tempfile::TempDir,
        stores: Stores,
        attempt: Location,
    }

    impl Scene {
        fn new() -> Self {
            let (dir, stores) = (tempfile::tempdir().unwrap(), Stores::new());
            let attempt = stores.open(&format!("file://{}/objects", dir.path().display())).unwrap();
            fs::create_dir(dir.path().join("c")).unwrap();
            Self { dir, stores, attempt }
        }

        fn put(&self, path: &str, bytes: &[u8]) {
            let file = self.root().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("c")
        }

        async fn write(&self, name: &str, step: u64) -> Result<CheckpointRef, ArtifactError> {
            let found = Found::look(&self.root(), name).unwrap().unwrap();
            write(&self.attempt, header(step), &self.root(), &found).await
        }
    }

    #[tokio::test]
    async fn files_and_folders_come_back_as_they_were() {
        let scene = Scene::new();
        let large: Vec<u8> = (0..3_000_001_u32).map(|i| (i % 251) as u8).collect();
        let files: [(&str, &[u8]); 6] = [
            ("step-7/model.pt", &large),
            ("step-7/.metadata", b"hidden"),
            ("step-7/deep/er/ü ö.txt", b"x"),
            ("step-7/deep_er_.txt", b""),
            ("step-7/manifest.json", b"{}"),
            ("step-7/files.json", b"[]"),
        ];
        for (path, bytes) in files {
            scene.put(path, bytes);
        }
        scene.put("8.pt", b"eight");
        let (seven, eight) = (scene.write("step-7", 7).await.unwrap(), scene.write("8.pt", 8).await.unwrap());
        assert_eq!(scene.write("step-7", 7).await.unwrap(), seven, "the same once more is the same");
        assert!(checkpoint::verify(&scene.stores, &seven).await.unwrap().problems.is_empty());
        let to = scene.dir.path().join("r7");
        assert_eq!(restore(&scene.stores, &seven, &to).await.unwrap(), to.join("step-7"));
        for (path, bytes) in files {
            assert!(fs::read(to.join(path)).unwrap() == bytes, "{path}");
        }
        let to = scene.dir.path().join("r8");
        assert_eq!(fs::read(restore(&scene.stores, &eight, &to).await.unwrap()).unwrap(), b"eight");
        assert_eq!(checkpoint::read(&scene.stores, &eight, 1 << 20).await.unwrap().part("8.pt").unwrap(), "eight");
        scene.put("step-7/more", b"");
        assert!(matches!(scene.write("step-7", 7).await, Err(ArtifactError::AlreadyExists { .. })));
    }

    #[tokio::test]
    async fn what_changes_while_it_is_read_is_no_checkpoint() {
        let scene = Scene::new();
        scene.put("1.pt", b"one");
        let found = Found::look(&scene.root(), "1.pt").unwrap().unwrap();
        for (written, why) in [(&b"other"[..], "another size"), (b"two", "another time")] {
            scene.put("1.pt", written);
            let error = write(&scene.attempt, header(1), &scene.root(), &found).await.unwrap_err();
            assert!(error.to_string().contains("changed while it was read"), "{why}: {error}");
        }
        assert_ne!(Found::look(&scene.root(), "1.pt").unwrap(), Some(found));
        assert!(checkpoint::list(&scene.attempt).await.unwrap().found.is_empty());
    }

    #[tokio::test]
    async fn a_damaged_checkpoint_is_not_restored_and_leaves_nothing() {
        let scene = Scene::new();
        scene.put("step-1/a", b"aaaa");
        let written = scene.write("step-1", 1).await.unwrap();
        let object = PathBuf::from(written.uri.strip_prefix("file://").unwrap()).join("00000-step-1_a");
        fs::write(object, b"aaab").unwrap();
        let to = scene.dir.path().join("r");
        let error = restore(&scene.stores, &written, &to).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Corrupt { .. }) && !to.exists(), "{error}");
    }

    #[test]
    fn what_is_no_plain_file_is_named() {
        let scene = Scene::new();
        fs::create_dir(scene.root().join("empty")).unwrap();
        assert_eq!(Found::look(&scene.root(), "empty"), Ok(None));
        std::os::unix::fs::symlink("/etc", scene.root().join("link")).unwrap();
        for (name, words) in [("link", "neither a file nor a folder"), ("none", "cannot be read")] {
            let error = Found::look(&scene.root(), name).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_list_leads_nowhere_else() {
        let list = |path: &str| format!(r#"{{"format":1,"name":"s","files":[{{"path":{path:?},"object":"o"}}]}}"#);
        assert!(Index::from_json(list("s/a").as_bytes()).is_ok() && Index::from_json(list("s").as_bytes()).is_ok());
        for path in ["", "/s", "s/../../x", "../s", "t/a", "s/./../x"] {
            assert!(Index::from_json(list(path).as_bytes()).is_err(), "{path}");
        }
        assert!(Index::from_json(list("s/a").replace(":1", ":2").as_bytes()).unwrap_err().contains("format 2"));
    }
}
