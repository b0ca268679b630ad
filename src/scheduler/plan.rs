//! The choice of the jobs to start: data in, data out. Called by the scheduler's loop, and by whoever explains it. No clock, no store.
//!
//! The rules, for jobs in the order of the queue (see [`Ready::rank`]):
//!
//! 1. One that no empty machine, or not even its queue alone, could hold is left out: it would hold everybody back for ever. (A submit refuses such a job; one can still be there when
//!    limits were lowered later.) One whose queue is paused is left out too.
//! 2. One that finds room in what it shares with others (the machine, its queue, its user's part of the queue) starts.
//! 3. The first one that finds none has it reserved: by the time limits of those that run it is known when enough will be free at the latest, and if they have none, what is free of it is kept for
//!    it. Those behind it start only if they end before that, or need nothing that it needs. So small jobs fill the gaps, and none delays the reserved one. CPU jobs never wait for a GPU.
//! 4. In a strict queue, those behind it in the same queue wait in any case.
//!
//! Nobody starves: an hour of waiting is worth a point of priority, so that a job is overtaken in the order only by those that begin to wait within so many hours after it as they have points
//! more, which is 100 hours at most, and as many more as fair share has points; and nobody behind it delays the first one that waits for
//! a thing in getting that. (One that waits for its queue has no part of the machine kept meanwhile; it is first in line for that once its queue has room.)

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::JobId;

use super::{
    pool::{NoRoom, Pool, Space, Taken, Want},
    snapshot::Snapshot,
};
use crate::{
    domain::{
        Machine, Uid,
        machine::Free,
        queue::{Flow, Order, Queue},
    },
    store::{Ready, Running},
};

/// What to do with the jobs that are ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be started, in this order.
    pub start: Vec<Start>,
    /// Why the others are not, in the order of the queue.
    pub wait: Vec<(JobId, Obstacle)>,
    /// The first one that waits for the machine itself.
    pub head: Option<JobId>,
}

/// A job that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The job.
    pub job: JobId,
    /// The GPUs it is to have, by UUID.
    pub gpus: Vec<String>,
}

/// Why a job does not start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// It could never have what it needs of this.
    TooLarge(Shared),
    /// Its queue is paused.
    Paused,
    /// Its queue is strict, and this one is before it.
    Behind(JobId),
    /// Not enough is free.
    Full {
        /// Of what.
        of: Shared,
        /// For whom it is kept when it is free; itself where nobody is before it.
        first: JobId,
        /// When that one starts at the latest, where that is known.
        at: Option<Timestamp>,
    },
    /// Enough is free, and it would delay another.
    Kept {
        /// Of what.
        of: Shared,
        /// Whom.
        first: JobId,
        /// When that one starts at the latest, where that is known.
        at: Option<Timestamp>,
    },
}

/// What jobs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// The number of jobs that a user may run in the queue.
    User,
    /// What the queue may have.
    Queue,
    /// The machine.
    Machine,
}

/// Chooses among the jobs that are ready.
#[must_use]
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut line = Line::new(snapshot);
    let mut plan = Plan::default();
    for job in &snapshot.ready {
        match line.look(job) {
            Ok(places) => {
                let gpus = places.into_iter().filter_map(|place| snapshot.machine.gpus.get(place));
                plan.start.push(Start { job: job.id, gpus: gpus.map(|gpu| gpu.uuid.clone()).collect() });
            }
            Err(obstacle) => {
                if matches!(obstacle, Obstacle::Full { of: Shared::Machine, .. }) {
                    plan.head.get_or_insert(job.id);
                }
                plan.wait.push((job.id, obstacle));
            }
        }
    }
    plan
}

/// What jobs can have of the machine: not what others do with its GPUs.
#[must_use]
pub fn open_to_jobs(machine: &Machine, mut free: Free) -> Free {
    let reachable = machine.gpus.iter().map(|gpu| gpu.foreign.memory_mib);
    free.vram_mib.iter_mut().zip(reachable).for_each(|(free, foreign)| *free -= i64::from(foreign));
    free
}

/// What a job wants.
pub(super) fn want(job: &Ready) -> Want<'_> {
    Want { needs: &job.needs, queue: &job.queue, user: job.user }
}

/// When it has ended, if it starts now.
fn ends_by(job: &Ready, now: Timestamp) -> Option<Timestamp> {
    now.checked_add(SignedDuration::from_secs(job.limit_seconds?.into())).ok()
}

/// The line of those who want to start, while it is gone through.
struct Line<'a> {
    now: Timestamp,
    queues: &'a BTreeMap<String, Queue>,
    whole: &'a Machine,
    machine: Pool<'a>,
    of_queues: BTreeMap<&'a str, Pool<'a>>,
    of_users: BTreeMap<(&'a str, Uid), Pool<'a>>,
    /// The strict queues in which a job waits, and which one.
    closed: BTreeMap<&'a str, JobId>,
}

