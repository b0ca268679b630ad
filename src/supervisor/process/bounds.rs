//! What the kernel refuses a worker where no cgroup bounds its memory: a heartbeat tells too late of what is taken between two of them. Called by `supervisor::process`.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use mlctl_protocol::spec::Resources;
use rustix::process::{Resource, Rlimit, prlimit};
use tracing::warn;

use super::rustix_pid;
use crate::supervisor::logs::Stream;

const MIB: u64 = 1024 * 1024;

/// What a process has mapped for itself counts although it may never touch it: stacks of threads, what an allocator keeps, tables of libraries.
const ROOM_BYTES: u64 = 1024 * MIB;

/// How much of a worker's last words is looked at.
const LAST_WORDS_BYTES: u64 = 4096;

/// What a program in Rust says before it aborts since it was given no memory.
const REFUSED: &str = "memory allocation of ";

/// The most private memory in bytes that a process of a job may map: twice what the job asked for, and [`ROOM_BYTES`]. None where it asked for none; nor where it has a GPU, whose driver maps more than it uses.
fn most(resources: &Resources) -> Option<u64> {
    let is_bounded = resources.memory_mib > 0 && resources.gpus == 0;
    is_bounded.then(|| u64::from(resources.memory_mib).saturating_mul(2 * MIB).saturating_add(ROOM_BYTES))
}

/// Bounds the memory of a process, and of those that it will start each, for good (`RLIMIT_DATA`, setrlimit(2)). Returns whether it is bounded.
pub(super) fn bound(pid: u32, resources: &Resources) -> bool {
    let Some(bytes) = most(resources) else { return false };
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    match rustix_pid(pid).and_then(|pid| Ok(prlimit(Some(pid), Resource::Data, limit)?)) {
        Ok(_) => true,
        Err(error) => {
            warn!(pid, %error, "the memory of a worker is watched, but not bounded");
            false
        }
    }
}

/// Whether the worker in `dir`, which has aborted, says that it did so since it was refused memory.
pub(super) fn was_refused(dir: &Path) -> bool {
    last_words(&Stream::Stderr.path(dir)).is_ok_and(|words| words.lines().any(|line| line.starts_with(REFUSED)))
}

fn last_words(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
    let mut words = Vec::new();
    file.take(LAST_WORDS_BYTES).read_to_end(&mut words)?;
    Ok(String::from_utf8_lossy(&words).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_for_memory_and_no_gpu_is_bounded() {
        let of = |memory_mib, gpus| most(&Resources { memory_mib, gpus, ..Resources::NONE });
        assert_eq!(of(0, 0), None);
        assert_eq!(of(512, 0), Some(2 << 30));
        assert_eq!(of(512, 1), None);
        assert_eq!(of(u32::MAX, 0), Some((u64::from(u32::MAX) * 2 + 1024) << 20));
    }
}
