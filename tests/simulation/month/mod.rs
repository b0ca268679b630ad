//! A month of a busy box, played by events: users submit jobs, the real plan starts them, they end. No database, no process, no clock. At each step what the plan promises is held against what happens; every
//! thousand steps all of the world is counted again. The same seed is the same month.

mod draw;
mod report;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use jiff::Timestamp;
use mlctl::{
    domain::{
        MICROSECONDS_A_POINT, Machine, Uid,
        machine::Free,
        queue::Queue,
        share::{DayOfUse, FairShare, UseNow, day_of},
    },
    scheduler::{Obstacle, Plan, Shared, Snapshot, Start, plan},
    store::{Ready, Running},
};
use mlctl_protocol::{JobId, spec::Resources};

pub use draw::Job;
pub use report::Report;

use super::{chance::Chance, machine};

/// The choice of the jobs to start, from what is seen and what the real plan makes of it.
pub type Choose = fn(&Snapshot, &Plan) -> Plan;

const SHARE: FairShare = FairShare { points: 10, half_life_hours: 168, gpu_cores: 8 };

/// Seconds after which what users have used is weighed again.
const WEIGH_EVERY: i64 = 60;

/// Steps after which everything is counted again.
const COUNT_EVERY: u64 = 1000;

/// What jobs need to be alike in to be of a class: queue, user, cores, GPUs, about how long.
type Class = (&'static str, Uid, u32, u32, usize);

/// Whether jobs that could start while another waits for the machine are to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    Filled,
    Left,
}

/// The world at a moment.
pub struct Month {
    choose: Choose,
    gaps: Gaps,
    jobs: Vec<Job>,
    come: usize,
    now: i64,
    machine: Machine,
    free: Free,
    queues: BTreeMap<String, Queue>,
    /// Those that wait, by class, and in it by their place.
    waiting: BTreeMap<Class, BTreeMap<(i64, JobId), usize>>,
    running: BTreeMap<JobId, Running>,
    ends: BinaryHeap<Reverse<(i64, JobId)>>,
    used: BTreeMap<(Uid, i64), (u64, u64)>,
    setbacks: (i64, BTreeMap<Uid, i64>),
    /// Who was first in line for the machine, and by when it was to start at the latest.
    promised: Option<(JobId, Timestamp)>,
    steps: u64,
    report: Report,
    /// Rules that were broken.
    pub broken: Vec<String>,
}

/// What the machine has: cores, and GPUs.
pub const MACHINE: (u32, u32) = (64, 8);

/// Plays a month of so many jobs to its end.
pub fn play(seed: u64, jobs: usize, choose: Choose, gaps: Gaps) -> Month {
    let mut month = Month::new(&mut Chance(seed), jobs, choose, gaps);
    while month.broken.len() < 20 && month.step() {}
    month.count();
    month
}

/// The real plan itself.
pub fn as_planned(_: &Snapshot, plan: &Plan) -> Plan {
    plan.clone()
}

/// As a scheduler would that fills no gaps: nobody starts behind the first that waits for the machine.
pub fn without_backfill(snapshot: &Snapshot, plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let place = snapshot.ready.iter().position(|job| plan.head == Some(job.id));
    let behind = place.map_or(&[][..], |place| &snapshot.ready[place..]);
    plan.start.retain(|start| behind.iter().all(|job| job.id != start.job));
    plan
}

impl Month {
    fn new(chance: &mut Chance, jobs: usize, choose: Choose, gaps: Gaps) -> Self {
        let machine = machine(MACHINE.0, MACHINE.1);
        Self {
            choose,
            gaps,
            jobs: draw::jobs(chance, jobs),
            come: 0,
            now: 0,
            free: machine.whole(),
            machine,
            queues: draw::queues().into_iter().map(|queue| (queue.name.clone(), queue)).collect(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            ends: BinaryHeap::new(),
            used: BTreeMap::new(),
            setbacks: (i64::MIN, BTreeMap::new()),
            promised: None,
            steps: 0,
            report: Report::default(),
            broken: Vec::new(),
        }
    }

    /// What has come of it.
    pub fn report(&self) -> Report {
        self.report.clone().finished(self.now)
    }

    /// Goes to the next moment at which something happens. Whether there was one.
    fn step(&mut self) -> bool {
        let comes = self.jobs.get(self.come).map(|job| job.comes);
        let ends = self.ends.peek().map(|Reverse((at, _))| *at);
        let Some(now) = comes.into_iter().chain(ends).min() else { return false };
        self.now = now;
        self.steps += 1;
        while let Some(Reverse((_, id))) = self.ends.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.ends.pop();
            self.end(id);
        }
        while self.jobs.get(self.come).is_some_and(|job| job.comes <= now) {
            let (job, rank) = (&self.jobs[self.come], self.rank(self.come));
            self.waiting.entry(job.class()).or_default().insert((rank, id(self.come)), self.come);
            self.come += 1;
        }
        if self.free.cpus > 0 {
            self.round();
        }
        if self.steps.is_multiple_of(COUNT_EVERY) {
            self.count();
        }
        true
    }

