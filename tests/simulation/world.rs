//! The played world: a machine, jobs, and an agenda of what happens when. It asks the real state machine and the real plan, and writes down what breaks a rule.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use mlctl::{
    domain::{
        Command, Edit, Event, Exit, Fence, Hold, Job, JobState, MICROSECONDS_A_POINT, Machine, Uid, machine::Free,
        state,
    },
    scheduler::{Plan, Snapshot, Start},
    store::{Ready, Running},
};
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId,
    spec::{Resources, RetryPolicy},
};

use super::{chance::Chance, machine};

/// The choice of the jobs to start.
pub type Choose = fn(&Snapshot) -> Plan;

/// What happens at a moment of the agenda.
#[derive(Debug, Clone, Copy)]
pub enum Happening {
    Submit,
    Cancel,
    Stop,
    Pause,
    /// The scheduler wants a running job's place.
    Yield,
    Hold,
    Release,
    /// A person looks after everything that is held, at the end of the trouble.
    ReleaseAll,
    Edit,
    Retry,
    /// The daemon stops and starts again: what ran is taken from it.
    Shutdown,
    /// An attempt ends; by then the job may long have been given to another.
    End(Fence, ExitClass),
    /// A queued job's time has come.
    Wake,
    /// A job's deadline passes.
    Expire(JobId),
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    choose: Choose,
    now: i64,
    /// From here on attempts end well.
    calm: i64,
    machine: Machine,
    free: Free,
    jobs: BTreeMap<JobId, Job>,
    logs: BTreeMap<JobId, Vec<(Event, Timestamp)>>,
    agenda: BTreeMap<(i64, u64), Happening>,
    planned: u64,
    tokens: u64,
    cancelled: BTreeSet<JobId>,
    held: BTreeSet<JobId>,
    pub holds: u64,
    /// Rules that were broken.
    pub broken: Vec<String>,
    pub starts: u64,
    pub retries: u64,
    pub zombies_refused: u64,
}

impl World {
    /// A machine of a random size, and trouble for so many seconds.
    pub fn new(chance: &mut Chance, trouble_seconds: i64, choose: Choose) -> Self {
        let machine = machine(1 + small(chance, 8), small(chance, 3));
        let mut world = Self {
            choose,
            now: 0,
            calm: trouble_seconds,
            free: machine.whole(),
            machine,
            jobs: BTreeMap::new(),
            logs: BTreeMap::new(),
            agenda: BTreeMap::new(),
            planned: 0,
            tokens: 0,
            cancelled: BTreeSet::new(),
            held: BTreeSet::new(),
            holds: 0,
            broken: Vec::new(),
            starts: 0,
            retries: 0,
            zombies_refused: 0,
        };
        for (happening, most) in [
            (Happening::Submit, 60),
            (Happening::Cancel, 10),
            (Happening::Stop, 10),
            (Happening::Pause, 15),
            (Happening::Yield, 15),
            (Happening::Hold, 15),
            (Happening::Release, 10),
            (Happening::Edit, 10),
            (Happening::Retry, 10),
            (Happening::Shutdown, 4),
        ] {
            for _ in 0..chance.below(most) {
                let after = i64::from(small(chance, u64::try_from(trouble_seconds).unwrap()));
                world.plan(after, happening);
            }
        }
        world.plan(trouble_seconds, Happening::ReleaseAll);
        world
    }

    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    pub fn can_ever_run(&self, job: &Job) -> bool {
        self.machine.could_hold(&job.resources)
    }

    /// Moves the clock to the next thing on the agenda.
    pub fn next(&mut self) -> Option<Happening> {
        let ((at, _), happening) = self.agenda.pop_first()?;
        self.now = at;
        Some(happening)
    }

