//! Makes tensors of the views that were chosen: contiguous, f32, out of storages whose bytes are found whole.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use half::{bf16, f16};

use super::{
    kinds::{Float, Kind},
    pick::Chosen,
    pickle::{Heap, View},
    zip::{Archive, damaged},
};
use crate::{fault::Fault, nn::Tensors};

/// Copies the tensors chosen out of the archive.
pub(super) fn tensors(archive: &Archive<'_>, heap: &Heap<'_>, chosen: &Chosen<'_>) -> Result<Tensors, Fault> {
    let mut tensors = Tensors::new();
    // Many tensors may share a storage, and its checksum is looked at once.
    let mut whole: HashMap<&str, &[u8]> = HashMap::new();
    for (name, number) in chosen {
        let view = &heap.tensors[*number];
        let storage = heap.storages[view.storage];
        let bytes = match whole.get(storage.key) {
            Some(bytes) => *bytes,
            None => {
                let bytes = archive.entry(&format!("data/{}", storage.key))?;
                let bytes = bytes.ok_or_else(|| damaged(&format!("the data of tensor {name:?} is missing")))?;
                whole.insert(storage.key, bytes);
                bytes
            }
        };
        if bytes.len() != storage.len * storage.kind.size() {
            return Err(damaged(&format!("the data of tensor {name:?} has another size than its storage")));
        }
        let Kind::Float(float) = storage.kind else { return Err(damaged("a tensor has changed its type")) };
        let values = match float {
            Float::F32 => gather(view, bytes, f32::from_le_bytes),
            #[expect(clippy::cast_possible_truncation, reason = "weights are f32 here, as after PyTorch's own float()")]
            Float::F64 => gather(view, bytes, |bytes| f64::from_le_bytes(bytes) as f32),
            Float::F16 => gather(view, bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Float::Bf16 => gather(view, bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        };
        tensors.insert((*name).to_owned(), Tensor::from_vec(values, view.shape.as_slice(), &Device::Cpu)?);
    }
    Ok(tensors)
}

/// The elements of a view in the order of its indices. The view lies inside its storage, and `bytes` are all of that.
fn gather<const N: usize>(view: &View, bytes: &[u8], element: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (all, _) = bytes.as_chunks::<N>();
    let count = view.shape.iter().product();
    if is_contiguous(view) {
        return all[view.offset..view.offset + count].iter().map(|bytes| element(*bytes)).collect();
    }
    let mut index = vec![0_usize; view.shape.len()];
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let at: usize = index.iter().zip(&view.strides).map(|(i, stride)| i * stride).sum();
        values.push(element(all[view.offset + at]));
        // Counts the last dimension up first, as an odometer does.
        for (i, n) in index.iter_mut().zip(&view.shape).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
    values
}

/// Whether elements lie in a row. The stride of a dimension of one does not matter.
fn is_contiguous(view: &View) -> bool {
    let mut expected = 1;
    view.shape.iter().zip(&view.strides).rev().all(|(n, stride)| {
        let fits = *n == 1 || *stride == expected;
        expected *= n;
        fits
    }) && !view.shape.contains(&0)
}
