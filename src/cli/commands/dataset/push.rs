//! `mlctl dataset push`: files from here to the daemon's object storage, where they are a version of a dataset. They are looked at before anything is sent, so that a bad row costs no upload; they go to a
//! folder that is named by what is in them, so that the same command goes on with what was cut off, and nothing that a version is of is ever written over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use mlctl_artifacts::{
    ArtifactError, Location, Stores, keys,
    streams::{Moved, Streams},
    uri,
};
use mlctl_protocol::{
    dataset::{ColumnKind, Manifest, Object},
    spec::{DataSource, file_set},
};

use super::{By, path, survey};
use crate::{
    api::types::{DaemonView, DatasetVersionView},
    cli::{
        Context, Done, Failure,
        client::LONG_LIMIT,
        commands::storage::{Limits, failure},
        exit::Exit,
        output::{datasets, pull::Bar},
    },
    config,
};

/// What is to be pushed.
pub(super) struct Push {
    pub(super) dataset: String,
    /// Files, folders and patterns here, all of one format.
    pub(super) sources: Vec<DataSource>,
    pub(super) by: By,
    pub(super) limits: Limits,
}

/// A file here, as it was looked at, and what it is to be.
struct Local {
    path: PathBuf,
    identity: Identity,
    object: Object,
}

/// What tells a file from what becomes of it: size, when it was changed last, and what it is on its disk.
type Identity = (u64, i64, i64, u64);

impl Push {
    /// Looks at the files, sends them, and has them made a version.
    pub(super) async fn run(self, context: &mut Context<'_>) -> Done {
        let Self { dataset, sources, by, limits } = self;
        let daemon: DaemonView = context.client.get("/v1/daemon").await?;
        let mut looked = Vec::with_capacity(sources.len());
        for source in sources {
            looked.push(survey::of(context, source, by.worker.clone()).await?);
        }
        let mut files = locals(&looked)?;
        let mut manifest = joined(looked)?;
        let home = keys::dataset_files_uri(&daemon.storage_url, &daemon.instance, &digest(&manifest));
        let stores = Stores::with_s3(config::s3::own_access(context.environment)?);
        let home = stores.open(&home).map_err(failure)?;
        let bar = Arc::new(Bar::new(&context.out, 0));
        let streams = limits.streams(context, &bar);
        let sent = limits.watch(send(&streams, &home, &mut files), LEFT).await;
        bar.close();
        sent?;
        if let Some(file) = files.iter().find(|file| identity(&file.path).ok() != Some(file.identity)) {
            return Err(Failure::new(Exit::Failed, format!("{} was changed meanwhile", file.path.display()))
                .hint("push it again when nobody writes to it"));
        }
        manifest.uri = match &files[..] {
            [only] => format!("{}/{}", home.uri(), only.object.name),
            _ => format!("{}/", home.uri()),
        };
        manifest.objects = files.iter().map(|file| file.object.clone()).collect();
        let added: DatasetVersionView = context.client.post_body(&path(&dataset), &manifest, LONG_LIMIT).await?;
        // What was there from long ago may have been collected before the version was on record.
        limits.watch(send(&streams, &home, &mut files), LEFT).await?;
        datasets::added(&mut context.out, &added)?;
        Ok(Exit::Ok)
    }
}

/// What is there when it was cut off.
const LEFT: &str = "what has arrived is kept: the same command goes on with it";

/// The files of some manifests, in the order of their names.
fn locals(looked: &[Manifest]) -> Result<Vec<Local>, Failure> {
    let mut files = BTreeMap::new();
    for manifest in looked {
        for object in &manifest.objects {
            let place = match file_set(&manifest.uri) {
                Some((folder, _)) => format!("{folder}/{}", object.name),
                None => manifest.uri.clone(),
            };
            let path = uri::to_path(&place).ok().flatten().ok_or_else(|| {
                Failure::new(Exit::Usage, format!("{place} is no file of this machine"))
                    .hint("`mlctl dataset add` makes a version of what lies in a bucket, where it lies")
            })?;
            if object.name.split('/').any(|part| part.starts_with(['.', '_'])) {
                return Err(Failure::new(Exit::Invalid, format!("{} begins with `.` or `_`", path.display()))
                    .hint("such names are passed over where a folder is read: rename it"));
            }
            let identity =
                identity(&path).map_err(|error| Failure::caused(format!("read {}", path.display()), &error))?;
            let local = Local { path, identity, object: object.clone() };
            if let Some(other) = files.insert(object.name.clone(), local) {
                let path = other.path.display();
                return Err(Failure::new(Exit::Invalid, format!("another file has the name of {path}"))
                    .hint("bring both into one folder under different names, and push that"));
            }
        }
    }
    Ok(files.into_values().collect())
}

