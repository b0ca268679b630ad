//! As many requests on their way as the pace allows: whoever sends one enters a lane first, and says at the end what it moved. What stores say of being overloaded comes in by their weather.

mod pace;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::pace::Pace;

/// How often a store said that it is too much, or did not answer in time. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weather {
    storms: Arc<AtomicU64>,
}

impl Weather {
    /// It is too much.
    pub(crate) fn storm(&self) {
        self.storms.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn storms(&self) -> u64 {
        self.storms.load(Ordering::Relaxed)
    }
}

/// Clones share the lanes.
#[derive(Clone)]
pub(crate) struct Lanes {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    free: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    pace: Pace,
    /// Lanes that there are, free or not.
    open: usize,
    /// The number of storms at which one was last heeded.
    heeded: u64,
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new(Pace::default())
    }
}

impl Lanes {
    /// Lanes of which so many are open at first.
    pub(crate) fn beginning_with(open: usize) -> Self {
        Self::new(Pace::beginning_with(open))
    }

    fn new(pace: Pace) -> Self {
        let open = pace.limit();
        let state = Mutex::new(State { pace, open, heeded: 0 });
        Self { shared: Arc::new(Shared { began: Instant::now(), free: Arc::new(Semaphore::new(open)), state }) }
    }
}

/// A request's place. Given up when dropped.
pub(crate) struct Lane {
    shared: Arc<Shared>,
    weather: Option<Weather>,
    /// Storms before it was entered.
    before: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Lanes {
    /// Waits for a free lane to a store with this weather.
    pub(crate) async fn enter(&self, weather: Option<&Weather>) -> Lane {
        // It is never closed; were it, whoever comes is let in.
        let permit = self.shared.free.clone().acquire_owned().await.ok();
        let before = weather.map_or(0, Weather::storms);
        Lane { shared: self.shared.clone(), weather: weather.cloned(), before, permit }
    }

    /// How many there are.
    pub(crate) fn open(&self) -> usize {
        self.shared.state().open
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Each change leaves numbers that hold by themselves.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Lane {
    /// What was asked for is done: so many bytes.
    pub(crate) fn done(self, bytes: u64) {
        let now = self.shared.now();
        let mut state = self.shared.state();
        let storms = self.weather.as_ref().map_or(0, Weather::storms);
        if storms > state.heeded.max(self.before) {
            state.heeded = storms;
            state.pace.overloaded(now);
        } else {
            state.pace.ended(now, bytes);
        }
        let limit = state.pace.limit();
        if limit > state.open {
            self.shared.free.add_permits(limit - state.open);
            state.open = limit;
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.open > state.pace.limit()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            state.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lanes_are_closed_when_a_store_is_overloaded() {
        let (lanes, weather) = (Lanes::default(), Weather::default());
        weather.storm();
        let enter = || lanes.enter(Some(&weather));
        let begun = lanes.open();
        let taken = futures_util::future::join_all((0..begun).map(|_| enter())).await;
        assert!(tokio::time::timeout(Duration::from_millis(20), enter()).await.is_err());
        let mut taken = taken.into_iter();
        taken.next().unwrap().done(1);
        assert_eq!(lanes.open(), begun, "what was before is over");
        weather.storm();
        taken.for_each(|lane| lane.done(1));
        assert_eq!(lanes.open(), begun / 2, "one storm is heeded once");
        let taken = futures_util::future::join_all((0..begun / 2).map(|_| enter())).await;
        assert!(tokio::time::timeout(Duration::from_millis(20), enter()).await.is_err());
        drop(taken);
    }
}
