//! The machine that jobs share: its cores, its memory, its GPUs, and who may have which. Data, and the choice of the GPUs for a job. Seen by the supervisor, kept in part by the store, obeyed by the
//! planner.

use jiff::Timestamp;
use mlctl_protocol::spec::Resources;
use serde::{Deserialize, Serialize};

use super::Uid;

/// What there is to give to jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Cores.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// GPUs, by their index.
    pub gpus: Vec<Gpu>,
}

/// A GPU as it is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// What the driver counts it as; another after a change of the hardware.
    pub index: u32,
    /// What it is called for ever.
    pub uuid: String,
    /// What it is sold as.
    pub name: String,
    /// All of its memory, in MiB.
    pub memory_mib: u32,
    /// Who may have it.
    pub standing: Standing,
    /// What others than this daemon's jobs do with it.
    pub foreign: Foreign,
}

/// What is done with a GPU by others than this daemon's jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Memory that they have, in MiB, and what belongs to no process at all.
    pub memory_mib: u32,
    /// Processes that compute on it.
    pub processes: u32,
    /// Whether it is so much that no job can have the GPU for itself.
    pub is_busy: bool,
}

/// Who may have a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Every job.
    #[default]
    Open,
    /// None that does not have it already.
    Drained,
    /// The jobs of a queue.
    Queue(String),
    /// The jobs of a user.
    User(Uid),
}

/// A GPU that not everybody may have, and who made it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Who may have it.
    pub standing: Standing,
    /// What for, in that person's words.
    pub reason: Option<String>,
    /// Who said so last.
    pub changed_by: Uid,
    /// When.
    pub changed_at: Timestamp,
}

impl Standing {
    /// Whether jobs of a queue and a user may have it.
    #[must_use]
    pub fn admits(&self, queue: &str, user: Uid) -> bool {
        match self {
            Self::Open => true,
            Self::Drained => false,
            Self::Queue(name) => name == queue,
            Self::User(id) => *id == user,
        }
    }
}

impl Gpu {
    /// Memory that jobs can have at this moment if they have all that others leave, in MiB.
    #[must_use]
    pub const fn reachable_mib(&self) -> u32 {
        self.memory_mib.saturating_sub(self.foreign.memory_mib)
    }
}

impl Machine {
    /// All of it free, for its jobs at least.
    #[must_use]
    pub fn whole(&self) -> Free {
        let vram_mib = self.gpus.iter().map(|gpu| gpu.memory_mib.into()).collect();
        Free { cpus: self.cpus, memory_mib: self.memory_mib, vram_mib }
    }

    /// How much it has: GPUs are counted.
    #[must_use]
    pub fn totals(&self) -> Resources {
        let gpus = u32::try_from(self.gpus.len()).unwrap_or(u32::MAX);
        Resources { cpus: self.cpus, gpus, memory_mib: self.memory_mib, vram_mib: 0 }
    }

    /// How much of it jobs have that leave so much: GPUs are counted of which they have anything.
    #[must_use]
    pub fn used(&self, free: &Free) -> Resources {
        let gpus = self.gpus.iter().zip(&free.vram_mib).filter(|(gpu, free)| **free < gpu.memory_mib.into()).count();
        Resources {
            cpus: self.cpus.saturating_sub(free.cpus),
            gpus: u32::try_from(gpus).unwrap_or(u32::MAX),
            memory_mib: self.memory_mib.saturating_sub(free.memory_mib),
            vram_mib: 0,
        }
    }

    /// Whether it could hold a job if it were empty and everybody might have every GPU.
    #[must_use]
    pub fn could_hold(&self, needs: &Resources) -> bool {
        self.could_give(needs, |_| true)
    }

    /// Whether it could hold a job that `may` have these GPUs, if it were empty.
    #[must_use]
    pub fn could_give(&self, needs: &Resources, may: impl Fn(&Gpu) -> bool) -> bool {
        let large = self.gpus.iter().filter(|gpu| may(gpu) && needs.vram_mib <= gpu.memory_mib).count();
        needs.cpus <= self.cpus && needs.memory_mib <= self.memory_mib && needs.gpus as usize <= large
    }

    /// The places of GPUs among its own. One that it does not have (any more) is left out.
    #[must_use]
    pub fn places(&self, uuids: &[String]) -> Vec<usize> {
        uuids.iter().filter_map(|uuid| self.gpus.iter().position(|gpu| gpu.uuid == *uuid)).collect()
    }

    /// What a job has that has these of its GPUs.
    #[must_use]
    pub fn share(&self, needs: &Resources, uuids: &[String]) -> Share {
        self.share_at(needs, self.places(uuids))
    }

