//! Tensors as safetensors bytes and back, with a copy or without one. Everything a file says is checked before memory is taken for it: the header's length, the
//! element counts, then names, shapes and types against the model's. Whether bytes are whole is for checksums to say.

use bytes::Bytes;
use candle_core::DType;
use mlctl_artifacts::Body;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::incoming::Incoming;
use crate::nn::Tensors;

/// The largest safetensors header read: parsing takes ten times its size in memory.
pub(super) const MAX_HEADER_BYTES: u64 = 16 * 1024 * 1024;

/// Room in a file for what is not tensors' data.
pub const OVERHEAD_BYTES: u64 = MAX_HEADER_BYTES + 8;

/// The bytes of some tensors: sorted by name, without metadata, so that equal tensors give equal bytes.
///
/// # Errors
/// When a device fails.
pub fn encode(tensors: &Tensors) -> Result<Bytes, String> {
    safetensors::serialize(tensors, None).map(Bytes::from).map_err(|error| error.to_string())
}

/// A tensor as it stands in a file.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values, little-endian, row by row.
    pub bytes: Bytes,
}

impl Raw {
    /// As the library orders a file's tensors: the widest types first, then by name.
    fn in_order(&self, other: &Self) -> std::cmp::Ordering {
        other.dtype.cmp(&self.dtype).then_with(|| self.name.cmp(&other.name))
    }
}

/// The file of some tensors, of the same bytes as [`encode`] gives, over the tensors' own memory.
///
/// # Errors
/// When a tensor's bytes are not as many as its shape says.
pub fn file(mut tensors: Vec<Raw>) -> Result<Body, String> {
    const ALIGNMENT: usize = 8;
    tensors.sort_by(Raw::in_order);
    let mut end = 0;
    let infos = tensors.iter().map(|Raw { name, dtype, shape, bytes }| {
        let data_offsets = (end, end + bytes.len());
        end = data_offsets.1;
        (name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets })
    });
    let metadata = Metadata::new(None, infos.collect()).map_err(|error| error.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    let header = [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat();
    Ok(Body::new([header.into()].into_iter().chain(tensors.into_iter().map(|tensor| tensor.bytes)).collect()))
}

/// The files of some tensors, none of more than `limit` bytes that has several: what one file would be, in its order, cut between tensors.
///
/// # Errors
/// As [`file()`].
pub fn files(mut tensors: Vec<Raw>, limit: usize) -> Result<Vec<Body>, String> {
    tensors.sort_by(Raw::in_order);
    let mut shards: Vec<(usize, Vec<Raw>)> = Vec::new();
    for tensor in tensors {
        let size = tensor.bytes.len();
        match shards.last_mut() {
            Some((taken, shard)) if taken.saturating_add(size) <= limit => {
                *taken += size;
                shard.push(tensor);
            }
            _ => shards.push((size, vec![tensor])),
        }
    }
    shards.into_iter().map(|(_, shard)| file(shard)).collect()
}

/// The tensors of a file, on the CPU.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn decode(bytes: &[u8]) -> Result<Tensors, String> {
    let mut file = Incoming::new(bytes.len() as u64);
    file.take(bytes)?;
    file.finish()
}

/// The tensors of a file, once they are found to be those of a model: every name, shape and type.
///
/// # Errors
/// What is wrong with the file, or a sentence for each tensor that is missing, unexpected, or of another shape or type.
pub fn decode_as(bytes: &[u8], layout: &[(String, Vec<usize>)]) -> Result<Tensors, Vec<String>> {
    let tensors = decode(bytes).map_err(|what| vec![what])?;
    fit(tensors, layout)
}

/// The same tensors, once they are found to be those of a model: every name, shape and type.
///
/// # Errors
/// A sentence for each tensor that is missing, unexpected, or of another shape or type.
pub fn fit(tensors: Tensors, layout: &[(String, Vec<usize>)]) -> Result<Tensors, Vec<String>> {
    let problems = mismatches(layout, &tensors);
    if problems.is_empty() { Ok(tensors) } else { Err(problems) }
}

