//! A backup that is put back: of the very moment at which the daemon was killed, so that nothing is lost, and of an epoch of its own. Nobody who ran before is gone on with: what a worker has said to another
//! daemon since the backup was made cannot be known. It is ended, and its attempt ends as `preempted`, or as what it had done.

use std::time::Duration;

use mlctl::store::Instance;
use mlctl_protocol::{ExitClass, FencingToken};

use super::world::{Happening, World};

/// How long a worker of before may take to be gone under a daemon that finds it.
const GONE: Duration = Duration::from_secs(8);

impl World {
    pub fn restore(&mut self) {
        self.crash();
        if self.daemon.is_none() {
            self.ledger.begin_epoch();
            self.tally.restores += 1;
        }
    }

    /// Whether an attempt is of before the last restore.
    pub fn is_outdated(&self, token: FencingToken) -> bool {
        u64::from(Instance::epoch_of(token)) < self.ledger.epoch
    }

    /// A new daemon has found it.
    pub fn watch_outdated(&mut self, token: FencingToken) {
        if self.is_outdated(token) {
            let life = self.life;
            self.plan(GONE, Happening::Outdated { life, token });
        }
    }

    pub fn judge_outdated(&mut self, token: FencingToken) {
        let mut left = self.processes.values().filter(|process| process.fence.token == token && process.works());
        if let (Some(process), true) = (left.next(), self.serves()) {
            self.broken.push(format!("D6: a worker of before a restore goes on: {process:?}"));
        }
    }

    pub fn judge_outdated_end(&mut self, token: FencingToken, class: ExitClass) {
        if !self.is_outdated(token) {
            return;
        }
        self.tally.outdated += 1;
        if !matches!(class, ExitClass::Ok | ExitClass::Preempted) {
            self.broken.push(format!("D6: an attempt of before a restore ended as {class}"));
        }
    }
}
