//! Checksums and the random name of a writer. Hashing more than a little happens off the runtime's threads.

use std::time::Duration;

use bytes::Bytes;

/// Above this many bytes hashing goes to the blocking pool: it takes longer than a runtime's thread should be held.
const INLINE_BYTES: usize = 256 * 1024;

/// BLAKE3 of some bytes as 64 hexadecimal digits.
#[must_use]
pub fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// BLAKE3 of an object.
pub(crate) async fn of(bytes: &Bytes) -> String {
    if bytes.len() <= INLINE_BYTES {
        return blake3_hex(bytes);
    }
    let shared = bytes.clone();
    match tokio::task::spawn_blocking(move || blake3_hex(&shared)).await {
        Ok(digest) => digest,
        // The runtime is shutting down and took no more tasks; the answer is needed all the same.
        Err(_) => blake3_hex(bytes),
    }
}

/// Whether a text is a digest: 64 lower-case hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// 128 random bits in hexadecimal. They tell writers apart and decide nothing else.
pub(crate) fn nonce() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 16];
    #[expect(
        clippy::disallowed_methods,
        reason = "a name that must be unique, not a choice a test would want to repeat"
    )]
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// A pause of between half of this and all of it, so that those who were sent away together do not come back together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut bytes = [0_u8; 2];
    #[expect(
        clippy::disallowed_methods,
        reason = "a pause that must differ from others', not a choice a test would want to repeat"
    )]
    let part = getrandom::fill(&mut bytes).map_or(0, |()| u16::from_le_bytes(bytes));
    pause / 2 + pause / 2 * u32::from(part) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashing_off_and_on_the_runtime_agree() {
        let bytes = Bytes::from(vec![7_u8; INLINE_BYTES + 1]);
        assert_eq!(of(&bytes).await, blake3_hex(&bytes));
        assert!(is_digest(&of(&Bytes::new()).await));
        assert!(!is_digest("AB"));
    }

    #[test]
    fn pauses_are_at_least_half_and_at_most_all() {
        let pause = Duration::from_secs(5);
        assert!((0..100).all(|_| (pause / 2..=pause).contains(&jittered(pause))));
    }

    #[test]
    fn writers_have_different_names() {
        let name = nonce().unwrap();
        assert_eq!(name.len(), 32);
        assert_ne!(name, nonce().unwrap());
    }
}