/// The name of a tensor that holds a value that is not finite.
///
/// # Errors
/// When a device fails.
pub fn not_finite(tensors: &Tensors) -> candle_core::Result<Option<&str>> {
    for (name, tensor) in tensors {
        if tensor.flatten_all()?.to_vec1::<f32>()?.iter().any(|value| !value.is_finite()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// BLAKE3 over the tensors sorted by name. Of each: the name's length and the name; the type's, as in safetensors; the number of
/// dimensions and the dimensions; the bytes. Numbers are u64, little-endian.
///
/// # Errors
/// When a device fails.
pub fn digest(tensors: &Tensors) -> candle_core::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let number = |hasher: &mut blake3::Hasher, n: usize| {
        hasher.update(&(n as u64).to_le_bytes());
    };
    for (name, tensor) in tensors {
        number(&mut hasher, name.len());
        hasher.update(name.as_bytes());
        number(&mut hasher, F32.len());
        hasher.update(F32.as_bytes());
        number(&mut hasher, tensor.dims().len());
        tensor.dims().iter().for_each(|n| number(&mut hasher, *n));
        for value in tensor.flatten_all()?.to_vec1::<f32>()? {
            hasher.update(&value.to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The one type of weights there is.
const F32: &str = "F32";

fn mismatches(layout: &[(String, Vec<usize>)], tensors: &Tensors) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, shape) in layout {
        match tensors.get(name) {
            None => problems.push(format!("tensor {name:?} is missing")),
            Some(tensor) if tensor.dims() != shape || tensor.dtype() != DType::F32 => {
                let (found, dims) = (tensor.dtype(), tensor.dims());
                problems.push(format!(
                    "tensor {name:?} is {found:?} of shape {dims:?} where F32 of shape {shape:?} is needed"
                ));
            }
            Some(_) => {}
        }
    }
    let unexpected = tensors.keys().filter(|name| layout.iter().all(|(known, _)| known != *name));
    problems.extend(unexpected.map(|name| format!("tensor {name:?} is not one of the model's")));
    problems
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn tensors(value: f32) -> Tensors {
        Tensors::from([
            ("a".into(), Tensor::new(&[[1f32, value]], &Device::Cpu).unwrap()),
            ("b".into(), Tensor::new(&[0.5f32], &Device::Cpu).unwrap()),
        ])
    }

    fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn equal_tensors_give_equal_bytes_and_come_back() {
        let bytes = encode(&tensors(2.0)).unwrap();
        assert_eq!(bytes, encode(&tensors(2.0)).unwrap());
        let back = decode(&bytes).unwrap();
        assert_eq!(back["a"].to_vec2::<f32>().unwrap(), [[1.0, 2.0]]);
        assert_eq!(digest(&back).unwrap(), digest(&tensors(2.0)).unwrap());
    }

    #[test]
    fn a_file_over_tensors_memory_has_the_same_bytes() {
        let mut tensors = tensors(2.0);
        tensors.insert("a_count".into(), Tensor::new(7i64, &Device::Cpu).unwrap());
        let raw = |(name, dtype, shape, bytes): (&str, Dtype, &[usize], Vec<u8>)| Raw {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            bytes: bytes.into(),
        };
        let f32s = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let raws = [
            ("b", Dtype::F32, &[1][..], f32s(&[0.5])),
            ("a_count", Dtype::I64, &[], 7_i64.to_le_bytes().to_vec()),
            ("a", Dtype::F32, &[1, 2], f32s(&[1.0, 2.0])),
        ];
        assert_eq!(file(raws.clone().map(raw).to_vec()).unwrap().whole(), encode(&tensors).unwrap());
        // In two files, each of its own header; a tensor that is larger than the limit has one for itself.
        let shards = files(raws.clone().map(raw).to_vec(), 16).unwrap();
        let back: Vec<Tensors> = shards.iter().map(|shard| decode(&shard.whole()).unwrap()).collect();
        assert_eq!(
            back.iter().map(|tensors| tensors.keys().collect::<Vec<_>>()).collect::<Vec<_>>(),
            [vec!["a", "a_count"], vec!["b"]]
        );
        assert_eq!(files(raws.clone().map(raw).to_vec(), 1).unwrap().len(), 3);
        assert_eq!(files(raws.clone().map(raw).to_vec(), 20).unwrap(), [file(raws.clone().map(raw).to_vec()).unwrap()]);
        let [mut short, ..] = raws.map(raw);
        short.shape = vec![2];
        assert!(file(vec![short]).is_err());
    }

    #[test]
    fn the_digest_is_over_names_shapes_and_bytes() {
        let base = digest(&tensors(2.0)).unwrap();
        assert_ne!(digest(&tensors(3.0)).unwrap(), base);
        let mut renamed = tensors(2.0);
        let b = renamed.remove("b").unwrap();
        renamed.insert("c".into(), b.clone());
        assert_ne!(digest(&renamed).unwrap(), base);
        let mut reshaped = tensors(2.0);
        reshaped.insert("b".into(), b.reshape((1, 1)).unwrap());
        assert_ne!(digest(&reshaped).unwrap(), base);
        // By hand, as docs/model.md says it.
        let one = Tensors::from([("w".into(), Tensor::new(&[1f32], &Device::Cpu).unwrap())]);
        let n = |n: u64| n.to_le_bytes();
        let text = [&n(1)[..], b"w", &n(3), b"F32", &n(1), &n(1), &1f32.to_le_bytes()].concat();
        assert_eq!(digest(&one).unwrap(), blake3::hash(&text).to_hex().to_string());
    }

    #[test]
    fn files_made_to_harm_are_refused() {
        let huge = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
        let overflow = raw(
            r#"{"a":{"dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[0,0]}}"#,
            &[],
        );
        let beyond = raw(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, &[0; 8]);
        for (bytes, why) in [
            (huge, "header"),
            (vec![1, 2, 3], "header"),
            (Vec::new(), "header"),
            (overflow, ""),
            (beyond, ""),
            (raw("{\"a\":", &[]), ""),
        ] {
            let error = decode(&bytes).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_is_not_the_models_is_named() {
        let bytes = encode(&tensors(2.0)).unwrap();
        let layout = [("a".to_owned(), vec![2, 1]), ("c".to_owned(), vec![1])];
        let problems = decode_as(&bytes, &layout).unwrap_err().join("; ");
        for part in ["\"a\" is F32 of shape [1, 2] where", "\"c\" is missing", "\"b\" is not one of the model's"] {
            assert!(problems.contains(part), "{problems}");
        }
        let half = Tensors::from([("a".into(), Tensor::new(&[1f64], &Device::Cpu).unwrap())]);
        let problems = decode_as(&encode(&half).unwrap(), &[("a".to_owned(), vec![1])]).unwrap_err();
        assert!(problems[0].contains("F64"), "{problems:?}");
    }

    #[test]
    fn a_value_that_is_not_finite_is_named() {
        assert_eq!(not_finite(&tensors(1.0)).unwrap(), None);
        assert_eq!(not_finite(&tensors(f32::NAN)).unwrap(), Some("a"));
    }
}
