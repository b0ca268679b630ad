//! CRC-64/NVME: what stores compare with what arrived, fast enough to be taken of everything, and of two pieces known without reading them again.

use crc_fast::{CrcAlgorithm, Digest, checksum, checksum_combine};

const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

/// The checksum of bytes that come one after the other.
pub(crate) struct Running(Digest);

impl Default for Running {
    fn default() -> Self {
        Self(Digest::new(ALGORITHM))
    }
}

impl Running {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.finalize()
    }
}

/// The checksum of some bytes.
pub(crate) fn of(bytes: &[u8]) -> u64 {
    checksum(ALGORITHM, bytes)
}

/// The checksum of pieces one after the other, by checksum and length of each.
pub(crate) fn joined(pieces: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    let mut pieces = pieces.into_iter();
    let first = pieces.next().map_or(0, |(crc, _)| crc);
    pieces.fold(first, |whole, (crc, length)| match length {
        0 => whole,
        length => checksum_combine(ALGORITHM, whole, crc, length),
    })
}

/// Reads a checksum as S3 writes it: eight bytes in Base64. A checksum of parts' checksums, which says nothing of the whole, is none.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let text = text.trim().as_bytes();
    let (digits, padding) = text.split_at_checked(11)?;
    if padding != b"=" {
        return None;
    }
    let bits = digits.iter().try_fold(0_u128, |bits, digit| {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(bits << 6 | u128::from(value))
    })?;
    u64::try_from(bits >> 2).ok()
}

/// Writes a checksum as S3 does.
pub(crate) fn base64(crc: u64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u128::from(crc) << 2;
    let digit = |n: u32| char::from(DIGITS[usize::try_from(bits >> (6 * n) & 63).unwrap_or(0)]);
    (0..11).rev().map(digit).chain(['=']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_that_of_the_catalogue() {
        assert_eq!(of(b"123456789"), 0xae8b_1486_0a79_9888);
        let mut running = Running::default();
        running.update(b"1234");
        running.update(b"56789");
        assert_eq!(running.finish(), of(b"123456789"));
    }

    #[test]
    fn pieces_are_joined_as_if_they_were_read() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        for size in [1, 7, 4096, 10_000] {
            let pieces = bytes.chunks(size).map(|piece| (of(piece), piece.len() as u64));
            assert_eq!(joined(pieces), of(&bytes), "{size}");
        }
        assert_eq!(joined([]), of(b""));
        assert_eq!(joined([(of(b"a"), 1), (of(b""), 0)]), of(b"a"));
    }

    #[test]
    fn base64_is_that_of_s3() {
        for (crc, text) in [(0, "AAAAAAAAAAA="), (u64::MAX, "//////////8="), (0xae8b_1486_0a79_9888, "rosUhgp5mIg=")] {
            assert_eq!((base64(crc).as_str(), parse(text)), (text, Some(crc)));
        }
        for text in ["", "AAAA", "rosUhgp5mIg=-3", "rosUhgp5mIg", "r-sUhgp5mIg="] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
