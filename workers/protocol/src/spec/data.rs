//! Where rows come from and how they are divided and scaled.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A table of numbers: features, and targets to learn or to compare with; or text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "format", rename_all = "snake_case", deny_unknown_fields)]
pub enum DataSource {
    /// A CSV file with a header. It, and every other file of data, may be compressed by gzip or zstd, and may be one of several.
    Csv {
        /// The file: a path relative to the spec's folder, an absolute path, `file://` or `s3://`. Several files are one table, in the order of their names:
        /// all in a folder, `data/`, or those of a pattern, `data/part-*.csv` (`*` and `?` within a name, `**` for folders, `[0-9]`).
        #[schemars(length(min = 1))]
        uri: String,
        /// The columns to learn: one of class numbers for `cross_entropy`, any numbers for `mse`. Inference needs none, but
        /// computes metrics when the model's own are there.
        #[serde(default)]
        targets: Vec<String>,
        /// The columns to learn from, in order; every other column when empty.
        #[serde(default)]
        features: Vec<String>,
    },
    /// A JSONL file: each line an object of numbers by column. The columns are the keys of the first line; a key may have an array of numbers, of
    /// the same length in every line.
    Jsonl {
        /// The file, as for CSV.
        #[schemars(length(min = 1))]
        uri: String,
        /// The keys to learn, as for CSV.
        #[serde(default)]
        targets: Vec<String>,
        /// The keys to learn from, in order; every other key when empty.
        #[serde(default)]
        features: Vec<String>,
    },
    /// NumPy arrays, as `np.save` writes them: a row of numbers for each row, further dimensions laid out behind each other.
    Npy {
        /// The file with the features, as for CSV.
        #[schemars(length(min = 1))]
        uri: String,
        /// The file with what is to be learnt, as many rows: one column of class numbers for `cross_entropy`, any numbers for `mse`. Inference
        /// needs none.
        #[serde(default)]
        #[schemars(length(min = 1))]
        targets_uri: Option<String>,
    },
    /// A Parquet file, uncompressed inside or by snappy or zstd: columns of numbers, of texts that read as numbers, or of lists of numbers of one length. Read by row
    /// groups, of which one is in memory at a time.
    Parquet {
        /// The file or the files, as for CSV.
        #[schemars(length(min = 1))]
        uri: String,
        /// The columns to learn, as for CSV.
        #[serde(default)]
        targets: Vec<String>,
        /// The columns to learn from, in order; every other column when empty.
        #[serde(default)]
        features: Vec<String>,
    },
    /// Plain text, for a `gpt`: one stream of tokens, cut into sequences of the model's context, of which each token's target is the next. Several files are one text, in the
    /// order of their names, with nothing between them. The parts of `train.split` are cut from its end: what is validated on, and behind it what is tested on.
    Text {
        /// The file or the files, as for CSV.
        #[schemars(length(min = 1))]
        uri: String,
        /// What a token is.
        tokenizer: TextTokens,
    },
    /// A version of a dataset, as `mlctl dataset ls` lists them. Its files are read and no others, whatever lies beside them by now; one that is missing or has changed ends the job with its name.
    Dataset {
        /// The dataset's name and, after a slash, its version: `digits/3`. Without one, the newest at the submit, which the job keeps; of a schedule, the newest at each tick.
        #[schemars(length(min = 1, max = 120))]
        dataset: String,
        /// The columns to learn, as for CSV.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        targets: Vec<String>,
        /// The columns to learn from, in order; every other column when empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        features: Vec<String>,
        /// What a token is, where the dataset is text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokenizer: Option<TextTokens>,
        /// What the version is of. Written by the daemon at the submit, whatever stands there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pinned: Option<PinnedData>,
    },
    /// Rows drawn from the standard normal distribution; see the generator's specification in `workers/candle/docs/rng.md`.
    Randn {
        /// Rows.
        #[schemars(range(min = 1, max = 1_000_000_000))]
        rows: u64,
        /// Feature columns.
        #[schemars(range(min = 1, max = 1_000_000))]
        features: u32,
        /// Target columns.
        #[schemars(range(min = 1, max = 1_000_000))]
        targets: u32,
        /// The seed.
        #[serde(default)]
        seed: u64,
    },
}

