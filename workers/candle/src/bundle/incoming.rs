//! The tensors of safetensors files that come in pieces, in order: each piece is copied to where it stays, and a file is never in memory in whole. What a header says is checked
//! before memory is taken for it.

use candle_core::{Device, Tensor, safetensors::Load};
use mlctl_artifacts::{
    ArtifactError,
    manifest::{Object, Role},
    restore::Reader,
};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo, TensorView},
};

use super::tensors::MAX_HEADER_BYTES;
use crate::nn::Tensors;

/// How the names of files of tensors end.
const SUFFIX: &str = ".safetensors";

/// The bytes of a header's length.
const LENGTH_BYTES: usize = 8;

/// Reads all tensors of a kind that a checkpoint holds, each of its bytes verified.
///
/// # Errors
/// As [`Reader::read`]; [`ArtifactError::Corrupt`] too when it holds none, or files that are no safetensors.
pub async fn fetch(reader: &Reader, role: Role) -> Result<Tensors, ArtifactError> {
    let is_wanted = |object: &&Object| object.role == role && object.name.ends_with(SUFFIX);
    let objects: Vec<&Object> = reader.manifest().objects.iter().filter(is_wanted).collect();
    let corrupt = |what: String| reader.corrupt(what);
    if objects.is_empty() {
        return Err(corrupt(format!("it has no object with the tensors of the {}", name(role))));
    }
    let mut files: Vec<_> = objects.iter().map(|object| Incoming::new(object.size_bytes)).collect();
    reader.read(&objects, |piece| files[piece.object].take(&piece.bytes)).await?;
    let mut all = Tensors::new();
    for (file, object) in files.into_iter().zip(objects) {
        for (name, tensor) in file.finish().map_err(|what| corrupt(format!("{}: {what}", object.name)))? {
            if all.insert(name.clone(), tensor).is_some() {
                return Err(corrupt(format!("tensor {name:?} is in two of its objects")));
            }
        }
    }
    Ok(all)
}

const fn name(role: Role) -> &'static str {
    match role {
        Role::Model => "model",
        Role::Optimizer => "optimizer",
        Role::State => "state",
    }
}

/// A file of tensors that is being read.
#[derive(Debug)]
pub(super) struct Incoming {
    size: u64,
    /// The header, until it is there in whole.
    header: Option<Vec<u8>>,
    /// What follows, the last first.
    expected: Vec<(String, TensorInfo)>,
    now: Option<Arriving>,
    done: Tensors,
}

/// A tensor of which some values are there.
#[derive(Debug)]
struct Arriving {
    name: String,
    info: TensorInfo,
    values: Values,
    filled: usize,
}

#[derive(Debug)]
enum Values {
    F32(Vec<f32>),
    /// Of another type.
    Raw(Vec<u8>),
}

impl Values {
    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice_mut(values),
            Self::Raw(bytes) => bytes,
        }
    }
}

impl Incoming {
    /// A file of so many bytes, of which nothing has come.
    pub(super) const fn new(size: u64) -> Self {
        Self { size, header: Some(Vec::new()), expected: Vec::new(), now: None, done: Tensors::new() }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What is wrong with the file, for a person.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(header) = &mut self.header {
            let wanted = header_bytes(header, self.size)?;
            if wanted > header.len() {
                if bytes.is_empty() {
                    return Ok(());
                }
                let (next, rest) = bytes.split_at(bytes.len().min(wanted - header.len()));
                header.extend_from_slice(next);
                bytes = rest;
                continue;
            }
            self.expected = tensors_of(&header[LENGTH_BYTES..], self.size - wanted as u64)?;
            self.header = None;
        }
        while let Some(mut now) = self.next()? {
            let room = &mut now.values.bytes()[now.filled..];
            let (next, rest) = bytes.split_at(bytes.len().min(room.len()));
            room[..next.len()].copy_from_slice(next);
            now.filled += next.len();
            bytes = rest;
            self.now = Some(now);
            if bytes.is_empty() {
                return Ok(());
            }
        }
        if bytes.is_empty() { Ok(()) } else { Err("it is longer than its header says".into()) }
    }

