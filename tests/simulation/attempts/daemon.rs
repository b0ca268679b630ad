//! The daemon's side of the world: what `supervisor/attempt`, `link`, `live` and `adopt` do with the machine's effects, with everything that may come between two of them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use mlctl::{
    domain::{Command, Fence, Intent, JobState},
    supervisor::{
        Limits,
        core::{Answer, Attempt, Effect, Event, Origin, Reason, Times, Word},
        executor::Ended,
    },
};
use mlctl_artifacts::keys;
use mlctl_protocol::{FencingToken, JobId, message::Heartbeat, progress::Progress};

use super::{
    ledger::{Row, Write},
    worker::{Deed, Process, State},
    world::{GRACE, HANG, Happening, LEASE, World},
};

/// Attempts at once.
const ROOM: usize = 2;

#[derive(Debug, Default)]
pub struct Daemon {
    pub tasks: BTreeMap<FencingToken, Task>,
    /// The attempt of each job that workers may dial for.
    pub live: BTreeMap<JobId, FencingToken>,
    pub conns: BTreeMap<u64, Conn>,
    /// It was asked to stop.
    pub stops: bool,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    Task(FencingToken),
    Conn(u64),
    /// The keeper of a connection's heartbeats.
    Beats(u64),
    /// Nobody.
    None,
}

/// An attempt's task.
#[derive(Debug)]
pub struct Task {
    pub fence: Fence,
    pub core: Attempt,
    pub todo: VecDeque<Effect>,
    /// It waits for an answer.
    pub busy: bool,
    pub woken: bool,
    /// It is to start its process, which has waited, or not.
    pub starts: Option<bool>,
    pub reaping: bool,
    pub pid: Option<u32>,
    pub adopted: bool,
    /// When something of the worker was last heard here.
    pub heard: Instant,
    /// Since when its process is looked after.
    pub attended: Option<Instant>,
    /// Since when its job's deadline has been behind.
    pub overdue: Option<Instant>,
}

/// A connection's task.
#[derive(Debug)]
pub struct Conn {
    pub token: FencingToken,
    pub todo: VecDeque<Effect>,
    /// What others want said before the hello is answered.
    pub orders: VecDeque<Word>,
    pub greeted: bool,
    pub busy: bool,
    /// It is over, for this or that reason.
    pub cancelled: bool,
    pub closing: bool,
    pub unkept: Option<Heartbeat>,
}

impl World {
    pub fn task(&mut self, token: FencingToken) -> Option<&mut Task> {
        self.daemon.as_mut()?.tasks.get_mut(&token)
    }

    pub fn conn(&mut self, line: u64) -> Option<&mut Conn> {
        self.daemon.as_mut()?.conns.get_mut(&line)
    }

