//! What jobs share and can use up: the machine, what a queue may have of it, how many jobs one user may run in a queue. The first job that finds no room has it reserved, and who comes
//! after it gets only what does not delay it: backfilling with one reservation, as EASY does it (Lifka, "The ANL/IBM SP scheduling system", 1995). Called by `plan`; pure.

use jiff::Timestamp;
use mlctl_protocol::JobId;

/// How much of a pool is used, needed or free. What is not limited is [`u32::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    /// Jobs.
    pub(super) jobs: u32,
    /// Cores.
    pub(super) cpus: u32,
    /// GPUs.
    pub(super) gpus: u32,
}

impl Amount {
    pub(super) const fn fits(self, have: Self) -> bool {
        self.jobs <= have.jobs && self.cpus <= have.cpus && self.gpus <= have.gpus
    }

    /// What is left, or none where less was there.
    pub(super) const fn less(self, other: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_sub(other.jobs),
            cpus: self.cpus.saturating_sub(other.cpus),
            gpus: self.gpus.saturating_sub(other.gpus),
        }
    }

    const fn and(self, other: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_add(other.jobs),
            cpus: self.cpus.saturating_add(other.cpus),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }
}

/// One of the things that jobs share.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    /// All of it.
    whole: Amount,
    free: Amount,
    /// Who has the rest, and until when at the latest.
    held: Vec<(Option<Timestamp>, Amount)>,
    reserved: Option<Reserved>,
}

/// What is kept for a job that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    /// The job.
    pub(super) job: JobId,
    /// When it starts at the latest. `None` where somebody is in its way who may run as long as it likes.
    pub(super) at: Option<Timestamp>,
    /// What it leaves to others for as long as they like.
    spare: Amount,
}

/// What a job finds in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// What it needs.
    Enough,
    /// Not enough is free.
    Full,
    /// Enough is free, and it would delay the one for whom it is kept.
    Kept,
}

impl Pool {
    pub(super) const fn new(whole: Amount) -> Self {
        Self { whole, free: whole, held: Vec::new(), reserved: None }
    }

    /// Whether it could ever hold a job.
    pub(super) const fn could_hold(&self, needs: Amount) -> bool {
        needs.fits(self.whole)
    }

    pub(super) const fn reserved(&self) -> Option<&Reserved> {
        self.reserved.as_ref()
    }

    /// No more than this is free, whoever is known to have the rest.
    pub(super) fn cap(&mut self, free: Amount) {
        let Amount { jobs, cpus, gpus } = self.free;
        self.free = Amount { jobs: jobs.min(free.jobs), cpus: cpus.min(free.cpus), gpus: gpus.min(free.gpus) };
    }

    /// What a job finds that would end by a moment, or may run for ever.
    pub(super) fn look(&self, needs: Amount, ends_by: Option<Timestamp>) -> Room {
        if !needs.fits(self.free) {
            return Room::Full;
        }
        match &self.reserved {
            Some(kept) if !kept.is_over_before(ends_by) && !needs.fits(kept.spare) => Room::Kept,
            _ => Room::Enough,
        }
    }

    /// A job has it from now on.
    pub(super) fn take(&mut self, needs: Amount, ends_by: Option<Timestamp>) {
        self.free = self.free.less(needs);
        self.held.push((ends_by, needs));
        if let Some(kept) = &mut self.reserved
            && !kept.is_over_before(ends_by)
        {
            kept.spare = kept.spare.less(needs);
        }
    }

    /// When so much is free at the latest.
    pub(super) fn opens_at(&self, needs: Amount, now: Timestamp) -> Option<Timestamp> {
        let mut ends: Vec<(Timestamp, Amount)> =
            self.held.iter().filter_map(|(at, held)| Some(((*at)?, *held))).collect();
        ends.sort_by_key(|(at, _)| *at);
        let mut free = self.free;
        if needs.fits(free) {
            return Some(now);
        }
        for (at, held) in ends {
            free = free.and(held);
            if needs.fits(free) {
                return Some(at.max(now));
            }
        }
        None
    }

    /// Keeps what a job needs from those behind it, unless something is kept for one before it.
    pub(super) fn reserve(&mut self, job: JobId, needs: Amount, at: Option<Timestamp>) {
        if self.reserved.is_some() {
            return;
        }
        let free = match at {
            None => self.free,
            Some(at) => {
                let ended = self.held.iter().filter(|(end, _)| end.is_some_and(|end| end <= at));
                ended.fold(self.free, |free, (_, held)| free.and(*held))
            }
        };
        self.reserved = Some(Reserved { job, at, spare: free.less(needs) });
    }
}

impl Reserved {
    /// Whether one that ends by a moment is gone when the job starts.
    fn is_over_before(&self, ends_by: Option<Timestamp>) -> bool {
        matches!((ends_by, self.at), (Some(end), Some(at)) if end <= at)
    }
}
