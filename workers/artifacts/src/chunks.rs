//! Checksums of the chunks of an object, so that each can be used before the others are there. They are the chaining values that BLAKE3 computes on its way to the checksum of the whole:
//! they cost nothing beside it, and together must give it.

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::digest::is_digest;

/// The least size of a chunk, in bytes.
const CHUNK_BYTES: u64 = 8 * 1024 * 1024;

/// The most chunks of an object: larger objects have larger chunks.
const MAX_CHUNKS: u64 = 4096;

/// The checksums of an object's chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunks {
    /// The size of each but the last, in bytes: a power of two.
    pub size_bytes: u64,
    /// BLAKE3's chaining value of each, 64 hexadecimal digits.
    pub blake3: Vec<String>,
}

/// The size of the chunks of an object of `size` bytes.
const fn chunk_bytes(size: u64) -> u64 {
    let mut chunk = CHUNK_BYTES;
    while size.div_ceil(chunk) > MAX_CHUNKS {
        chunk *= 2;
    }
    chunk
}

/// BLAKE3 of an object in some pieces, and of its chunks, where it has more than one.
pub(crate) fn sums(pieces: &[Bytes], size: u64) -> (String, Option<Chunks>) {
    let chunk = chunk_bytes(size);
    if size <= chunk {
        let mut hasher = Hasher::new();
        pieces.iter().for_each(|piece| {
            hasher.update(piece);
        });
        return (hasher.finalize().to_hex().to_string(), None);
    }
    let (mut values, mut hasher) = (Vec::new(), Hasher::new());
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let room = usize::try_from(chunk - hasher.count()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            hasher.update(now);
            rest = later;
            if hasher.count() == chunk {
                values.push(hasher.finalize_non_root());
                hasher = Hasher::new();
                hasher.set_input_offset(values.len() as u64 * chunk);
            }
        }
    }
    if hasher.count() > 0 {
        values.push(hasher.finalize_non_root());
    }
    let hex = |value: &ChainingValue| blake3::Hash::from_bytes(*value).to_hex().to_string();
    (
        root(&values, size, chunk).to_hex().to_string(),
        Some(Chunks { size_bytes: chunk, blake3: values.iter().map(hex).collect() }),
    )
}

/// The checksum of an object of `size` bytes, more than one chunk, from its chunks'.
fn root(values: &[ChainingValue], size: u64, chunk: u64) -> blake3::Hash {
    let left = left_subtree_len(size);
    let (first, second) = values.split_at(place(left / chunk));
    merge_subtrees_root(&subtree(first, left, chunk), &subtree(second, size - left, chunk), Mode::Hash)
}

fn subtree(values: &[ChainingValue], size: u64, chunk: u64) -> ChainingValue {
    if let [one] = values {
        return *one;
    }
    let left = left_subtree_len(size);
    let (first, second) = values.split_at(place(left / chunk));
    merge_subtrees_non_root(&subtree(first, left, chunk), &subtree(second, size - left, chunk), Mode::Hash)
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Chunks {
    /// What is wrong with them as those of an object of `size` bytes whose checksum is `whole`.
    pub(crate) fn check(&self, size: u64, whole: &str) -> Result<(), String> {
        let chunk = self.size_bytes;
        // The tree of BLAKE3 has leaves of 1024 bytes; whoever reads holds a few chunks.
        if !chunk.is_power_of_two() || !(1024..=1 << 40).contains(&chunk) {
            return Err(format!("its chunks have {chunk} bytes"));
        }
        if size <= chunk || self.blake3.len() as u64 != size.div_ceil(chunk) {
            return Err(format!("it has {} chunks of {chunk} bytes, and {size} bytes", self.blake3.len()));
        }
        let value = |hex: &String| is_digest(hex).then(|| blake3::Hash::from_hex(hex).ok().map(Into::into)).flatten();
        let values: Vec<ChainingValue> =
            self.blake3.iter().map(value).collect::<Option<_>>().ok_or("a checksum of a chunk is not a BLAKE3")?;
        if root(&values, size, chunk).to_hex().as_str() != whole {
            return Err("the checksums of its chunks do not give that of the whole".into());
        }
        Ok(())
    }

    /// Whether these are the bytes of a chunk.
    pub(crate) fn is_chunk(&self, number: usize, bytes: &[u8]) -> bool {
        // No chunk is empty, nor longer than the others: BLAKE3's tree has no place for such a one.
        if bytes.is_empty() || bytes.len() as u64 > self.size_bytes {
            return false;
        }
        let mut hasher = Hasher::new();
        hasher.set_input_offset(number as u64 * self.size_bytes).update(bytes);
        let found = blake3::Hash::from_bytes(hasher.finalize_non_root());
        self.blake3.get(number).is_some_and(|known| *known == found.to_hex().as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blake3_hex;

    fn noise(size: usize) -> Bytes {
        let mut bytes = vec![0; size];
        Hasher::new_derive_key("noise").finalize_xof().fill(&mut bytes);
        bytes.into()
    }

    #[test]
    fn chunks_give_the_checksum_of_the_whole_and_each_is_found_by_itself() {
        const CHUNK: usize = 8 << 20;
        let bytes = noise(5 * CHUNK + 1);
        for size in [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 7, 4 * CHUNK, bytes.len()] {
            let whole = bytes.slice(..size);
            let pieces = [whole.slice(..size / 3), Bytes::new(), whole.slice(size / 3..)];
            let (blake3, chunks) = sums(&pieces, size as u64);
            assert_eq!(blake3, blake3_hex(&whole), "{size}");
            assert_eq!(chunks.is_some(), size > CHUNK, "{size}");
            let Some(chunks) = chunks else { continue };
            assert_eq!(chunks.check(size as u64, &blake3), Ok(()));
            assert!(chunks.check(size as u64, &"0".repeat(64)).is_err());
            for (number, chunk) in whole.chunks(CHUNK).enumerate() {
                assert!(chunks.is_chunk(number, chunk));
                assert!(!chunks.is_chunk(number, &chunk[1..]) && !chunks.is_chunk(number + 1, chunk));
            }
            let mut swapped = chunks.clone();
            swapped.blake3.swap(0, 1);
            assert!(swapped.check(size as u64, &blake3).unwrap_err().contains("do not give"));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_manifest_says_is_a_panic(size in any::<u64>(), chunk in any::<u64>(), shift in 0_u32..64, count in 0_usize..9) {
            for size_bytes in [chunk, 1 << shift] {
                let chunks = Chunks { size_bytes, blake3: vec!["0".repeat(64); count] };
                prop_assert!(chunks.check(size, &"0".repeat(64)).is_err());
                prop_assert!(chunks.check((count as u64).saturating_mul(size_bytes), &"0".repeat(64)).is_err());
            }
        }
    }

    #[test]
    fn large_objects_have_larger_chunks_and_not_too_many() {
        for size in [1, CHUNK_BYTES + 1, 33 << 30, 5 << 40] {
            assert!(size.div_ceil(chunk_bytes(size)) <= MAX_CHUNKS && chunk_bytes(size) >= CHUNK_BYTES);
        }
    }
}
