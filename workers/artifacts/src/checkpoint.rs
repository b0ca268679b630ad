//! Checkpoints: objects first, the manifest last by a conditional create, so that a checkpoint is whole or invisible; everything is checked
//! before a byte of it is used. Written by workers; read by workers, listed, verified and deleted by the daemon.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mlctl_protocol::{AttemptNumber, FencingToken, JobId, progress::Metrics, result::CheckpointRef};

use crate::{
    ArtifactError, Body, Location, Stores, blake3_hex, digest, keys,
    manifest::{FORMAT, MAX_MANIFEST_BYTES, Manifest, Object, Role},
    sharing,
    uri::bad_uri,
};

/// What a checkpoint is, without its content.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The job.
    pub job: JobId,
    /// The attempt that writes it.
    pub attempt: AttemptNumber,
    /// The attempt's token.
    pub token: FencingToken,
    /// Optimizer steps done in this state.
    pub step: u64,
    /// Epochs completed in this state.
    pub epoch: u64,
    /// Now, RFC 3339 in UTC.
    pub created_at: String,
    /// BLAKE3 of the job's spec.
    pub spec_digest: String,
    /// BLAKE3 of the training data.
    pub dataset_digest: String,
    /// The folder of the checkpoint this attempt started from.
    pub parent: Option<String>,
    /// The metrics known now. Values that are not finite are left out: JSON has no form for them.
    pub metrics: Metrics,
}

/// An object of a checkpoint, with its bytes: in one, or as a [`Body`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<B = Bytes> {
    /// Its name, unique in the checkpoint; see [`keys`].
    pub name: String,
    /// What it holds.
    pub role: Role,
    /// The bytes.
    pub bytes: B,
}

impl<B: Into<Body>> Part<B> {
    pub(crate) fn in_pieces(self) -> Part<Body> {
        Part { name: self.name, role: self.role, bytes: self.bytes.into() }
    }
}

/// A checkpoint that has been read and verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What it is.
    pub manifest: Manifest,
    /// Its reference, as [`write()`] returned it.
    pub reference: CheckpointRef,
    /// Its objects in the manifest's order.
    pub parts: Vec<Part>,
}

impl Checkpoint {
    /// The bytes of an object.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<&Bytes> {
        self.parts.iter().find(|part| part.name == name).map(|part| &part.bytes)
    }
}

/// Which checkpoint is meant: its folder, and its manifest's digest where the caller knows it.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    uri: &'a str,
    manifest_digest: Option<&'a str>,
}

impl<'a> From<&'a CheckpointRef> for Which<'a> {
    fn from(reference: &'a CheckpointRef) -> Self {
        Self { uri: &reference.uri, manifest_digest: Some(&reference.manifest_digest) }
    }
}

impl<'a> From<&'a str> for Which<'a> {
    fn from(uri: &'a str) -> Self {
        Self { uri, manifest_digest: None }
    }
}

/// The findings of [`verify`].
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What the checkpoint says it is.
    pub manifest: Manifest,
    /// Its reference.
    pub reference: CheckpointRef,
    /// What is wrong with its objects, a line each; empty when it can be used.
    pub problems: Vec<String>,
}

/// The checkpoints of an attempt, found by [`list`].
#[derive(Debug, Default)]
pub struct Listing {
    /// Those with a readable manifest, the latest step first. Their objects have not been looked at.
    pub found: Vec<CheckpointRef>,
    /// Those whose manifest is damaged.
    pub damaged: Vec<ArtifactError>,
}

/// Writes a checkpoint into an attempt's folder. On return it is durable; after an error or a crash at any point it is either
/// not there or whole. Writing the same state at the same step again returns the checkpoint that is there. What is [`Body::shared`] is stored once for the checkpoints of the job.
///
/// # Errors
/// [`ArtifactError::AlreadyExists`] when the folder holds another checkpoint of that step, which stays as it was;
/// [`ArtifactError::Corrupt`] when a part's name is no name; else as [`Location::put`].
pub async fn write<B: Into<Body>>(
    attempt: &Location,
    header: Header,
    parts: Vec<Part<B>>,
) -> Result<CheckpointRef, ArtifactError> {
    let parts: Vec<_> = parts.into_iter().map(Part::in_pieces).collect();
    let folder = attempt.join(&keys::checkpoint(header.step))?;
    let at = folder.join(keys::MANIFEST)?;
    let mut manifest = describe(&at, header, &parts).await?;
    // Before any object is touched: overwriting those of a committed checkpoint would destroy it.
    if let Some(existing) = same_state(&at, &folder, &manifest).await? {
        return Ok(existing);
    }
    let sends = targets(attempt, &folder, parts, &mut manifest).await?;
    send(sends).await?;
    commit(&at, &folder, &manifest).await
}

