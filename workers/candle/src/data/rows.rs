//! Where a training gets its rows from, whether all are in memory or not.

use std::{
    cell::RefCell,
    ops::{ControlFlow, Range},
};

use candle_core::Device;
use mlctl_protocol::spec::SplitPart;

use super::examples::{Batch, Examples};
use crate::{
    fault::Fault,
    rng::{Rng, Stream},
};

/// What is done with a batch; whether another is wanted.
pub type Take<'a> = &'a mut dyn FnMut(Batch) -> Result<ControlFlow<()>, Fault>;

/// The rows of a run.
pub trait Source {
    /// Whether rows belong to classes, so that there is an accuracy.
    fn has_classes(&self) -> bool;

    /// Rows of a part.
    fn count(&self, part: SplitPart) -> u64;

    /// The rows to train on at some places of an epoch's order.
    ///
    /// # Errors
    /// When they cannot be read, or the device refuses memory.
    fn batch(&self, epoch: u64, places: Range<u64>, device: &Device) -> Result<Batch, Fault>;

    /// Hands the rows of a part out, in the order of the data, so many at a time.
    ///
    /// # Errors
    /// When they cannot be read, the device refuses memory, or `take` fails.
    fn walk(&self, part: SplitPart, rows: usize, device: &Device, take: Take<'_>) -> Result<(), Fault>;
}

/// The order of all rows to train on in an epoch: a permutation. That of the last epoch asked for is kept.
#[derive(Debug)]
pub(super) struct Permuted {
    seed: u64,
    kept: RefCell<Option<(u64, Vec<u32>)>>,
}

impl Permuted {
    /// The orders of a run with a seed.
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed, kept: RefCell::new(None) }
    }

    /// Which of so many rows stand at some places.
    pub(super) fn at(&self, epoch: u64, rows: usize, places: Range<u64>) -> Result<Vec<u32>, Fault> {
        let mut kept = self.kept.borrow_mut();
        let order = match kept.take() {
            Some((of, order)) if of == epoch => order,
            _ => {
                let rows = u32::try_from(rows)
                    .map_err(|_| Fault::spec("more than 2^32 rows cannot be shuffled", "split the dataset"))?;
                Rng::new(self.seed, Stream::Shuffle { epoch }).permutation(rows)
            }
        };
        let (_, order) = kept.insert((epoch, order));
        let place = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(order.len());
        Ok(order[place(places.start)..place(places.end)].to_vec())
    }
}

/// Rows in memory; the order of an epoch is a permutation of all to train on.
#[derive(Debug)]
pub struct Shuffled<'a> {
    examples: &'a Examples,
    order: Permuted,
}

impl<'a> Shuffled<'a> {
    /// The rows of a run with a seed.
    #[must_use]
    pub const fn new(examples: &'a Examples, seed: u64) -> Self {
        Self { examples, order: Permuted::new(seed) }
    }

    fn part(&self, part: SplitPart) -> &'a [u32] {
        match part {
            SplitPart::Train => &self.examples.train,
            SplitPart::Validation => &self.examples.validation,
            SplitPart::Test => &self.examples.test,
        }
    }
}

impl Source for Shuffled<'_> {
    fn has_classes(&self) -> bool {
        self.examples.has_classes()
    }

    fn count(&self, part: SplitPart) -> u64 {
        self.part(part).len() as u64
    }

    fn batch(&self, epoch: u64, places: Range<u64>, device: &Device) -> Result<Batch, Fault> {
        let train = &self.examples.train;
        let places = self.order.at(epoch, train.len(), places)?;
        Ok(self.examples.batch(places.iter().map(|place| train[*place as usize]), device)?)
    }

    fn walk(&self, part: SplitPart, rows: usize, device: &Device, take: Take<'_>) -> Result<(), Fault> {
        for chunk in self.part(part).chunks(rows.max(1)) {
            if take(self.examples.batch(chunk.iter().copied(), device)?)? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}