    /// The tensor that takes the next byte; those that are full are done.
    fn next(&mut self) -> Result<Option<Arriving>, String> {
        loop {
            if let Some(mut now) = self.now.take() {
                if now.filled < now.values.bytes().len() {
                    return Ok(Some(now));
                }
                let tensor = tensor(now.values, &now.info)?;
                self.done.insert(now.name, tensor);
            }
            let Some((name, info)) = self.expected.pop() else { return Ok(None) };
            let bytes = info.data_offsets.1 - info.data_offsets.0;
            let values = match info.dtype {
                Dtype::F32 => Values::F32(vec![0.0; bytes / size_of::<f32>()]),
                _ => Values::Raw(vec![0; bytes]),
            };
            self.now = Some(Arriving { name, info, values, filled: 0 });
        }
    }

    /// The tensors, once all bytes have been taken.
    ///
    /// # Errors
    /// What is wrong with the file, for a person.
    pub(super) fn finish(mut self) -> Result<Tensors, String> {
        if let Some(header) = &self.header {
            header_bytes(header, self.size)?;
            return Err("its header is cut off".into());
        }
        match self.next()? {
            None => Ok(self.done),
            Some(Arriving { name, .. }) => Err(format!("it ends within tensor {name:?}")),
        }
    }
}

/// How many bytes the header has with its length in front, or of its length alone while that is not known.
fn header_bytes(header: &[u8], size: u64) -> Result<usize, String> {
    const NO_SANE_LENGTH: &str = "its header has no sane length";
    let known = header.first_chunk::<LENGTH_BYTES>().map(|length| u64::from_le_bytes(*length));
    let length = known.unwrap_or(0);
    let all = length.saturating_add(LENGTH_BYTES as u64);
    if length > MAX_HEADER_BYTES || all > size {
        return Err(NO_SANE_LENGTH.into());
    }
    usize::try_from(all).map_err(|_| NO_SANE_LENGTH.to_owned())
}

/// What a header says is in the `size` bytes behind it, the last first.
fn tensors_of(json: &[u8], size: u64) -> Result<Vec<(String, TensorInfo)>, String> {
    let metadata: Metadata =
        serde_json::from_slice(json).map_err(|error| format!("its header cannot be read: {error}"))?;
    let infos = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone()));
    let mut infos: Vec<_> = infos.collect();
    infos.sort_by_key(|(_, info)| std::cmp::Reverse(info.data_offsets));
    let end = infos.first().map_or(0, |(_, info)| info.data_offsets.1 as u64);
    if end != size {
        return Err(format!("its header speaks of {end} bytes, and {size} follow"));
    }
    for (name, info) in &infos {
        // A shape whose product overflows may have a dimension of 0; candle panics on it.
        if info.shape.iter().filter(|n| **n > 0).try_fold(1_usize, |product, n| product.checked_mul(*n)).is_none() {
            return Err(format!("tensor {name:?} has the impossible shape {:?}", info.shape));
        }
    }
    Ok(infos)
}

