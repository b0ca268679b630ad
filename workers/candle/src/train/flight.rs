//! A checkpoint on its way: somebody else makes it durable while training goes on, and says here what has become of it.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use mlctl_artifacts::spool::Kept;
use mlctl_protocol::ExitClass;

use crate::fault::Fault;

/// What becomes of a checkpoint: where it is kept, or why it is not.
pub type Landing = Result<Kept, Fault>;

/// A checkpoint on its way.
#[derive(Debug)]
pub struct Flight(Receiver<Landing>);

impl Flight {
    /// One that has just begun, and the end at which it is told what has become of it.
    #[must_use]
    pub fn begun() -> (SyncSender<Landing>, Self) {
        let (told, heard) = sync_channel(1);
        (told, Self(heard))
    }

    /// One that is over already.
    #[must_use]
    pub fn landed(landing: Landing) -> Self {
        let (told, flight) = Self::begun();
        // There is room for one, and who hears it is here.
        told.send(landing).ok();
        flight
    }

    /// What has become of it, once that is known; never waits.
    #[must_use]
    pub fn landing(&self) -> Option<Landing> {
        match self.0.try_recv() {
            Ok(landing) => Some(landing),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(lost())),
        }
    }

    /// Waits until that is known.
    ///
    /// # Errors
    /// What it has failed with.
    pub fn wait(self) -> Landing {
        self.0.recv().unwrap_or_else(|_| Err(lost()))
    }
}

fn lost() -> Fault {
    Fault::new(ExitClass::Crash, "who was writing the checkpoint is gone")
        .with_hint("this is a bug in mlworker; its log has more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_landing_is_told_once_it_is_known_and_a_writer_that_is_gone_is_a_fault() {
        let (told, flight) = Flight::begun();
        assert_eq!(flight.landing(), None);
        told.send(Ok(Kept::Waiting)).unwrap();
        assert_eq!(flight.landing(), Some(Ok(Kept::Waiting)));
        drop(told);
        assert_eq!(flight.landing().unwrap().unwrap_err().class, ExitClass::Crash);
        assert_eq!(Flight::landed(Ok(Kept::Waiting)).wait(), Ok(Kept::Waiting));
        let (told, flight) = Flight::begun();
        drop(told);
        assert!(flight.wait().is_err());
    }
}
