//! The seam under which GPUs are hardware: which there are, and what is done with them. Made by the daemon's lifecycle; asked by the supervisor's handle, never between two questions: nothing here
//! polls. Implemented by `nvml` (the driver) and `simulated` (a file, where there is no hardware).

mod nvml;
mod simulated;

use std::sync::Arc;

use tracing::warn;

pub use self::{nvml::Nvml, simulated::Simulated};
use super::executor::Executor;
use crate::domain::{
    Machine, causes,
    machine::{Foreign, Gpu, Standing},
};

/// Memory of a GPU that others may have, in MiB, without its being taken for busy: a desktop, a driver that keeps a context.
const TOLERATED_MIB: u32 = 1024;

/// Knows the GPUs of this machine.
pub trait Inventory: Send + Sync + 'static {
    /// The GPUs as they are at this moment, by index. Blocks while the driver answers: milliseconds.
    ///
    /// # Errors
    /// [`InventoryError`].
    fn look(&self) -> Result<Vec<Reading>, InventoryError>;
}

/// Why nothing is known of the GPUs.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The driver does not answer.
    #[error("ask the NVIDIA driver")]
    Driver(#[from] nvml_wrapper::error::NvmlError),
    /// The file of simulated GPUs cannot be read.
    #[error("read the simulated GPUs of {path}: {why}")]
    Simulation {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
}

/// A GPU at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What the driver counts it as.
    pub index: u32,
    /// What it is called for ever.
    pub uuid: String,
    /// What it is sold as.
    pub name: String,
    /// All of its memory, in MiB.
    pub memory_mib: u32,
    /// What of it is in use by whoever, in MiB.
    pub used_mib: u32,
    /// The processes that compute on it.
    pub processes: Vec<Process>,
}

/// A process that computes on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// The memory it has of the GPU, in MiB, where the driver says.
    pub memory_mib: Option<u32>,
}

/// The GPUs of a reading, with nothing done on them, as nobody has yet said who may have them.
#[must_use]
pub fn known(readings: &[Reading]) -> Vec<Gpu> {
    let known = readings.iter().map(|reading| Gpu {
        index: reading.index,
        uuid: reading.uuid.clone(),
        name: reading.name.clone(),
        memory_mib: reading.memory_mib,
        standing: Standing::Open,
        foreign: Foreign::default(),
    });
    known.collect()
}

/// The machine with what others do on its GPUs at this moment. One that cannot be asked about is taken for busy.
pub(super) fn observed(mut machine: Machine, inventory: &dyn Inventory, executor: &Arc<dyn Executor>) -> Machine {
    let readings = inventory.look().unwrap_or_else(|error| {
        warn!(error = causes(&error), "nothing is known of the GPUs: none is given to a job meanwhile");
        Vec::new()
    });
    for gpu in &mut machine.gpus {
        let reading = readings.iter().find(|reading| reading.uuid == gpu.uuid);
        gpu.foreign = reading.map_or(Foreign { memory_mib: gpu.memory_mib, processes: 0, is_busy: true }, |reading| {
            foreign(reading, |pid| executor.is_ours(pid))
        });
    }
    machine
}

/// What is done with a GPU by processes that are not ours. Memory that no process has, as after one that died badly, is nobody's to give.
fn foreign(reading: &Reading, is_ours: impl Fn(u32) -> bool) -> Foreign {
    let (ours, others): (Vec<Process>, Vec<Process>) =
        reading.processes.iter().partition(|process| is_ours(process.pid));
    let sum = |processes: &[Process]| {
        let known = processes.iter().map(|process| process.memory_mib);
        known.sum::<Option<u32>>()
    };
    let memory_mib = match sum(&ours) {
        Some(ours) => reading.used_mib.saturating_sub(ours),
        // Without what ours have, what is left over cannot be known.
        None => others.iter().filter_map(|process| process.memory_mib).sum(),
    };
    let processes = u32::try_from(others.len()).unwrap_or(u32::MAX);
    Foreign { memory_mib, processes, is_busy: processes > 0 || memory_mib > TOLERATED_MIB }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(used_mib: u32, processes: &[(u32, Option<u32>)]) -> Reading {
        let processes = processes.iter().map(|(pid, memory_mib)| Process { pid: *pid, memory_mib: *memory_mib });
        let (uuid, name) = ("GPU-1".into(), "a".into());
        Reading { index: 0, uuid, name, memory_mib: 24_000, used_mib, processes: processes.collect() }
    }

    #[test]
    fn what_is_not_ours_is_foreign() {
        let is_ours = |pid| pid < 100;
        for (used, processes, expected) in [
            (0, &[][..], (0, 0, false)),
            // A desktop.
            (900, &[], (900, 0, false)),
            // Left behind by a process that is gone.
            (5000, &[], (5000, 0, true)),
            (5000, &[(7, Some(4900))], (100, 0, false)),
            (5000, &[(7, Some(3000)), (700, Some(1500))], (2000, 1, true)),
            // The driver does not say what ours have.
            (5000, &[(7, None), (700, Some(1500))], (1500, 1, true)),
            (5000, &[(7, None)], (0, 0, false)),
        ] {
            let Foreign { memory_mib, processes, is_busy } = foreign(&reading(used, processes), is_ours);
            assert_eq!((memory_mib, processes, is_busy), expected, "{used}");
        }
    }
}
