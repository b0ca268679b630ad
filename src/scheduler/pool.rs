//! What jobs share and can use up: the machine, what a queue may have of it, how many jobs one user may run in a queue. The first job that finds no room has it reserved, and who comes
//! after it gets only what does not delay it: backfilling with one reservation, as EASY does it (Lifka, "The ANL/IBM SP scheduling system", 1995). Called by `plan`; pure.

use jiff::Timestamp;
use mlctl_protocol::{JobId, spec::Resources};

use crate::domain::{
    Machine, Uid,
    machine::{Free, Gpu, Share},
};

/// Who wants what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want<'a> {
    pub(super) needs: &'a Resources,
    pub(super) queue: &'a str,
    pub(super) user: Uid,
}

impl Want<'_> {
    /// Whether it may have a GPU.
    pub(super) fn may(&self, gpu: &Gpu) -> bool {
        gpu.standing.admits(self.queue, self.user)
    }
}

/// What one job has of everything.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    /// As it counts.
    pub(super) needs: Resources,
    /// Of the machine.
    pub(super) share: Share,
}

/// How much of a pool is used or free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Space<'a> {
    /// What a queue may have: [`u32::MAX`] of what is not limited.
    Counted {
        /// Jobs.
        jobs: u32,
        /// Cores.
        cpus: u32,
        /// GPUs, however much of them.
        gpus: u32,
    },
    /// Of the machine.
    Machine(&'a Machine, Free),
}

impl Space<'_> {
    /// Where a job has room: the GPUs it would have of the machine. `None` where it has none.
    pub(super) fn place(&self, want: Want<'_>) -> Option<Vec<usize>> {
        match self {
            Self::Counted { jobs, cpus, gpus } => {
                (*jobs > 0 && want.needs.cpus <= *cpus && want.needs.gpus <= *gpus).then(Vec::new)
            }
            Self::Machine(machine, free) => free.place(machine, want.needs, |gpu| want.may(gpu)),
        }
    }

    fn take(&mut self, taken: &Taken) {
        match self {
            Self::Counted { jobs, cpus, gpus } => {
                *jobs = jobs.saturating_sub(1);
                *cpus = cpus.saturating_sub(taken.needs.cpus);
                *gpus = gpus.saturating_sub(taken.needs.gpus);
            }
            Self::Machine(_, free) => free.take(&taken.share),
        }
    }

    fn give(&mut self, taken: &Taken) {
        match self {
            Self::Counted { jobs, cpus, gpus } => {
                *jobs = jobs.saturating_add(1);
                *cpus = cpus.saturating_add(taken.needs.cpus);
                *gpus = gpus.saturating_add(taken.needs.gpus);
            }
            Self::Machine(_, free) => free.give(&taken.share),
        }
    }

    /// No more than there is of the other either.
    fn cap(&mut self, other: &Self) {
        match (self, other) {
            (Self::Counted { jobs, cpus, gpus }, Self::Counted { jobs: most, cpus: cores, gpus: cards }) => {
                (*jobs, *cpus, *gpus) = ((*jobs).min(*most), (*cpus).min(*cores), (*gpus).min(*cards));
            }
            (Self::Machine(_, free), Self::Machine(_, other)) => free.cap(other),
            _ => {}
        }
    }

    /// Sets aside what a job needs, as far as it is there.
    fn keep(&mut self, want: Want<'_>) {
        match self {
            Self::Counted { .. } => self.take(&Taken { needs: want.needs.clone(), share: Share::default() }),
            Self::Machine(machine, free) => free.keep(machine, want.needs, |gpu| want.may(gpu)),
        }
    }

    /// What a job takes that has the GPUs at these places.
    fn taken(&self, want: Want<'_>, places: Vec<usize>) -> Taken {
        let share = match self {
            Self::Counted { .. } => Share::default(),
            Self::Machine(machine, _) => machine.share_at(want.needs, places),
        };
        Taken { needs: want.needs.clone(), share }
    }
}

