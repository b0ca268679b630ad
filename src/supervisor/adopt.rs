//! What a new daemon finds: attempts that an earlier one had under way. Each is proven alive and taken over, or proven dead and ended; nothing is assumed from the
//! time that has passed. Called once, before the workers' socket is served and the first job is dispatched.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Shared,
    attempt::Task,
    core::{Event, Origin, Reason, Times},
    executor::Found,
    live::{Birth, Live},
    remains,
    secret::SecretHash,
};
use crate::{
    domain::{Fence, Job},
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
    let running = shared.store.running().await?;
    end_strays(shared, &running).await;
    for (job, found) in running {
        if one(shared, job, found).await? {
            adoption.adopted += 1;
        } else {
            adoption.ended += 1;
        }
    }
    Ok(adoption)
}

/// Ends what no attempt on record has as its worker: after a restore, the workers of the time that it undid. Those could commit nothing, but may hang and hold what is given away anew.
async fn end_strays(shared: &Shared, running: &[(Job, Attempt)]) {
    let known = running.iter().filter_map(|(_, found)| {
        let Fence { job, attempt, .. } = found.fence;
        Some((found.process.clone()?, shared.attempt_dir(job, attempt)))
    });
    let strays = shared.executor.end_strays(&known.collect::<Vec<_>>()).await;
    if strays > 0 {
        warn!(processes = strays, "processes of attempts that are not on record were ended");
    }
}

/// Whether it lives.
async fn one(shared: &Arc<Shared>, job: Job, found: Attempt) -> Result<bool, StoreError> {
    let fence = found.fence;
    let spec = shared.store.spec(fence.job).await?;
    let origin = Origin {
        acked: found.last_seq,
        result: found.result.clone(),
        progress: found.progress.clone(),
        ..shared.origin(fence, &job)
    };
    let birth = Birth {
        origin,
        array_index: job.array.as_ref().map(|member| member.index),
        gpus: job.gpus.clone(),
        keep: spec.checkpoint.clone(),
        preemptible: job.preemptible,
        planned_limit_seconds: spec.time.limit_seconds,
        times: Times::of(&job, spec.time.limit_seconds),
        secret: SecretHash::from_bytes(found.secret_hash),
    };
    let live = Arc::new(Live::new(birth, Instant::now()));
    live.saw_vram(found.used.and_then(|used| used.peak_vram_bytes).unwrap_or(0));
    shared.insert(live.clone());
    let Some(process) = found.process.clone() else {
        shared.tasks.spawn(Task::new(shared.clone(), live).run(Event::NeverLaunched));
        return Ok(false);
    };
    // Of an epoch before: a backup was put back. What it has said since nobody knows, so that it cannot go on; what it has saved is found in storage.
    if Instance::epoch_of(fence.token) < shared.store.instance().epoch {
        live.end(Reason::Restored);
    }
    live.obey(&job);
    let dir = shared.attempt_dir(fence.job, fence.attempt);
    match shared.executor.find(&process, &dir).await {
        Found::Alive(worker) => {
            let earlier = shared.store.checkpoints(fence.job).await?;
            let resume =
                earlier.into_iter().filter(|(made_by, _)| *made_by < fence.attempt).map(|(_, checkpoint)| checkpoint);
            live.prepare(shared.start_message(&live, spec, job.spec_digest.clone(), resume.collect()));
            let has_result = found.result.is_some() || remains::has_result(shared, fence);
            info!(job_id = %fence.job, attempt = %fence.attempt, pid = process.pid, "job {} goes on, its worker is adopted", fence.job);
            shared.tasks.spawn(Task::of(shared.clone(), live, worker).run(Event::Adopted { has_result }));
            Ok(true)
        }
        Found::Dead => {
            shared.tasks.spawn(Task::new(shared.clone(), live).run(Event::FoundDead));
            Ok(false)
        }
        Found::Elsewhere => {
            let host = process.host;
            warn!(job_id = %fence.job, host, "a worker was started on another host: its lease is waited for");
            let left = found.lease_until.duration_since(shared.clock.now());
            let left = Duration::try_from(left).unwrap_or_default().min(shared.tuning().limits.lease);
            shared.tasks.spawn(Task::new(shared.clone(), live).run(Event::Elsewhere { host, left }));
            Ok(true)
        }
    }
}
