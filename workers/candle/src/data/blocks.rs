//! Where the rows of a streamed source lie: its files and the blocks that can be read each by itself, found by one pass at the beginning of a run and kept in its
//! checkpoints. Rows that are divided by chance are divided here too, each by its number alone.

use mlctl_artifacts::Pieces;
use mlctl_protocol::spec::{Split, SplitPart};
use serde::{Deserialize, Serialize};

use super::{load::Identity, scaling::Scaler};
use crate::rng::{Rng, Stream};

/// The most blocks an index has: larger sources have larger ones.
pub const MAX_BLOCKS: u64 = 65_536;

/// The least of a file that is a block, in bytes, but for the last of it.
pub const MIN_BLOCK_BYTES: u64 = 1024 * 1024;

/// A block: some rows of a file that can be read without the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 7]", into = "[u64; 7]")]
pub struct Block {
    /// Which file, from 0.
    pub file: u32,
    /// Where it begins and ends: bytes of a file of lines, rows of an array, row groups of a Parquet file; 0 and 0 for a whole file.
    pub start: u64,
    /// See `start`.
    pub end: u64,
    /// Its rows.
    pub rows: u32,
    /// Those to train on.
    pub train: u32,
    /// Those to validate on.
    pub validation: u32,
    /// Those to test on.
    pub test: u32,
}

impl From<[u64; 7]> for Block {
    fn from([file, start, end, rows, train, validation, test]: [u64; 7]) -> Self {
        let [file, rows, train, validation, test] =
            [file, rows, train, validation, test].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Self { file, start, end, rows, train, validation, test }
    }
}

impl From<Block> for [u64; 7] {
    fn from(block: Block) -> Self {
        let Block { file, start, end, rows, train, validation, test } = block;
        [file.into(), start, end, rows.into(), train.into(), validation.into(), test.into()]
    }
}

impl Block {
    /// Its rows of a part.
    #[must_use]
    pub const fn of(&self, part: SplitPart) -> u32 {
        match part {
            SplitPart::Train => self.train,
            SplitPart::Validation => self.validation,
            SplitPart::Test => self.test,
        }
    }

    pub(super) const fn count(&mut self, part: SplitPart) {
        self.rows += 1;
        match part {
            SplitPart::Train => self.train += 1,
            SplitPart::Validation => self.validation += 1,
            SplitPart::Test => self.test += 1,
        }
    }
}

/// What is known of a source after one pass. A checkpoint has it, so that a resume need not make that pass again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// The version of this form: 1.
    pub format: u32,
    /// What tells the files, and their versions, from others.
    pub files: Vec<Version>,
    /// The blocks, in the order of their rows.
    pub blocks: Vec<Block>,
    /// How features are scaled, by the rows to train on.
    pub scaler: Scaler,
    /// Which data it is.
    pub identity: Identity,
}

/// A version of a file, of an array the one with the features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its URI.
    pub uri: String,
    /// Its size in bytes.
    pub size: u64,
    /// What its store calls this version of it; of a local file, its number, size and time.
    pub tag: Option<String>,
}

impl Version {
    /// That of a file, and of those that belong to it.
    pub(super) fn of(uri: &str, files: &[&Pieces]) -> Self {
        let tags: Option<Vec<_>> = files.iter().map(|pieces| pieces.fingerprint()).collect();
        let size = files.iter().map(|pieces| pieces.size()).sum();
        Self { uri: uri.to_owned(), size, tag: tags.map(|tags| tags.join(" and ")) }
    }

    /// Whether another is surely the same: of a store that has no tags, size tells nothing.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.tag.is_some() && self == other
    }
}

impl Index {
    /// Rows of a part.
    #[must_use]
    pub fn count(&self, part: SplitPart) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.of(part))).sum()
    }
}

/// Divides rows by their numbers: each is on its own, so that nothing is kept of them. Specified in `docs/rng.md`.
#[derive(Debug, Clone)]
pub struct Divider {
    rng: Rng,
    /// Below this, of 2^32, a row is to test on; below the next, to validate on.
    test: u64,
    validation: u64,
}

impl Divider {
    /// By the shares and the seed of a spec.
    #[must_use]
    pub fn new(split: &Split) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "shares are from 0 to 0.9, checked with the spec"
        )]
        let bound = |share: f64| (share.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64;
        let rng = Rng::new(split.seed, Stream::Parts);
        Self { rng, test: bound(split.test), validation: bound(split.test + split.validation) }
    }

    /// The part of a row.
    pub fn part(&mut self, row: u64) -> SplitPart {
        self.rng.seek(row);
        match u64::from(self.rng.next_u32()) {
            word if word < self.test => SplitPart::Test,
            word if word < self.validation => SplitPart::Validation,
            _ => SplitPart::Train,
        }
    }
}

/// Fits a scaler to rows as they come by, in f64 and in the order of the rows.
#[derive(Debug)]
pub(super) struct Fitting {
    kind: mlctl_protocol::spec::Scaling,
    rows: u64,
    /// Means, and sums of squared differences from them; or least and largest values.
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Fitting {
    pub(super) fn new(kind: mlctl_protocol::spec::Scaling, width: usize) -> Self {
        use mlctl_protocol::spec::Scaling;
        let (first, second, width) = match kind {
            Scaling::None => (0.0, 0.0, 0),
            Scaling::Standard => (0.0, 0.0, width),
            Scaling::MinMax => (f64::INFINITY, f64::NEG_INFINITY, width),
        };
        Self { kind, rows: 0, first: vec![first; width], second: vec![second; width] }
    }

    /// Takes a row in: Welford's method for means and deviations.
    pub(super) fn take(&mut self, row: &[f32]) {
        use mlctl_protocol::spec::Scaling;
        self.rows += 1;
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 rows")]
        let rows = self.rows as f64;
        for ((first, second), value) in self.first.iter_mut().zip(&mut self.second).zip(row) {
            let value = f64::from(*value);
            match self.kind {
                Scaling::None => {}
                Scaling::Standard => {
                    let before = value - *first;
                    *first += before / rows;
                    *second += before * (value - *first);
                }
                Scaling::MinMax => (*first, *second) = (first.min(value), second.max(value)),
            }
        }
    }

    pub(super) fn finish(self) -> Scaler {
        use mlctl_protocol::spec::Scaling;
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 rows")]
        let rows = self.rows.max(1) as f64;
        let spread = |(first, second): (&f64, &f64)| match self.kind {
            Scaling::Standard => (second / rows).sqrt(),
            _ => second - first,
        };
        let factor =
            self.first.iter().zip(&self.second).map(|columns| super::scaling::reciprocal(spread(columns))).collect();
        Scaler { kind: self.kind, offset: self.first, factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_without_a_tag_are_never_surely_the_same() {
        let version = |tag: Option<&str>| Version { uri: "s3://b/x".into(), size: 7, tag: tag.map(str::to_owned) };
        assert!(version(Some("1")).is(&version(Some("1"))));
        for (one, other) in [(Some("1"), Some("2")), (Some("1"), None), (None, Some("1")), (None, None)] {
            assert!(!version(one).is(&version(other)), "{one:?} {other:?}");
        }
    }
}
