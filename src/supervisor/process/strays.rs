//! Processes of attempts that nobody knows any more: those of a time that a restore has undone, and whatever else outlived its record. A daemon that begins ends them before it starts any of its own, since they
//! may hang, hold a GPU or memory, and would be counted nowhere. Called by `supervisor::process`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use tracing::warn;

use super::{
    adopted::{self, PAUSE, ROUNDS},
    procfs::{self, Member},
};
use crate::domain::event::ProcessIdentity;

/// Kills every process that bears the mark of an attempt under `attempts_dir`, but for those of the workers in `known`, each with its attempt's folder. Returns how many there were.
pub(super) async fn end(attempts_dir: &Path, known: &[(ProcessIdentity, PathBuf)]) -> usize {
    let mut ended = BTreeSet::new();
    for _ in 0..ROUNDS {
        let left = find(attempts_dir, known);
        if left.is_empty() {
            return ended.len();
        }
        for stray in left {
            ended.insert(stray.pid);
            adopted::send(&stray, Signal::KILL);
        }
        tokio::time::sleep(PAUSE).await;
    }
    warn!(processes = ended.len(), "killed processes of forgotten attempts have not vanished yet");
    ended.len()
}

/// Those that are there at this moment.
fn find(attempts_dir: &Path, known: &[(ProcessIdentity, PathBuf)]) -> Vec<Member> {
    let mut found = procfs::all().unwrap_or_else(|error| {
        warn!(%error, "cannot look for processes of forgotten attempts");
        Vec::new()
    });
    found.retain(|member| {
        // This daemon itself may have been started by a job of an earlier one.
        member.pid != std::process::id()
            && procfs::is_marked_under(member.pid, attempts_dir)
            // A daemon in a container may keep its state at the same path: its workers are none of ours.
            && procfs::sees(member.pid, attempts_dir)
            && !known.iter().any(|(worker, dir)| adopted::is_marked(member.pid, worker, dir))
    });
    found
}
