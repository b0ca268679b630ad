//! All chance of a job: a counter-based generator (Philox4x32-10, Salmon et al. 2011), so that any number is a pure function of
//! (seed, stream, position) and resume needs no generator state. Specified in `docs/rng.md` with a twin in Python; the two
//! are tested against each other. Never change what a stream yields: published digests depend on it.

/// Philox's multipliers and key increments.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Bits of the counter given to the step or epoch, and to the block number below it.
const MAJOR_BITS: u32 = 48;
const BLOCK_BITS: u32 = 40;

/// What numbers are drawn for. Streams of one seed never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Initial values of a tensor, numbered in the order of the model's layers: weight, bias, weight, bias.
    Init {
        /// The tensor's number from 0.
        tensor: u32,
    },
    /// The order of the training rows in an epoch.
    Shuffle {
        /// The epoch from 0, modulo 2^48.
        epoch: u64,
    },
    /// The units dropped in a layer at a step.
    Dropout {
        /// The step from 0, modulo 2^48.
        step: u64,
        /// The layer from 0.
        layer: u32,
    },
    /// The division of rows into parts.
    Split,
    /// Synthetic data.
    Data {
        /// Which table: 0 features, 1 targets.
        table: u32,
        /// The row, modulo 2^48.
        block: u64,
    },
    /// The order of a streamed source's blocks in an epoch.
    Blocks {
        /// The epoch from 0, modulo 2^48.
        epoch: u64,
    },
    /// The order of the rows within a window of blocks.
    Rows {
        /// The epoch from 0, modulo 2^48.
        epoch: u64,
        /// The window from 0.
        window: u32,
    },
    /// The division of a streamed source's rows into parts: a word a row.
    Parts,
    /// How often a row is drawn in each replicate of a bootstrap: a word a replicate.
    Bootstrap {
        /// The row from 0, modulo 2^48.
        row: u64,
    },
}

impl Stream {
    /// (domain, index, major): the upper 88 bits of the counter.
    const fn address(self) -> (u8, u32, u64) {
        match self {
            Self::Init { tensor } => (1, tensor, 0),
            Self::Shuffle { epoch } => (2, 0, epoch),
            Self::Dropout { step, layer } => (3, layer, step),
            Self::Split => (4, 0, 0),
            Self::Data { table, block } => (5, table, block),
            Self::Blocks { epoch } => (6, 0, epoch),
            Self::Rows { epoch, window } => (7, window, epoch),
            Self::Parts => (8, 0, 0),
            Self::Bootstrap { row } => (9, 0, row),
        }
    }
}

/// A place in a stream of 32-bit words.
#[derive(Debug, Clone)]
pub struct Rng {
    key: [u32; 2],
    /// The counter with a block number of 0.
    base: u128,
    /// Words drawn so far, modulo 2^42.
    position: u64,
    /// The block at `position / 4`, when it was computed.
    block: Option<(u64, [u32; 4])>,
}

impl Rng {
    /// The beginning of a stream.
    #[must_use]
    pub const fn new(seed: u64, stream: Stream) -> Self {
        let (domain, index, major) = stream.address();
        let base = ((domain as u128) << 120)
            | ((index as u128) << (MAJOR_BITS + BLOCK_BITS))
            | (((major & ((1 << MAJOR_BITS) - 1)) as u128) << BLOCK_BITS);
        Self { key: split(seed), base, position: 0, block: None }
    }

    /// Goes to a word of the stream, counted from 0.
    pub const fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// The next word.
    pub fn next_u32(&mut self) -> u32 {
        let number = (self.position / 4) & ((1 << BLOCK_BITS) - 1);
        let words = match self.block {
            Some((at, words)) if at == number => words,
            _ => {
                let words = philox(self.key, words_of(self.base | u128::from(number)));
                self.block = Some((number, words));
                words
            }
        };
        let word = words[(self.position % 4) as usize];
        self.position = self.position.wrapping_add(1);
        word
    }

