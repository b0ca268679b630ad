//! The world around the two machines: time, the network, processes, people and faults. It moves from one happening to the next, and writes down what breaks a promise.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mlctl::{
    domain::{Command, Hold, JobState, Uid},
    supervisor::{
        core::{Reason, Word},
        executor::Ended,
    },
};
use mlctl_link::Order;
use mlctl_protocol::{
    FencingToken, JobId,
    message::{FromWorker, StopClass},
};

use super::{
    super::chance::Chance,
    Rules,
    daemon::{Actor, Daemon},
    ledger::{Ledger, Write},
    worker::{Deed, Process, State},
};

pub const HEARTBEAT: Duration = Duration::from_secs(5);
pub const LEASE: Duration = Duration::from_secs(40);
pub const HANG: Duration = Duration::from_secs(60);
pub const GRACE: Duration = Duration::from_secs(10);

/// How long faults go on.
const TROUBLE_MILLIS: u64 = 150_000;
const TROUBLE: Duration = Duration::from_millis(TROUBLE_MILLIS);

/// How long after them everything must be over: a worker that is paused and deaf is left ten minutes.
const PATIENCE: Duration = Duration::from_secs(2_500);

/// What a process that is killed by others ends with.
const KILLED: Ended = Ended::Signal { number: 9, out_of_memory: false };

#[derive(Debug)]
pub enum Happening {
    Submit,
    /// Somebody wants something of a job.
    Wish,
    Schedule,
    Fault,
    Start,
    StoreUp,
    /// A daemon that was asked to stop has done so.
    Stopped {
        life: u64,
    },
    Continue(u32),
    Calm,
    /// The attempt's task goes on.
    Task {
        life: u64,
        token: FencingToken,
    },
    /// A connection's task goes on.
    Conn {
        life: u64,
        line: u64,
    },
    /// A heartbeat has waited long enough.
    Keep {
        life: u64,
        line: u64,
    },
    /// The store comes to a write.
    Commit {
        life: u64,
        by: Actor,
        write: Write,
    },
    Answered {
        life: u64,
        by: Actor,
        event: mlctl::supervisor::core::Event,
    },
    Handed {
        life: u64,
        job: JobId,
        reason: Reason,
    },
    /// An attempt is told of its job's new deadline.
    Retimed {
        life: u64,
        job: JobId,
    },
    /// Somebody changes a job's deadline.
    Edit,
    /// The daemon is killed, and a backup of that moment put back.
    Restore,
    /// A backup is made.
    BackUp,
    /// A worker of before a restore must be gone by now.
    Outdated {
        life: u64,
        token: FencingToken,
    },
    /// A frame comes to the daemon.
    Up(u64),
    /// A frame comes to the worker.
    Down(u64),
    Deed(u32, Deed),
    /// A cancelled attempt must be gone by now.
    Gone {
        life: u64,
        token: FencingToken,
    },
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    pub pid: u32,
    pub life: u64,
    pub up: VecDeque<FromWorker>,
    pub down: VecDeque<Word>,
    pub worker_open: bool,
    pub daemon_open: bool,
    /// Whether the hello was answered.
    pub answered: bool,
}

/// How often things happened, so that it is known that they were tried.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub happenings: u64,
    pub attempts: u64,
    pub crashes: u64,
    pub adoptions: u64,
    pub redials: u64,
    pub leases_lost: u64,
    pub refused: u64,
    pub repeated: u64,
    pub kills: u64,
    /// Deadlines changed.
    pub edits: u64,
    /// Those of jobs that ran, to a later one or none.
    pub reprieves: u64,
    /// Attempts that were ended for one.
    pub overdue: u64,
    /// Backups that were put back.
    pub restores: u64,
    /// Workers that ran on in spite of it, of a time that was lost.
    pub lost: u64,
    /// Attempts of before that which ended after it.
    pub outdated: u64,
    pub ends: BTreeMap<&'static str, u64>,
}

