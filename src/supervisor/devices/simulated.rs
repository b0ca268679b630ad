//! GPUs out of a file, for machines that have none: it is read at every look, so that whoever writes it plays the hardware.

use std::{fs::File, io::Read as _, path::PathBuf};

use serde::Deserialize;

use super::{Inventory, InventoryError, Process, Reading};

/// The largest file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// The GPUs that a file tells of.
pub struct Simulated {
    path: PathBuf,
}

/// The file: TOML.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Script {
    gpu: Vec<ScriptedGpu>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedGpu {
    uuid: String,
    #[serde(default)]
    name: Option<String>,
    memory_mib: u32,
    /// Beside what its processes have.
    #[serde(default)]
    used_mib: u32,
    #[serde(default)]
    process: Vec<ScriptedProcess>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedProcess {
    pid: u32,
    memory_mib: u32,
}

impl Simulated {
    /// Those of this file.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn read(&self) -> Result<Script, String> {
        let mut text = String::new();
        let file = File::open(&self.path).map_err(|error| error.to_string())?;
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| error.to_string())?;
        toml::from_str(&text).map_err(|error| error.to_string())
    }
}

impl Inventory for Simulated {
    fn look(&self) -> Result<Vec<Reading>, InventoryError> {
        let wrong = |why| InventoryError::Simulation { path: self.path.display().to_string(), why };
        let script = self.read().map_err(wrong)?;
        let reading = |(index, gpu): (u32, ScriptedGpu)| {
            let of_processes: u32 = gpu.process.iter().map(|process| process.memory_mib).sum();
            let processes = gpu.process.iter();
            let processes = processes.map(|it| Process { pid: it.pid, memory_mib: Some(it.memory_mib) }).collect();
            Reading {
                index,
                uuid: gpu.uuid,
                name: gpu.name.unwrap_or_else(|| "simulated".into()),
                memory_mib: gpu.memory_mib,
                used_mib: gpu.used_mib.saturating_add(of_processes),
                processes,
            }
        };
        Ok((0..).zip(script.gpu).map(reading).collect())
    }
}