    pub fn happen(&mut self, happening: Happening, chance: &mut Chance) {
        match happening {
            Happening::Submit => self.submit(chance),
            Happening::Cancel => self.with_one(
                |job| !job.state.is_terminal(),
                chance,
                |world, job, chance| {
                    world.cancel(job, &Command::Cancel { by: Uid(2) }, chance);
                },
            ),
            Happening::Stop => self.with_one(
                |job| !job.state.is_terminal(),
                chance,
                |world, job, chance| {
                    world.cancel(job, &Command::Stop { by: Uid(2) }, chance);
                },
            ),
            Happening::Pause => self.with_one(|job| !job.state.is_terminal(), chance, Self::pause),
            Happening::Yield => self.with_one(
                |job| matches!(job.state, JobState::Running { .. }),
                chance,
                |world, job, chance| {
                    if world.ask(job, None, &Command::Yield { to: JobId(u64::MAX) }) {
                        world.leave(job, chance);
                    }
                },
            ),
            Happening::Hold => self.with_one(|job| !job.state.is_terminal(), chance, |world, job, _| world.hold(job)),
            Happening::Release => self.with_one(is_held, chance, |world, job, _| world.release(job)),
            Happening::ReleaseAll => self.ids(is_held).into_iter().for_each(|job| self.release(job)),
            Happening::Edit => self.with_one(
                |job| !job.state.is_terminal(),
                chance,
                |world, job, chance| {
                    let edit = Edit { priority: Some(chance.pick(&[0, 50, 100])), ..Edit::default() };
                    world.ask(job, None, &Command::Edit { by: Uid(2), edit });
                },
            ),
            Happening::Retry => {
                let over: Vec<JobId> = self.ids(|job| job.state.is_terminal());
                if !over.is_empty() {
                    let job = chance.pick(&over);
                    if self.ask(job, None, &Command::Retry { by: Uid(2) }) {
                        self.cancelled.remove(&job);
                    }
                }
            }
            Happening::Shutdown => {
                for job in self.ids(|job| matches!(job.state, JobState::Running { .. })) {
                    let fence = self.fence(job);
                    self.end(fence, ExitClass::Preempted, chance);
                }
            }
            Happening::End(fence, class) => self.end(fence, class, chance),
            Happening::Wake => {}
            // One that runs is its worker's business, and one that waits again by then is refused a start.
            Happening::Expire(job) => {
                if self.ask(job, None, &Command::Expire) {
                    self.held.remove(&job);
                } else if !self.jobs[&job].state.is_terminal() {
                    self.plan(50, Happening::Expire(job));
                }
            }
        }
    }

    /// The scheduler's loop: rounds until one starts nothing, then a wake-up for the next job whose time comes.
    pub fn dispatch(&mut self, chance: &mut Chance) {
        while self.round(chance) {}
        let later = self.jobs.values().filter_map(|job| match job.state {
            // This clock goes in seconds, and a wake-up must not come a little too early.
            JobState::Queued { not_before: Some(time) } if time > self.time() => Some(time.as_second() + 1),
            _ => None,
        });
        if let Some(next) = later.min() {
            self.plan(next - self.now, Happening::Wake);
        }
    }

    fn round(&mut self, chance: &mut Chance) -> bool {
        let snapshot = self.snapshot();
        let plan = (self.choose)(&snapshot);
        self.judge(&snapshot.ready, &plan);
        for start in &plan.start {
            self.start(start, chance);
        }
        !plan.start.is_empty()
    }

    /// Whether the choice was fair and used the machine.
    fn judge(&mut self, ready: &[Ready], plan: &Plan) {
        let possible = |job: &&Ready| self.machine.could_hold(&job.needs);
        let starts = |job: &&Ready| plan.start.iter().any(|start| start.job == job.id);
        let first = ready.iter().position(|job| possible(&job) && !starts(&job));
        if let Some((before, [first, behind @ ..])) = first.map(|place| ready.split_at(place)) {
            // Nobody says how long he runs: who starts behind it needs nothing that it waits for, and leaves it the rest; but cores that it cannot use before it has a GPU help nobody.
            let used = |jobs: &[Ready], of: fn(&Ready) -> u32| jobs.iter().filter(starts).map(of).sum::<u32>();
            let delays = |of: fn(&Ready) -> u32, free: u32| {
                let taken = used(behind, of);
                taken > 0 && used(before, of) + of(first) + taken > free
            };
            let free_gpus = self.machine.totals().gpus - self.machine.used(&self.free).gpus;
            let waits_for_gpus_alone = used(before, |job| job.needs.cpus) + first.needs.cpus <= self.free.cpus
                && used(before, |job| job.needs.gpus) + first.needs.gpus > free_gpus;
            if delays(|job| job.needs.gpus, free_gpus)
                || (!waits_for_gpus_alone && delays(|job| job.needs.cpus, self.free.cpus))
            {
                self.broken.push(format!("job {} was overtaken: {plan:?}", first.id));
            }
        }
        let possible = ready.iter().any(|job| self.jobs.get(&job.id).is_some_and(|job| self.can_ever_run(job)));
        if possible && self.free == self.machine.whole() && plan.start.is_empty() {
            self.broken.push(format!("the machine is idle and jobs wait: {plan:?}"));
        }
    }

    fn start(&mut self, start: &Start, chance: &mut Chance) {
        let id = start.job;
        self.tokens += 1;
        if !self.ask(id, None, &Command::Claim { token: FencingToken(self.tokens), gpus: start.gpus.clone() }) {
            self.broken.push(format!("ready job {id} could not be claimed"));
            return;
        }
        if self.cancelled.contains(&id) {
            self.broken.push(format!("job {id} was started in spite of an acknowledged cancel"));
        }
        if self.held.contains(&id) {
            self.broken.push(format!("job {id} was started though a person holds it"));
        }
        self.starts += 1;
        let needs = self.jobs[&id].resources.clone();
        let share = self.machine.share(&needs, &start.gpus);
        let has_room = share.cpus <= self.free.cpus
            && share.vram_mib.len() == needs.gpus as usize
            && share.vram_mib.iter().all(|(place, mib)| i64::from(*mib) <= self.free.vram_mib[*place]);
        if !has_room {
            self.broken.push(format!("job {id} was started on a full machine"));
        }
        self.free.take(&share);
        let well = self.now >= self.calm || chance.once_in(2);
        let class = if well { ExitClass::Ok } else { chance.pick(&ExitClass::ALL) };
        let fence = self.fence(id);
        self.plan(i64::from(small(chance, 200)), Happening::End(fence, class));
    }

