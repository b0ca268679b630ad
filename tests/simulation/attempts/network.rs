//! The network and what workers do in their own time: frames go in order within a connection and late between two; a connection that breaks loses its end.

use std::{collections::VecDeque, time::Duration};

use mlctl::supervisor::{core::Word, executor::Ended};
use mlctl_link::{Order, core::Pace};
use mlctl_protocol::message::{FromWorker, ToWorker};

use super::{
    worker::{Deed, Done, State},
    world::{HEARTBEAT, Happening, LEASE, Wire, World},
};

const PACE: Pace = Pace { first_pause: Duration::from_millis(50), longest_pause: Duration::from_secs(2), lease: LEASE };

impl World {
    pub fn close_worker_side(&mut self, number: u64) {
        if let Some(wire) = self.wires.get_mut(&number) {
            wire.worker_open = false;
            let after = self.millis(10);
            self.plan(after, Happening::Up(number));
        }
    }

    /// A connection breaks: the worker knows at once, and the daemon when it comes to the end of what is left of it.
    pub fn break_wire(&mut self, number: u64) {
        let Some(wire) = self.wires.get_mut(&number) else { return };
        let keep = usize::try_from(self.chance.below(wire.up.len() as u64 + 1)).expect("it is small");
        wire.up.truncate(keep);
        let pid = wire.pid;
        self.close_worker_side(number);
        self.lost(pid, number);
    }

    pub fn send_up(&mut self, number: u64, frames: Vec<FromWorker>) {
        for frame in frames {
            // A worker that dials again says things twice; so may one that is not sure.
            let copies = if matches!(frame, FromWorker::Report(_)) && self.fails(40) { 2 } else { 1 };
            for _ in 0..copies {
                let Some(wire) = self.wires.get_mut(&number) else { return };
                wire.up.push_back(frame.clone());
                let after = self.millis(30);
                self.plan(after, Happening::Up(number));
            }
        }
    }

    pub fn send_down(&mut self, number: u64, word: Word) {
        let Some(wire) = self.wires.get_mut(&number) else { return };
        wire.down.push_back(word);
        let after = self.millis(30);
        self.plan(after, Happening::Down(number));
    }

    /// A frame comes to the daemon, if it is there to take it.
    pub fn up(&mut self, number: u64) {
        let Some(wire) = self.wires.get(&number) else { return };
        if self.daemon.is_none() || wire.life != self.life || !wire.daemon_open {
            return;
        }
        if !self.listens(number) {
            let after = Duration::from_millis(5);
            return self.plan(after, Happening::Up(number));
        }
        let Some(wire) = self.wires.get_mut(&number) else { return };
        match wire.up.pop_front() {
            Some(frame) => self.hear(number, frame),
            None if !wire.worker_open => self.hear_end(number),
            None => {}
        }
    }

    /// A frame, or the end of the connection, comes to the worker.
    pub fn down(&mut self, number: u64) {
        let Some(wire) = self.wires.get_mut(&number) else { return };
        let pid = wire.pid;
        if self.processes.get(&pid).is_none_or(|process| process.is_dead() || process.wire != Some(number)) {
            return;
        }
        if self.processes[&pid].state == State::Stopped {
            return self.plan(Duration::from_secs(1), Happening::Down(number));
        }
        match wire.down.pop_front() {
            Some(word) => self.told(pid, number, word),
            None if !wire.daemon_open => self.lost(pid, number),
            None => {}
        }
    }

    /// What the daemon says comes to a worker.
    pub fn told(&mut self, pid: u32, number: u64, word: Word) {
        let now = self.at();
        let is_first = !std::mem::replace(&mut self.wires.get_mut(&number).expect("it is there").answered, true);
        let process = self.processes.get_mut(&pid).expect("it is there");
        let fence = process.fence;
        match (word, &mut process.core) {
            (Word::Start, None) if is_first => {
                process.begin(PACE, now);
                self.judge_start(pid);
                self.connected(pid, number);
                self.plan(Duration::from_secs(1), Happening::Deed(pid, Deed::Work));
            }
            (Word::Welcome { acked }, Some(core)) if is_first => {
                core.welcomed(acked, now);
                self.tally.redials += 1;
                self.judge_ack(pid, acked);
                self.connected(pid, number);
            }
            (Word::Refused(_), None) => self.die(pid, Ended::Code(1)),
            (Word::Refused(reason), Some(core)) => {
                core.give(Order::Refused(reason.into()));
                process.wire = None;
                self.close_worker_side(number);
            }
            _ if is_first => self.broken.push(format!("{fence:?} was answered with {word:?}")),
            (Word::Ack { seq }, Some(core)) => {
                core.heard(ToWorker::Ack { seq }).expect("it is no refusal");
                self.judge_ack(pid, seq);
            }
            (Word::Stop { class }, Some(core)) => core.heard(ToWorker::Stop { class }).expect("it is no refusal"),
            (Word::Checkpoint, Some(core)) => core.heard(ToWorker::Checkpoint).expect("it is no refusal"),
            _ => self.broken.push(format!("{fence:?} was told {word:?}")),
        }
    }