fn tensor(values: Values, info: &TensorInfo) -> Result<Tensor, String> {
    match values {
        Values::F32(values) => Tensor::from_vec(values, info.shape.clone(), &Device::Cpu).map_err(|e| e.to_string()),
        Values::Raw(bytes) => {
            let view = TensorView::new(info.dtype, info.shape.clone(), &bytes).map_err(|e| e.to_string())?;
            view.load(&Device::Cpu).map_err(|e| e.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use mlctl_artifacts::{
        Stores,
        checkpoint::{self, Header, Part},
        keys,
    };
    use mlctl_protocol::{AttemptNumber, FencingToken, JobId, progress::Metrics, result::CheckpointRef};

    use super::*;
    use crate::bundle::tensors;

    #[test]
    fn pieces_of_any_size_give_the_tensors_of_the_whole() {
        let device = &Device::Cpu;
        let whole = Tensors::from([
            ("a".into(), Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], device).unwrap()),
            ("b".into(), Tensor::zeros((0, 3), DType::F32, device).unwrap()),
            ("c".into(), Tensor::new(&[7f64, 8.0], device).unwrap()),
            ("d".into(), Tensor::new(9i64, device).unwrap()),
            ("e".into(), Tensor::new(&[5f32], device).unwrap()),
        ]);
        let bytes = tensors::encode(&whole).unwrap();
        for size in 1..=bytes.len() {
            let mut file = Incoming::new(bytes.len() as u64);
            for piece in bytes.chunks(size) {
                file.take(piece).unwrap();
            }
            let back = file.finish().unwrap();
            assert_eq!(back.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{size}");
            assert_eq!(tensors::encode(&back).unwrap(), bytes, "{size}");
        }
        for size in 0..bytes.len() {
            let mut file = Incoming::new(bytes.len() as u64);
            file.take(&bytes[..size]).unwrap();
            assert!(file.finish().is_err(), "cut off at {size}");
            // A file that is as long as it says, and less than its header says.
            let mut file = Incoming::new(size as u64);
            assert!(file.take(&bytes[..size]).is_err() || file.finish().is_err(), "cut off at {size}");
        }
        let mut longer = Incoming::new(bytes.len() as u64);
        longer.take(&bytes).unwrap();
        assert!(longer.take(&[0]).unwrap_err().contains("longer"));
    }

    #[test]
    fn a_model_in_several_objects_is_read_as_one() {
        let device = &Device::Cpu;
        let dir = tempfile::tempdir().unwrap();
        let stores = Stores::new();
        let attempt = stores.open(&format!("file://{}", dir.path().display())).unwrap();
        let raw = |name: &str, value: f32| tensors::Raw {
            name: name.into(),
            dtype: Dtype::F32,
            shape: vec![1, 2],
            bytes: [value.to_le_bytes(), 1_f32.to_le_bytes()].concat().into(),
        };
        let write = |step, raws: Vec<Vec<tensors::Raw>>| {
            let header = Header {
                job: JobId(1),
                attempt: AttemptNumber(1),
                token: FencingToken(1),
                step,
                epoch: 0,
                created_at: String::new(),
                spec_digest: "0".repeat(64),
                dataset_digest: "0".repeat(64),
                parent: None,
                metrics: Metrics::new(),
            };
            let count = raws.len();
            let part = |(number, raws)| Part {
                name: keys::shard("model", number, count),
                role: Role::Model,
                bytes: tensors::file(raws).unwrap(),
            };
            let parts = (1..).zip(raws).map(part).collect();
            block_on(checkpoint::write(&attempt, header, parts)).unwrap()
        };
        let read = |reference: &CheckpointRef, role| {
            block_on(async { fetch(&Reader::open(&stores, reference).await?, role).await })
        };
        let whole = write(1, vec![vec![raw("a", 2.0)], vec![raw("b", 3.0), raw("c", 4.0)]]);
        let found = read(&whole, Role::Model).unwrap();
        let expected = [("a", 2f32), ("b", 3.0), ("c", 4.0)]
            .map(|(name, value)| (name.to_owned(), Tensor::new(&[[value, 1.0]], device).unwrap()));
        assert_eq!(tensors::digest(&found).unwrap(), tensors::digest(&Tensors::from(expected)).unwrap());
        for (reference, role, words) in [
            (whole, Role::Optimizer, "no object with the tensors of the optimizer"),
            (write(2, vec![vec![raw("a", 2.0)], vec![raw("a", 3.0)]]), Role::Model, "is in two of its objects"),
        ] {
            let error = read(&reference, role).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Runtime::new().unwrap().block_on(future)
    }
}
