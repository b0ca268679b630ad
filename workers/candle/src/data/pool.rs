//! The same work on many things, a few at a time. Used where each of them waits for a store.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use crate::fault::Fault;

/// Does the work for each number below `count`, on so many threads at most, the caller's among them. The answers are in the order of the numbers.
///
/// # Errors
/// What one of them fails with; nothing new is begun then.
pub(super) fn each<T: Send + Sync>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<T, Fault> + Sync,
) -> Result<Vec<T>, Fault> {
    let next = AtomicUsize::new(0);
    let slots: Vec<OnceLock<Result<T, Fault>>> = (0..count).map(|_| OnceLock::new()).collect();
    let run = || {
        while let Some((at, slot)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            slots.get(at).map(|slot| (at, slot))
        } {
            let done = work(at);
            if done.is_err() {
                next.store(count, Ordering::Relaxed);
            }
            // Each slot is one thread's.
            drop(slot.set(done));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(run);
        }
        run();
    });
    // What was not begun comes after what failed.
    slots.into_iter().filter_map(OnceLock::into_inner).collect()
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::ExitClass;

    use super::*;

    #[test]
    fn answers_are_in_order_and_a_failure_ends_the_work() {
        for threads in [0, 1, 3, 100] {
            assert_eq!(each(50, threads, |at| Ok(at * 2)).unwrap(), (0..50).map(|at| at * 2).collect::<Vec<_>>());
            assert!(each(0, threads, Ok).unwrap().is_empty());
            let done = AtomicUsize::new(0);
            let failed = each(100_000, threads, |at| {
                done.fetch_add(1, Ordering::Relaxed);
                if at == 7 { Err(Fault::new(ExitClass::Crash, "seven")) } else { Ok(at) }
            });
            assert_eq!(failed.unwrap_err().message, "seven");
            assert!(threads > 1 || done.into_inner() == 8);
        }
    }
}
