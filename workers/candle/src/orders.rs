//! What the daemon wants, kept until a loop is at a place where it can obey: a wish for a checkpoint is not lost when it
//! comes while an epoch is validated. Used by training, by inference and while data is read.

use mlctl_protocol::{ExitClass, message::StopClass};

use crate::{
    fault::Fault,
    host::{Host, Order},
};

/// Orders received and not yet obeyed.
#[derive(Debug, Default)]
pub struct Orders {
    checkpoint: bool,
    ending: Option<Ending>,
}

/// Why a run ends before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// What the attempt ends with.
    pub fault: Fault,
    /// Whether the state may be saved first: not by an attempt that is no longer valid.
    pub may_save: bool,
}

impl Orders {
    /// Takes in what has come since the last call.
    pub fn poll(&mut self, host: &dyn Host) {
        match host.order() {
            None => {}
            Some(Order::Checkpoint) => self.checkpoint = true,
            Some(order) => self.ending = ending(order),
        }
    }

    /// Why the run is to end now, if it is.
    #[must_use]
    pub const fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Whether a checkpoint was wished for since the last call.
    pub const fn take_checkpoint(&mut self) -> bool {
        std::mem::replace(&mut self.checkpoint, false)
    }
}

fn ending(order: Order) -> Option<Ending> {
    let (class, message, may_save) = match order {
        Order::Checkpoint => return None,
        Order::Stop(StopClass::Preempted) => {
            (ExitClass::Preempted, "stopped by the scheduler, to go on later".into(), true)
        }
        Order::Stop(StopClass::Cancelled) => (ExitClass::Cancelled, "cancelled on request".into(), true),
        Order::Stop(StopClass::Timeout) => (ExitClass::Timeout, "stopped at its time limit".into(), true),
        Order::LeaseLost => {
            (ExitClass::Preempted, "no daemon answered for the length of a lease; stopped, to go on later".into(), true)
        }
        Order::Refused(reason) => (ExitClass::Lost, format!("this attempt is no longer valid: {reason}"), false),
    };
    Some(Ending { fault: Fault::new(class, message), may_save })
}
