//! What a version of a model is: its objects and where they come from; and what one of a dataset is of. Plain data; kept by the store, made and read by the registry.

use mlctl_protocol::{
    JobId,
    dataset::{MANIFEST_FORM, Manifest},
    progress::Metrics,
    spec::{DataFormat, PinnedData},
};
use serde::{Deserialize, Serialize};

use super::rules;

/// What a version holds, and where it comes from. It never changes; fields are only added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The folder: of a job's final model, or of a checkpoint.
    pub uri: String,
    /// What is in it.
    pub objects: Vec<Object>,
    /// The job that trained it.
    pub job: JobId,
    /// The attempt, where it is a checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Optimizer steps done, where it is a checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// BLAKE3 over the tensors of a final model, sorted by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// BLAKE3 of the job's spec.
    pub spec_digest: String,
    /// BLAKE3 of the training data, where the job's newest checkpoint told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_digest: Option<String>,
    /// The last value of each metric of the job, or those of the checkpoint.
    #[serde(default)]
    pub metrics: Metrics,
}

/// An object of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
}

impl Content {
    /// Bytes of all its objects.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.size_bytes))
    }

    /// Whether two are of the same thing.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.job, &self.uri) == (other.job, &other.uri)
    }
}

/// Whether a URI is this one, or lies in the folder that it is.
#[must_use]
pub fn is_within(uri: &str, root: &str) -> bool {
    uri.strip_prefix(root.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a version of a dataset is of, in short; its manifest has all of it. It never changes; fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Where its manifest is.
    pub manifest: String,
    /// BLAKE3 of the manifest.
    pub digest: String,
    /// What its files are.
    pub format: DataFormat,
    /// What was named: a file, a folder or a pattern.
    pub uri: String,
    /// The same of the files with what is to be learnt, where that lies in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets_uri: Option<String>,
    /// Rows; none of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Columns.
    pub columns: u64,
    /// Files.
    pub objects: u64,
    /// Bytes of all of them.
    pub size_bytes: u64,
}

/// The most files of a dataset.
const MAX_OBJECTS: usize = 100_000;

impl Dataset {
    /// A version with this manifest.
    #[must_use]
    pub fn of(manifest: &Manifest, uri: String, digest: String) -> Self {
        Self {
            manifest: uri,
            digest,
            format: manifest.format,
            uri: manifest.uri.clone(),
            targets_uri: manifest.targets_uri.clone(),
            rows: manifest.rows,
            columns: manifest.columns.len() as u64,
            objects: manifest.all().count() as u64,
            size_bytes: manifest.size_bytes(),
        }
    }

    /// What of it a job keeps.
    #[must_use]
    pub fn pinned(&self) -> PinnedData {
        let Self { manifest, digest, format, uri, targets_uri, .. } = self.clone();
        PinnedData { manifest, digest, format, uri, targets_uri }
    }
}

/// Why a manifest is none that a job could go by.
#[must_use]
pub fn misfit(manifest: &Manifest) -> Option<String> {
    let Manifest { v, format, uri, targets_uri, objects, targets, .. } = manifest;
    if *v != MANIFEST_FORM {
        return Some(format!("it is of form {v}, and this daemon keeps form {MANIFEST_FORM}"));
    }
    let places = [Some(uri), targets_uri.as_ref()];
    if let Some(problem) = places.into_iter().flatten().find_map(|uri| rules::data_place(uri)) {
        return Some(format!("its data is named by no URI: {problem}"));
    }
    if targets_uri.is_some() == targets.is_empty() || (targets_uri.is_some() && *format != DataFormat::Npy) {
        return Some("files with what is to be learnt are those of arrays alone".into());
    }
    if !targets.is_empty() && targets.len() != objects.len() {
        return Some(format!("it has {} files and {} of what is to be learnt", objects.len(), targets.len()));
    }
    if objects.is_empty() || objects.len() > MAX_OBJECTS {
        return Some(format!("it has {} files, and a dataset has 1 to {MAX_OBJECTS}", objects.len()));
    }
    let wrong = manifest.all().find(|object| !is_digest(&object.blake3) || is_detour(&object.name));
    wrong.map(|object| format!("what it says of the file {:?} is not understood", object.name))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_detour(name: &str) -> bool {
    name.chars().any(char::is_control) || name.split('/').any(|part| matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::dataset::Object as File;

    use super::*;

    fn manifest() -> Manifest {
        let object = File { name: "a.csv".into(), size_bytes: 7, etag: None, blake3: "ab".repeat(32), rows: Some(2) };
        Manifest {
            v: MANIFEST_FORM,
            format: DataFormat::Csv,
            uri: "s3://bucket/d/*.csv".into(),
            targets_uri: None,
            rows: Some(2),
            columns: Vec::new(),
            objects: vec![object],
            targets: Vec::new(),
        }
    }

    #[test]
    fn a_manifest_that_no_job_could_go_by_is_refused() {
        assert_eq!(misfit(&manifest()), None);
        let wrong: [fn(&mut Manifest); 8] = [
            |manifest| manifest.v = 2,
            |manifest| manifest.uri = "d.csv".into(),
            |manifest| manifest.targets_uri = Some("s3://bucket/y.npy".into()),
            |manifest| manifest.targets = manifest.objects.clone(),
            |manifest| manifest.objects.clear(),
            |manifest| manifest.objects[0].blake3 = "AB".repeat(32),
            |manifest| manifest.objects[0].name = "../x".into(),
            |manifest| manifest.objects[0].name = String::new(),
        ];
        for (number, change) in wrong.into_iter().enumerate() {
            let mut manifest = manifest();
            change(&mut manifest);
            assert!(misfit(&manifest).is_some(), "{number}");
        }
    }
}