    /// Only the attempt that holds its job can end it; what comes from any other is refused.
    fn end(&mut self, fence: Fence, class: ExitClass, chance: &mut Chance) {
        let held = state::holds(&self.jobs[&fence.job], fence);
        let exit = Exit { class, message: None, hint: None };
        let end = Command::End { exit, model: None, output: None, jitter: f64::from(small(chance, 1_000)) / 1_000.0 };
        let taken = self.ask(fence.job, Some(fence), &end);
        if taken != held {
            self.broken.push(format!("{fence:?} ended its job: {taken}, and held it: {held}"));
        }
        if !taken {
            self.zombies_refused += 1;
            return;
        }
        let job = &self.jobs[&fence.job];
        if matches!(job.state, JobState::Held(_)) {
            self.held.insert(fence.job);
            // Nobody looks after what is held when the trouble is over.
            if self.now >= self.calm {
                self.plan(1, Happening::ReleaseAll);
            }
        }
        let job = &self.jobs[&fence.job];
        self.free.give(&self.machine.share(&job.resources, &job.gpus));
        self.retries += u64::from(!job.state.is_terminal());
        // A worker thought dead wakes up and says that all went well.
        if chance.once_in(3) {
            self.plan(i64::from(small(chance, 500)), Happening::End(fence, ExitClass::Ok));
        }
    }

    /// Does something to one of the jobs that are so.
    fn with_one(
        &mut self,
        which: impl Fn(&Job) -> bool,
        chance: &mut Chance,
        act: impl FnOnce(&mut Self, JobId, &mut Chance),
    ) {
        let jobs = self.ids(which);
        if !jobs.is_empty() {
            act(self, chance.pick(&jobs), chance);
        }
    }

    /// A job that runs cannot be held; any other is, whatever it waits for.
    fn hold(&mut self, id: JobId) {
        let runs = matches!(self.jobs[&id].state, JobState::Running { .. });
        let hold = Command::Hold { hold: Hold { by: Uid(2), reason: None, not_before: None } };
        if self.ask(id, None, &hold) == runs {
            self.broken.push(format!("job {id} runs: {runs}, and a hold of it was taken: {}", !runs));
        }
        if !runs {
            self.held.insert(id);
            self.holds += 1;
        }
    }

    /// A job that waits is held at once, one that runs when it has saved its work.
    fn pause(&mut self, id: JobId, chance: &mut Chance) {
        let hold = Hold { by: Uid(2), reason: None, not_before: None };
        if !self.ask(id, None, &Command::Pause { hold }) {
            self.broken.push(format!("job {id} could not be paused"));
        }
        if matches!(self.jobs[&id].state, JobState::Running { .. }) {
            self.leave(id, chance);
        } else {
            self.held.insert(id);
        }
        self.holds += 1;
    }

    /// An attempt that was asked to save its work ends soon, one way or another.
    fn leave(&mut self, id: JobId, chance: &mut Chance) {
        let class = chance.pick(&[ExitClass::Preempted, ExitClass::Preempted, ExitClass::Crash, ExitClass::Ok]);
        self.plan(i64::from(small(chance, 20)), Happening::End(self.fence(id), class));
    }

    fn release(&mut self, id: JobId) {
        if !self.ask(id, None, &Command::Release { by: Uid(2) }) {
            self.broken.push(format!("held job {id} could not be released"));
        }
        self.held.remove(&id);
    }

    fn cancel(&mut self, id: JobId, command: &Command, chance: &mut Chance) {
        self.held.remove(&id);
        if self.ask(id, None, command) {
            self.cancelled.insert(id);
        }
        if matches!(self.jobs[&id].state, JobState::Running { .. }) {
            let class = chance.pick(&[ExitClass::Cancelled, ExitClass::Crash, ExitClass::Preempted, ExitClass::Ok]);
            self.plan(i64::from(small(chance, 20)), Happening::End(self.fence(id), class));
        }
    }