    /// Its place without what its user has used.
    fn rank(&self, job: usize) -> i64 {
        let job = &self.jobs[job];
        at(job.comes).as_microsecond() - i64::from(job.priority) * MICROSECONDS_A_POINT
    }

    fn end(&mut self, id: JobId) {
        let job = self.running.remove(&id).expect("it runs");
        self.free.give(&self.machine.share(&job.has, &job.gpus));
        let ms =
            u64::try_from(at(self.now).duration_since(job.started_at).as_millis()).expect("it ends after it starts");
        let (cores, gpus) = self.used.entry((job.user, day_of(at(self.now)))).or_default();
        *cores += ms * u64::from(job.has.cpus);
        *gpus += ms * u64::from(job.has.gpus);
    }

    /// How much further back users stand, weighed once in a while.
    fn weigh(&mut self) {
        if self.now < self.setbacks.0.saturating_add(WEIGH_EVERY) {
            return;
        }
        let oldest = SHARE.oldest_day(at(self.now));
        self.used.retain(|(_, day), _| *day >= oldest);
        let past: Vec<DayOfUse> = self
            .used
            .iter()
            .map(|((user, day), (core_ms, gpu_ms))| DayOfUse {
                user: *user,
                day: *day,
                core_ms: *core_ms,
                gpu_ms: *gpu_ms,
            })
            .collect();
        let uses = self.running.values().map(|job| UseNow {
            user: job.user,
            cpus: job.has.cpus,
            gpus: job.has.gpus,
            since: job.started_at,
        });
        self.setbacks = (self.now, SHARE.setbacks(&past, &uses.collect::<Vec<_>>(), at(self.now)));
    }

    /// What the scheduler sees: of each class, as many as could start and one more.
    fn snapshot(&mut self) -> Snapshot {
        self.weigh();
        let mut ready: Vec<Ready> = Vec::new();
        for ((_, _, cpus, _, _), class) in &self.waiting {
            let heads = usize::try_from(self.free.cpus / cpus + 1).expect("some jobs");
            for ((rank, _), job) in class.iter().take(heads) {
                let user = self.jobs[*job].user;
                let rank = rank + self.setbacks.1.get(&user).copied().unwrap_or_default();
                ready.push(self.jobs[*job].ready(id(*job), rank));
            }
        }
        ready.sort_by_key(|job| (job.rank, job.id));
        Snapshot {
            now: at(self.now),
            machine: self.machine.clone(),
            free: self.free.clone(),
            running: self.running.values().cloned().collect(),
            vacated: BTreeSet::new(),
            ready,
            queues: self.queues.clone(),
            setbacks: BTreeMap::new(),
        }
    }

    fn round(&mut self) {
        let snapshot = self.snapshot();
        let real = plan(&snapshot);
        let chosen = (self.choose)(&snapshot, &real);
        self.keep_promise(&snapshot, &real, &chosen);
        for start in &chosen.start {
            self.start(start);
        }
    }

    /// Who was promised a start is not put off by those behind it.
    fn keep_promise(&mut self, snapshot: &Snapshot, real: &Plan, chosen: &Plan) {
        // By the real plan, whatever is chosen.
        let first = real.wait.iter().find_map(|(id, obstacle)| match obstacle {
            Obstacle::Full { of: Shared::Machine, first, at } if Some(*id) == real.head && first == id => {
                Some((*id, *at))
            }
            _ => None,
        });
        // One that is more urgent came in between and goes before: what was promised holds no more.
        let before = first.and_then(|(id, _)| snapshot.ready.iter().position(|job| job.id == id)).unwrap_or_default();
        let starts = |id: JobId| chosen.start.iter().any(|start| start.job == id);
        let is_passed = snapshot.ready[..before].iter().any(|job| starts(job.id));
        if let (Some((id, at)), Some((promised, by))) = (first, self.promised)
            && id == promised
            && !is_passed
            && at.is_none_or(|at| at > by)
        {
            self.broken.push(format!("step {}: job {id} was to start by {by}, and now {at:?}", self.steps));
        }
        if let Some((promised, by)) = self.promised
            && starts(promised)
            && at(self.now) > by
        {
            self.broken.push(format!("step {}: job {promised} was to start by {by}, and starts now", self.steps));
        }
        self.promised = first.filter(|_| !is_passed).and_then(|(id, at)| Some((id, at?)));
    }

