//! What must hold whatever happens: written down when it does not.

use std::time::Duration;

use mlctl::domain::JobState;
use mlctl_protocol::{ExitClass, FencingToken};

use super::{
    ledger::Write,
    worker::State,
    world::{GRACE, Happening, World},
};

impl World {
    /// A worker was told to work: its attempt holds the job, and no other worker of the job works.
    pub fn judge_start(&mut self, pid: u32) {
        let process = &self.processes[&pid];
        let fence = process.fence;
        // The last word of a daemon of the lost time.
        if self.is_unknown(process) {
            return;
        }
        if !self.ledger.holds(fence) {
            self.broken.push(format!("E1: {fence:?} is told to work and does not hold its job"));
        }
        let mut others = self
            .processes
            .iter()
            .filter(|(of, process)| **of != pid && process.fence.job == fence.job && process.works())
            .filter(|(_, process)| !self.is_lost(process));
        if let Some((_, other)) = others.next() {
            self.broken.push(format!("E1: {fence:?} is told to work while {:?} does", other.fence));
        }
    }

    /// A worker was told that the daemon has its reports up to a number: they are on record, or the last of them is in its file.
    pub fn judge_ack(&mut self, pid: u32, acked: u64) {
        let process = &self.processes[&pid];
        // What was acknowledged before a restore may be lost.
        let row = self.ledger.rows.get(&process.fence.token).filter(|row| !self.ledger.is_outdated(row.fence.token));
        let Some(row) = row else { return };
        let is_result = process.result_seq == Some(acked) && process.file.is_some();
        if row.last_seq < acked - u64::from(is_result) {
            let (fence, kept) = (process.fence, row.last_seq);
            self.broken.push(format!("a report of {fence:?} was acknowledged and is lost: {acked}, on record {kept}"));
        }
    }

    /// An attempt's end is on record: nothing of it lives, and what it had said counts.
    pub fn judge_end(&mut self, write: &Write) {
        let Write::End { fence, end } = write else { return };
        if self.ledger.rows.get(&fence.token).is_some_and(|row| row.ended) {
            self.judge_outdated_end(fence.token, end.exit.class);
        }
        let Some(row) = self.ledger.rows.get(&fence.token).filter(|row| row.ended) else { return };
        *self.tally.ends.entry(end.exit.class.as_str()).or_default() += 1;
        let mut own = self.processes.values().filter(|process| process.fence == *fence && !self.is_unknown(process));
        let Some(process) = own.next() else { return };
        if process.works() {
            self.broken.push(format!("E4: {fence:?} has ended on record, and works: {:?}", end.exit));
        }
        if let Some(file) = &process.file {
            if row.result.as_ref() != Some(file) {
                self.broken.push(format!("the result of {fence:?} is in its file and not on record: {:?}", row.result));
            }
            if (file.class == ExitClass::Ok) != (end.exit.class == ExitClass::Ok) {
                self.broken.push(format!("{fence:?} said {} and ended as {}", file.class, end.exit.class));
            }
        }
    }

    /// A cancel that was handed over, or found by a new daemon, is obeyed within the grace time.
    pub fn watch_cancels(&mut self) {
        let life = self.life;
        let running = self.ledger.running();
        let cancelled = running.into_iter().filter(|row| self.cancelled.contains(&row.fence.job));
        for token in cancelled.map(|row| row.fence.token).collect::<Vec<_>>() {
            self.plan(GRACE + Duration::from_secs(8), Happening::Gone { life, token });
        }
    }

    pub fn is_gone(&mut self, token: FencingToken) {
        let Some(process) = self.processes.values().find(|process| process.fence.token == token) else { return };
        let fence = process.fence;
        let is_told = matches!(process.state, State::Alive | State::Stopped) && process.core.is_some();
        let is_cancelled = matches!(&self.ledger.jobs[&fence.job].state, JobState::Running { .. });
        if is_told && is_cancelled {
            self.broken.push(format!("E7: {fence:?} lives on after an acknowledged cancel: {process:?}"));
        }
    }
}