impl<'a> Line<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let Snapshot { now, machine, free, running, vacated, queues, .. } = snapshot;
        let all = |free: &Free| Space::Machine(machine, open_to_jobs(machine, free.clone()));
        let mut line = Line {
            now: *now,
            queues,
            whole: machine,
            machine: Pool::new(all(&machine.whole())),
            of_queues: BTreeMap::new(),
            of_users: BTreeMap::new(),
            closed: BTreeMap::new(),
        };
        for Running { id, queue, user, has, gpus, ends_by, .. } in running {
            line.open(queue, *user);
            let ends_by = ends_by.map(|end| end.max(*now));
            let taken = Taken { needs: has.clone(), share: machine.share(has, gpus) };
            let occupied = line.pools(queue, *user).filter(|(of, _)| *of != Shared::Machine || !vacated.contains(id));
            occupied.for_each(|(_, pool)| pool.take(taken.clone(), ends_by));
        }
        // What is still occupied by one that has ended, or by one that is being started.
        line.machine.cap(&all(free));
        line
    }

    /// Has the pools of a queue and a user ready, where there are limits.
    fn open(&mut self, queue: &'a str, user: Uid) {
        let Some(Queue { limits, .. }) = self.queues.get(queue) else { return };
        if limits.running.is_some() || limits.cpus.is_some() || limits.gpus.is_some() {
            let most = |limit: Option<u32>| limit.unwrap_or(u32::MAX);
            let (cpus, gpus) = (most(limits.cpus), most(limits.gpus));
            let whole = Space::Counted { jobs: most(limits.running), cpus, gpus };
            self.of_queues.entry(queue).or_insert_with(|| Pool::new(whole));
        }
        if let Some(jobs) = limits.per_user {
            let whole = Space::Counted { jobs, cpus: u32::MAX, gpus: u32::MAX };
            self.of_users.entry((queue, user)).or_insert_with(|| Pool::new(whole));
        }
    }

    /// All that a job shares with others, the narrowest first.
    fn pools<'l>(
        &'l mut self,
        queue: &'a str,
        user: Uid,
    ) -> impl Iterator<Item = (Shared, &'l mut Pool<'a>)> + use<'l, 'a> {
        let of_user = self.of_users.get_mut(&(queue, user)).map(|pool| (Shared::User, pool));
        let of_queue = self.of_queues.get_mut(queue).map(|pool| (Shared::Queue, pool));
        of_user.into_iter().chain(of_queue).chain([(Shared::Machine, &mut self.machine)])
    }

    /// Lets a job start, which is then part of what is taken, and says which GPUs it has; or what is in its way.
    fn look(&mut self, job: &'a Ready) -> Result<Vec<usize>, Obstacle> {
        let (queue, user, want, ends_by) = (job.queue.as_str(), job.user, want(job), ends_by(job, self.now));
        self.open(queue, user);
        if let Some(of) = self.too_large(job) {
            return Err(Obstacle::TooLarge(of));
        }
        let rules = self.queues.get(queue);
        if rules.is_some_and(|queue| queue.flow == Flow::Paused) {
            return Err(Obstacle::Paused);
        }
        if let Some(first) = self.closed.get(queue) {
            return Err(Obstacle::Behind(*first));
        }
        // The machine is the last of them, and has the GPUs.
        let looked = self
            .pools(queue, user)
            .try_fold(Vec::new(), |_, (of, pool)| pool.look(want, ends_by).map_err(|none| (of, none)));
        let (of, none) = match looked {
            Ok(places) => {
                let share = self.whole.share_at(want.needs, places.iter().copied());
                let taken = Taken { needs: want.needs.clone(), share };
                self.pools(queue, user).for_each(|(_, pool)| pool.take(taken.clone(), ends_by));
                return Ok(places);
            }
            Err(found) => found,
        };
        // One that only waits for its own user's jobs holds back nobody else.
        if of != Shared::User && rules.is_some_and(|queue| queue.order == Order::Strict) {
            self.closed.insert(queue, job.id);
        }
        let (first, at) = self.reserve(job, of);
        Err(match none {
            NoRoom::Kept => Obstacle::Kept { of, first, at },
            NoRoom::Full => Obstacle::Full { of, first, at },
        })
    }

    /// What could never hold a job. That others are busy with a GPU may end; that it is not to have it, as little as anything.
    fn too_large(&mut self, job: &'a Ready) -> Option<Shared> {
        let want = want(job);
        let machine = self.whole;
        let found = self.pools(&job.queue, job.user).find(|(of, pool)| match of {
            Shared::Machine => !machine.could_give(want.needs, |gpu| want.may(gpu)),
            Shared::User | Shared::Queue => !pool.could_hold(want),
        });
        found.map(|(of, _)| of)
    }

    /// Keeps for a job what it waits for, and its place in all that is narrower: who took that meanwhile would delay it too. Returns for whom it is kept, it or one before it, and when that one
    /// starts at the latest.
    fn reserve(&mut self, job: &'a Ready, of: Shared) -> (JobId, Option<Timestamp>) {
        let (want, now) = (want(job), self.now);
        let concerned = |(shared, _): &(Shared, &mut Pool<'a>)| *shared <= of;
        if self.pools(&job.queue, job.user).filter(concerned).any(|(_, pool)| pool.reserved().is_none()) {
            let mut pools = self.pools(&job.queue, job.user);
            let at = pools.find(|(shared, _)| *shared == of).and_then(|(_, pool)| pool.opens_at(want, now));
            drop(pools);
            self.pools(&job.queue, job.user).filter(concerned).for_each(|(_, pool)| pool.reserve(job.id, want, at));
        }
        let kept = self.pools(&job.queue, job.user).filter(concerned).last();
        kept.and_then(|(_, pool)| pool.reserved().map(|kept| (kept.job, kept.at))).unwrap_or((job.id, None))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
