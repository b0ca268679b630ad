//! The digest of a file of weights: over its tensors sorted by name, however the file is laid out. It is what `model.digest` of a job says, so that a model that was pulled can
//! be compared with the one on record. Reads the file in pieces; a file's header is bounded before it is read.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use serde::Deserialize;

/// The largest header that is read, in bytes.
const MAX_HEADER_BYTES: u64 = 16 * 1024 * 1024;

/// The entry of the header that is no tensor.
const METADATA: &str = "__metadata__";

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// BLAKE3 over the tensors sorted by name. Of each: the name's length and the name; the type's; the number of dimensions and the dimensions; the bytes.
/// Numbers are u64, little-endian.
///
/// # Errors
/// What is wrong with the file, for a person.
pub fn digest(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(unreadable)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| "it has no header")?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err("its header has no sane length".into());
    }
    let mut header = Vec::new();
    file.by_ref().take(length).read_to_end(&mut header).map_err(unreadable)?;
    let mut entries: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|error| format!("its header is not understood: {error}"))?;
    entries.remove(METADATA);
    let data = 8 + length;
    let mut hasher = blake3::Hasher::new();
    for (name, entry) in entries {
        let tensor: Tensor =
            serde_json::from_value(entry).map_err(|error| format!("its tensor {name:?} is not understood: {error}"))?;
        let mut number = |n: u64| _ = hasher.update(&n.to_le_bytes());
        number(name.len() as u64);
        hasher.update(name.as_bytes());
        hasher.update(&(tensor.dtype.len() as u64).to_le_bytes());
        hasher.update(tensor.dtype.as_bytes());
        hasher.update(&(tensor.shape.len() as u64).to_le_bytes());
        tensor.shape.iter().for_each(|n| _ = hasher.update(&n.to_le_bytes()));
        let (start, end) = tensor.data_offsets;
        let size = end.checked_sub(start).ok_or_else(|| format!("its tensor {name:?} ends before it begins"))?;
        let at = data.checked_add(start).ok_or_else(|| format!("its tensor {name:?} lies outside of it"))?;
        file.seek(SeekFrom::Start(at)).map_err(unreadable)?;
        let before = hasher.count();
        if hasher.update_reader(file.by_ref().take(size)).map_err(unreadable)?.count() - before != size {
            return Err(format!("it ends within its tensor {name:?}"));
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn the_digest_is_that_of_the_documentation_however_the_file_is_cut() {
        let n = |n: u64| n.to_le_bytes();
        let one = [&n(1)[..], b"a", &n(3), b"F32", &n(1), &n(1), &1f32.to_le_bytes()].concat();
        let two =
            [&n(1)[..], b"b", &n(3), b"F32", &n(2), &n(1), &n(2), &2f32.to_le_bytes(), &3f32.to_le_bytes()].concat();
        let expected = blake3::hash(&[one, two].concat()).to_hex().to_string();
        let data: Vec<u8> = [1f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let straight = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]}}"#;
        assert_eq!(digest(file(straight, &data).path()).unwrap(), expected);
        let data: Vec<u8> = [2f32, 3.0, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let turned = r#"{"__metadata__":{"x":"y"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
        assert_eq!(digest(file(turned, &data).path()).unwrap(), expected);
    }

    #[test]
    fn damaged_files_are_refused() {
        for (header, data, why) in [
            ("{", &b""[..], "not understood"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, b"12", "ends within"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, b"1234", "ends before"),
            (
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551615,18446744073709551615]}}"#,
                b"",
                "outside",
            ),
            (r#"{"a":7}"#, b"", "not understood"),
        ] {
            let said = digest(file(header, data).path()).unwrap_err();
            assert!(said.contains(why), "{header}: {said}");
        }
        let short = tempfile::NamedTempFile::new().unwrap();
        assert!(digest(short.path()).is_err());
        std::fs::write(short.path(), u64::MAX.to_le_bytes()).unwrap();
        assert!(digest(short.path()).unwrap_err().contains("sane"));
    }
}
