//! Which checkpoints of a job are kept, and the deletion of the others: only after the newest was read back whole, rows before objects, so that a row never
//! points at nothing. A kill between the two leaves objects that no row names, which the collection finds. Which stay is `domain::retention`'s to say. Called by the attempts, and by who shows what is kept.

use std::sync::Arc;

use mlctl_artifacts::{checkpoint, keys};
use mlctl_protocol::{JobId, spec::CheckpointPolicy};
use tracing::{debug, warn};

use super::{Shared, live::Live};
use crate::{
    domain::{
        causes,
        retention::checkpoints::{Candidate, Rules, Verdict},
    },
    store::{KeptCheckpoint, StoreError},
};

/// Deletes what is not to be kept whenever a checkpoint has become durable. Runs beside the attempt until it is dropped.
pub(super) async fn follow(shared: Arc<Shared>, live: Arc<Live>) {
    let mut durable = live.durable();
    while durable.changed().await.is_ok() {
        tidy(&shared, live.fence.job, &live.keep).await;
    }
}

/// A checkpoint on record, and what becomes of it.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The checkpoint.
    pub kept: KeptCheckpoint,
    /// Whether it stays, and why.
    pub verdict: Verdict,
    /// Whether it goes when the next one is taken.
    pub goes_next: bool,
}

/// A job's checkpoints, newest first, by what its spec and the settings say.
pub(super) async fn judged(shared: &Shared, job: JobId, policy: &CheckpointPolicy) -> Result<Vec<Judged>, StoreError> {
    let kept = shared.store.kept_checkpoints(job).await?;
    let rules = Rules::of(policy, shared.tuning().retention);
    let candidates: Vec<_> = kept.iter().map(candidate).collect();
    let verdicts = rules.judge(&candidates);
    let next = rules.go_next(&candidates, shared.clock.now());
    drop(candidates);
    let judged = kept.into_iter().zip(verdicts).zip(next);
    Ok(judged.map(|((kept, verdict), goes_next)| Judged { kept, verdict, goes_next }).collect())
}

const fn candidate(kept: &KeptCheckpoint) -> Candidate<'_> {
    let KeptCheckpoint { checkpoint, at, needed_by, .. } = kept;
    Candidate {
        at: *at,
        size_bytes: checkpoint.size_bytes,
        metrics: &checkpoint.metrics,
        is_needed: needed_by.is_some(),
    }
}

/// Deletes what is not to be kept.
pub(super) async fn tidy(shared: &Shared, job: JobId, policy: &CheckpointPolicy) {
    let judged = async {
        let judged = judged(shared, job, policy).await?;
        Ok::<_, StoreError>((judged.first().map(|newest| newest.kept.checkpoint.clone()), expired(judged)))
    };
    let (newest, gone) = match judged.await {
        Ok((Some(newest), expired)) if !expired.is_empty() => (newest, expired),
        Ok(_) => return,
        Err(error) => return warn!(job_id = %job, error = causes(&error), "checkpoints cannot be tidied"),
    };
    match checkpoint::verify(&shared.artifacts, &newest).await {
        Ok(found) if found.problems.is_empty() => {}
        Ok(found) => {
            let problem = found.problems.join("; ");
            return warn!(job_id = %job, uri = newest.uri, problem, "the newest checkpoint is damaged: the older ones stay");
        }
        Err(error) => {
            return warn!(job_id = %job, error = causes(&error), "the newest checkpoint cannot be verified: the older ones stay");
        }
    }
    delete(shared, job, gone).await;
}

/// Deletes a checkpoint that a person wants gone, unless it is the newest or something else needs it. Returns whether it did.
pub(super) async fn remove(shared: &Shared, job: JobId, uri: &str) -> Result<bool, StoreError> {
    let forgotten = shared.store.forget_checkpoints(job, vec![uri.to_owned()]).await?;
    if forgotten.is_empty() {
        return Ok(false);
    }
    if let Err(error) = checkpoint::delete(&shared.artifacts, uri).await {
        warn!(job_id = %job, uri, error = causes(&error), "objects of a removed checkpoint stay in storage");
    }
    Ok(true)
}

fn expired(judged: Vec<Judged>) -> Vec<String> {
    judged.into_iter().filter(|one| one.verdict.goes()).map(|one| one.kept.checkpoint.uri).collect()
}

async fn delete(shared: &Shared, job: JobId, gone: Vec<String>) {
    let instance = shared.store.instance();
    let homes: Vec<_> =
        instance.names().map(|name| format!("{}/", keys::job_uri(&shared.config.storage_url, &name, job))).collect();
    let own = gone.into_iter().filter(|uri| homes.iter().any(|home| uri.starts_with(home)));
    // What somebody has come to need since it was judged stays.
    let forgotten = match shared.store.forget_checkpoints(job, own.collect()).await {
        Ok(forgotten) => forgotten,
        Err(error) => return warn!(job_id = %job, error = causes(&error), "old checkpoints cannot be forgotten"),
    };
    debug!(job_id = %job, forgotten = forgotten.len(), "old checkpoints are deleted");
    for uri in forgotten {
        if let Err(error) = checkpoint::delete(&shared.artifacts, &uri).await {
            warn!(job_id = %job, uri, error = causes(&error), "objects of an old checkpoint stay in storage");
        }
    }
}