    /// Uniform numbers in [0, 1): the upper 24 bits of a word each, times 2^-24.
    pub fn fill_uniform(&mut self, out: &mut [f32]) {
        for value in out {
            #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32 exactly")]
            let unit = (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0);
            *value = unit;
        }
    }

    /// Standard normal numbers by Box and Muller in f64, two from two words, rounded to f32; an odd length leaves the second
    /// number of its last pair unused.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            let radius = (-2.0 * ((f64::from(self.next_u32()) + 1.0) / 4_294_967_296.0).ln()).sqrt();
            let angle = std::f64::consts::TAU * (f64::from(self.next_u32()) / 4_294_967_296.0);
            for (value, unit) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
                #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
                let rounded = (radius * unit) as f32;
                *value = rounded;
            }
        }
    }

    /// A number below `bound` (0 for a bound of 0), unbiased: Lemire's multiply-shift with rejection.
    pub fn below(&mut self, bound: u32) -> u32 {
        let mut product = u64::from(self.next_u32()) * u64::from(bound);
        if low(product) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while low(product) < threshold {
                product = u64::from(self.next_u32()) * u64::from(bound);
            }
        }
        high(product)
    }

    /// The numbers 0..n in random order: Fisher and Yates from the end, swapping place i with `below(i + 1)`.
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n).rev() {
            let j = self.below(i + 1);
            order.swap(i as usize, j as usize);
        }
        order
    }
}

/// One block: ten rounds on a counter under a key.
const fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    let mut round = 0;
    while round < ROUNDS {
        let a = MULTIPLIERS[0] as u64 * counter[0] as u64;
        let b = MULTIPLIERS[1] as u64 * counter[2] as u64;
        counter = [high(b) ^ counter[1] ^ key[0], low(b), high(a) ^ counter[3] ^ key[1], low(a)];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        round += 1;
    }
    counter
}

const fn split(value: u64) -> [u32; 2] {
    [low(value), high(value)]
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
const fn low(value: u64) -> u32 {
    value as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves are what is asked for")]
const fn words_of(counter: u128) -> [u32; 4] {
    let ([a, b], [c, d]) = (split(counter as u64), split((counter >> 64) as u64));
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_agrees_with_the_vectors_of_its_authors() {
        let cases = [
            ([0; 2], [0; 4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 2], [u32::MAX; 4], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0xa409_3822, 0x299f_31d0],
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (key, counter, expected) in cases {
            assert_eq!(philox(key, counter), expected);
        }
    }

    #[test]
    fn seeking_reads_what_drawing_reads() {
        let stream = Stream::Dropout { step: 7, layer: 3 };
        let mut rng = Rng::new(1, stream);
        let drawn: Vec<u32> = (0..41).map(|_| rng.next_u32()).collect();
        for at in [40, 0, 3, 4, 5, 17_u32] {
            rng.seek(u64::from(at));
            assert_eq!(rng.next_u32(), drawn[at as usize]);
        }
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        for n in [0, 1, 2, 3, 1000] {
            let mut order = Rng::new(5, Stream::Shuffle { epoch: 0 }).permutation(n);
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
        assert_eq!(Rng::new(5, Stream::Split).below(0), 0);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut values = vec![0.0; 100_000];
        let mean = |values: &[f32], power: i32| {
            values.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / values.len() as f64
        };
        Rng::new(11, Stream::Data { table: 0, block: 0 }).fill_uniform(&mut values);
        assert!(values.iter().all(|v| (0.0..1.0).contains(v)));
        // Four standard errors.
        assert!((mean(&values, 1) - 0.5).abs() < 4.0 * (1.0_f64 / 12.0 / 1e5).sqrt());
        Rng::new(11, Stream::Data { table: 0, block: 1 }).fill_normal(&mut values);
        assert!(mean(&values, 1).abs() < 4.0 / 1e5_f64.sqrt());
        assert!((mean(&values, 2) - 1.0).abs() < 4.0 * (2.0_f64 / 1e5).sqrt());
    }
}