    fn start(&mut self, start: &Start) {
        let id = start.job;
        let place = usize::try_from(id.0).expect("a small number") - 1;
        let job = &self.jobs[place];
        let rank = self.rank(place);
        let class = self.waiting.get_mut(&job.class()).expect("its class waits");
        // Jobs of a class go in their order, but for a shorter one that fills a gap.
        let limit = |job: usize| self.jobs[job].limit.unwrap_or(i64::MAX);
        if class.range(..(rank, id)).any(|(_, other)| limit(*other) <= limit(place)) {
            self.broken.push(format!("step {}: job {id} overtook one of its own class", self.steps));
        }
        class.remove(&(rank, id));
        if class.is_empty() {
            self.waiting.remove(&job.class());
        }
        let has = Resources { cpus: job.cpus, gpus: job.gpus, ..Resources::NONE };
        let share = self.machine.share(&has, &start.gpus);
        let is_free = |(place, mib): &(usize, u32)| self.free.vram_mib[*place] >= i64::from(*mib);
        if has.cpus > self.free.cpus || start.gpus.len() != has.gpus as usize || !share.vram_mib.iter().all(is_free) {
            self.broken.push(format!("step {}: job {id} was started on a full machine", self.steps));
            return;
        }
        self.free.take(&share);
        self.ends.push(Reverse((self.now + job.takes, id)));
        self.report.started(job, self.now);
        let (user, gpus) = (job.user, start.gpus.clone());
        let ends_by = job.limit.map(|limit| at(self.now + limit));
        let (queue, started_at) = (job.queue.to_owned(), at(self.now));
        self.running.insert(id, Running { id, queue, user, has, gpus, started_at, ends_by });
    }

    /// Counts everything again.
    fn count(&mut self) {
        let sum = |of: fn(&Running) -> u32| self.running.values().map(of).sum::<u32>();
        let mut found = Vec::new();
        let free_gpus = MACHINE.1 - self.machine.used(&self.free).gpus;
        if (sum(|job| job.has.cpus) + self.free.cpus, sum(|job| job.has.gpus) + free_gpus) != MACHINE {
            found.push("what is free and what is used are not the machine".to_owned());
        }
        for Queue { name, limits, .. } in self.queues.values() {
            let of_it = || self.running.values().filter(|job| job.queue == *name);
            let mut users: BTreeMap<Uid, u32> = BTreeMap::new();
            of_it().for_each(|job| *users.entry(job.user).or_default() += 1);
            let over = |limit: Option<u32>, used: u32| limit.is_some_and(|limit| used > limit);
            if over(limits.running, users.values().sum())
                || over(limits.per_user, users.values().max().copied().unwrap_or_default())
                || over(limits.cpus, of_it().map(|job| job.has.cpus).sum())
            {
                found.push(format!("queue {name} runs more than it may"));
            }
        }
        let waiting: usize = self.waiting.values().map(BTreeMap::len).sum();
        let started = usize::try_from(self.report.jobs()).expect("so many jobs");
        if waiting + started != self.come || self.running.len() != self.ends.len() {
            found.push(format!("{} came, {started} were started and {waiting} wait", self.come));
        }
        if self.gaps == Gaps::Filled && self.free.cpus > 0 && !plan(&self.snapshot()).start.is_empty() {
            found.push("some could start, and were not started".to_owned());
        }
        self.broken.extend(found.into_iter().map(|what| format!("step {}: {what}", self.steps)));
    }
}

/// A moment of the month, which begins on a midnight.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_035_200 + seconds).expect("a month of our time")
}

/// Jobs are numbered as they come.
const fn id(job: usize) -> JobId {
    JobId(job as u64 + 1)
}
