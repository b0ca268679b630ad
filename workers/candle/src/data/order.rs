//! The order in which a streamed training sees its rows: a pure function of seed, epoch and the index, specified in `docs/rng.md`. Blocks are shuffled and cut
//! into windows, rows are shuffled within their window; so that a place of the epoch is found without what came before it.

use std::ops::Range;

use super::blocks::Block;
use crate::rng::{Rng, Stream};

/// An epoch's windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    epoch: u64,
    /// The blocks in their order.
    blocks: Vec<u32>,
    /// Which of them each window has.
    windows: Vec<Range<usize>>,
    /// The place of each window's first row, and the number of rows.
    starts: Vec<u64>,
}

impl Order {
    /// The order of an epoch. A window takes blocks until one more would give it more than `rows` rows to train on; it has one at least.
    #[must_use]
    pub fn new(seed: u64, epoch: u64, blocks: &[Block], rows: u64) -> Self {
        let count = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
        let order = Rng::new(seed, Stream::Blocks { epoch }).permutation(count);
        let (mut windows, mut starts): (Vec<Range<usize>>, _) = (Vec::new(), vec![0]);
        let (mut begun, mut place, mut held) = (0, 0, 0);
        for (at, block) in order.iter().enumerate() {
            let more = blocks.get(*block as usize).map_or(0, |block| u64::from(block.train));
            if held > 0 && held + more > rows {
                windows.push(begun..at);
                starts.push(place);
                (begun, held) = (at, 0);
            }
            held += more;
            place += more;
        }
        windows.push(begun..order.len());
        starts.push(place);
        Self { seed, epoch, blocks: order, windows, starts }
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Windows.
    #[must_use]
    pub const fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The window of a place, and the place in it.
    #[must_use]
    pub fn find(&self, place: u64) -> (usize, usize) {
        let window = self.starts.partition_point(|start| *start <= place).saturating_sub(1).min(self.windows.len() - 1);
        (window, usize::try_from(place - self.starts[window]).unwrap_or(usize::MAX))
    }

    /// The blocks of a window.
    #[must_use]
    pub fn blocks(&self, window: usize) -> &[u32] {
        self.windows.get(window).map_or(&[], |range| &self.blocks[range.clone()])
    }

    /// The order of a window's rows, which are numbered through its blocks.
    #[must_use]
    pub fn rows(&self, window: usize) -> Vec<u32> {
        let rows = self.starts.get(window + 1).map_or(0, |end| end - self.starts[window]);
        let number = u32::try_from(window).unwrap_or(u32::MAX);
        let stream = Stream::Rows { epoch: self.epoch, window: number };
        Rng::new(self.seed, stream).permutation(u32::try_from(rows).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn blocks(train: &[u32]) -> Vec<Block> {
        train.iter().map(|train| Block { train: *train, rows: *train, ..Block::default() }).collect()
    }

    proptest! {
        #[test]
        fn every_row_has_one_place_in_every_epoch(train in prop::collection::vec(0_u32..20, 1..30), rows in 1_u64..50) {
            let blocks = blocks(&train);
            let total: u64 = train.iter().map(|rows| u64::from(*rows)).sum();
            for epoch in 0..3 {
                let order = Order::new(7, epoch, &blocks, rows);
                let mut seen = BTreeSet::new();
                for place in 0..total {
                    let (window, at) = order.find(place);
                    let of: Vec<_> = order.blocks(window).iter().flat_map(|block| (0..train[*block as usize]).map(move |row| (*block, row))).collect();
                    prop_assert!(of.len() as u64 <= rows.max(20) && order.rows(window).len() == of.len());
                    seen.insert(of[order.rows(window)[at] as usize]);
                }
                prop_assert_eq!(seen.len() as u64, total);
            }
        }
    }

    #[test]
    fn epochs_differ_and_are_what_they_were() {
        let blocks = blocks(&[3; 8]);
        let order = Order::new(7, 0, &blocks, 9);
        assert_eq!(order.windows(), 3);
        assert_eq!(order, Order::new(7, 0, &blocks, 9));
        assert_ne!(order.blocks, Order::new(7, 1, &blocks, 9).blocks);
        assert_ne!(order.rows(0), order.rows(1));
        assert_eq!((order.find(0), order.find(8), order.find(9), order.find(23)), ((0, 0), (0, 8), (1, 0), (2, 5)));
    }
}
