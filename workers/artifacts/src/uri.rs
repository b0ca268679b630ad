//! URIs of objects and folders: what a text may be before anything is opened. Called wherever a URI comes from outside.
//!
//! Everything after the scheme is the path, byte for byte, as in `s3://` keys: nothing is percent-decoded, so `%2e%2e` is a name like any
//! other and there is no second reading of a text that was checked once.

use crate::ArtifactError;

/// The longest URI in bytes, that of Linux paths.
pub const MAX_URI_BYTES: usize = 4096;

/// The longest name between slashes, in bytes; the file system's 255 less what the storage library appends while it writes.
const MAX_SEGMENT_BYTES: usize = 240;

/// The longest key of an S3 object, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// What is understood, for error messages.
const UNDERSTOOD: &str = "write file:///absolute/path or s3://bucket/key";

/// The scheme of a URI, with what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// `file:///a/b`: the path without slashes at its ends, never empty.
    File(String),
    /// `memory:///a/b`, understood by test stores only.
    Memory(String),
    /// `s3://bucket/a/b`: the key without a slash at its end, never empty.
    S3 {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
}

impl Parsed {
    /// Reads a URI. Empty segments and `.` are dropped, as the kernel does; `..` and control characters are refused.
    pub(crate) fn parse(uri: &str) -> Result<Self, ArtifactError> {
        let bad = |why: &str| bad_uri(uri, why);
        if uri.len() > MAX_URI_BYTES {
            return Err(bad("it is longer than 4,096 bytes"));
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(bad(&format!("it has no scheme; {UNDERSTOOD}")));
        };
        let path = match scheme {
            "s3" => return Self::s3(uri, rest),
            "file" | "memory" => rest.strip_prefix('/').ok_or_else(|| {
                bad("its path is not absolute; three slashes follow the scheme, as in file:///data/x.csv")
            })?,
            other => return Err(bad(&format!("the scheme {other:?} is not understood; {UNDERSTOOD}"))),
        };
        let path = normalise(path).map_err(|why| bad(&why))?;
        if path.is_empty() {
            return Err(bad("it names the root, not a file or folder under it"));
        }
        Ok(if scheme == "file" { Self::File(path) } else { Self::Memory(path) })
    }

