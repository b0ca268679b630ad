//! Which checkpoints of a job are kept, and the deletion of the others: only after the newest was read back whole, objects before rows, so that a row never
//! points at nothing for longer than it takes to delete it. Called by the attempts.

use std::sync::Arc;

use mlctl_artifacts::{checkpoint, keys};
use mlctl_protocol::{JobId, result::CheckpointRef};
use tracing::{debug, warn};

use super::{Shared, live::Live};
use crate::domain::causes;

/// Deletes what is too many whenever a checkpoint has become durable. Runs beside the attempt until it is dropped.
pub(super) async fn follow(shared: Arc<Shared>, live: Arc<Live>) {
    let mut durable = live.durable();
    while durable.changed().await.is_ok() {
        tidy(&shared, live.fence.job, live.keep).await;
    }
}

/// Keeps the newest `keep` checkpoints of a job.
pub(super) async fn tidy(shared: &Shared, job: JobId, keep: u32) {
    let checkpoints = match shared.store.checkpoints(job).await {
        Ok(checkpoints) => checkpoints.into_iter().map(|(_, checkpoint)| checkpoint).collect::<Vec<_>>(),
        Err(error) => return warn!(job_id = %job, error = causes(&error), "checkpoints cannot be tidied"),
    };
    let (Some(newest), expired) = (checkpoints.first(), expired(&checkpoints, keep)) else { return };
    if expired.is_empty() {
        return;
    }
    match checkpoint::verify(&shared.artifacts, newest).await {
        Ok(found) if found.problems.is_empty() => {}
        Ok(found) => {
            let problem = found.problems.join("; ");
            return warn!(job_id = %job, uri = newest.uri, problem, "the newest checkpoint is damaged: the older ones stay");
        }
        Err(error) => {
            return warn!(job_id = %job, error = causes(&error), "the newest checkpoint cannot be verified: the older ones stay");
        }
    }
    let instance = shared.store.instance();
    let homes: Vec<_> =
        instance.names().map(|name| format!("{}/", keys::job_uri(&shared.config.storage_url, &name, job))).collect();
    let mut deleted = Vec::new();
    for checkpoint in expired {
        if !homes.iter().any(|home| checkpoint.uri.starts_with(home)) {
            continue;
        }
        match checkpoint::delete(&shared.artifacts, &checkpoint.uri).await {
            Ok(()) => deleted.push(checkpoint.uri.clone()),
            Err(error) => warn!(job_id = %job, error = causes(&error), "an old checkpoint cannot be deleted"),
        }
    }
    debug!(job_id = %job, deleted = deleted.len(), "old checkpoints were deleted");
    if let Err(error) = shared.store.forget_checkpoints(job, deleted).await {
        warn!(job_id = %job, error = causes(&error), "deleted checkpoints are still on record");
    }
}

/// All but the first `keep`, and never all. `newest_first` is in that order.
fn expired(newest_first: &[CheckpointRef], keep: u32) -> &[CheckpointRef] {
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
    newest_first.get(keep..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_never_none() {
        let all: Vec<CheckpointRef> = (1..=5)
            .rev()
            .map(|step| CheckpointRef {
                step,
                epoch: 0,
                uri: step.to_string(),
                size_bytes: 0,
                manifest_digest: String::new(),
                metrics: Default::default(),
            })
            .collect();
        for (have, keep, gone) in
            [(5, 3, vec![2, 1]), (5, 0, vec![4, 3, 2, 1]), (5, 5, vec![]), (2, 3, vec![]), (0, 1, vec![])]
        {
            let steps: Vec<u64> = expired(&all[5 - have..], keep).iter().map(|checkpoint| checkpoint.step).collect();
            let expected: Vec<u64> = gone.into_iter().filter(|step| *step <= have as u64).collect();
            assert_eq!(steps, expected, "{have} {keep}");
        }
    }
}
