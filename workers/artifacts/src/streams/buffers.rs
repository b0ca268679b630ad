//! Memory for parts, kept and used again: fresh memory costs more than what is done with it. A buffer counts against the budget until the last who reads from it has let go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in these, as a semaphore has no more than 2³² permits at once.
const UNIT_BYTES: usize = 4096;

/// What is smaller is not kept: the allocator does that well.
const LEAST_KEPT_BYTES: usize = 1024 * 1024;

/// Clones share the budget.
#[derive(Clone)]
pub(super) struct Buffers {
    budget: Arc<Semaphore>,
    units: u32,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    pub(super) fn new(budget_bytes: usize) -> Self {
        let units = u32::try_from(budget_bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX >> 4);
        let budget = usize::try_from(units).unwrap_or(usize::MAX >> 4);
        Self { budget: Arc::new(Semaphore::new(budget)), units, kept: Arc::default() }
    }

    /// Waits until so many bytes are within the budget. What is larger than all of it gets all of it.
    pub(super) async fn reserve(&self, bytes: usize) -> Reserved {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        // It is never closed; were it, the budget would be gone, not the work.
        let permit = self.budget.clone().acquire_many_owned(units).await.ok();
        Reserved { bytes, kept: self.kept.clone(), _permit: permit }
    }
}

/// A part of the budget.
pub(super) struct Reserved {
    bytes: usize,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Reserved {
    /// Memory of that size, with whatever was in it last.
    pub(super) fn buffer(self) -> Buffer {
        let kept = (self.bytes >= LEAST_KEPT_BYTES).then(|| self.kept().pop()).flatten();
        let mut memory = kept.unwrap_or_default();
        memory.resize(self.bytes, 0);
        Buffer { memory, reserved: self }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Each change is one push or pop.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that goes back when it is dropped.
pub(super) struct Buffer {
    memory: Vec<u8>,
    reserved: Reserved,
}

impl Buffer {
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// The same memory, to be read by many.
    pub(super) fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() >= LEAST_KEPT_BYTES {
            let memory = std::mem::take(&mut self.memory);
            self.reserved.kept().push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_budget_holds_until_the_last_reader_lets_go() {
        let buffers = Buffers::new(1000 * UNIT_BYTES);
        let mut first = buffers.reserve(600 * UNIT_BYTES).await.buffer();
        first.as_mut().fill(7);
        let shared = first.share();
        let slice = shared.slice(5..6);
        drop(shared);
        let waits = || tokio::time::timeout(Duration::from_millis(20), buffers.reserve(600 * UNIT_BYTES));
        assert!(waits().await.is_err(), "a slice still holds it");
        assert_eq!(slice[..], [7]);
        drop(slice);
        let mut again = waits().await.unwrap().buffer();
        assert_eq!(again.as_mut()[..3], [7, 7, 7], "the same memory");
        drop(again);
        let all = buffers.reserve(9000 * UNIT_BYTES).await.buffer();
        assert_eq!(all.as_ref().len(), 9000 * UNIT_BYTES, "what is larger than the budget goes alone");
        assert!(waits().await.is_err());
    }
}
