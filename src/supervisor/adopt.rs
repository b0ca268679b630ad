//! What a new daemon finds: attempts that an earlier one had under way. Each is proven alive and taken over, or proven dead and ended; nothing is assumed from the
//! time that has passed. Called once, before the workers' socket is served and the first job is dispatched.

use std::{sync::Arc, time::Duration};

use mlctl_protocol::ExitClass;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Shared, attempt,
    end::Verdict,
    executor::{Ended, Found},
    kill::Reason,
    live::{Birth, Live, Times},
    secret::SecretHash,
};
use crate::{
    domain::{Exit, Job, event::ProcessIdentity},
    store::{Attempt, Instance, StoreError},
};

/// What became of the attempts under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Alive and taken over.
    pub adopted: u32,
    /// Dead, and being ended.
    pub ended: u32,
}

/// Takes over what lives and ends what does not. The ends themselves are put on record by tasks that go on afterwards.
pub(super) async fn all(shared: &Arc<Shared>) -> Result<Adoption, StoreError> {
    let mut adoption = Adoption::default();
    for (job, found) in shared.store.running().await? {
        if one(shared, job, found).await? {
            adoption.adopted += 1;
        } else {
            adoption.ended += 1;
        }
    }
    Ok(adoption)
}

/// Whether it lives.
async fn one(shared: &Arc<Shared>, job: Job, found: Attempt) -> Result<bool, StoreError> {
    let fence = found.fence;
    let spec = shared.store.spec(fence.job).await?;
    let birth = Birth {
        fence,
        kind: job.kind.clone(),
        array_index: job.array.as_ref().map(|member| member.index),
        resources: job.resources.clone(),
        gpus: job.gpus.clone(),
        storage: shared.storage(fence),
        keep: spec.checkpoint.keep,
        preemptible: job.preemptible,
        planned_limit_seconds: spec.time.limit_seconds,
        times: Times::of(&job, spec.time.limit_seconds),
        secret: SecretHash::from_bytes(found.secret_hash),
        acked: found.last_seq,
        result: found.result.clone(),
        progress: found.progress.clone(),
    };
    let live = Arc::new(Live::new(birth, Instant::now()));
    shared.insert(live.clone());
    let Some(process) = found.process.clone() else {
        shared.tasks.spawn(never_launched(shared.clone(), live));
        return Ok(false);
    };
    // Of an epoch before: a backup was put back. What it has said since nobody knows, so that it cannot go on; what it has saved is found in storage.
    if Instance::epoch_of(fence.token) < shared.store.instance().epoch {
        live.end(Reason::Restored);
    }
    let dir = shared.attempt_dir(fence.job, fence.attempt);
    match shared.executor.find(&process, &dir).await {
        Found::Alive(worker) => {
            let earlier = shared.store.checkpoints(fence.job).await?;
            let resume =
                earlier.into_iter().filter(|(made_by, _)| *made_by < fence.attempt).map(|(_, checkpoint)| checkpoint);
            let start = shared.start_message(&live, spec, job.spec_digest.clone(), resume.collect());
            live.release(start);
            attempt::obey(&live, &job);
            if found.result.is_some() || attempt::has_result(shared, fence) {
                live.end(Reason::Finished);
            }
            info!(job_id = %fence.job, attempt = %fence.attempt, pid = process.pid, "job {} goes on, its worker is adopted", fence.job);
            shared.tasks.spawn(attempt::watch(shared.clone(), live, worker));
            Ok(true)
        }
        Found::Dead => {
            attempt::obey(&live, &job);
            let shared = shared.clone();
            shared.tasks.clone().spawn(async move {
                let reason = live.ending().borrow().clone();
                attempt::conclude(&shared, &live, Ended::Unknown, reason.as_ref()).await;
            });
            Ok(false)
        }
        Found::Elsewhere => {
            let left = found.lease_until.duration_since(shared.clock.now());
            let left = Duration::try_from(left).unwrap_or_default().min(shared.config.limits.lease);
            shared.tasks.spawn(out_of_reach(shared.clone(), live, process, left));
            Ok(true)
        }
    }
}

/// No process was put on record, so none was ever told to work; one that still comes up is refused. Not the job's fault.
async fn never_launched(shared: Arc<Shared>, live: Arc<Live>) {
    let message = "the daemon ended between claiming the job and starting its worker".to_owned();
    let exit = Exit { class: ExitClass::Preempted, message: Some(message), hint: None };
    attempt::finish(&shared, &live, Verdict { exit, model: None, output: None }, None).await;
}

/// The state directory has come from another host, where the worker may still run. No proof can be had from here; without its daemon it ends itself once
/// its lease is over, and its token is refused everywhere.
async fn out_of_reach(shared: Arc<Shared>, live: Arc<Live>, process: ProcessIdentity, left: Duration) {
    let host = process.host;
    warn!(job_id = %live.fence.job, host, "a worker was started on another host: its lease is waited for");
    if shared.stop.run_until_cancelled(tokio::time::sleep(left)).await.is_none() {
        return;
    }
    let message = format!("the worker was started on host {host}, which is not this one; its lease has ended");
    let exit = Exit { class: ExitClass::Lost, message: Some(message), hint: None };
    attempt::finish(&shared, &live, Verdict { exit, model: None, output: None }, None).await;
}
