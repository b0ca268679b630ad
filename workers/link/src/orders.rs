//! What the daemon wants of the worker, as the worker's loop sees it. Pure: which order stands when several came.

use mlctl_protocol::message::StopClass;

/// What the worker must do at the end of its current step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Take a checkpoint and go on. Given once.
    Checkpoint,
    /// Take a checkpoint and end with this class. Given at every call from now on.
    Stop(StopClass),
    /// No daemon answered for the time of a lease: take a checkpoint and end. Given at every call from now on.
    LeaseLost,
    /// The attempt is not valid any more: end at once and commit nothing. Given at every call from now on.
    Refused(String),
}

/// The orders that stand.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    checkpoint: bool,
    ending: Option<Order>,
}

impl Orders {
    /// Takes an order in. Among those that end the worker the stronger stands: a refusal over all; a person's cancel over a
    /// preemption; the first of others.
    pub(crate) fn give(&mut self, order: Order) {
        match (order, &self.ending) {
            (Order::Checkpoint, _) => self.checkpoint = true,
            (order @ Order::Refused(_), _) | (order, None) => self.ending = Some(order),
            (order @ Order::Stop(StopClass::Cancelled), Some(Order::Stop(_))) => self.ending = Some(order),
            _ => {}
        }
    }

    /// The next order; one that ends the worker comes before a checkpoint and is not used up.
    pub(crate) fn next(&mut self) -> Option<Order> {
        if let Some(ending) = &self.ending {
            return Some(ending.clone());
        }
        std::mem::take(&mut self.checkpoint).then_some(Order::Checkpoint)
    }

    /// The order that ends the worker, if one stands.
    pub(crate) fn ending(&self) -> Option<&Order> {
        self.ending.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREEMPTED: Order = Order::Stop(StopClass::Preempted);
    const CANCELLED: Order = Order::Stop(StopClass::Cancelled);

    #[test]
    fn a_checkpoint_is_given_once() {
        let mut orders = Orders::default();
        assert_eq!(orders.next(), None);
        orders.give(Order::Checkpoint);
        orders.give(Order::Checkpoint);
        assert_eq!(orders.next(), Some(Order::Checkpoint));
        assert_eq!(orders.next(), None);
    }

    #[test]
    fn the_stronger_end_stands() {
        let refused = || Order::Refused("stale".into());
        let cases = [
            (vec![Order::Checkpoint, PREEMPTED], PREEMPTED),
            (vec![PREEMPTED, Order::Checkpoint], PREEMPTED),
            (vec![PREEMPTED, CANCELLED], CANCELLED),
            (vec![CANCELLED, PREEMPTED], CANCELLED),
            (vec![CANCELLED, Order::LeaseLost], CANCELLED),
            (vec![Order::LeaseLost, PREEMPTED], Order::LeaseLost),
            (vec![Order::LeaseLost, refused()], refused()),
            (vec![refused(), CANCELLED, Order::LeaseLost], refused()),
        ];
        for (given, stands) in cases {
            let mut orders = Orders::default();
            for order in given.clone() {
                orders.give(order);
            }
            assert_eq!([orders.next(), orders.next()], [Some(stands.clone()), Some(stands)], "{given:?}");
        }
    }
}
