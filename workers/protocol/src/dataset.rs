//! What a version of a dataset is of: its manifest, which is stored as an object and named by its digest; and what a worker is asked and answers that makes one. The worker reads the data,
//! `mlctl` hands the manifest to the daemon, which keeps it, and workers that train on the version compare with it.

use serde::{Deserialize, Serialize};

use crate::{
    s3::S3Access,
    spec::{DataFormat, DataSource},
};

/// The form of a manifest that is written.
pub const MANIFEST_FORM: u32 = 1;

/// The largest manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;

/// The largest line of an answer to a [`Survey`], in bytes: a manifest and what stands around it.
pub const MAX_ANSWER_BYTES: usize = MAX_MANIFEST_BYTES + 64 * 1024;

/// The files of a dataset at one moment, and what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form: [`MANIFEST_FORM`].
    pub v: u32,
    /// What the files are.
    pub format: DataFormat,
    /// What was named: a file, a folder or a pattern, as in a job's spec.
    pub uri: String,
    /// The same of the files with what is to be learnt, where that lies in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets_uri: Option<String>,
    /// Rows of all files; none of text.
    pub rows: Option<u64>,
    /// The columns, in the order of the files.
    pub columns: Vec<Column>,
    /// The files, in the order of their names.
    pub objects: Vec<Object>,
    /// Those with what is to be learnt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Object>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What stands in it.
    pub kind: ColumnKind,
}

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// A finite number in every row, so that it can be learnt from.
    Number,
    /// Something else in one row at least.
    Text,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its path under the folder that was named, or its name where it was named itself.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// What the store called this version of it, an `ETag`, where it has such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// BLAKE3 of its bytes as they are stored.
    pub blake3: String,
    /// Its rows; none of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

impl Manifest {
    /// All files, those with what is to be learnt last.
    pub fn all(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().chain(&self.targets)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.all().fold(0, |sum, object| sum.saturating_add(object.size_bytes))
    }
}

/// A worker is to read data and to say what it is: a line of JSON on its standard input. It answers with lines of [`Surveyed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Survey {
    /// The version of this form: 1.
    pub v: u32,
    /// The data; what it says of columns is not looked at.
    pub source: DataSource,
    /// The way into the S3 store, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Access>,
}

/// A line of an answer to a [`Survey`]. The last says what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Surveyed {
    /// How far it has come.
    Progress {
        /// Rows, or bytes of text.
        records: u64,
    },
    /// What the data is.
    Done {
        /// Its manifest.
        manifest: Manifest,
    },
    /// It cannot be said.
    Failed {
        /// Whether another try may go well.
        is_temporary: bool,
        /// What is wrong.
        message: String,
        /// What to do.
        #[serde(default)]
        hint: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let text = r#"{"v":1,"format":"csv","uri":"s3://b/d/*.csv","rows":3,"columns":[{"name":"a","kind":"number"}],"objects":[{"name":"x.csv","size_bytes":7,"etag":"\"e\"","blake3":"00","rows":3}]}"#;
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&manifest).unwrap(), text, "what is stored keeps its form");
        assert_eq!((manifest.size_bytes(), manifest.all().count()), (7, 1));
    }
}