    /// What a job has that has the GPUs at these places.
    #[must_use]
    pub fn share_at(&self, needs: &Resources, places: impl IntoIterator<Item = usize>) -> Share {
        let of = |place: usize| (place, of_gpu(needs, self.gpus.get(place).map_or(0, |gpu| gpu.memory_mib)));
        let vram_mib = places.into_iter().map(of).collect();
        Share { cpus: needs.cpus, memory_mib: needs.memory_mib, vram_mib }
    }
}

/// What a job takes of a GPU that has so much.
const fn of_gpu(needs: &Resources, memory_mib: u32) -> u32 {
    if needs.vram_mib == 0 { memory_mib } else { needs.vram_mib }
}

/// What is free of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Free {
    /// Cores.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Memory of each GPU, in MiB, in the order of the machine's: less than none where others have taken of what jobs had been given.
    pub vram_mib: Vec<i64>,
}

/// What a job has of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// Cores.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Memory of GPUs, in MiB, by their place among the machine's.
    pub vram_mib: Vec<(usize, u32)>,
}

impl Free {
    /// Somebody has this now.
    pub fn take(&mut self, share: &Share) {
        self.cpus = self.cpus.saturating_sub(share.cpus);
        self.memory_mib = self.memory_mib.saturating_sub(share.memory_mib);
        for (place, mib) in &share.vram_mib {
            if let Some(free) = self.vram_mib.get_mut(*place) {
                *free = free.saturating_sub((*mib).into());
            }
        }
    }

    /// Nobody has this any more.
    pub fn give(&mut self, share: &Share) {
        self.cpus = self.cpus.saturating_add(share.cpus);
        self.memory_mib = self.memory_mib.saturating_add(share.memory_mib);
        for (place, mib) in &share.vram_mib {
            if let Some(free) = self.vram_mib.get_mut(*place) {
                *free = free.saturating_add((*mib).into());
            }
        }
    }

    /// No more than there is of the other either.
    pub fn cap(&mut self, other: &Self) {
        self.cpus = self.cpus.min(other.cpus);
        self.memory_mib = self.memory_mib.min(other.memory_mib);
        for (free, other) in self.vram_mib.iter_mut().zip(&other.vram_mib) {
            *free = (*free).min(*other);
        }
    }
}

impl Free {
    /// GPUs for a job among those that it `may` have, by their places: those with the least room for it, so that whole ones stay whole. `None` where there is no room for it. What others do with the
    /// GPUs is off this already.
    #[must_use]
    pub fn place(&self, machine: &Machine, needs: &Resources, may: impl Fn(&Gpu) -> bool) -> Option<Vec<usize>> {
        if needs.cpus > self.cpus || needs.memory_mib > self.memory_mib {
            return None;
        }
        if needs.gpus == 0 {
            return Some(Vec::new());
        }
        let gpus = machine.gpus.iter().zip(&self.vram_mib).enumerate();
        let fit = gpus.filter(|(_, (gpu, free))| may(gpu) && missing_mib(needs, gpu, **free) == Some(0));
        let mut fit: Vec<(i64, usize)> = fit.map(|(place, (_, free))| (*free, place)).collect();
        fit.sort_unstable();
        let chosen = fit.get(..needs.gpus as usize)?;
        Some(chosen.iter().map(|(_, place)| *place).collect())
    }

    /// Sets aside what a job needs of a machine that has no room for it, as far as there is some. Where only GPUs are missing, only GPUs: cores that stand idle until somebody is done with a GPU
    /// help nobody.
    pub fn keep(&mut self, machine: &Machine, needs: &Resources, may: impl Fn(&Gpu) -> bool) {
        let are_gpus_all = needs.cpus <= self.cpus && needs.memory_mib <= self.memory_mib && needs.gpus > 0;
        let gpus = machine.gpus.iter().zip(&self.vram_mib).enumerate().filter(|(_, (gpu, _))| may(gpu));
        let missing = gpus.filter_map(|(place, (gpu, free))| Some((missing_mib(needs, gpu, *free)?, place)));
        let mut missing: Vec<(i64, usize)> = missing.collect();
        missing.sort_unstable();
        missing.truncate(needs.gpus as usize);
        let mut share = machine.share_at(needs, missing.iter().map(|(_, place)| *place));
        if are_gpus_all {
            (share.cpus, share.memory_mib) = (0, 0);
        }
        self.take(&share);
    }
}

