//! The worker's end of the link as a machine: what is said again after a redial, when to dial again, when the lease is over, which order stands. The present moment comes in;
//! no I/O, no tokio, no clock. Owned by the handle's shared state, which the connection's task and the computing thread feed; `tests/simulation` plays it against the daemon's.

use std::time::{Duration, Instant};

use mlctl_protocol::message::{Report, ReportBody, ToWorker};

use crate::{
    LinkError, Order,
    orders::Orders,
    outbox::{Outbox, Room},
};

/// How long the link waits for a daemon that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between the first two tries to dial; each later pause is twice as long as the one before.
    pub first_pause: Duration,
    /// Between tries to dial at most.
    pub longest_pause: Duration,
    /// Since the last contact, before the worker gives up its lease.
    pub lease: Duration,
}

/// What a worker knows of its daemon.
#[derive(Debug)]
pub struct Core {
    outbox: Outbox,
    orders: Orders,
    pace: Pace,
    pause: Duration,
    /// When the connection in use, or the last one, began.
    began: Instant,
    /// When something was last said by it.
    contact: Instant,
}

impl Core {
    /// A worker that has just been told what to do.
    #[must_use]
    pub fn new(pace: Pace, now: Instant) -> Self {
        let (outbox, orders) = (Outbox::default(), Orders::default());
        Self { outbox, orders, pace, pause: pace.first_pause, began: now, contact: now }
    }

    /// Takes a report in, which is kept until the daemon has it, and returns its number.
    ///
    /// # Errors
    /// [`LinkError::ReportTooLarge`].
    pub fn push(&mut self, body: ReportBody) -> Result<u64, LinkError> {
        self.outbox.push(body)
    }

    /// Whether a report can be taken in now.
    pub(crate) fn has_room(&self, room: Room) -> bool {
        self.outbox.has_room(room)
    }

    /// The next report to send on this connection; it counts as sent.
    pub fn next_report(&mut self) -> Option<Report> {
        self.outbox.next()
    }

    /// Whether the daemon has the report of this number, and all before it.
    #[must_use]
    pub fn is_acked(&self, seq: u64) -> bool {
        self.outbox.is_acked(seq)
    }

    /// Something was written to the connection.
    pub fn sent(&mut self, now: Instant) {
        self.contact = now;
    }

    /// Takes what the daemon says.
    ///
    /// # Errors
    /// Why the daemon does not want this attempt any more: the connection is over for good.
    pub fn heard(&mut self, message: ToWorker) -> Result<(), String> {
        match message {
            ToWorker::Ack { seq } => self.outbox.acked(seq),
            ToWorker::Checkpoint => self.orders.give(Order::Checkpoint),
            ToWorker::Stop { class } => self.orders.give(Order::Stop(class)),
            ToWorker::Refused { reason } => return Err(reason),
            // Answers to a hello out of place, and types of a later version.
            ToWorker::Start(_) | ToWorker::Welcome { .. } | ToWorker::Unknown => {}
        }
        Ok(())
    }

    /// The connection is lost. A daemon that hangs up at once is not dialled faster than one that is not there.
    pub fn lost(&mut self, now: Instant) {
        if now.saturating_duration_since(self.began) >= self.pace.longest_pause {
            self.pause = self.pace.first_pause;
        }
    }

    /// How long to wait before the next dial.
    pub fn next_pause(&mut self) -> Duration {
        let longer = self.pace.longest_pause.min(self.pause * 2);
        std::mem::replace(&mut self.pause, longer)
    }

    /// The daemon has welcomed this attempt back and has its reports up to `acked`: the others are sent again.
    pub fn welcomed(&mut self, acked: u64, now: Instant) {
        (self.began, self.contact) = (now, now);
        self.outbox.reconnected(acked);
    }

    /// When the lease is over, while there is no connection.
    #[must_use]
    pub fn lease_until(&self) -> Instant {
        self.contact + self.pace.lease
    }

    /// Takes an order in; the stronger stands.
    pub fn give(&mut self, order: Order) {
        self.orders.give(order);
    }

    /// The next order; one that ends the worker is not used up.
    pub fn order(&mut self) -> Option<Order> {
        self.orders.next()
    }

    /// The order that ends the worker, if one stands.
    #[must_use]
    pub fn ending(&self) -> Option<&Order> {
        self.orders.ending()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_begin_anew_after_a_connection_that_held() {
        let begin = Instant::now();
        let seconds = Duration::from_secs;
        let pace = Pace { first_pause: seconds(1), longest_pause: seconds(5), lease: seconds(60) };
        let mut core = Core::new(pace, begin);
        core.lost(begin + seconds(1));
        assert_eq!([1; 4].map(|_| core.next_pause().as_secs()), [1, 2, 4, 5]);
        core.welcomed(0, begin + seconds(20));
        core.lost(begin + seconds(21));
        assert_eq!(core.next_pause(), seconds(5), "it hung up at once");
        core.welcomed(0, begin + seconds(30));
        core.sent(begin + seconds(31));
        core.lost(begin + seconds(40));
        assert_eq!(core.next_pause(), seconds(1));
        assert_eq!(core.lease_until(), begin + seconds(91));
    }
}
