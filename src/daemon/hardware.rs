//! The machine as it is when the daemon starts: what of it the settings give to jobs, and which program serves which GPU. Called once by `run`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tracing::{info, warn};

use crate::{
    config::{DeviceSettings, GpuSettings, Settings},
    domain::{Machine, machine::Gpu},
    supervisor::{
        devices::{self, Inventory, InventoryError, Nvml, Simulated},
        executor::Programs,
    },
};

const MIB: u64 = 1024 * 1024;

/// What there is for jobs.
pub(super) struct Hardware {
    /// The machine.
    pub(super) machine: Machine,
    /// The programs that play the worker.
    pub(super) programs: Programs,
    /// Who knows the GPUs, where there are some.
    pub(super) inventory: Option<Arc<dyn Inventory>>,
}

/// Looks at the machine.
///
/// # Errors
/// [`InventoryError`], where there are GPUs of which nothing can be learnt.
pub(super) fn look(settings: &Settings) -> Result<Hardware, InventoryError> {
    let (inventory, gpus) = match inventory(&settings.devices)? {
        Some(inventory) => {
            let gpus = devices::known(&inventory.look()?);
            (Some(inventory), gpus)
        }
        None => (None, Vec::new()),
    };
    for special in &settings.devices.gpus {
        if settings.devices.enabled && !gpus.iter().any(|gpu| is(special, gpu)) {
            warn!(gpu = special.id, "the settings name GPU {}, which is not there", special.id);
        }
    }
    let special = |gpu: &Gpu| settings.devices.gpus.iter().find(|special| is(special, gpu));
    let given: Vec<Gpu> = gpus.into_iter().filter(|gpu| special(gpu).is_none_or(|special| special.enabled)).collect();
    for gpu in &given {
        info!(uuid = gpu.uuid, memory_mib = gpu.memory_mib, "GPU {}: {}", gpu.index, gpu.name);
    }
    let program = |gpu: &Gpu| special(gpu).and_then(|special| special.worker.clone());
    let program = |gpu: &Gpu| program(gpu).or_else(|| settings.devices.worker.clone());
    let by_gpu: BTreeMap<String, PathBuf> =
        given.iter().filter_map(|gpu| Some((gpu.uuid.clone(), program(gpu)?))).collect();
    let (worker, command) = (settings.workers.command.clone(), settings.commands.executable.clone());
    let memory_mib = settings.workers.memory_mib.unwrap_or_else(all_memory_mib);
    Ok(Hardware {
        machine: Machine { cpus: settings.workers.cpus, memory_mib, gpus: given },
        programs: Programs { worker, command, by_gpu },
        inventory,
    })
}

fn inventory(settings: &DeviceSettings) -> Result<Option<Arc<dyn Inventory>>, InventoryError> {
    if !settings.enabled {
        return Ok(None);
    }
    if let Some(path) = &settings.simulated {
        return Ok(Some(Arc::new(Simulated::new(path.clone()))));
    }
    Ok(Nvml::open()?.map(|nvml| Arc::new(nvml) as Arc<dyn Inventory>))
}

fn is(special: &GpuSettings, gpu: &Gpu) -> bool {
    special.id == gpu.uuid || special.id == gpu.index.to_string()
}

/// What the kernel counts, in MiB.
pub(super) fn all_memory_mib() -> u32 {
    let info = rustix::system::sysinfo();
    let bytes = info.totalram.saturating_mul(u64::from(info.mem_unit));
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}