pub struct World {
    pub chance: Chance,
    pub rules: Rules,
    base: Instant,
    now: Duration,
    jump: i64,
    /// When somebody last set the clock.
    pub jumped_at: Option<Instant>,
    pub is_calm: bool,
    agenda: BTreeMap<(Duration, u64), Happening>,
    planned: u64,
    pub ledger: Ledger,
    pub store_down: bool,
    pub daemon: Option<Daemon>,
    pub life: u64,
    pub processes: BTreeMap<u32, Process>,
    pub wires: BTreeMap<u64, Wire>,
    pub lines: u64,
    pub cancelled: BTreeSet<JobId>,
    /// Changes of deadlines that are on record, and which the attempt was not told of yet.
    pub editing: BTreeMap<JobId, u64>,
    /// The newest backup: what was on record, and which cancels were acknowledged.
    pub backup: Option<(Ledger, BTreeSet<JobId>)>,
    pub tally: Tally,
    pub broken: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.happenings += other.happenings;
        self.attempts += other.attempts;
        self.crashes += other.crashes;
        self.adoptions += other.adoptions;
        self.redials += other.redials;
        self.leases_lost += other.leases_lost;
        self.refused += other.refused;
        self.repeated += other.repeated;
        self.kills += other.kills;
        self.edits += other.edits;
        self.reprieves += other.reprieves;
        self.overdue += other.overdue;
        self.restores += other.restores;
        self.lost += other.lost;
        self.outdated += other.outdated;
        for (class, times) in &other.ends {
            *self.ends.entry(*class).or_default() += times;
        }
    }
}

impl World {
    pub fn new(mut chance: Chance, rules: Rules) -> Self {
        let mut agenda = Vec::from([(TROUBLE, Happening::Calm), (Duration::ZERO, Happening::Start)]);
        let mut some = |most: u64, what: fn() -> Happening| {
            for _ in 0..=chance.below(most) {
                agenda.push((Duration::from_millis(chance.below(TROUBLE_MILLIS)), what()));
            }
        };
        some(3, || Happening::Submit);
        some(4, || Happening::Wish);
        some(12, || Happening::Fault);
        if !rules.is_plain {
            some(6, || Happening::Edit);
            some(2, || Happening::BackUp);
            some(2, || Happening::Restore);
        }
        agenda.push((Duration::ZERO, Happening::Submit));
        let mut world = Self {
            chance,
            rules,
            base: Instant::now(),
            now: Duration::ZERO,
            jump: 0,
            jumped_at: None,
            is_calm: false,
            agenda: BTreeMap::new(),
            planned: 0,
            ledger: Ledger::new(rules),
            store_down: false,
            daemon: None,
            life: 0,
            processes: BTreeMap::new(),
            wires: BTreeMap::new(),
            lines: 0,
            cancelled: BTreeSet::new(),
            editing: BTreeMap::new(),
            backup: None,
            tally: Tally::default(),
            broken: Vec::new(),
        };
        for (after, happening) in agenda {
            world.plan(after, happening);
        }
        world
    }

    /// Lives to the end of everything.
    pub fn live(&mut self) {
        while let Some(((at, _), happening)) = self.agenda.pop_first() {
            self.now = at;
            self.tally.happenings += 1;
            self.happen(happening);
            self.judge_overdue();
            if !self.broken.is_empty() || (self.is_calm && self.is_over()) {
                break;
            }
            if at > TROUBLE + PATIENCE {
                self.broken.push(format!("it never ends: {}", self.left()));
                break;
            }
        }
        if self.broken.is_empty() && !self.is_over() {
            self.broken.push(format!("nothing happens any more: {}", self.left()));
        }
        self.ledger.check();
        self.broken.append(&mut self.ledger.broken);
        (self.tally.refused, self.tally.repeated) = (self.ledger.refused, self.ledger.repeated);
    }

    pub fn is_over(&self) -> bool {
        self.ledger.jobs.values().all(|job| job.state.is_terminal())
            && self.processes.values().all(Process::is_dead)
            && self.daemon.as_ref().is_some_and(|daemon| daemon.tasks.is_empty())
    }