    /// Keys are taken as they are: `a//b` and `a/./b` are other keys than `a/b`, and none that can be read here.
    fn s3(uri: &str, rest: &str) -> Result<Self, ArtifactError> {
        let bad = |why: &str| bad_uri(uri, why);
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket(bucket) {
            return Err(bad("a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens"));
        }
        let key = key.strip_suffix('/').unwrap_or(key);
        if key.is_empty() {
            return Err(bad("it names a bucket, not an object or folder in it"));
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(bad("its key is longer than 1,024 bytes"));
        }
        for name in key.split('/') {
            match name {
                "" => return Err(bad("there is an empty name between two slashes")),
                "." | ".." => return Err(bad("`.` and `..` are not allowed as names in it")),
                _ if name.chars().any(char::is_control) => return Err(bad("it contains a control character")),
                _ => {}
            }
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

/// The `file://` URI of an absolute path.
///
/// # Errors
/// [`ArtifactError::BadUri`] for a relative path, one that is not UTF-8, or one that [`crate::Stores::open`] would refuse.
pub fn from_path(path: &std::path::Path) -> Result<String, ArtifactError> {
    let text = path.to_str().ok_or_else(|| bad_uri(&path.to_string_lossy(), "the path is not valid UTF-8"))?;
    let uri = format!("file://{text}");
    match Parsed::parse(&uri)? {
        Parsed::File(path) => Ok(format!("file:///{path}")),
        Parsed::Memory(_) | Parsed::S3 { .. } => Err(bad_uri(&uri, "it is no path")),
    }
}

/// The local path behind a `file://` URI, for messages and for what must be a real file. `None` for other stores.
///
/// # Errors
/// [`ArtifactError::BadUri`] as [`crate::Stores::open`].
pub fn to_path(uri: &str) -> Result<Option<std::path::PathBuf>, ArtifactError> {
    Ok(match Parsed::parse(uri)? {
        Parsed::File(path) => Some(format!("/{path}").into()),
        Parsed::Memory(_) | Parsed::S3 { .. } => None,
    })
}

/// Whether a text can be the name of a bucket.
#[must_use]
pub fn is_bucket(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || matches!(b, b'.' | b'-'))
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain)
        && !name.contains("..")
}

/// Checks a relative path and drops its empty segments; the reason on refusal.
pub(crate) fn normalise(path: &str) -> Result<String, String> {
    let mut clean = String::with_capacity(path.len());
    for segment in path.split('/') {
        match segment {
            "" | "." => continue,
            ".." => return Err("`..` is not allowed in it".into()),
            _ if segment.chars().any(char::is_control) => return Err("it contains a control character".into()),
            _ if segment.len() > MAX_SEGMENT_BYTES => {
                return Err(format!("a name in it is longer than {MAX_SEGMENT_BYTES} bytes"));
            }
            _ => {}
        }
        if !clean.is_empty() {
            clean.push('/');
        }
        clean.push_str(segment);
    }
    Ok(clean)
}

/// Whether the last name ends in `#` and digits, which the storage library keeps for files it is still writing. A folder may be
/// called so, an object may not.
pub(crate) fn is_staging_name(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split_once('#').is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

pub(crate) fn bad_uri(uri: &str, why: &str) -> ArtifactError {
    ArtifactError::BadUri { uri: uri.chars().take(200).collect(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood() {
        let cases = [
            ("file:///a", "a"),
            ("file:///a/b c/ü/%41/x#1/100%", "a/b c/ü/%41/x#1/100%"),
            ("file:////a//./b/", "a/b"),
            ("file:///%2e%2e/a", "%2e%2e/a"),
            ("file:///...", "..."),
        ];
        for (uri, path) in cases {
            assert_eq!(Parsed::parse(uri).unwrap(), Parsed::File(path.into()), "{uri}");
        }
        let s3 = |bucket: &str, key: &str| Parsed::S3 { bucket: bucket.into(), key: key.into() };
        assert_eq!(Parsed::parse("s3://my.bucket-1/a b/ü/%41#1").unwrap(), s3("my.bucket-1", "a b/ü/%41#1"));
        assert_eq!(Parsed::parse("s3://bucket/folder/").unwrap(), s3("bucket", "folder"));
    }

    #[test]
    fn what_is_refused_says_why() {
        let long_name = format!("file:///{}", "x".repeat(300));
        let long = format!("file:///{}", "x/".repeat(3000));
        let cases = [
            ("", "no scheme"),
            ("/a/b", "no scheme"),
            ("a.csv", "no scheme"),
            ("s3://bucket", "names a bucket"),
            ("s3://bucket/", "names a bucket"),
            ("s3:///key", "bucket's name"),
            ("s3://Bucket/key", "bucket's name"),
            ("s3://b/key", "bucket's name"),
            ("s3://user:secret@bucket/key", "bucket's name"),
            ("s3://bucket/a//b", "empty name"),
            ("s3://bucket//a", "empty name"),
            ("s3://bucket/a/../b", "`..`"),
            ("s3://bucket/a\nb", "control"),
            ("gs://bucket/key", "\"gs\""),
            ("FILE:///a", "\"FILE\""),
            ("file://a/b", "not absolute"),
            ("file://", "not absolute"),
            ("file:///", "root"),
            ("file:///.", "root"),
            ("file:///a/../b", "`..`"),
            ("file:///..", "`..`"),
            ("file:///a\0b", "control"),
            ("file:///a\nb", "control"),
            (&long_name, "longer than 240"),
            (&long, "4,096"),
        ];
        for (uri, why) in cases {
            let error = Parsed::parse(uri).unwrap_err().to_string();
            assert!(error.contains(why), "{uri:.40}: {error}");
        }
    }

    #[test]
    fn paths_and_uris_are_each_others_inverse() {
        let path = std::path::Path::new("/data/a b/50%/ü.csv");
        let uri = from_path(path).unwrap();
        assert_eq!(uri, "file:///data/a b/50%/ü.csv");
        assert_eq!(to_path(&uri).unwrap().as_deref(), Some(path));
        assert!(from_path(std::path::Path::new("data/x.csv")).is_err());
    }

    #[test]
    fn staging_names() {
        for (name, staging) in
            [("a#1", true), ("d/a#12", true), ("a#", false), ("a#1b", false), ("a#1/b", false), ("a", false)]
        {
            assert_eq!(is_staging_name(name), staging, "{name}");
        }
    }
}
