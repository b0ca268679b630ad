//! `mlctl dataset verify`: every byte of a version's files again, compared with its manifest.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt as _, stream};
use mlctl_artifacts::{ArtifactError, Stores, shards};
use mlctl_protocol::{
    dataset::{Manifest, Object},
    spec::file_set,
};

use crate::{
    api::types::DatasetDetail,
    cli::{
        Context, Done, Failure,
        exit::Exit,
        output::{
            datasets::{self, Changed, Verified},
            pull::Bar,
        },
    },
    config,
    domain::causes,
};

/// Files that are read at a time.
const PARALLEL: usize = 4;

/// Reads the files again and prints what has changed.
pub(super) async fn run(context: &mut Context<'_>, detail: DatasetDetail) -> Done {
    let stores = Stores::with_s3(config::s3::own_access(context.environment)?);
    let DatasetDetail { version, manifest } = detail;
    let bar = Arc::new(Bar::new(&context.out, manifest.size_bytes()));
    let found = compare(&stores, &manifest, &bar).await;
    bar.close();
    let (changed, unlisted) = found?;
    let verified = Verified::new(version, changed, unlisted);
    datasets::verified(&mut context.out, &verified)?;
    Ok(if verified.ok { Exit::Ok } else { Exit::Failed })
}

/// What has changed, and the files that are there by now and are none of the version's.
async fn compare(stores: &Stores, manifest: &Manifest, bar: &Bar) -> Result<(Vec<Changed>, Vec<String>), Failure> {
    let Manifest { uri, targets_uri, objects, targets, .. } = manifest;
    let places = [(Some(uri), objects), (targets_uri.as_ref(), targets)];
    let (mut changed, mut unlisted) = (Vec::new(), Vec::new());
    for (uri, objects) in places.into_iter().filter_map(|(uri, objects)| Some((uri?, objects))) {
        let reads = objects.iter().map(|object| async move {
            let compared = one(stores, uri, object).await;
            bar.advance(object.size_bytes);
            compared
        });
        let mut reads = stream::iter(reads).buffered(PARALLEL);
        while let Some(compared) = reads.next().await {
            changed.extend(compared?);
        }
        unlisted.extend(others(stores, uri, objects).await?);
    }
    Ok((changed, unlisted))
}

async fn one(stores: &Stores, uri: &str, object: &Object) -> Result<Option<Changed>, Failure> {
    let read = async {
        let at = match file_set(uri) {
            Some((folder, _)) => stores.open(folder)?.join(&object.name)?,
            None => stores.open(uri)?,
        };
        Ok::<_, ArtifactError>((at.uri().to_owned(), at.digest().await))
    };
    let (uri, digest) = read.await.map_err(|error| failure(&error))?;
    let what = match digest {
        Ok((size, _)) if size != object.size_bytes => {
            format!("it has {size} bytes, and had {}", object.size_bytes)
        }
        Ok((_, blake3)) if blake3 != object.blake3 => "its content is another".to_owned(),
        Ok(_) => return Ok(None),
        Err(ArtifactError::NotFound { .. }) => "it is not there".to_owned(),
        Err(ArtifactError::Corrupt { what, .. }) => what,
        Err(error) => return Err(failure(&error)),
    };
    Ok(Some(Changed { uri, what }))
}

async fn others(stores: &Stores, uri: &str, objects: &[Object]) -> Result<Vec<String>, Failure> {
    let Some((folder, pattern)) = file_set(uri) else { return Ok(Vec::new()) };
    let known: BTreeSet<&str> = objects.iter().map(|object| object.name.as_str()).collect();
    let found = match shards::find(stores, folder, pattern).await {
        Ok(found) => found,
        // What is missing is told of each file.
        Err(ArtifactError::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(failure(&error)),
    };
    Ok(found.into_iter().filter(|shard| !known.contains(shard.name.as_str())).map(|shard| shard.uri).collect())
}

fn failure(error: &ArtifactError) -> Failure {
    let failure = Failure::new(Exit::Failed, causes(error));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
