//! Tensors as safetensors bytes and back, with a copy or without one. Everything a file says is checked before memory is taken for it: the header's length, the
//! element counts, then names, shapes and types against the model's. Whether bytes are whole is for checksums to say.

use bytes::Bytes;
use candle_core::{Device, safetensors::Load};
use mlctl_artifacts::Body;
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo, TensorView},
};

use crate::nn::Tensors;

/// The largest safetensors header read: parsing takes ten times its size in memory.
const MAX_HEADER_BYTES: u64 = 16 * 1024 * 1024;

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

/// The file of some tensors, of the same bytes as [`encode`] gives, over the tensors' own memory.
///
/// # Errors
/// When a tensor's bytes are not as many as its shape says.
pub fn file(mut tensors: Vec<Raw>) -> Result<Body, String> {
    const ALIGNMENT: usize = 8;
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
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

/// The tensors of a file, on the CPU.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn decode(bytes: &[u8]) -> Result<Tensors, String> {
    load(&parse(bytes)?)
}

/// The tensors of a file, once they are found to be those of a model: every name, shape and type.
///
/// # Errors
/// What is wrong with the file, or a sentence for each tensor that is missing, unexpected, or of another shape or type.
pub fn decode_as(bytes: &[u8], layout: &[(String, Vec<usize>)]) -> Result<Tensors, Vec<String>> {
    let file = parse(bytes).map_err(|what| vec![what])?;
    let problems = mismatches(layout, &file);
    if !problems.is_empty() {
        return Err(problems);
    }
    load(&file).map_err(|what| vec![what])
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

fn parse(bytes: &[u8]) -> Result<SafeTensors<'_>, String> {
    let header = bytes.first_chunk().map_or(u64::MAX, |length| u64::from_le_bytes(*length));
    if header > MAX_HEADER_BYTES {
        return Err("its header has no sane length".into());
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    for (name, view) in file.tensors() {
        // The library accepts a shape whose product overflows as long as one dimension is 0; candle panics on it.
        if view.shape().iter().filter(|n| **n > 0).try_fold(1_usize, |product, n| product.checked_mul(*n)).is_none() {
            return Err(format!("tensor {name:?} has the impossible shape {:?}", view.shape()));
        }
    }
    Ok(file)
}

fn load(file: &SafeTensors<'_>) -> Result<Tensors, String> {
    let load = |(name, view): (String, TensorView<'_>)| view.load(&Device::Cpu).map(|tensor| (name, tensor));
    file.tensors().into_iter().map(load).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn mismatches(layout: &[(String, Vec<usize>)], file: &SafeTensors<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, shape) in layout {
        match file.tensor(name) {
            Err(_) => problems.push(format!("tensor {name:?} is missing")),
            Ok(view) if view.shape() != shape || view.dtype() != Dtype::F32 => {
                let (found, dims) = (view.dtype(), view.shape());
                problems.push(format!(
                    "tensor {name:?} is {found:?} of shape {dims:?} where F32 of shape {shape:?} is needed"
                ));
            }
            Ok(_) => {}
        }
    }
    let mut unexpected: Vec<_> =
        file.names().into_iter().filter(|name| layout.iter().all(|(known, _)| known != *name)).collect();
    unexpected.sort_unstable();
    problems.extend(unexpected.into_iter().map(|name| format!("tensor {name:?} is not one of the model's")));
    problems
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

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
