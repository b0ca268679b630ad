//! The hash chain over the event log: a row that was changed, lost, added or moved breaks it from there on. Pure: called by the writer for every
//! event and by the check for all of them.

/// Keeps these hashes apart from every other use of BLAKE3. A change is a change of format.
const CONTEXT: &str = "mlctl event log, version 1";

/// The hash of an event or, before the first, of the log's beginning.
pub(super) type Hash = [u8; 32];

/// What the first event is chained to: bound to the database, so that a log cannot be put into another one.
pub(super) fn genesis(instance: &str) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    field(&mut hasher, instance.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The hash of the event after `previous`.
pub(super) fn next(previous: &Hash, id: i64, at_us: i64, job: i64, body: &str) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    field(&mut hasher, previous);
    for number in [id, at_us, job] {
        field(&mut hasher, &number.to_le_bytes());
    }
    field(&mut hasher, body.as_bytes());
    *hasher.finalize().as_bytes()
}

/// A field with its length in front, so that no two lists of fields give the same bytes.
fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_stays() {
        let first = next(&genesis("0123456789abcdef"), 1, 2, 3, "{}");
        assert_eq!(
            blake3::Hash::from(first).to_hex().as_str(),
            "cb60d39fc6bb049b10f59de2d4131e06bcabfa1a9c43baa6feb1729fc007f517"
        );
    }

    #[test]
    fn every_field_counts() {
        let start = genesis("0123456789abcdef");
        let hash = next(&start, 1, 2, 3, "body");
        let others = [
            next(&genesis("0123456789abcdee"), 1, 2, 3, "body"),
            next(&start, 2, 2, 3, "body"),
            next(&start, 1, 3, 3, "body"),
            next(&start, 1, 2, 4, "body"),
            next(&start, 1, 2, 3, "bodY"),
            next(&start, 1, 2, 3, ""),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(&hash, other, "field {index}");
        }
    }
}
