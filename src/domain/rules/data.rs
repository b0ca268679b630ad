//! The rules of data, and of how it and a network fit together: the same for training and inference.

use std::collections::HashSet;

use mlctl_protocol::spec::{DataFormat, DataSource, Loss, ModelSpec, TextTokens, dataset_parts, file_set};

use super::{Problem, job};

/// The longest URI or path, in bytes: that of Linux paths.
const MAX_URI_BYTES: usize = 4096;

/// The most values a generated table has: 64 GiB of them.
const MAX_VALUES: u64 = 1 << 34;

/// What is wrong with the data by itself.
pub(super) fn problems(path: &str, data: &DataSource) -> Vec<Problem> {
    let mut found = Vec::new();
    match data {
        DataSource::Csv { uri, targets, features }
        | DataSource::Jsonl { uri, targets, features }
        | DataSource::Parquet { uri, targets, features } => {
            found.extend(place(&format!("{path}.uri"), uri));
            found.extend(columns(path, targets, features));
        }
        DataSource::Dataset { dataset, targets, features, tokenizer, pinned } => {
            found.extend(reference(&format!("{path}.dataset"), dataset));
            found.extend(columns(path, targets, features));
            let format = pinned.as_ref().map(|pinned| pinned.format);
            found.extend(format.and_then(|format| misnamed(path, format, targets.len() + features.len(), *tokenizer)));
        }
        DataSource::Text { uri, .. } => found.extend(place(&format!("{path}.uri"), uri)),
        DataSource::Npy { uri, targets_uri } => {
            found.extend(place(&format!("{path}.uri"), uri));
            found.extend(targets_uri.as_ref().and_then(|uri| place(&format!("{path}.targets_uri"), uri)));
        }
        DataSource::Randn { rows, features, targets, .. } => {
            let columns = u64::from(*features) + u64::from(*targets);
            if rows.saturating_mul(columns) > MAX_VALUES {
                let message = format!("{rows} rows of {columns} columns are more than fit into memory");
                found.push(Problem::new(format!("{path}.rows"), message, "keep rows x columns below 2^34"));
            }
        }
    }
    found
}

/// What is wrong with the name of a dataset, with a version or without.
fn reference(path: &str, named: &str) -> Option<Problem> {
    let Some((name, _)) = dataset_parts(named) else {
        let message = format!("{named:?} names no version of a dataset");
        return Some(Problem::new(path, message, "versions are numbered from 1, as in \"digits/3\""));
    };
    job::name(name).map(|problem| Problem { path: path.into(), ..problem })
}

/// Whether a spec says of a dataset what there is in files of its format.
fn misnamed(path: &str, format: DataFormat, columns: usize, tokenizer: Option<TextTokens>) -> Option<Problem> {
    let (key, message, hint) = match (format, tokenizer) {
        (DataFormat::Text, None) => (
            "",
            "the dataset is text, and nothing says what a token is",
            "write tokenizer = \"bytes\" or \"characters\"",
        ),
        (DataFormat::Text, Some(_)) | (DataFormat::Npy, None) if columns > 0 => {
            ("", "the dataset has no columns with names", "leave targets and features out")
        }
        (DataFormat::Text, Some(_)) | (_, None) => return None,
        (_, Some(_)) => (".tokenizer", "the dataset is no text", "leave it out"),
    };
    Some(Problem::new(format!("{path}{key}"), message, hint))
}

fn columns(path: &str, targets: &[String], features: &[String]) -> Vec<Problem> {
    let mut found = Vec::new();
    for (key, names) in [("targets", targets), ("features", features)] {
        let mut seen = HashSet::new();
        for (index, name) in names.iter().enumerate() {
            let path = format!("{path}.{key}[{index}]");
            if name.is_empty() {
                found.push(Problem::new(
                    path,
                    "a column must have a name",
                    "the header of the file, or its first line, says which there are",
                ));
            } else if !seen.insert(name) {
                let message = format!("the column {name:?} is listed twice");
                found.push(Problem::new(path, message, "keep it once"));
            } else if key == "features" && targets.contains(name) {
                let message = format!("the column {name:?} is a target already");
                found.push(Problem::new(path, message, "a model must not learn from what it is to predict"));
            }
        }
    }
    found
}

/// What is wrong with where rows are: one file, or the folder of several.
pub(super) fn place(path: &str, named: &str) -> Option<Problem> {
    match file_set(named) {
        Some((folder, _)) => uri(path, &format!("{folder}/")),
        None => uri(path, named),
    }
}

