//! The version of a dataset that a job is pinned to: its manifest, which says which files are read, and whether what is read is what was read when the version was made. Called by `train` and
//! `infer` before they read, and by the readers of files at the end of each. A file that is missing, cut off or changed is the user's to put right: no retry would find another.

use std::{collections::HashMap, sync::Arc};

use mlctl_artifacts::{
    blake3_hex,
    shards::{self, Shard},
};
use mlctl_protocol::{
    ExitClass,
    dataset::{MANIFEST_FORM, MAX_MANIFEST_BYTES, Manifest, Object},
    spec::{DataSource, PinnedData, file_set},
};

use super::stream::Access;
use crate::{fault::Fault, job::Job, pinned::Pinned};

/// The data of a job as its files are named, and the version that it is pinned to where the spec names a dataset. The files are there, and have the sizes that the version has.
///
/// # Errors
/// `spec` when a file is missing or has another size; `storage` when the manifest cannot be read or is not what the job was given.
pub fn resolve(job: Job<'_>, data: &DataSource) -> Result<(Option<Arc<Pinned>>, DataSource), Fault> {
    let DataSource::Dataset { dataset, pinned, .. } = data else { return Ok((None, data.clone())) };
    let Some(at) = pinned else {
        return Err(Fault::spec(
            format!("no version of the dataset {dataset} was chosen for the job"),
            "submit it anew",
        ));
    };
    let pinned = Pinned { name: dataset.clone(), manifest: manifest(job, at)? };
    check_sizes(&pinned, job)?;
    Ok((Some(Arc::new(pinned)), data.plain().into_owned()))
}

/// A fault with what a mistake in the data may come from, where that is a version of a dataset.
#[must_use]
pub fn explained(pinned: Option<&Arc<Pinned>>, fault: Fault) -> Fault {
    match pinned {
        Some(pinned) => pinned.explain(fault),
        None => fault,
    }
}

fn manifest(job: Job<'_>, at: &PinnedData) -> Result<Manifest, Fault> {
    let read = async { job.stores.open(&at.manifest)?.get(MAX_MANIFEST_BYTES as u64).await };
    let bytes = job.runtime.block_on(read).map_err(|error| Fault::storage(&error))?;
    let damaged = |why: &str| Fault::new(ExitClass::Storage, format!("the dataset's manifest {} {why}", at.manifest));
    if blake3_hex(&bytes) != at.digest {
        return Err(damaged("is not the one that the job was given: it is damaged"));
    }
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| damaged(&format!("cannot be read: {error}")))?;
    match manifest.v {
        MANIFEST_FORM => Ok(manifest),
        other => Err(damaged(&format!("is of form {other}, and this worker reads form {MANIFEST_FORM}"))),
    }
}

/// The files of a URI of the job's data; `None` for one that the version does not have.
pub(super) fn files(pinned: &Pinned, access: &Access<'_>, uri: &str) -> Option<Result<Vec<Shard>, Fault>> {
    let objects = pinned.objects(uri)?;
    let shard = |object: &Object| {
        let Some((folder, _)) = file_set(uri) else {
            return Ok(Shard { name: String::new(), uri: uri.to_owned(), size: object.size_bytes });
        };
        let at = access.stores().open(folder).and_then(|folder| folder.join(&object.name));
        let at = at.map_err(|error| Fault::input("the data", &error))?;
        Ok(Shard { name: object.name.clone(), uri: at.uri().to_owned(), size: object.size_bytes })
    };
    Some(objects.iter().map(shard).collect())
}

fn check_sizes(pinned: &Pinned, job: Job<'_>) -> Result<(), Fault> {
    let Manifest { uri, targets_uri, .. } = &pinned.manifest;
    [Some(uri), targets_uri.as_ref()].into_iter().flatten().try_for_each(|uri| check_sizes_of(pinned, job, uri))
}

fn check_sizes_of(pinned: &Pinned, job: Job<'_>, uri: &str) -> Result<(), Fault> {
    let fault = |error| Fault::input("the data", &error);
    let found: HashMap<String, u64> = match file_set(uri) {
        Some((folder, pattern)) => {
            let found = job.runtime.block_on(shards::find(job.stores, folder, pattern)).map_err(fault)?;
            found.into_iter().map(|shard| (shard.name, shard.size)).collect()
        }
        None => {
            let at = job.stores.open(uri).map_err(fault)?;
            let size = job.runtime.block_on(at.size()).map_err(fault)?;
            size.map(|size| (at.name().to_owned(), size)).into_iter().collect()
        }
    };
    for object in pinned.objects(uri).unwrap_or_default() {
        let file = match file_set(uri) {
            Some((folder, _)) => format!("{folder}/{}", object.name),
            None => uri.to_owned(),
        };
        match found.get(&object.name) {
            None => return Err(pinned.changed(&file, "it is not there")),
            Some(size) if *size != object.size_bytes => {
                let how = format!("it has {size} bytes, and had {}", object.size_bytes);
                return Err(pinned.changed(&file, &how));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
