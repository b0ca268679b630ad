//! What a worker left behind: its result file, what it published, the checkpoints that nobody heard of. Called by the attempt's task, and by its connection for whether a
//! result is there.

use std::{
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use mlctl_artifacts::{ArtifactError, checkpoint, keys};
use mlctl_protocol::result::{CheckpointRef, MAX_RESULT_BYTES, RESULT_FILE, WorkerResult};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{Shared, live::Live};
use crate::domain::{Command, Fence, causes};

/// How long storage may take to say whether a result is there.
pub(super) const STORAGE_LIMIT: Duration = Duration::from_secs(20);

/// Whether an attempt's result is in its file, and so known to the next daemon whatever becomes of this one.
pub(super) fn has_result(shared: &Shared, fence: Fence) -> bool {
    let file = shared.attempt_dir(fence.job, fence.attempt).join(RESULT_FILE);
    std::fs::symlink_metadata(file).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// What the result file of an attempt says, if it is there.
pub(super) async fn read(shared: &Shared, fence: Fence) -> Result<Option<Box<WorkerResult>>, String> {
    let path = shared.attempt_dir(fence.job, fence.attempt).join(RESULT_FILE);
    let read = tokio::task::spawn_blocking(move || read_result(&path)).await;
    read.unwrap_or_else(|error| Err(error.to_string())).map(|found| found.map(Box::new))
}

/// The file is the worker's: it is read with a limit, and only if it is a file.
fn read_result(path: &Path) -> Result<Option<WorkerResult>, String> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(|error| error.to_string())?;
    let file = match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a file".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_RESULT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        // The power went before it was on disk.
        return Ok(None);
    }
    if bytes.len() as u64 > MAX_RESULT_BYTES {
        return Err(format!("it is larger than {MAX_RESULT_BYTES} bytes"));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string())
}

/// Whether what a successful worker claims is in storage.
pub(super) async fn is_published(shared: &Shared, result: &WorkerResult) -> Result<bool, String> {
    let look = async {
        let mut sizes = Vec::new();
        if let Some(model) = &result.model {
            sizes.push(shared.artifacts.open(&model.uri)?.join(keys::MODEL_CONFIG)?.size().await?);
        }
        if let Some(output) = &result.output {
            sizes.push(shared.artifacts.open(&output.uri)?.size().await?);
        }
        Ok::<_, ArtifactError>(sizes.iter().all(Option::is_some))
    };
    match timeout(STORAGE_LIMIT, look).await {
        Ok(found) => found.map_err(|error| causes(&error)),
        Err(_) => Err("no answer in time".into()),
    }
}

/// Puts checkpoints on record that became durable while no daemon heard of it: their steps would be lost.
pub(super) async fn salvage(shared: &Shared, live: &Live) {
    let fence = live.fence;
    let found = async {
        let attempt = shared.artifacts.open(&live.origin.storage.attempt_uri)?;
        checkpoint::list(&attempt).await
    };
    let found = match timeout(STORAGE_LIMIT, found).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return warn!(job_id = %fence.job, error = causes(&error), "checkpoints cannot be looked for"),
        Err(_) => return warn!(job_id = %fence.job, "checkpoints cannot be looked for: storage does not answer"),
    };
    let known = match shared.store.checkpoints(fence.job).await {
        Ok(known) => known,
        Err(error) => return warn!(job_id = %fence.job, error = causes(&error), "checkpoints cannot be looked for"),
    };
    let newest = known.iter().filter(|(attempt, _)| *attempt == fence.attempt).map(|(_, known)| known.step).max();
    for damage in &found.damaged {
        warn!(job_id = %fence.job, error = causes(damage), "a checkpoint nobody had reported is damaged");
    }
    for checkpoint in missed(found.found, newest) {
        let step = checkpoint.step;
        let command = Command::Checkpointed { checkpoint: checkpoint.clone() };
        match shared.store.command(fence.job, Some(fence), command).await {
            Ok(_) => {
                info!(job_id = %fence.job, step, "a checkpoint nobody had reported is put on record");
                live.saved(checkpoint);
            }
            Err(error) => {
                return debug!(job_id = %fence.job, error = causes(&error), "a checkpoint is not put on record");
            }
        }
    }
}

/// The checkpoints after the newest that is on record, oldest first.
fn missed(mut found: Vec<CheckpointRef>, newest: Option<u64>) -> Vec<CheckpointRef> {
    found.retain(|checkpoint| newest.is_none_or(|newest| checkpoint.step > newest));
    found.sort_by_key(|checkpoint| checkpoint.step);
    found
}