    fn submit(&mut self, chance: &mut Chance) {
        let id = JobId(self.jobs.len() as u64 + 1);
        // Some have a start time, now and then a past one.
        let begin = (small(chance, 4) == 0).then(|| SignedDuration::from_secs(i64::from(small(chance, 600)) - 60));
        let begin = begin.map(|wait| self.time().checked_add(wait).expect("a few hours from the beginning"));
        let deadline = chance.once_in(6).then(|| 1 + i64::from(small(chance, 2_000)));
        let deadline =
            deadline.map(|after| Timestamp::from_second(self.now + after).expect("a few hours from the beginning"));
        let event = Event::Submitted {
            name: format!("job-{id}"),
            kind: "train".into(),
            user: Uid(1),
            queue: "default".into(),
            priority: chance.pick(&[10, 50, 50, 50, 90]),
            labels: BTreeMap::new(),
            resources: Resources { cpus: 1 + small(chance, 8), gpus: small(chance, 3), ..Resources::NONE },
            retry: RetryPolicy {
                limit: small(chance, 4),
                backoff_seconds: 1 + small(chance, 60),
                max_backoff_seconds: 300,
                ..RetryPolicy::default()
            },
            spec_digest: "0".repeat(64),
            not_before: begin,
            deadline,
            preemptible: chance.once_in(2),
            array: None,
            gate: None,
            after: None,
        };
        if let Some(deadline) = deadline {
            self.plan(deadline.as_second() - self.now, Happening::Expire(id));
        }
        let job = state::apply(id, None, &event, self.time()).expect("a first event");
        self.jobs.insert(id, job);
        self.logs.insert(id, vec![(event, self.time())]);
    }

    /// Asks the state machine. Whether it agreed.
    fn ask(&mut self, id: JobId, fence: Option<Fence>, command: &Command) -> bool {
        let (job, now) = (&self.jobs[&id], self.time());
        let Ok(events) = state::decide(job, fence, command, now) else { return false };
        for event in events {
            let after = state::apply(id, Some(self.jobs[&id].clone()), &event, now).expect("what was decided is legal");
            self.jobs.insert(id, after);
            self.logs.entry(id).or_default().push((event, now));
        }
        true
    }

    /// Every job is what its log makes of it.
    pub fn check_logs(&mut self) {
        for (id, log) in &self.logs {
            let replayed = log.iter().try_fold(None, |job, (event, at)| state::apply(*id, job, event, *at).map(Some));
            if replayed.as_ref().ok().and_then(Option::as_ref) != self.jobs.get(id) {
                self.broken.push(format!("job {id} is not what its log says: {replayed:?}"));
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let at_work = self.jobs.values().filter(|job| matches!(job.state, JobState::Running { .. }));
        let running = at_work.map(|job| Running {
            id: job.id,
            queue: job.queue.clone(),
            user: job.user,
            has: job.resources.clone(),
            gpus: job.gpus.clone(),
            started_at: job.started_at.expect("it runs"),
            ends_by: None,
        });
        Snapshot {
            now: self.time(),
            machine: self.machine.clone(),
            free: self.free.clone(),
            running: running.collect(),
            vacated: BTreeSet::new(),
            ready: self.ready(),
            queues: BTreeMap::new(),
            setbacks: BTreeMap::new(),
        }
    }

    /// What may start now, in order: as the store's index gives it.
    fn ready(&self) -> Vec<Ready> {
        let now = self.time();
        let due = self.jobs.values().filter(
            |job| matches!(job.state, JobState::Queued { not_before } if not_before.is_none_or(|time| time <= now)),
        );
        // The store would give it; a claim of it is refused.
        let due = due.filter(|job| job.deadline.is_none_or(|deadline| deadline > now));
        let mut ready: Vec<Ready> = due
            .map(|job| {
                let rank = job.submitted_at.as_microsecond() - i64::from(job.priority) * MICROSECONDS_A_POINT;
                let (queue, user, needs) = (job.queue.clone(), job.user, job.resources.clone());
                let (kind, priority) = (job.kind.clone(), job.priority);
                Ready { id: job.id, kind, queue, user, priority, rank, needs, limit_seconds: None }
            })
            .collect();
        ready.sort_by_key(|job| (job.rank, job.id));
        ready
    }

    fn ids(&self, which: impl Fn(&Job) -> bool) -> Vec<JobId> {
        self.jobs.values().filter(|job| which(job)).map(|job| job.id).collect()
    }

    fn fence(&self, id: JobId) -> Fence {
        let job = &self.jobs[&id];
        let JobState::Running { token, .. } = job.state else { panic!("job {id} does not run") };
        Fence { job: id, attempt: AttemptNumber(job.attempt), token }
    }

    fn plan(&mut self, after: i64, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((self.now + after, self.planned), happening);
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now).expect("a few hours from the beginning")
    }
}

fn is_held(job: &Job) -> bool {
    matches!(job.state, JobState::Held(_))
}

fn small(chance: &mut Chance, end: u64) -> u32 {
    u32::try_from(chance.below(end)).expect("ends are small")
}