impl DataSource {
    /// The files it is read from: each one's key in the spec, and where it is.
    pub fn files_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut String)> {
        let (uri, targets_uri) = match self {
            Self::Csv { uri, .. } | Self::Jsonl { uri, .. } | Self::Parquet { uri, .. } | Self::Text { uri, .. } => {
                (Some(uri), None)
            }
            Self::Npy { uri, targets_uri } => (Some(uri), targets_uri.as_mut()),
            Self::Randn { .. } | Self::Dataset { .. } => (None, None),
        };
        uri.map(|uri| ("uri", uri)).into_iter().chain(targets_uri.map(|uri| ("targets_uri", uri)))
    }

    /// The dataset of which the newest version is meant, where no version is named.
    #[must_use]
    pub fn newest_of(&self) -> Option<&str> {
        match self {
            Self::Dataset { dataset, .. } if dataset_parts(dataset).is_some_and(|(_, version)| version.is_none()) => {
                Some(dataset)
            }
            _ => None,
        }
    }

    /// The files of a dataset's version as if they were named themselves; everything else, and a dataset of which no version is pinned yet, as it is.
    #[must_use]
    pub fn plain(&self) -> Cow<'_, Self> {
        let Self::Dataset { targets, features, tokenizer, pinned: Some(pinned), .. } = self else {
            return Cow::Borrowed(self);
        };
        let (uri, targets, features) = (pinned.uri.clone(), targets.clone(), features.clone());
        Cow::Owned(match pinned.format {
            DataFormat::Csv => Self::Csv { uri, targets, features },
            DataFormat::Jsonl => Self::Jsonl { uri, targets, features },
            DataFormat::Parquet => Self::Parquet { uri, targets, features },
            DataFormat::Npy => Self::Npy { uri, targets_uri: pinned.targets_uri.clone() },
            DataFormat::Text => Self::Text { uri, tokenizer: tokenizer.unwrap_or(TextTokens::Bytes) },
        })
    }
}

/// What a version of a dataset is of, as a job keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PinnedData {
    /// Where its manifest is.
    pub manifest: String,
    /// BLAKE3 of the manifest.
    pub digest: String,
    /// What its files are.
    pub format: DataFormat,
    /// What was named when it was added: a file, a folder or a pattern.
    pub uri: String,
    /// The same of the files with what is to be learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets_uri: Option<String>,
}

/// What the files of a dataset are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    /// CSV with a header.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// NumPy arrays.
    Npy,
    /// Parquet.
    Parquet,
    /// Plain text.
    Text,
}

impl DataFormat {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("csv", Self::Csv),
        ("jsonl", Self::Jsonl),
        ("npy", Self::Npy),
        ("parquet", Self::Parquet),
        ("text", Self::Text),
    ];

    /// Its name, as `format` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Npy => "npy",
            Self::Parquet => "parquet",
            Self::Text => "text",
        }
    }
}

/// The name and the version that `digits/3` or `digits` means; `None` for a version that is no number from 1 on.
#[must_use]
pub fn dataset_parts(reference: &str) -> Option<(&str, Option<u32>)> {
    let Some((name, version)) = reference.split_once('/') else { return Some((reference, None)) };
    let number: u32 = version.parse().ok().filter(|number: &u32| *number > 0 && number.to_string() == version)?;
    Some((name, Some(number)))
}

/// What a token of a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextTokens {
    /// A byte: 256 tokens, for anything.
    Bytes,
    /// A character of UTF-8 text. The vocabulary are the characters of the text, in the order of their numbers; it is kept with the model.
    Characters,
}

