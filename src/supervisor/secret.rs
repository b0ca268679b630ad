//! An attempt's secret: what a worker proves with that it is the one the daemon started. Handed over on standard input, never stored: the database keeps
//! its BLAKE3.

use std::fmt;

/// 256 bits drawn for one attempt.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Draws one; `entropy` fills bytes at random.
    #[must_use]
    pub fn draw(entropy: fn(&mut [u8])) -> Self {
        let mut bytes = [0; 32];
        entropy(&mut bytes);
        Self(blake3::Hash::from_bytes(bytes).to_hex().to_string())
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(blake3::hash(self.0.as_bytes()))
    }

    /// The form in which it is handed over: 64 hexadecimal digits.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What is kept of a secret.
#[derive(Clone, Copy)]
pub struct SecretHash(blake3::Hash);

impl SecretHash {
    /// As stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(bytes))
    }

    /// To be stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether this is the secret. Takes as long whatever the answer: hashes are compared, and those in constant time.
    #[must_use]
    pub fn fits(&self, presented: &str) -> bool {
        blake3::hash(presented.as_bytes()) == self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_fits_and_it_is_never_shown() {
        let secret = Secret::draw(|bytes| bytes.fill(0xab));
        assert_eq!(secret.reveal(), "ab".repeat(32));
        let kept = SecretHash::from_bytes(*secret.hash().as_bytes());
        assert!(kept.fits(secret.reveal()));
        for wrong in ["", "ab", &"AB".repeat(32), &"ac".repeat(32)] {
            assert!(!kept.fits(wrong), "{wrong}");
        }
        assert!(!format!("{secret:?}").contains("ab"));
    }
}
