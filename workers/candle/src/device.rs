//! Where tensors live: the CPU or one accelerator, chosen once per job. The only place that knows how a device is opened and what
//! its errors mean.
//!
//! Threads and memory on the CPU are set by whoever starts the process, since candle, rayon and glibc read the environment
//! once: `RAYON_NUM_THREADS` is the number of threads of arithmetic (candle 0.11.1 reads it for matrix products as well),
//! `CANDLE_NUM_THREADS=1` keeps candle's second pool, whose threads spin, from competing with rayon's, and
//! `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` keep freed blocks in the process.

use candle_core::{Device, DeviceLocation};
use mlctl_protocol::{ExitClass, spec::Resources};

use crate::fault::Fault;

/// Opens the device that a job asked for: the first GPU when it asked for one, else the CPU.
///
/// # Errors
/// `spec` when this build has no GPU support or more than one is asked for, `device` when the GPU cannot be opened.
pub fn open(resources: &Resources) -> Result<Device, Fault> {
    match resources.gpus {
        0 => Ok(Device::Cpu),
        1 if cfg!(feature = "cuda") => Device::new_cuda(0).map_err(|e| {
            Fault::new(ExitClass::Device, format!("cannot open the first GPU: {e}"))
                .with_hint("check nvidia-smi and CUDA_VISIBLE_DEVICES of the daemon")
        }),
        1 => Err(Fault::spec(
            "this worker was built without GPU support",
            "set resources.gpus to 0, or install a worker built with the `cuda` feature",
        )),
        n => Err(Fault::spec(
            format!("{n} GPUs are asked for, and one model trains on one"),
            "set resources.gpus to 1 or 0",
        )),
    }
}

/// The device's name in heartbeats: `cpu`, `cuda:0`.
#[must_use]
pub fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

impl From<candle_core::Error> for Fault {
    /// An error of tensor arithmetic. Shapes are checked before a job runs, so what is left is the device, or a bug.
    fn from(error: candle_core::Error) -> Self {
        let message = error.to_string();
        let lower = message.to_lowercase();
        if lower.contains("out of memory") || lower.contains("out_of_memory") {
            return Self::new(ExitClass::OomDevice, format!("the accelerator ran out of memory: {message}")).with_hint(
                "lower batch_size (and raise accumulate as much, for the same steps), or use a device with more memory",
            );
        }
        let class = if matches!(error, candle_core::Error::Cuda(_)) { ExitClass::Device } else { ExitClass::Crash };
        Self::new(class, format!("tensor arithmetic failed: {message}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_job_gets_the_cpu_and_too_many_gpus_are_refused() {
        let resources = |gpus| Resources { cpus: 1, gpus, ..Resources::NONE };
        assert_eq!(name(&open(&resources(0)).unwrap()), "cpu");
        let fault = open(&resources(2)).unwrap_err();
        assert_eq!(fault.class, ExitClass::Spec);
        assert!(fault.hint.is_some());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        let fault = open(&Resources { cpus: 1, gpus: 1, ..Resources::NONE }).unwrap_err();
        assert_eq!(fault.class, ExitClass::Spec);
        assert!(fault.message.contains("without GPU support"));
    }
}