    pub fn left(&self) -> String {
        let jobs = self.ledger.jobs.values().filter(|job| !job.state.is_terminal());
        let jobs: Vec<String> = jobs.map(|job| format!("job {} is {:?}", job.id, job.state)).collect();
        let alive: Vec<&Process> = self.processes.values().filter(|process| !process.is_dead()).collect();
        format!("{jobs:?}, {alive:?}, {:?}", self.daemon)
    }

    pub fn at(&self) -> Instant {
        self.base + self.now
    }

    /// What the wall clock shows, which somebody may have set.
    pub fn wall(&self) -> Timestamp {
        let since = i64::try_from(self.now.as_micros()).expect("an hour at most");
        Timestamp::from_microsecond((1_000_000 + self.jump) * 1_000_000 + since).expect("in 1970")
    }

    pub fn plan(&mut self, after: Duration, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((self.now + after, self.planned), happening);
    }

    pub fn plan_at(&mut self, at: Instant, happening: Happening) {
        self.plan(at.saturating_duration_since(self.at()), happening);
    }

    pub fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.chance.below(most))
    }

    /// Whether something goes wrong that does once in so often while there is trouble.
    pub fn fails(&mut self, times: u64) -> bool {
        !self.is_calm && self.chance.once_in(times)
    }

    pub fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Submit => {
                let now = self.wall();
                self.ledger.submit(&mut self.chance, now);
                self.plan(Duration::ZERO, Happening::Schedule);
            }
            Happening::Wish => self.wish(),
            Happening::Edit => self.edit(),
            Happening::Restore => self.restore(),
            Happening::BackUp => self.back_up(),
            Happening::Outdated { life, token } if life == self.life => self.judge_outdated(token),
            Happening::Schedule => self.schedule(),
            Happening::Fault => self.fault(),
            Happening::Start => self.start(),
            Happening::StoreUp => self.store_down = false,
            Happening::Stopped { life } if life == self.life => self.crash(),
            Happening::Continue(pid) => self.wake(pid),
            Happening::Calm => self.calm(),
            Happening::Task { life, token } if life == self.life => self.task_goes_on(token),
            Happening::Conn { life, line } if life == self.life => self.conn_goes_on(line),
            Happening::Keep { life, line } if life == self.life => self.keep_beat(line),
            Happening::Commit { life, by, write } if life == self.life => self.commit(by, &write),
            Happening::Answered { life, by, event } if life == self.life => self.answered(by, event),
            Happening::Handed { life, job, reason } if life == self.life => self.hand(job, reason),
            Happening::Retimed { life, job } if life == self.life => self.retime(job),
            Happening::Up(wire) => self.up(wire),
            Happening::Down(wire) => self.down(wire),
            Happening::Deed(pid, deed) => self.deed(pid, deed),
            Happening::Gone { life, token } if life == self.life => self.is_gone(token),
            // Of a daemon that is no more.
            _ => {}
        }
    }

    /// Faults stop: what was stopped goes on, and what is held is released.
    pub fn calm(&mut self) {
        if !self.is_calm {
            self.is_calm = true;
            self.store_down = false;
            for pid in self.processes.keys().copied().collect::<Vec<_>>() {
                self.wake(pid);
            }
            if self.daemon.is_none() {
                self.plan(Duration::ZERO, Happening::Start);
            }
        }
        self.end_lost();
        let now = self.wall();
        let held = self.ledger.jobs.values().filter(|job| matches!(job.state, JobState::Held(_)));
        for job in held.map(|job| job.id).collect::<Vec<_>>() {
            self.ledger.take(&Write::Wish { job, command: Command::Release { by: Uid(1) } }, now);
        }
        self.plan(Duration::ZERO, Happening::Schedule);
        self.plan(Duration::from_secs(20), Happening::Calm);
    }

    /// A person, or the scheduler, wants something of a job. It is answered when it is durable, and handed over to the attempt a moment later.
    pub fn wish(&mut self) {
        let jobs: Vec<JobId> = self.ledger.jobs.keys().copied().collect();
        if jobs.is_empty() || !self.serves() || self.store_down {
            return;
        }
        let job = self.chance.pick(&jobs);
        let hold = Hold { by: Uid(1), reason: None, not_before: None };
        let (command, reason) = match self.chance.below(4) {
            0 => (Command::Cancel { by: Uid(1) }, Reason::Cancelled),
            1 => (Command::Stop { by: Uid(1) }, Reason::Stopped),
            2 => (Command::Pause { hold }, Reason::Paused),
            _ => (Command::Yield { to: JobId(99) }, Reason::Preempted { to: JobId(99) }),
        };
        let now = self.wall();
        let is_cancel = reason == Reason::Cancelled;
        if self.ledger.take(&Write::Wish { job, command }, now) != mlctl::supervisor::core::Answer::Done(0) {
            return;
        }
        if is_cancel {
            self.cancelled.insert(job);
        }
        if is_cancel {
            self.watch_cancels();
        }
        if matches!(self.ledger.jobs[&job].state, JobState::Running { .. }) {
            let (after, life) = (self.millis(20), self.life);
            self.plan(after, Happening::Handed { life, job, reason });
        }
    }

    /// The daemon is drained: all that runs is asked to make way, and nobody else is told.
    pub fn drain(&mut self) {
        let (jobs, life): (Vec<JobId>, u64) = (self.ledger.jobs.keys().copied().collect(), self.life);
        for job in jobs {
            self.plan(Duration::ZERO, Happening::Handed { life, job, reason: Reason::Drained });
        }
    }

    pub fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let alive: Vec<u32> =
            self.processes.iter().filter(|(_, process)| process.works()).map(|(pid, _)| *pid).collect();
        let pid = (!alive.is_empty()).then(|| self.chance.pick(&alive));
        match (self.chance.below(13), pid) {
            (0..=1, _) => self.crash(),
            (2, _) => self.shut_down(),
            (3, _) => {
                self.store_down = true;
                let after = self.millis(20_000);
                self.plan(after, Happening::StoreUp);
            }
            (4, _) => {
                self.jump += i64::try_from(self.chance.below(400)).expect("it is small") - 200;
                self.jumped_at = Some(self.at());
            }
            (5, Some(pid)) => {
                let number = self.chance.pick(&[9, 11, 15]);
                self.die(pid, Ended::Signal { number, out_of_memory: false });
            }
            (6, Some(pid)) => self.stop(pid),
            (7, Some(pid)) => self.with(pid, |process| process.hung = true),
            (8, Some(pid)) => self.with(pid, |process| process.deaf = true),
            (9, _) => self.drain(),
            (_, Some(pid)) => {
                if let Some(wire) = self.processes[&pid].wire {
                    self.break_wire(wire);
                }
            }
            _ => {}
        }
    }

    pub fn with(&mut self, pid: u32, act: impl FnOnce(&mut Process)) {
        if let Some(process) = self.processes.get_mut(&pid) {
            act(process);
        }
    }

    pub fn stop(&mut self, pid: u32) {
        self.with(pid, |process| process.state = State::Stopped);
        let after = self.millis(120_000);
        self.plan(after, Happening::Continue(pid));
    }

    pub fn wake(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid).filter(|process| process.state == State::Stopped) else {
            return;
        };
        process.state = State::Alive;
        if std::mem::take(&mut process.termed) {
            self.terminate(pid);
        }
    }

    /// SIGTERM.
    pub fn terminate(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        match (process.state, &mut process.core) {
            (State::Stopped, _) => process.termed = true,
            (State::Dead(_), _) => {}
            (_, Some(core)) => core.give(Order::Stop(StopClass::Preempted)),
            (_, None) => self.die(pid, Ended::Signal { number: 15, out_of_memory: false }),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, pid: u32) {
        self.tally.kills += 1;
        self.die(pid, KILLED);
    }

    pub fn die(&mut self, pid: u32, ended: Ended) {
        let Some(process) = self.processes.get_mut(&pid).filter(|process| !process.is_dead()) else { return };
        process.state = State::Dead(ended);
        let (wire, token) = (process.wire.take(), process.fence.token);
        if let Some(wire) = wire {
            self.close_worker_side(wire);
        }
        self.poke(token);
    }
}