/// What a GPU of which so much is free lacks for a job. `None` where it could not have it if none of the daemon's jobs had any of it.
fn missing_mib(needs: &Resources, gpu: &Gpu, free_mib: i64) -> Option<i64> {
    let reachable = gpu.reachable_mib();
    let (can_be, needed) = match needs.vram_mib {
        0 => (!gpu.foreign.is_busy, reachable),
        mib => (mib <= reachable, mib),
    };
    can_be.then(|| i64::from(needed).saturating_sub(free_mib).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, memory_mib: u32) -> Gpu {
        let (name, uuid) = ("a".into(), format!("GPU-{index}"));
        Gpu { index, uuid, name, memory_mib, standing: Standing::Open, foreign: Foreign::default() }
    }

    fn machine() -> Machine {
        Machine { cpus: 8, memory_mib: 1000, gpus: vec![gpu(0, 100), gpu(1, 100), gpu(2, 200)] }
    }

    fn needs(gpus: u32, vram_mib: u32) -> Resources {
        Resources { cpus: 1, gpus, memory_mib: 10, vram_mib }
    }

    fn place(free: &Free, needs: &Resources) -> Option<Vec<usize>> {
        free.place(&machine(), needs, |_| true)
    }

    #[test]
    fn small_ones_share_a_gpu_and_leave_the_others_whole() {
        let mut free = machine().whole();
        for (vram, at) in [(60, 0), (40, 0), (150, 2), (30, 2), (30, 1)] {
            let places = place(&free, &needs(1, vram)).unwrap();
            assert_eq!(places, [at], "{vram} MiB");
            free.take(&machine().share_at(&needs(1, vram), places));
        }
        assert_eq!(free.vram_mib, [0, 70, 20]);
        assert_eq!((free.cpus, free.memory_mib), (3, 950));
        assert_eq!(place(&free, &needs(1, 71)), None);
        assert_eq!(place(&free, &needs(1, 0)), None, "none is whole");
    }

    #[test]
    fn one_that_does_not_say_how_much_has_gpus_for_itself() {
        let mut free = machine().whole();
        assert_eq!(place(&free, &needs(3, 0)), Some(vec![0, 1, 2]));
        assert_eq!(place(&free, &needs(4, 0)), None);
        let share = machine().share(&needs(1, 1), &["GPU-0".into(), "GPU-gone".into()]);
        assert_eq!(share.vram_mib, [(0, 1)]);
        free.take(&share);
        assert_eq!(place(&free, &needs(2, 0)), Some(vec![1, 2]));
        assert_eq!(place(&free, &needs(3, 0)), None);
        free.give(&share);
        assert_eq!(free, machine().whole());
    }

    #[test]
    fn cores_memory_and_who_may_count() {
        let free = Free { cpus: 0, ..machine().whole() };
        assert_eq!(place(&free, &needs(0, 0)), None);
        let free = Free { memory_mib: 9, ..machine().whole() };
        assert_eq!(place(&free, &needs(0, 0)), None);
        let free = machine().whole();
        assert_eq!(free.place(&machine(), &needs(1, 0), |gpu| gpu.index == 2), Some(vec![2]));
        assert_eq!(free.place(&machine(), &needs(2, 0), |gpu| gpu.index == 2), None);
    }

    #[test]
    fn what_others_have_of_a_gpu_is_not_given_away() {
        let mut machine = machine();
        machine.gpus[0].foreign = Foreign { memory_mib: 50, processes: 1, is_busy: true };
        machine.gpus[1].foreign = Foreign { memory_mib: 10, processes: 0, is_busy: false };
        let free = Free { vram_mib: vec![50, 90, 200], ..machine.whole() };
        let place = |needs: &Resources| free.place(&machine, needs, |_| true);
        assert_eq!(place(&needs(2, 0)), Some(vec![1, 2]), "a little memory makes no GPU busy");
        assert_eq!(place(&needs(3, 0)), None);
        assert_eq!(place(&needs(1, 50)), Some(vec![0]));
        assert_eq!(place(&needs(1, 51)), Some(vec![1]));
        assert_eq!(place(&needs(1, 91)), Some(vec![2]));
        assert!(machine.could_hold(&needs(3, 0)) && !machine.could_hold(&needs(2, 101)));
    }

    #[test]
    fn only_what_is_missing_is_kept() {
        let mut free = Free { vram_mib: vec![0, 60, 0], ..machine().whole() };
        free.keep(&machine(), &needs(1, 0), |_| true);
        assert_eq!(
            free,
            Free { vram_mib: vec![0, -40, 0], ..machine().whole() },
            "the GPU that is free first, and no core"
        );
        let mut free = Free { cpus: 0, ..machine().whole() };
        free.keep(&machine(), &needs(1, 0), |_| true);
        assert_eq!(free, Free { cpus: 0, memory_mib: 990, vram_mib: vec![0, 100, 200] });
    }

    #[test]
    fn who_may_have_a_gpu() {
        let (ada, bob) = (Uid(1), Uid(2));
        assert!(Standing::Open.admits("q", ada) && !Standing::Drained.admits("q", ada));
        assert!(Standing::Queue("q".into()).admits("q", bob) && !Standing::Queue("q".into()).admits("r", bob));
        assert!(Standing::User(ada).admits("q", ada) && !Standing::User(ada).admits("q", bob));
    }
}
