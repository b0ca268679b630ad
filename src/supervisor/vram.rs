//! How much memory of their GPUs the attempts have: looked at when a heartbeat of one that has a GPU comes, and at no other time. One look serves all attempts. Called by the workers' connections;
//! what it finds is in each attempt's `Live`, from where it goes on record with the heartbeat.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::debug;

use super::{
    Shared, attempt,
    devices::{Inventory, Reading},
    executor::Executor,
    live::Live,
};
use crate::domain::causes;

/// The least time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

const MIB: u64 = 1024 * 1024;

/// When there was a look.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// A driver that hangs is not asked twice.
    looks: bool,
    looked_at: Option<Instant>,
}

impl Meter {
    /// Whether there is to be a look, which begins with this.
    fn begin(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looks || state.looked_at.is_some_and(|at| now < at + PAUSE) {
            return false;
        }
        *state = State { looks: true, looked_at: Some(now) };
        true
    }

    fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).looks = false;
    }
}

/// A heartbeat of an attempt came: looks at what those that have GPUs have of them, beside all else.
pub(super) fn measure(shared: &Arc<Shared>, live: &Live) {
    let Some(inventory) = shared.inventory.clone().filter(|_| !live.gpus.is_empty()) else { return };
    if !shared.meter.begin(Instant::now()) {
        return;
    }
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || {
        look(&shared, inventory.as_ref());
        shared.meter.end();
    });
}

fn look(shared: &Shared, inventory: &dyn Inventory) {
    let readings = match inventory.look() {
        Ok(readings) => readings,
        // The scheduler says so louder when it wants to give one away.
        Err(error) => return debug!(error = causes(&error), "what attempts have of their GPUs is not known"),
    };
    let with_gpus: Vec<Arc<Live>> =
        shared.lock().values().filter(|live| !live.gpus.is_empty() && !live.is_vacated()).cloned().collect();
    for live in with_gpus {
        let dir = attempt::dir(&shared.config.attempts_dir, live.fence.job, live.fence.attempt);
        live.saw_vram(of(&readings, shared.executor.as_ref(), &live, &dir));
    }
}

/// What an attempt's processes have of all GPUs, in bytes.
fn of(readings: &[Reading], executor: &dyn Executor, live: &Live, dir: &Path) -> u64 {
    let Some(identity) = live.process() else { return 0 };
    let processes = readings.iter().flat_map(|reading| &reading.processes);
    let own = processes.filter(|process| executor.is_of(process.pid, identity, dir));
    own.filter_map(|process| process.memory_mib).map(|mib| u64::from(mib) * MIB).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_a_second_apart_and_never_two_at_once() {
        let (meter, begin) = (Meter::default(), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        assert!(meter.begin(after(0)));
        assert!(!meter.begin(after(5_000)), "the first is not over");
        meter.end();
        assert!(meter.begin(after(5_000)));
        meter.end();
        assert!(!meter.begin(after(5_900)) && meter.begin(after(6_000)));
    }
}
