//! What the worker's computing thread holds of the link: report, progress, orders. Shared state behind one mutex that is never held
//! across a wait; a condition variable wakes the thread, a notification wakes the connection's task.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mlctl_protocol::{
    message::{Heartbeat, Report, ReportBody, ToWorker},
    progress::{Progress, StorageAway},
};
use tokio::{sync::Notify, time::Instant};

use crate::{LinkError, core::Core, orders::Order, outbox::Room, usage::Usage};

/// The worker's side of a running attempt. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Replaces what the next heartbeat says. `device` is `cpu`, or the accelerator in use.
    pub fn progress(&self, progress: Progress, device: &str) {
        let mut state = self.shared.lock();
        state.progress = progress;
        if state.device != device {
            device.clone_into(&mut state.device);
        }
    }

    /// Has heartbeats tell this in place of the process's own: of all processes that a worker is made of.
    pub fn usage(&self, usage: Usage) {
        self.shared.lock().usage = Some(usage);
    }

    /// Has heartbeats tell, beside the progress, that the object storage does not answer, or that it does again.
    pub fn storage_away(&self, away: Option<StorageAway>) {
        self.shared.lock().storage_away = away;
    }

    /// Hands over a report, which is kept until the daemon has it. Waits while a thousand are kept already, so it is not to be called from
    /// a thread that runs async tasks. Values that are not finite are left out.
    ///
    /// # Errors
    /// [`LinkError::Refused`] when the attempt is not valid any more; [`LinkError::OutboxFull`] when the worker has been told to end, goes on
    /// reporting and nobody takes it; [`LinkError::ReportTooLarge`]; [`LinkError::Closed`].
    pub fn report(&self, body: ReportBody) -> Result<(), LinkError> {
        let mut state = self.shared.lock();
        while !state.core.has_room(Room::Usual) {
            if state.closed {
                return Err(LinkError::Closed);
            }
            if state.core.ending().is_some() {
                break;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(LinkError::Closed);
        }
        if let Some(Order::Refused(reason)) = state.core.ending() {
            return Err(LinkError::Refused(reason.clone()));
        }
        if !state.core.has_room(Room::Ending) {
            return Err(LinkError::OutboxFull);
        }
        state.core.push(body)?;
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// The next order, without waiting. Asked at the end of every step.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        self.shared.lock().core.order()
    }

    /// Waits for an order other than the one that stands already, `known`. For one task at a time; it may be dropped and called again.
    pub async fn ordered(&self, known: Option<&Order>) -> Order {
        loop {
            let notified = self.shared.ordered.notified();
            if let Some(order) = self.order()
                && known != Some(&order)
            {
                return order;
            }
            notified.await;
        }
    }
}

/// What the computing thread and the connection's task share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something changed that a thread in [`Handle::report`] or the link's end may wait for.
    changed: Condvar,
    /// There is something to send.
    wake: Notify,
    /// Something was acknowledged, or an order that ends the worker came.
    pub(crate) settled: Notify,
    /// An order came.
    ordered: Notify,
}

#[derive(Debug)]
struct State {
    core: Core,
    progress: Progress,
    storage_away: Option<StorageAway>,
    device: String,
    usage: Option<Usage>,
    closed: bool,
}

impl Shared {
    pub(crate) fn new(core: Core) -> Self {
        let (progress, device) = (Progress::default(), String::new());
        Self {
            state: Mutex::new(State { core, progress, storage_away: None, device, usage: None, closed: false }),
            changed: Condvar::new(),
            wake: Notify::new(),
            settled: Notify::new(),
            ordered: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn give(&self, order: Order) {
        self.lock().core.give(order);
        self.tell_all();
        self.ordered.notify_one();
    }

    /// Takes what the daemon says.
    ///
    /// # Errors
    /// Why it refuses this attempt.
    pub(crate) fn heard(&self, message: ToWorker) -> Result<(), String> {
        let is_order = matches!(message, ToWorker::Checkpoint | ToWorker::Stop { .. });
        self.lock().core.heard(message)?;
        self.tell_all();
        if is_order {
            self.ordered.notify_one();
        }
        Ok(())
    }

    /// Asks or tells the machine something that nobody waits for.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        act(&mut self.lock().core)
    }

    fn tell_all(&self) {
        self.changed.notify_all();
        self.settled.notify_one();
    }

    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.lock().core.ending(), Some(Order::Refused(_)))
    }

    pub(crate) fn is_acked(&self, seq: u64) -> bool {
        self.lock().core.is_acked(seq)
    }

    pub(crate) fn welcomed(&self, acked: u64) {
        self.lock().core.welcomed(acked, Instant::now().into_std());
        self.tell_all();
    }

    /// Takes in the last report, whatever the outbox holds.
    pub(crate) fn push_last(&self, body: ReportBody) -> Result<u64, LinkError> {
        let seq = self.lock().core.push(body)?;
        self.wake.notify_one();
        Ok(seq)
    }

    /// The next report to send on this connection, when there is one. Cancel safe: a report is taken in the poll that returns it.
    pub(crate) async fn next_report(&self) -> Report {
        loop {
            let notified = self.wake.notified();
            if let Some(report) = self.lock().core.next_report() {
                return report;
            }
            notified.await;
        }
    }

    pub(crate) fn heartbeat(&self) -> Heartbeat {
        let known = self.lock().usage;
        let Usage { rss_bytes, peak_rss_bytes, cpu_ms } = known.unwrap_or_else(|| Usage::of("self"));
        let state = self.lock();
        let device = if state.device.is_empty() { "cpu" } else { &state.device };
        let progress = Progress { storage_away: state.storage_away.clone(), ..state.progress.clone() };
        Heartbeat { progress, rss_bytes, peak_rss_bytes, cpu_ms, device: device.to_owned() }
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