/// Where each object is to be written, if it is not stored already; has the manifest say where those lie that are shared.
async fn targets(
    attempt: &Location,
    folder: &Location,
    parts: Vec<Part<Body>>,
    manifest: &mut Manifest,
) -> Result<Vec<(Location, Body)>, ArtifactError> {
    let mut parent = None;
    if parts.iter().any(|part| part.bytes.is_shared() && part.bytes.stored().is_none()) {
        parent = sharing::parent(attempt, manifest.parent.as_deref()).await;
    }
    let mut sends = Vec::with_capacity(parts.len());
    for (Part { name, bytes, .. }, object) in parts.into_iter().zip(&mut manifest.objects) {
        if !bytes.is_shared() {
            sends.push((folder.join(&name)?, bytes));
            continue;
        }
        let at = match sharing::stored(attempt, parent.as_ref(), (object, &bytes)).await? {
            Some(at) => {
                bytes.remember(&at);
                at
            }
            None => {
                let at = sharing::home(attempt, object)?;
                sends.push((at.clone(), bytes));
                at
            }
        };
        object.uri = Some(at.uri().to_owned());
    }
    Ok(sends)
}

/// Creates the manifest. A try whose answer was lost may have taken effect, so what is there decides.
pub(crate) async fn commit(
    at: &Location,
    folder: &Location,
    manifest: &Manifest,
) -> Result<CheckpointRef, ArtifactError> {
    let json: Bytes = manifest.to_json().map_err(|what| ArtifactError::corrupt(at.uri(), what))?.into();
    commit_bytes(at, folder, manifest, json).await
}

/// The same with the manifest's very bytes.
pub(crate) async fn commit_bytes(
    at: &Location,
    folder: &Location,
    manifest: &Manifest,
    json: Bytes,
) -> Result<CheckpointRef, ArtifactError> {
    for left in (0..CREATE_TRIES).rev() {
        let error = match at.create(json.clone()).await {
            Ok(()) => return Ok(reference(folder, manifest, &json)),
            Err(error @ (ArtifactError::AlreadyExists { .. } | ArtifactError::Unavailable { .. })) => error,
            Err(error) => return Err(error),
        };
        // It is ours when its answer was lost and the library tried again.
        match existing(at, folder, |theirs| theirs.writer_id == manifest.writer_id).await? {
            Some(existing) => return Ok(existing),
            // A concurrent create was refused as well, or ours never arrived.
            None if left > 0 => {}
            None => return Err(error),
        }
    }
    Err(ArtifactError::AlreadyExists { uri: at.uri().to_owned() })
}

async fn send(objects: Vec<(Location, Body)>) -> Result<(), ArtifactError> {
    let sends = objects.into_iter().map(|(at, bytes)| async move {
        bytes.put(&at).await?;
        if bytes.is_shared() {
            bytes.remember(&at);
        }
        Ok(())
    });
    // An upload that has begun is let end: dropped in the middle it would leave its parts in the store.
    let sent: Vec<_> = stream::iter(sends).buffer_unordered(PARALLEL_OBJECTS).collect().await;
    sent.into_iter().collect()
}

async fn describe(at: &Location, header: Header, parts: &[Part<Body>]) -> Result<Manifest, ArtifactError> {
    let mut objects = Vec::with_capacity(parts.len());
    for Part { name, role, bytes } in parts {
        let (blake3, chunks) = bytes.sums().await;
        objects.push(Object { name: name.clone(), role: *role, size_bytes: bytes.size(), blake3, uri: None, chunks });
    }
    manifest_of(at, header, objects)
}

/// The manifest of a checkpoint, before it is written; fails for names that are none before any object is touched.
pub(crate) fn manifest_of(at: &Location, header: Header, objects: Vec<Object>) -> Result<Manifest, ArtifactError> {
    let writer_id = digest::nonce()
        .map_err(|error| ArtifactError::Unavailable { uri: at.uri().to_owned(), source: error.into() })?;
    let Header { job, attempt, token, step, epoch, created_at, spec_digest, dataset_digest, parent, metrics } = header;
    let metrics = metrics.into_iter().filter(|(_, value)| value.is_finite()).collect();
    let manifest = Manifest {
        format: FORMAT,
        job,
        attempt,
        token,
        writer_id,
        step,
        epoch,
        created_at,
        spec_digest,
        dataset_digest,
        parent,
        metrics,
        objects,
    };
    manifest.to_json().map_err(|what| ArtifactError::corrupt(at.uri(), what))?;
    Ok(manifest)
}

