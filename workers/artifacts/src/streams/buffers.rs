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
    kept: Kept,
}

impl Buffers {
    pub(super) fn new(budget_bytes: usize) -> Self {
        let units = u32::try_from(budget_bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX >> 4);
        let budget = usize::try_from(units).unwrap_or(usize::MAX >> 4);
        Self { budget: Arc::new(Semaphore::new(budget)), units, kept: Kept::default() }
    }

    /// Waits until so many bytes are within the budget. What is larger than all of it gets all of it.
    pub(super) async fn reserve(&self, bytes: usize) -> Reserved {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        // It is never closed; were it, the budget would be gone, not the work.
        let permit = self.budget.clone().acquire_many_owned(units).await.ok();
        Reserved { bytes, memory: self.kept.take(bytes), kept: self.kept.clone(), _permit: permit }
    }
}

/// Memory that nobody uses. With what is reserved it is never more than the budget.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Vec<u8>>>>);

impl Kept {
    /// Memory of that size if there is some; else as much of other sizes is given back to the system.
    fn take(&self, bytes: usize) -> Option<Vec<u8>> {
        let mut kept = self.lock();
        if let Some(at) = kept.iter().rposition(|memory| memory.len() == bytes) {
            return Some(kept.swap_remove(at));
        }
        let mut freed = 0;
        while freed < bytes
            && let Some(memory) = kept.pop()
        {
            freed += memory.len();
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Each change is one push or pop.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the budget.
pub(super) struct Reserved {
    bytes: usize,
    memory: Option<Vec<u8>>,
    kept: Kept,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Reserved {
    /// Memory of that size, with whatever was in it last.
    pub(super) fn buffer(mut self) -> Buffer {
        let memory = self.memory.take().unwrap_or_else(|| vec![0; self.bytes]);
        Buffer { memory, reserved: self }
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
            self.reserved.kept.lock().push(memory);
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

    #[tokio::test]
    async fn what_is_kept_and_what_is_used_are_within_the_budget_together() {
        const MIB: usize = 1 << 20;
        let buffers = Buffers::new(40 * MIB);
        let mut used = Vec::new();
        for n in 0..500_usize {
            let bytes = [8 * MIB, MIB, 3 * MIB + 7, 8 * MIB, 100, 5 * MIB][n * 7 % 6];
            while used.iter().map(|buffer: &Buffer| buffer.memory.len()).sum::<usize>() + bytes > 39 * MIB {
                used.swap_remove(n % used.len());
            }
            used.push(buffers.reserve(bytes).await.buffer());
            let used: usize = used.iter().map(|buffer| buffer.memory.capacity()).sum();
            let kept: usize = buffers.kept.lock().iter().map(Vec::capacity).sum();
            assert!(used + kept <= 40 * MIB, "{n}: {used} and {kept}");
        }
    }
}
