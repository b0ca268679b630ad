//! A backup that is put back, of the moment at which the daemon was killed or of an earlier one: what happened since is lost, and all that comes is of an epoch of its own. Nobody who ran before is gone on with: what
//! a worker has said to another daemon since the backup was made cannot be known. Those that are on record are ended, and their attempts end as `preempted`, or as what they had done; those of the lost time are refused.

use std::time::Duration;

use mlctl_protocol::{ExitClass, FencingToken};

use super::{
    worker::Process,
    world::{Happening, World},
};

/// How long a worker of before may take to be gone under a daemon that finds it.
const GONE: Duration = Duration::from_secs(8);

impl World {
    pub fn back_up(&mut self) {
        self.backup = Some((self.ledger.clone(), self.cancelled.clone()));
    }

    pub fn restore(&mut self) {
        self.crash();
        if self.chance.once_in(2) {
            self.back_up();
        }
        if let Some((kept, cancelled)) = self.backup.clone() {
            self.ledger.put_back(kept);
            // What was acknowledged since is lost with the rest.
            self.cancelled = cancelled;
            self.tally.restores += 1;
            self.tally.lost += self.processes.values().filter(|process| self.is_lost(process)).count() as u64;
        }
    }

    /// Whether a worker is of a time that is lost, or was put on record in it: nobody knows it, and it is refused by whoever it dials.
    pub fn is_unknown(&self, process: &Process) -> bool {
        let token = process.fence.token;
        let row = self.ledger.rows.get(&token);
        row.is_none_or(|row| row.process.is_none() && self.ledger.is_outdated(token))
    }

    pub fn is_lost(&self, process: &Process) -> bool {
        !process.is_dead() && self.is_unknown(process)
    }

    /// Nobody but a person ends one of those that does nothing any more.
    pub fn end_lost(&mut self) {
        let lost: Vec<u32> =
            self.processes.iter().filter(|(_, of)| of.hung && self.is_lost(of)).map(|(pid, _)| *pid).collect();
        lost.into_iter().for_each(|pid| self.kill(pid));
    }

    /// A new daemon has found it.
    pub fn watch_outdated(&mut self, token: FencingToken) {
        if self.ledger.is_outdated(token) {
            let life = self.life;
            self.plan(GONE, Happening::Outdated { life, token });
        }
    }

    pub fn judge_outdated(&mut self, token: FencingToken) {
        let of_token = self.processes.values().filter(|process| process.fence.token == token && process.works());
        // One whose start is not in the backup is of the time that is lost.
        let mut left = of_token.filter(|process| !self.is_unknown(process));
        if let (Some(process), true) = (left.next(), self.serves()) {
            self.broken.push(format!("D6: a worker of before a restore goes on: {process:?}"));
        }
    }

    pub fn judge_outdated_end(&mut self, token: FencingToken, class: ExitClass) {
        if !self.ledger.is_outdated(token) {
            return;
        }
        self.tally.outdated += 1;
        if !matches!(class, ExitClass::Ok | ExitClass::Preempted) {
            self.broken.push(format!("D6: an attempt of before a restore ended as {class}"));
        }
    }
}