/// The checkpoint that was there before, which stands for ours when it holds the same state of the same attempt.
pub(crate) async fn same_state(
    at: &Location,
    folder: &Location,
    ours: &Manifest,
) -> Result<Option<CheckpointRef>, ArtifactError> {
    let whose = |manifest: &Manifest| (manifest.job, manifest.attempt, manifest.token);
    let same = |theirs: &Manifest| {
        let pairs = theirs.objects.iter().zip(&ours.objects);
        theirs.objects.len() == ours.objects.len() && pairs.into_iter().all(|(theirs, ours)| theirs.is_like(ours))
    };
    existing(at, folder, |theirs| whose(theirs) == whose(ours) && same(theirs)).await
}

/// The checkpoint that is there, if it is ours. What is there decides whether anything is written, so two looks in a row must agree: an answer that was damaged on its way is no other's
/// manifest.
async fn existing(
    at: &Location,
    folder: &Location,
    is_ours: impl Fn(&Manifest) -> bool,
) -> Result<Option<CheckpointRef>, ArtifactError> {
    let mut before = None;
    for _ in 0..LOOKS {
        let Some(json) = at.get_optional(MAX_MANIFEST_BYTES).await? else { return Ok(None) };
        if before.as_ref() != Some(&json) {
            before = Some(json);
            continue;
        }
        let manifest = parse(at, &json, None)?;
        if !is_ours(&manifest) {
            return Err(ArtifactError::AlreadyExists { uri: at.uri().to_owned() });
        }
        // Seen is not yet durable: whoever wrote it may not have come to the sync.
        at.sync().await?;
        return Ok(Some(reference(folder, &manifest, &json)));
    }
    Err(ArtifactError::corrupt(at.uri(), "it reads differently each time"))
}

fn reference(folder: &Location, manifest: &Manifest, json: &[u8]) -> CheckpointRef {
    CheckpointRef {
        step: manifest.step,
        epoch: manifest.epoch,
        uri: folder.uri().to_owned(),
        size_bytes: manifest.size_bytes(),
        manifest_digest: blake3_hex(json),
        metrics: manifest.metrics.clone(),
    }
}

/// Reads a checkpoint of at most `max_bytes` in all. Nothing is returned before the manifest's digest (where known), every
/// name, size and checksum has been found right.
///
/// # Errors
/// [`ArtifactError::NotFound`] when there is no checkpoint; [`ArtifactError::Corrupt`] when anything in it is missing, cut or changed: take
/// an older one; [`ArtifactError::TooLarge`]; else as [`Location::get`].
pub async fn read<'a>(
    stores: &Stores,
    which: impl Into<Which<'a>>,
    max_bytes: u64,
) -> Result<Checkpoint, ArtifactError> {
    let (folder, manifest, reference) = open(stores, which.into()).await?;
    if manifest.size_bytes() > max_bytes {
        let size = manifest.size_bytes();
        return Err(ArtifactError::TooLarge { uri: folder.uri().to_owned(), size, limit: max_bytes });
    }
    let mut parts = Vec::with_capacity(manifest.objects.len());
    for object in &manifest.objects {
        let at = sharing::place(&folder, object)?;
        let bytes = whole(&at, object).await?;
        parts.push(Part { name: object.name.clone(), role: object.role, bytes });
    }
    Ok(Checkpoint { manifest, reference, parts })
}

/// Reads an object in whole and verifies it.
pub(crate) async fn whole(at: &Location, object: &Object) -> Result<Bytes, ArtifactError> {
    let bytes = match at.get(object.size_bytes).await {
        Err(ArtifactError::NotFound { .. }) => return Err(ArtifactError::corrupt(at.uri(), MISSING)),
        Err(ArtifactError::TooLarge { size, .. }) => {
            return Err(ArtifactError::corrupt(at.uri(), wrong_size(size, object)));
        }
        other => other?,
    };
    let found = (bytes.len() as u64, digest::of(&bytes).await);
    compare(object, &found).map_err(|what| ArtifactError::corrupt(at.uri(), what))?;
    Ok(bytes)
}

/// Reads all of a checkpoint and keeps nothing: whether it could be used, and everything that is wrong with it.
///
/// # Errors
/// Those of reading its manifest, as [`read`]; and those of a store that does not answer. A damaged object is no error but a finding.
pub async fn verify<'a>(stores: &Stores, which: impl Into<Which<'a>>) -> Result<Report, ArtifactError> {
    let (folder, manifest, reference) = open(stores, which.into()).await?;
    let mut problems = Vec::new();
    for object in &manifest.objects {
        let at = sharing::place(&folder, object)?;
        let problem = match at.digest().await {
            Ok(found) => compare(object, &found).err(),
            Err(ArtifactError::NotFound { .. }) => Some(MISSING.to_owned()),
            Err(ArtifactError::Corrupt { what, .. }) => Some(what),
            Err(error) => return Err(error),
        };
        problems.extend(problem.map(|what| format!("{}: {what}", object.name)));
    }
    Ok(Report { manifest, reference, problems })
}