    pub fn connected(&mut self, pid: u32, number: u64) {
        self.plan(Duration::from_millis(100), Happening::Deed(pid, Deed::Beat { wire: number }));
        self.pump(pid, number);
    }

    /// Sends what there is to send.
    pub fn pump(&mut self, pid: u32, number: u64) {
        let now = self.at();
        let Some(wire) = self.wires.get(&number).filter(|wire| wire.answered) else { return };
        if !wire.daemon_open && wire.down.is_empty() {
            return self.lost(pid, number);
        }
        let frames = self.processes.get_mut(&pid).map(|process| process.outgoing(now)).unwrap_or_default();
        self.send_up(number, frames);
    }

    /// The worker's connection is lost: it dials again.
    pub fn lost(&mut self, pid: u32, number: u64) {
        let now = self.at();
        let Some(process) = self.processes.get_mut(&pid).filter(|process| process.wire == Some(number)) else { return };
        process.wire = None;
        let mut lease_until = None;
        if let Some(core) = &mut process.core {
            core.lost(now);
            lease_until = Some(core.lease_until());
        }
        self.close_worker_side(number);
        if let Some(at) = lease_until {
            self.plan_at(at, Happening::Deed(pid, Deed::Lease));
        }
        self.dial_later(pid);
    }

    /// Dials again after a pause, unless it has no patience left.
    pub fn dial_later(&mut self, pid: u32) {
        let now = self.at();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let pause = match &mut process.core {
            Some(core) => core.next_pause(),
            None if now + process.pause >= process.patience => return self.die(pid, Ended::Code(1)),
            None => {
                let longer = PACE.longest_pause.min(process.pause * 2);
                std::mem::replace(&mut process.pause, longer)
            }
        };
        self.plan(pause, Happening::Deed(pid, Deed::Dial));
    }

    pub fn deed(&mut self, pid: u32, deed: Deed) {
        let now = self.at();
        let Some(process) = self.processes.get_mut(&pid).filter(|process| !process.is_dead()) else { return };
        if process.state == State::Stopped {
            return self.plan(Duration::from_secs(1), Happening::Deed(pid, deed));
        }
        let wire = process.wire;
        match deed {
            Deed::Work => {
                let done = process.work(now);
                let is_ending = process.file.is_some();
                if let Some(wire) = wire {
                    self.pump(pid, wire);
                }
                if self.fails(150) {
                    return self.die(pid, Ended::Signal { number: 11, out_of_memory: false });
                }
                if let Done::Exit(code) = done {
                    return self.die(pid, Ended::Code(code));
                }
                let after = if is_ending { Duration::from_millis(50) } else { self.millis(4_000) };
                self.plan(after, Happening::Deed(pid, Deed::Work));
            }
            Deed::Beat { wire: of } => {
                if let Some(wire) =
                    wire.filter(|wire| *wire == of && self.wires.get(wire).is_some_and(|wire| wire.answered))
                {
                    let beat = process.heartbeat();
                    if let Some(core) = &mut process.core {
                        core.sent(now);
                    }
                    self.send_up(wire, vec![beat]);
                    self.pump(pid, wire);
                    self.plan(HEARTBEAT, Happening::Deed(pid, Deed::Beat { wire }));
                }
            }
            Deed::Dial if wire.is_none() => self.dial(pid),
            Deed::Lease => {
                if let (None, Some(core)) = (wire, &mut process.core)
                    && now >= core.lease_until()
                {
                    core.give(Order::LeaseLost);
                    self.tally.leases_lost += 1;
                }
            }
            Deed::Answer { wire: waited } if wire == Some(waited) => {
                if self.wires.get(&waited).is_some_and(|wire| !wire.answered) {
                    self.lost(pid, waited);
                }
            }
            Deed::Dial | Deed::Answer { .. } => {}
        }
    }

    pub fn dial(&mut self, pid: u32) {
        let core = self.processes.get(&pid).and_then(|process| process.core.as_ref());
        if core.is_some_and(|core| matches!(core.ending(), Some(Order::Refused(_)))) {
            return;
        }
        if !self.serves() {
            return self.dial_later(pid);
        }
        self.lines += 1;
        let number = self.lines;
        let process = self.processes.get_mut(&pid).expect("it is there");
        process.wire = Some(number);
        let hello = process.hello();
        let wire = Wire {
            pid,
            life: self.life,
            up: VecDeque::new(),
            down: VecDeque::new(),
            worker_open: true,
            daemon_open: true,
            answered: false,
        };
        self.wires.insert(number, wire);
        self.send_up(number, vec![hello]);
        self.plan(Duration::from_secs(10), Happening::Deed(pid, Deed::Answer { wire: number }));
    }
}