fn identity(path: &Path) -> std::io::Result<Identity> {
    let found = fs::metadata(path)?;
    Ok((found.len(), found.mtime(), found.mtime_nsec(), found.ino()))
}

/// What several looks come to together, its files in the order of their names.
fn joined(looked: Vec<Manifest>) -> Result<Manifest, Failure> {
    let mut looked = looked.into_iter();
    let nothing = || Failure::new(Exit::Usage, "there is nothing to push");
    let mut all = looked.next().ok_or_else(nothing)?;
    for one in looked {
        let names = |manifest: &Manifest| -> Vec<String> {
            manifest.columns.iter().map(|column| column.name.clone()).collect()
        };
        if names(&one) != names(&all) {
            return Err(Failure::new(Exit::Invalid, format!("{} is not of the same columns as {}", one.uri, all.uri))
                .hint("files of one dataset have the same columns in the same order"));
        }
        for (column, other) in all.columns.iter_mut().zip(&one.columns) {
            if other.kind == ColumnKind::Text {
                column.kind = ColumnKind::Text;
            }
        }
        all.rows = all.rows.zip(one.rows).map(|(all, one)| all + one);
        all.objects.extend(one.objects);
    }
    all.objects.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// What names the folder of these files: what is in them, and their names.
fn digest(manifest: &Manifest) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"mlctl pushed 1\n");
    for object in &manifest.objects {
        hasher.update(&(object.name.len() as u64).to_le_bytes());
        hasher.update(object.name.as_bytes());
        hasher.update(object.blake3.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Sends what is not there yet, and notes what the store calls each.
async fn send(streams: &Streams, home: &Location, files: &mut [Local]) -> Result<Moved, ArtifactError> {
    let there: BTreeSet<(String, u64)> = home.list().await?.into_iter().map(|entry| (entry.name, entry.size)).collect();
    let mut moved = Moved::default();
    for Local { path, object, .. } in files {
        let to = home.join(&object.name)?;
        if !there.contains(&(object.name.clone(), object.size_bytes)) {
            let sent = streams.send(path, &to).await?;
            moved.files += 1;
            moved.bytes += sent.size;
        }
        let pieces = to.pieces(u64::MAX).await?;
        if pieces.size() != object.size_bytes {
            let what = format!("it has {} bytes, and the file had {}", pieces.size(), object.size_bytes);
            return Err(ArtifactError::Corrupt { uri: to.uri().to_owned(), what });
        }
        object.etag = pieces.version().map(str::to_owned);
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, columns: &[(&str, ColumnKind)], rows: u64) -> Manifest {
        let columns =
            columns.iter().map(|(name, kind)| mlctl_protocol::dataset::Column { name: (*name).into(), kind: *kind });
        let object = Object { name: name.into(), size_bytes: 1, etag: None, blake3: "ab".repeat(32), rows: Some(rows) };
        Manifest {
            v: 1,
            format: mlctl_protocol::spec::DataFormat::Csv,
            uri: format!("file:///d/{name}"),
            targets_uri: None,
            rows: Some(rows),
            columns: columns.collect(),
            objects: vec![object],
            targets: Vec::new(),
        }
    }

    #[test]
    fn several_looks_are_one_dataset_where_their_columns_are_the_same() {
        use ColumnKind::{Number, Text};
        let one = || manifest("b.csv", &[("a", Number), ("y", Number)], 2);
        let two = manifest("a.csv", &[("a", Text), ("y", Number)], 3);
        let all = joined(vec![one(), two.clone()]).unwrap();
        assert_eq!((all.rows, all.columns[0].kind, all.columns[1].kind), (Some(5), Text, Number));
        let names: Vec<_> = all.objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["a.csv", "b.csv"], "as a folder is read");
        assert_eq!(digest(&all), digest(&joined(vec![two, one()]).unwrap()));
        assert_ne!(digest(&all), digest(&one()));
        assert!(joined(vec![one(), manifest("c.csv", &[("y", Number), ("a", Number)], 1)]).is_err());
        assert!(joined(Vec::new()).is_err());
    }
}