    /// Kill -9 of the daemon.
    pub fn crash(&mut self) {
        if self.daemon.take().is_none() {
            return;
        }
        self.tally.crashes += 1;
        self.life += 1;
        // Those that wait for a job read the end of their input.
        let waiting: Vec<u32> =
            self.processes.iter().filter(|(_, of)| of.state == State::Waiting).map(|(pid, _)| *pid).collect();
        for pid in waiting {
            self.die(pid, Ended::Code(0));
        }
        let open: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| wire.daemon_open).map(|(number, _)| *number).collect();
        for number in open {
            self.close_daemon_side(number);
        }
        let most = self.chance.pick(&[100, 1_000, 10_000, 100_000]);
        let after = self.millis(most);
        self.plan(after, Happening::Start);
    }

    /// SIGTERM of the daemon: connections are dropped as they are, and tasks are left a few seconds.
    pub fn shut_down(&mut self) {
        let Some(daemon) = self.daemon.as_mut().filter(|daemon| !daemon.stops) else { return };
        daemon.stops = true;
        daemon.conns.clear();
        let tokens: Vec<FencingToken> = daemon.tasks.keys().copied().collect();
        let open: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| wire.daemon_open).map(|(number, _)| *number).collect();
        open.into_iter().for_each(|number| self.close_daemon_side(number));
        tokens.into_iter().for_each(|token| self.poke(token));
        let life = self.life;
        self.plan(Duration::from_secs(5), Happening::Stopped { life });
    }

    /// Whether a daemon is there that takes connections and wishes.
    pub fn serves(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| !daemon.stops)
    }

    pub fn close_daemon_side(&mut self, number: u64) {
        if let Some(wire) = self.wires.get_mut(&number) {
            wire.daemon_open = false;
            let after = self.millis(10);
            self.plan(after, Happening::Down(number));
        }
    }

    /// A new daemon takes over what an earlier one had under way.
    pub fn start(&mut self) {
        if self.daemon.is_some() {
            return;
        }
        if self.store_down {
            return self.plan(Duration::from_secs(1), Happening::Start);
        }
        self.life += 1;
        // What the last one did not hand over any more this one reads.
        self.editing.clear();
        self.daemon = Some(Daemon::default());
        for row in self.ledger.running() {
            self.adopt(&row);
        }
        self.watch_cancels();
        self.plan(Duration::ZERO, Happening::Schedule);
    }

    pub fn adopt(&mut self, row: &Row) {
        let (fence, token) = (row.fence, row.fence.token);
        let now = self.at();
        let origin =
            Origin { acked: row.last_seq, result: row.result.clone(), progress: row.progress.clone(), ..origin(fence) };
        self.insert(origin, now);
        if self.ledger.is_outdated(token) && row.process.is_some() && !self.rules.trusts_the_past {
            self.step(token, None, Event::Asked(Reason::Restored));
        }
        self.watch_outdated(token);
        if let Some(reason) = self.asked_of(fence.job).filter(|_| !self.rules.forgets_wishes) {
            self.step(token, None, Event::Asked(reason));
        }
        let event = match row.process.map(|pid| (pid, &self.processes[&pid])) {
            None => Event::NeverLaunched,
            Some((pid, process)) if !(process.is_dead() || self.rules.no_proof && self.chance.once_in(2)) => {
                let has_result = row.result.is_some() || process.file.is_some();
                self.tally.adoptions += 1;
                if let Some(task) = self.task(token) {
                    (task.pid, task.adopted, task.attended) = (Some(pid), true, Some(now));
                }
                Event::Adopted { has_result }
            }
            Some(_) => Event::FoundDead,
        };
        self.take(token, event);
    }

    pub fn insert(&mut self, origin: Origin, now: Instant) {
        let fence = origin.fence;
        let times = self.times(fence.job);
        let task = Task {
            fence,
            core: Attempt::new(Arc::new(origin), times, now),
            todo: VecDeque::new(),
            busy: false,
            woken: false,
            starts: None,
            reaping: false,
            pid: None,
            adopted: false,
            heard: now,
            attended: None,
            overdue: None,
        };
        if let Some(daemon) = &mut self.daemon {
            daemon.tasks.insert(fence.token, task);
            daemon.live.insert(fence.job, fence.token);
        }
    }

    pub fn times(&self, job: JobId) -> Times {
        let limit_seconds = job.0.is_multiple_of(5).then_some(60);
        Times { limit_seconds, deadline: self.ledger.jobs[&job].deadline }
    }

    pub fn asked_of(&self, job: JobId) -> Option<Reason> {
        match &self.ledger.jobs[&job].state {
            JobState::Running { intent: Some(intent), .. } => Some(match intent {
                Intent::Cancel => Reason::Cancelled,
                Intent::Stop => Reason::Stopped,
                Intent::Pause(_) => Reason::Paused,
                Intent::Yield { to } => Reason::Preempted { to: *to },
            }),
            _ => None,
        }
    }

    /// What waits and has room is started.
    pub fn schedule(&mut self) {
        let now = self.wall();
        let Some(daemon) = self.daemon.as_ref().filter(|daemon| !self.store_down && !daemon.stops) else {
            return self.plan(Duration::from_secs(5), Happening::Schedule);
        };
        let used = daemon.tasks.values().filter(|task| !task.core.is_vacated()).count();
        let waiting: Vec<JobId> = self
            .ledger
            .jobs
            .values()
            .filter(|job| matches!(job.state, JobState::Queued { .. }))
            .map(|job| job.id)
            .collect();
        let mut room = ROOM.saturating_sub(used);
        for job in waiting {
            self.ledger.take(&Write::Wish { job, command: Command::Expire }, now);
            if room > 0 && self.claim(job) {
                room -= 1;
            }
            if self.daemon.is_none() {
                return;
            }
        }
        let waits = self.ledger.jobs.values().any(|job| matches!(job.state, JobState::Queued { .. }));
        if waits {
            self.plan(Duration::from_secs(5), Happening::Schedule);
        }
    }

    pub fn claim(&mut self, job: JobId) -> bool {
        let (now, wall) = (self.at(), self.wall());
        let waited = self.chance.once_in(3);
        let pid = u32::try_from(self.processes.len()).expect("they are few") + 1;
        let Some(fence) = self.ledger.claim(job, waited.then_some(pid), wall) else { return false };
        self.tally.attempts += 1;
        if self.cancelled.contains(&job) {
            self.broken.push(format!("E7: {fence:?} begins in spite of an acknowledged cancel"));
        }
        let mut of_job = self.processes.values().filter(|process| process.fence.job == job && process.works());
        let working = of_job.find(|process| !self.is_lost(process));
        if let Some(process) = working {
            self.broken.push(format!("E4: {fence:?} begins while {:?} works", process.fence));
        }
        if waited {
            self.spawn(pid, fence, State::Waiting);
        }
        if self.fails(60) {
            // Between the claim and the handing over.
            self.crash();
            return true;
        }
        self.insert(origin(fence), now);
        let life = self.life;
        if let Some(task) = self.task(fence.token) {
            task.starts = Some(waited);
            task.pid = waited.then_some(pid);
        }
        let after = self.millis(50);
        self.plan(after, Happening::Task { life, token: fence.token });
        true
    }

    pub fn spawn(&mut self, pid: u32, fence: Fence, state: State) {
        let resumed = self.ledger.jobs[&fence.job].checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
        let storage = origin(fence).storage;
        let steps = 1 + fence.job.0 * 7 % 13;
        let mut process = Process::new(fence, storage, (resumed, steps), self.at());
        process.state = state;
        self.processes.insert(pid, process);
        if state == State::Alive {
            self.plan(Duration::from_millis(20), Happening::Deed(pid, Deed::Dial));
        }
    }

    /// Has an attempt's task go on soon.
    pub fn poke(&mut self, token: FencingToken) {
        let life = self.life;
        if let Some(task) = self.task(token) {
            task.woken = true;
            let after = self.millis(3);
            self.plan(after, Happening::Task { life, token });
        }
    }

    /// Has the machine take an event, and does what is done under its lock.
    pub fn step(&mut self, token: FencingToken, own: Option<u64>, event: Event) -> Vec<Effect> {
        let now = self.at();
        let Some(task) = self.task(token) else { return Vec::new() };
        let before = task.core.reason().cloned();
        let effects = task.core.step(event, now);
        let (job, after) = (task.fence.job, task.core.reason().cloned());
        if before.as_ref() != task.core.reason()
            && matches!(task.core.reason(), Some(Reason::LeaseLost { .. }))
            && now < task.heard + LEASE
        {
            let fence = task.fence;
            self.broken.push(format!("S5: the lease of {fence:?} was taken though it was heard of"));
        }
        if before != after {
            self.judge_deadline(job, after.as_ref());
        }
        let mut left = Vec::new();
        for effect in effects {
            if self.fails(1_500) {
                self.crash();
                return Vec::new();
            }
            match effect {
                Effect::Say { line, .. } | Effect::HangUp { line, .. } if own == Some(line) => left.push(effect),
                Effect::Say { line, word } => self.say(token, line, word),
                Effect::HangUp { line, .. } => self.cancel(line),
                Effect::Wake => self.poke(token),
                Effect::Saved(_) => {}
                effect => left.push(effect),
            }
        }
        left
    }

    pub fn answer(&mut self, by: Actor, event: Event, most_millis: u64) {
        match by {
            Actor::Task(token) => self.task(token).into_iter().for_each(|task| task.busy = true),
            Actor::Conn(line) => self.conn(line).into_iter().for_each(|conn| conn.busy = true),
            Actor::Beats(_) | Actor::None => {}
        }
        let (life, after) = (self.life, self.millis(most_millis));
        self.plan(after, Happening::Answered { life, by, event });
    }

    /// Asks the store for a write. It comes to it in its time, and not always in the order in which different people asked.
    pub fn write(&mut self, by: Actor, write: Write) {
        match by {
            Actor::Task(token) => self.task(token).into_iter().for_each(|task| task.busy = true),
            Actor::Conn(line) => self.conn(line).into_iter().for_each(|conn| conn.busy = true),
            Actor::Beats(_) | Actor::None => {}
        }
        let most = if self.fails(30) { 5_000 } else { 20 };
        let (life, after) = (self.life, self.millis(most));
        self.plan(after, Happening::Commit { life, by, write });
    }

    /// The store comes to a write.
    pub fn commit(&mut self, by: Actor, write: &Write) {
        let wall = self.wall();
        // Whether it was written nobody knows then.
        let answer = if self.store_down {
            if self.chance.once_in(5) {
                self.ledger.take(write, wall);
                self.judge_end(write);
            }
            Answer::Failed("the disk is gone".into())
        } else {
            let answer = self.ledger.take(write, wall);
            self.judge_end(write);
            answer
        };
        let done = |answer: Answer<u64>| match answer {
            Answer::Done(_) => Answer::Done(()),
            Answer::Stale => Answer::Stale,
            Answer::Stopping => Answer::Stopping,
            Answer::Failed(error) => Answer::Failed(error),
        };
        let event = match (write, by) {
            (Write::Launch { .. }, _) => Event::Launched(done(answer)),
            (Write::Salvage { .. }, _) => Event::Salvaged,
            (Write::End { .. }, _) => Event::Recorded(done(answer)),
            (Write::Beat { .. }, Actor::Conn(line) | Actor::Beats(line)) => {
                Event::BeatKept { line, answer: done(answer) }
            }
            (Write::Report { seq, .. }, Actor::Conn(line)) => Event::Kept { line, seq: *seq, answer },
            _ => return,
        };
        let (life, after) = (self.life, self.millis(5));
        self.plan(after, Happening::Answered { life, by, event });
    }

    pub fn answered(&mut self, by: Actor, event: Event) {
        match by {
            Actor::Task(token) => {
                if let Some(task) = self.task(token) {
                    task.busy = false;
                    // The row that was read with the answer says what was asked meanwhile.
                    if matches!(event, Event::Launched(Answer::Done(()))) {
                        let fence = task.fence;
                        let times = self.times(fence.job);
                        self.step(token, None, Event::Retimed(times));
                        if let Some(reason) = self.asked_of(fence.job) {
                            self.step(token, None, Event::Asked(reason));
                        }
                    }
                    self.take(token, event);
                }
            }
            Actor::Conn(line) => {
                let Some(conn) = self.conn(line).filter(|conn| conn.busy) else { return };
                conn.busy = false;
                let token = conn.token;
                let effects = self.step(token, Some(line), event);
                if let Some(conn) = self.conn(line) {
                    conn.todo.extend(effects);
                    self.conn_soon(line);
                }
            }
            Actor::Beats(line) => {
                let Some(conn) = self.conn(line).filter(|conn| !conn.closing) else { return };
                let token = conn.token;
                let effects = self.step(token, Some(line), event);
                if let Some(conn) = self.conn(line) {
                    conn.todo.extend(effects);
                    self.conn_soon(line);
                }
            }
            Actor::None => {}
        }
    }
}

pub fn origin(fence: Fence) -> Origin {
    Origin {
        fence,
        kind: "train".into(),
        resources: Default::default(),
        storage: keys::storage("file:///o", "x", fence.job, fence.attempt),
        grace: GRACE,
        limits: Limits { lease: LEASE, hang: Some(HANG) },
        acked: 0,
        result: None,
        progress: Progress::default(),
    }
}
