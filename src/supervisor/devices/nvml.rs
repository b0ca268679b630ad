//! The NVIDIA driver's own word, by the library that comes with it. The library is looked for when the daemon starts and never linked, so that the same program runs where there is none.
//! (NVIDIA Management Library: <https://docs.nvidia.com/deploy/nvml-api/>.)

use nvml_wrapper::{Nvml as Library, enums::device::UsedGpuMemory, error::NvmlError};

use super::{Inventory, InventoryError, Process, Reading};

const MIB: u64 = 1024 * 1024;

/// The GPUs that the driver knows.
pub struct Nvml(Library);

impl Nvml {
    /// Asks the driver. `None` where there is none.
    ///
    /// # Errors
    /// [`InventoryError::Driver`] when there is one that does not answer: of another version than its library, for example.
    pub fn open() -> Result<Option<Self>, InventoryError> {
        match Library::init() {
            Ok(library) => Ok(Some(Self(library))),
            Err(NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Inventory for Nvml {
    fn look(&self) -> Result<Vec<Reading>, InventoryError> {
        let mut readings = Vec::new();
        for index in 0..self.0.device_count()? {
            let device = match self.0.device_by_index(index) {
                Ok(device) => device,
                // One that has fallen off the bus, or that we may not see, is none of ours.
                Err(NvmlError::GpuLost | NvmlError::NoPermission | NvmlError::InsufficientPower) => continue,
                Err(error) => return Err(error.into()),
            };
            let memory = device.memory_info()?;
            let processes = device.running_compute_processes()?.into_iter().map(|process| Process {
                pid: process.pid,
                memory_mib: match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(mib(bytes)),
                    UsedGpuMemory::Unavailable => None,
                },
            });
            readings.push(Reading {
                index,
                uuid: device.uuid()?,
                name: device.name()?,
                memory_mib: mib(memory.total),
                used_mib: mib(memory.used),
                processes: processes.collect(),
            });
        }
        Ok(readings)
    }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}