/// The folder and the pattern of a URI that names several files: `data/` all that are in it, at any depth (the pattern is empty), `data/part-*.csv`
/// those that match. `None` for a URI that names one.
#[must_use]
pub fn file_set(uri: &str) -> Option<(&str, &str)> {
    let special = uri.find(['*', '?', '[']).unwrap_or(uri.len());
    if special == uri.len() && !uri.ends_with('/') {
        return None;
    }
    uri[..special].rsplit_once('/').map_or(Some(("", uri)), |(folder, _)| Some((folder, &uri[folder.len() + 1..])))
}

/// How rows are divided into train, validation and test parts: a seeded permutation of the row numbers, cut in that order. Training gets the rest. A text is cut as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Split {
    /// The share of rows to validate on after each epoch.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub validation: f64,
    /// The share of rows to test on once, at the end.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub test: f64,
    /// The seed of the permutation.
    pub seed: u64,
}

impl Default for Split {
    fn default() -> Self {
        Self { validation: 0.0, test: 0.0, seed: 0 }
    }
}

/// Rows are read from storage while training goes on, instead of all before it. One pass is made first, which checks every row, fits the scaling and finds the blocks that can be
/// read each by itself: of CSV and JSONL about a MiB, of Parquet a row group, a whole file where it is compressed. Each epoch shuffles the blocks and the rows of a window of them; see
/// `workers/candle/docs/rng.md`. A resumed run makes no second pass and reads on where it was. Parts are divided row by row, so that shares are met on average.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSpec {
    /// How much of the rows, in MiB as they are trained on (4 bytes a value), is shuffled together. Two windows are in memory, and the rows to validate on where they are no more than one. Another value is another order.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub window_mib: u32,
}

impl Default for StreamSpec {
    fn default() -> Self {
        Self { window_mib: 256 }
    }
}

/// A part of a split dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitPart {
    /// The rows trained on.
    Train,
    /// The rows validated on after each epoch.
    Validation,
    /// The rows tested on at the end.
    Test,
}

/// How features are scaled, fitted on the train part and stored with the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// As they are.
    #[default]
    None,
    /// To mean 0 and standard deviation 1 per column; a constant column becomes 0.
    Standard,
    /// To 0..1 per column; a constant column becomes 0.
    MinMax,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_dataset_is_read_as_its_files_are() {
        let dataset = |pinned| DataSource::Dataset {
            dataset: "digits/3".into(),
            targets: vec!["y".into()],
            features: Vec::new(),
            tokenizer: None,
            pinned,
        };
        assert!(matches!(dataset(None).plain(), Cow::Borrowed(DataSource::Dataset { .. })));
        for (_, format) in DataFormat::ALL {
            let pinned = PinnedData {
                manifest: "file:///m".into(),
                digest: "0".into(),
                format,
                uri: "file:///d/*".into(),
                targets_uri: None,
            };
            let plain = dataset(Some(pinned)).plain().into_owned();
            let json = serde_json::to_value(&plain).unwrap();
            assert_eq!((json["format"].as_str(), json["uri"].as_str()), (Some(format.name()), Some("file:///d/*")));
        }
    }

    #[test]
    fn a_dataset_is_named_with_a_version_or_without() {
        assert_eq!(dataset_parts("digits"), Some(("digits", None)));
        assert_eq!(dataset_parts("digits/3"), Some(("digits", Some(3))));
        for wrong in ["digits/", "digits/0", "digits/03", "digits/x", "digits/3/4", "digits/-1"] {
            assert_eq!(dataset_parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn several_files_are_told_from_one() {
        for one in ["a.csv", "/d/a.csv", "s3://bucket/a", ""] {
            assert_eq!(file_set(one), None, "{one}");
        }
        for (uri, folder, pattern) in [
            ("data/", "data", ""),
            ("s3://bucket/data/", "s3://bucket/data", ""),
            ("/d/part-*.csv", "/d", "part-*.csv"),
            ("/d/[ab]/x?.csv", "/d", "[ab]/x?.csv"),
            ("*.csv", "", "*.csv"),
        ] {
            assert_eq!(file_set(uri), Some((folder, pattern)), "{uri}");
        }
    }
}
