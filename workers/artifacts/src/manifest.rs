//! The list of a checkpoint's objects, written last: a checkpoint is what its manifest says, or nothing. Written and read by
//! `checkpoint`; stored for years, so fields are only added, and old fixtures must still load.

use mlctl_protocol::{AttemptNumber, FencingToken, JobId, progress::Metrics};
use serde::{Deserialize, Serialize};

use crate::{chunks::Chunks, digest::is_digest, keys};

/// The manifest format this build reads and writes.
pub const FORMAT: u32 = 1;

/// The largest manifest read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// The most objects of a checkpoint.
pub const MAX_OBJECTS: usize = 10_000;

/// A checkpoint's list of objects, and what the checkpoint is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// The job.
    pub job: JobId,
    /// The attempt that wrote it.
    pub attempt: AttemptNumber,
    /// The attempt's token.
    pub token: FencingToken,
    /// Random, to recognise our own object when a create that took effect is answered by an error.
    pub writer_id: String,
    /// Optimizer steps done in this state.
    pub step: u64,
    /// Epochs completed in this state.
    pub epoch: u64,
    /// When it was taken, RFC 3339 in UTC.
    pub created_at: String,
    /// BLAKE3 of the job's spec.
    pub spec_digest: String,
    /// BLAKE3 of the training data.
    pub dataset_digest: String,
    /// The folder of the checkpoint this attempt started from.
    #[serde(default)]
    pub parent: Option<String>,
    /// The metrics known when it was taken.
    #[serde(default)]
    pub metrics: Metrics,
    /// The objects, beside the manifest or shared.
    pub objects: Vec<Object>,
}

/// An object of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name in the checkpoint's folder.
    pub name: String,
    /// What it holds.
    pub role: Role,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes, 64 hexadecimal digits.
    pub blake3: String,
    /// Where it lies when it is shared, in a folder beside those of the job's checkpoints: several manifests name it, and it is stored once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Checksums of its chunks, where it has several and its writer knew of chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Chunks>,
}

/// What an object of a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Weights.
    Model,
    /// The optimizer's tensors.
    Optimizer,
    /// Everything else: counters, random numbers, data position, configuration.
    State,
}

impl Object {
    /// Whether it is the same object of the same bytes, wherever each of the two lies.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.name, self.role, self.size_bytes, &self.blake3)
            == (&other.name, other.role, other.size_bytes, &other.blake3)
    }
}

impl Manifest {
    /// Reads a manifest and checks what a type cannot say.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        if format != FORMAT {
            return Err(format!("manifest format {format} is not supported; this build reads format {FORMAT}"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes stored.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn to_json(&self) -> Result<Vec<u8>, String> {
        self.check()?;
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        json.push(b'\n');
        Ok(json)
    }

    /// Size of all objects, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.size_bytes))
    }

    /// Size of the objects of a kind, in bytes.
    #[must_use]
    pub fn size_of(&self, role: Role) -> u64 {
        let of_role = self.objects.iter().filter(|object| object.role == role);
        of_role.fold(0, |sum, object| sum.saturating_add(object.size_bytes))
    }

    fn check(&self) -> Result<(), String> {
        if self.objects.len() > MAX_OBJECTS {
            return Err(format!("{} objects are listed, more than {MAX_OBJECTS}", self.objects.len()));
        }
        let mut names = std::collections::BTreeSet::new();
        for Object { name, blake3, size_bytes, chunks, .. } in &self.objects {
            if !is_object_name(name) {
                return Err(format!("{name:?} is not the name of an object"));
            }
            if !names.insert(name) {
                return Err(format!("{name:?} is listed twice"));
            }
            if !is_digest(blake3) {
                return Err(format!("the checksum of {name:?} is not a BLAKE3"));
            }
            if let Some(chunks) = chunks {
                chunks.check(*size_bytes, blake3).map_err(|what| format!("{name:?}: {what}"))?;
            }
        }
        Ok(())
    }
}

/// Plain file names only: a manifest cannot point out of its folder, nor at itself.
pub(crate) fn is_object_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && name != keys::MANIFEST
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As written by version 0.1.0; it must load for ever.
    const V1: &str = include_str!("../tests/fixtures/manifest-v1.json");

    #[test]
    fn the_first_release_s_manifest_still_loads() {
        let manifest = Manifest::from_json(V1.as_bytes()).unwrap();
        assert_eq!((manifest.step, manifest.objects.len()), (40, 3));
        assert_eq!(manifest.objects[1].role, Role::Optimizer);
        assert_eq!(manifest.size_bytes(), 353_111);
        assert_eq!(Manifest::from_json(&manifest.to_json().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn chunks_that_are_not_the_objects_are_refused() {
        let bytes = bytes::Bytes::from(vec![7; 9 << 20]);
        let mut manifest = Manifest::from_json(V1.as_bytes()).unwrap();
        let object = &mut manifest.objects[0];
        object.size_bytes = bytes.len() as u64;
        (object.blake3, object.chunks) = crate::chunks::sums(&[bytes], object.size_bytes);
        let json = String::from_utf8(manifest.to_json().unwrap()).unwrap();
        assert_eq!(Manifest::from_json(json.as_bytes()).unwrap(), manifest);
        for (old, new, why) in [
            ("\"size_bytes\": 8388608", "\"size_bytes\": 8388607", "chunks have"),
            ("\"size_bytes\": 8388608", "\"size_bytes\": 4194304", "chunks of"),
            (manifest.objects[0].chunks.as_ref().unwrap().blake3[0].as_str(), &"0".repeat(64), "do not give"),
        ] {
            let text = json.replacen(old, new, 1);
            assert_ne!(text, json, "the edit {old} must apply");
            let error = Manifest::from_json(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{new}: {error}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let edits: [(&str, &str, &str); 7] = [
            ("\"format\": 1", "\"format\": 2", "format 2 is not supported"),
            ("\"state.json\"", "\"../state.json\"", "not the name"),
            ("\"state.json\"", "\"manifest.json\"", "not the name"),
            ("\"state.json\"", "\"\"", "not the name"),
            ("\"state.json\"", "\"model-00001-of-00001.safetensors\"", "twice"),
            ("\"blake3\": \"0f", "\"blake3\": \"0F", "BLAKE3"),
            ("\"step\": 40", "\"step\": -1", "not a manifest"),
        ];
        for (old, new, why) in edits {
            let text = V1.replacen(old, new, 1);
            assert_ne!(text, V1, "the edit {old} must apply");
            let error = Manifest::from_json(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{new}: {error}");
        }
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let text = V1.replacen("\"step\"", "\"later\": {\"a\": 1}, \"step\"", 1);
        assert!(Manifest::from_json(text.as_bytes()).is_ok());
    }
}