/// One of the things that jobs share.
#[derive(Debug, Clone)]
pub(super) struct Pool<'a> {
    /// All that jobs can have of it.
    whole: Space<'a>,
    free: Space<'a>,
    /// Who has the rest, and until when at the latest.
    held: Vec<(Option<Timestamp>, Taken)>,
    reserved: Option<Reserved<'a>>,
}

/// What is kept for a job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reserved<'a> {
    /// The job.
    pub(super) job: JobId,
    /// When it starts at the latest. `None` where somebody is in its way who may run as long as it likes.
    pub(super) at: Option<Timestamp>,
    /// What it leaves to others for as long as they like.
    spare: Space<'a>,
}

/// Why a job finds no room in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// Not enough is free.
    Full,
    /// Enough is free, and it would delay the one for whom it is kept.
    Kept,
}

impl<'a> Pool<'a> {
    pub(super) fn new(whole: Space<'a>) -> Self {
        Self { free: whole.clone(), whole, held: Vec::new(), reserved: None }
    }

    /// Whether it could hold a job if it were empty.
    pub(super) fn could_hold(&self, want: Want<'_>) -> bool {
        self.whole.place(want).is_some()
    }

    pub(super) const fn reserved(&self) -> Option<&Reserved<'a>> {
        self.reserved.as_ref()
    }

    /// No more than this is free, whoever is known to have the rest.
    pub(super) fn cap(&mut self, free: &Space<'a>) {
        self.free.cap(free);
    }

    /// The room that a job finds that would end by a moment, or may run for ever: the GPUs it would have.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(super) fn look(&self, want: Want<'_>, ends_by: Option<Timestamp>) -> Result<Vec<usize>, NoRoom> {
        match &self.reserved {
            Some(kept) if !kept.is_over_before(ends_by) => {
                let mut open = self.free.clone();
                open.cap(&kept.spare);
                let is_free = || self.free.place(want).is_some();
                open.place(want).ok_or_else(|| if is_free() { NoRoom::Kept } else { NoRoom::Full })
            }
            _ => self.free.place(want).ok_or(NoRoom::Full),
        }
    }

    /// A job has it from now on.
    pub(super) fn take(&mut self, taken: Taken, ends_by: Option<Timestamp>) {
        self.free.take(&taken);
        if let Some(kept) = &mut self.reserved
            && !kept.is_over_before(ends_by)
        {
            kept.spare.take(&taken);
        }
        self.held.push((ends_by, taken));
    }

    /// When so much is free at the latest.
    pub(super) fn opens_at(&self, want: Want<'_>, now: Timestamp) -> Option<Timestamp> {
        if self.free.place(want).is_some() {
            return Some(now);
        }
        let mut ends: Vec<(Timestamp, &Taken)> =
            self.held.iter().filter_map(|(at, taken)| Some(((*at)?, taken))).collect();
        ends.sort_by_key(|(at, _)| *at);
        let mut free = self.free.clone();
        for (at, taken) in ends {
            free.give(taken);
            free.cap(&self.whole);
            if free.place(want).is_some() {
                return Some(at.max(now));
            }
        }
        None
    }

    /// Keeps what a job needs from those behind it, unless something is kept for one before it.
    pub(super) fn reserve(&mut self, job: JobId, want: Want<'_>, at: Option<Timestamp>) {
        if self.reserved.is_some() {
            return;
        }
        let mut spare = self.free.clone();
        if let Some(at) = at {
            let ended = self.held.iter().filter(|(end, _)| end.is_some_and(|end| end <= at));
            ended.for_each(|(_, taken)| spare.give(taken));
            spare.cap(&self.whole);
        }
        match spare.place(want) {
            Some(places) => spare.take(&spare.taken(want, places)),
            None => spare.keep(want),
        }
        self.reserved = Some(Reserved { job, at, spare });
    }
}

impl Reserved<'_> {
    /// Whether one that ends by a moment is gone when the job starts.
    fn is_over_before(&self, ends_by: Option<Timestamp>) -> bool {
        matches!((ends_by, self.at), (Some(end), Some(at)) if end <= at)
    }
}
