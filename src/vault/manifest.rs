//! What a backup says of itself. It is written last: a folder without it is no backup. Kept for years, so that fields are only added.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::offline::Summary;

/// The form of manifests that this build reads and writes.
pub(super) const FORMAT: u32 = 1;

/// The largest manifest that is read, in bytes.
pub(super) const MAX_BYTES: u64 = 64 * 1024;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of this document: 1.
    pub format: u32,
    /// The database's id.
    pub instance: String,
    /// How often the database had been restored, and one.
    pub epoch: u32,
    /// The version of its schema.
    pub schema: u32,
    /// Transactions that it has.
    pub commits: u64,
    /// Its newest event.
    pub last_event: u64,
    /// Jobs that it has.
    pub jobs: u64,
    /// The version of the program that made it.
    pub version: String,
    /// When the copy was begun, in UTC.
    pub made_at: Timestamp,
    /// The size of the database in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of the database, 64 hexadecimal digits.
    pub blake3: String,
}

impl Manifest {
    pub(super) fn new(summary: Summary, made_at: Timestamp, (size_bytes, blake3): (u64, String)) -> Self {
        let Summary { instance, epoch, schema, commits, last_event, jobs } = summary;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            format: FORMAT,
            instance,
            epoch,
            schema,
            commits,
            last_event,
            jobs,
            version,
            made_at,
            size_bytes,
            blake3,
        }
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, String> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        json.push(b'\n');
        Ok(json)
    }

    /// # Errors
    /// What is wrong with it, for a person.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let not = |error: serde_json::Error| format!("its manifest is not understood: {error}");
        let Form { format } = serde_json::from_slice(bytes).map_err(not)?;
        if format != FORMAT {
            return Err(format!("its manifest has format {format}, and this program reads format {FORMAT}"));
        }
        serde_json::from_slice(bytes).map_err(not)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As written by version 0.1.0; it must load for ever.
    const V1: &str = r#"{"format": 1, "instance": "00000000000000aa", "epoch": 2, "schema": 18, "commits": 7, "last_event": 9, "jobs": 3,
        "version": "0.1.0", "made_at": "2026-11-26T19:00:00.123Z", "size_bytes": 4096, "blake3": "00", "later": true}"#;

    #[test]
    fn the_first_release_s_manifest_still_loads_and_others_are_refused() {
        let manifest = Manifest::from_json(V1.as_bytes()).unwrap();
        assert_eq!((manifest.epoch, manifest.jobs), (2, 3));
        assert_eq!(Manifest::from_json(&manifest.to_json().unwrap()), Ok(manifest));
        for (text, why) in
            [("{}", "not understood"), ("{\"format\": 2}", "has format 2"), ("{\"format\": 1}", "instance")]
        {
            assert!(Manifest::from_json(text.as_bytes()).unwrap_err().contains(why), "{text}");
        }
    }
}