/// Objects on their way at a time.
const PARALLEL_OBJECTS: usize = 4;

/// Tries to create a manifest while none is there.
const CREATE_TRIES: u32 = 3;

/// Looks at a manifest that is there before its content is given up.
const LOOKS: u32 = 5;

pub(crate) const MISSING: &str = "it is listed in the manifest and not there";

pub(crate) fn compare(object: &Object, (size, blake3): &(u64, String)) -> Result<(), String> {
    if *size != object.size_bytes {
        return Err(wrong_size(*size, object));
    }
    if *blake3 != object.blake3 {
        return Err(format!("its checksum is {blake3:.12}…, the manifest says {:.12}…", object.blake3));
    }
    Ok(())
}

pub(crate) fn wrong_size(size: u64, object: &Object) -> String {
    format!("it has {size} bytes, the manifest says {}", object.size_bytes)
}

/// Reads what a checkpoint says it is, and none of its objects.
///
/// # Errors
/// Those of reading its manifest, as [`read`].
pub async fn manifest<'a>(stores: &Stores, which: impl Into<Which<'a>>) -> Result<Manifest, ArtifactError> {
    let (_, manifest, _) = open(stores, which.into()).await?;
    Ok(manifest)
}

pub(crate) async fn open(
    stores: &Stores,
    which: Which<'_>,
) -> Result<(Location, Manifest, CheckpointRef), ArtifactError> {
    let folder = stores.open(which.uri)?;
    let at = folder.join(keys::MANIFEST)?;
    let json = at.get(MAX_MANIFEST_BYTES).await?;
    let manifest = parse(&at, &json, which.manifest_digest)?;
    let reference = reference(&folder, &manifest, &json);
    Ok((folder, manifest, reference))
}

/// The manifest read at a place, which must have this digest where one is known.
pub(crate) fn parse(at: &Location, json: &[u8], digest: Option<&str>) -> Result<Manifest, ArtifactError> {
    if digest.is_some_and(|known| known != blake3_hex(json)) {
        return Err(ArtifactError::corrupt(at.uri(), "it is not the manifest that was recorded when it was written"));
    }
    Manifest::from_json(json).map_err(|what| ArtifactError::corrupt(at.uri(), what))
}

/// The checkpoints under an attempt's folder. Folders without a manifest are not checkpoints and are left out.
///
/// # Errors
/// [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
pub async fn list(attempt: &Location) -> Result<Listing, ArtifactError> {
    let checkpoints = attempt.join(keys::CHECKPOINTS)?;
    let mut listing = Listing::default();
    for name in checkpoints.folders().await?.iter().rev() {
        let Some(step) = keys::checkpoint_step(name) else { continue };
        let folder = checkpoints.join(name)?;
        let at = folder.join(keys::MANIFEST)?;
        let json = match at.get_optional(MAX_MANIFEST_BYTES).await {
            Ok(Some(json)) => json,
            Ok(None) => continue,
            Err(error @ (ArtifactError::TooLarge { .. } | ArtifactError::Corrupt { .. })) => {
                listing.damaged.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        match Manifest::from_json(&json) {
            Ok(manifest) if manifest.step == step => listing.found.push(reference(&folder, &manifest, &json)),
            Ok(manifest) => {
                let what = format!("it is of step {}, its folder of step {step}", manifest.step);
                listing.damaged.push(ArtifactError::corrupt(at.uri(), what));
            }
            Err(what) => listing.damaged.push(ArtifactError::corrupt(at.uri(), what)),
        }
    }
    Ok(listing)
}

/// Deletes a checkpoint: its manifest first, so that no reader meets half of it. One that is not there, or half deleted, is no error.
///
/// # Errors
/// [`ArtifactError::BadUri`] for a folder that is not named like a checkpoint's; else as [`Location::delete`].
pub async fn delete(stores: &Stores, uri: &str) -> Result<(), ArtifactError> {
    let folder = stores.open(uri)?;
    if keys::checkpoint_step(folder.name()).is_none() {
        return Err(bad_uri(uri, "it is not the folder of a checkpoint"));
    }
    folder.join(keys::MANIFEST)?.delete().await?;
    folder.delete_prefix().await
}