/// Whether a text names a file in a way that is understood: `file://`, an absolute path or `s3://`, with nothing in it that has two readings.
pub(super) fn uri(path: &str, uri: &str) -> Option<Problem> {
    let (scheme, file) = uri.split_once("://").unwrap_or(("file", uri));
    if scheme == "s3" && uri.len() <= MAX_URI_BYTES {
        return object(path, file);
    }
    let (message, hint) = if uri.len() > MAX_URI_BYTES {
        ("it is longer than 4,096 bytes".to_owned(), "no path on Linux is")
    } else if scheme != "file" {
        (format!("the scheme {scheme:?} is not understood"), "write a path, file:///absolute/path or s3://bucket/key")
    } else if !file.starts_with('/') {
        ("expected an absolute path".to_owned(), "three slashes follow the scheme, as in file:///data/x.csv")
    } else if file.split('/').any(|name| name == "..") {
        ("`..` is not allowed in it".to_owned(), "write the path without detours")
    } else if file.chars().any(char::is_control) {
        ("there is a control character in it".to_owned(), "rename the file")
    } else if file.split('/').all(|name| matches!(name, "" | ".")) {
        ("it names the root, not a file or folder in it".to_owned(), "write file:///absolute/path")
    } else {
        return None;
    };
    Some(Problem::new(path, message, hint))
}

/// Whether what follows `s3://` names an object or a folder of a bucket.
fn object(path: &str, rest: &str) -> Option<Problem> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let key = key.strip_suffix('/').unwrap_or(key);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = bucket.starts_with(plain) && bucket.ends_with(plain);
    let (message, hint) =
        if !ends || !(3..=63).contains(&bucket.len()) || !bucket.chars().all(|c| plain(c) || matches!(c, '.' | '-')) {
            ("a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens", "write s3://bucket/key")
        } else if key.is_empty() {
            ("it names a bucket, not an object or folder in it", "write s3://bucket/key")
        } else if key.split('/').any(|name| matches!(name, "" | "." | "..")) {
            ("a name in it is empty, `.` or `..`", "write the key without detours")
        } else if key.chars().any(char::is_control) {
            ("there is a control character in it", "name another object")
        } else {
            return None;
        };
    Some(Problem::new(path, message, hint))
}

/// The tokens of bytes.
const BYTES: u32 = 256;

/// Whether a network learns from what the data is; `path` is the network's. Tables are for all but transformers, and text is for those alone.
fn kinds(path: &str, network: &ModelSpec, data: &DataSource) -> Option<Problem> {
    match (network, data) {
        (ModelSpec::Gpt(gpt), DataSource::Text { tokenizer: TextTokens::Bytes, .. }) => {
            let vocab = gpt.vocab.filter(|vocab| *vocab < BYTES)?;
            let message = format!("bytes are 256 tokens, and the model tells {vocab} apart");
            Some(Problem::new(format!("{path}.vocab"), message, "leave it out"))
        }
        (ModelSpec::Gpt(_), DataSource::Text { .. })
        // What it is shows when its version is looked up.
        | (_, DataSource::Dataset { .. }) => None,
        (ModelSpec::Gpt(_), _) => {
            let message = "a gpt learns from text, and the data is a table";
            Some(Problem::new(format!("{path}.type"), message, "take data of format = \"text\", or an mlp"))
        }
        (_, DataSource::Text { .. }) => {
            let message = "the data is text, which a gpt alone learns from";
            Some(Problem::new(format!("{path}.type"), message, "write type = \"gpt\", or take data of another format"))
        }
        _ => None,
    }
}

/// Whether the network's ends are those of the data, where both are known before the file is opened. The problems are the network's: `path` is its own.
pub(super) fn ends(path: &str, network: &ModelSpec, data: &DataSource, loss: Option<Loss>) -> Vec<Problem> {
    if matches!(network, ModelSpec::Gpt(_)) || matches!(data, DataSource::Text { .. }) {
        return kinds(path, network, data).into_iter().collect();
    }
    let (inputs, last) = (network.inputs(), network.outputs());
    let (features, targets) = match data {
        DataSource::Csv { features, targets, .. } => (known(features), known(targets)),
        // A key or a column may have a list of any length.
        DataSource::Jsonl { .. }
        | DataSource::Npy { .. }
        | DataSource::Parquet { .. }
        | DataSource::Text { .. }
        | DataSource::Dataset { .. } => (None, None),
        DataSource::Randn { features, targets, .. } => (Some(*features), Some(*targets)),
    };
    let mut found = Vec::new();
    if let Some(features) = features.filter(|features| u64::from(*features) != inputs) {
        let message = format!("the network takes {inputs} features, the data has {features}");
        let (at, what) = match network {
            ModelSpec::Mlp { .. } | ModelSpec::Gpt(_) => ("layers[0]", format!("write {features} here")),
            ModelSpec::Cnn { .. } => ("image", format!("make channels x height x width {features}")),
        };
        found.push(Problem::new(format!("{path}.{at}"), message, format!("{what}, or change the data's features")));
    }
    let at_end = format!("{path}.layers[{}]", network.layers().len().saturating_sub(1));
    match (loss, targets) {
        (Some(Loss::Mse), Some(targets)) if targets != last => {
            let message = format!("the network has {last} outputs, the data {targets} target columns");
            found.push(Problem::new(at_end, message, format!("write {targets} here, or change the data's targets")));
        }
        (Some(Loss::CrossEntropy), _) if last < 2 => {
            let message = "cross_entropy needs an output for each class, and two classes at least";
            found.push(Problem::new(at_end, message, "write the number of classes here"));
        }
        _ => {}
    }
    found
}

fn known(columns: &[String]) -> Option<u32> {
    u32::try_from(columns.len()).ok().filter(|count| *count > 0)
}
