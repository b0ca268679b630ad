//! A GPU as a client sees it, and in words. Data in, data out.

use std::path::Path;

use mlctl_protocol::JobId;

use super::{Scene, reason::counted};
use crate::{
    api::types::{DeviceState, DeviceView, SCHEMA},
    domain::machine::{Assigned, Gpu, Standing},
};

/// A GPU of which so much is free, with the jobs that have it and the program that plays the worker on it.
pub(in crate::api) fn view(
    gpu: &Gpu,
    assigned: Option<&Assigned>,
    (free_mib, jobs, worker): (u32, Vec<JobId>, &Path),
    scene: &Scene,
) -> DeviceView {
    let standing = assigned.map_or(&Standing::Open, |assigned| &assigned.standing);
    let (state, queue, user) = match standing {
        Standing::Open => (DeviceState::Open, None, None),
        Standing::Drained => (DeviceState::Drained, None, None),
        Standing::Queue(queue) => (DeviceState::Reserved, Some(queue.clone()), None),
        Standing::User(user) => (DeviceState::Reserved, None, Some(scene.name(*user))),
    };
    DeviceView {
        schema: SCHEMA,
        index: gpu.index,
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        memory_mib: gpu.memory_mib,
        free_mib,
        state,
        queue,
        user,
        reason: assigned.and_then(|assigned| assigned.reason.clone()),
        jobs,
        busy: gpu.foreign.is_busy,
        foreign_mib: gpu.foreign.memory_mib,
        foreign_processes: gpu.foreign.processes,
        worker: worker.display().to_string(),
        changed_by: assigned.map(|assigned| scene.name(assigned.changed_by)),
        changed_at: assigned.map(|assigned| assigned.changed_at),
    }
}

/// Why jobs do not have a GPU, where it is not for other jobs: `GPU 0 is drained`, `GPU 1 is used by others (2 processes, 8 GiB)`.
pub(super) fn obstacle(gpu: &Gpu, may: bool, scene: &Scene) -> Option<String> {
    let index = gpu.index;
    match &gpu.standing {
        Standing::Drained => return Some(format!("GPU {index} is drained")),
        Standing::Queue(queue) if !may => return Some(format!("GPU {index} is reserved for queue {queue}")),
        Standing::User(user) if !may => return Some(format!("GPU {index} is reserved for {}", scene.name(*user))),
        _ => {}
    }
    gpu.foreign.is_busy.then(|| {
        let processes = match gpu.foreign.processes {
            0 => "no process".to_owned(),
            processes => counted(processes, "process"),
        };
        format!("GPU {index} is used by others ({processes}, {})", size(gpu.foreign.memory_mib))
    })
}

/// `512 MiB`, `24 GiB`, `1.5 GiB`.
pub(in crate::api) fn size(mib: u32) -> String {
    if mib < 1024 {
        return format!("{mib} MiB");
    }
    let tenths = (u64::from(mib) * 10 + 512) / 1024;
    if tenths % 10 == 0 { format!("{} GiB", tenths / 10) } else { format!("{}.{} GiB", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (mib, expected) in [
            (0, "0 MiB"),
            (1023, "1023 MiB"),
            (1024, "1 GiB"),
            (1536, "1.5 GiB"),
            (24_564, "24 GiB"),
            (81_559, "79.6 GiB"),
        ] {
            assert_eq!(size(mib), expected);
        }
    }
}
