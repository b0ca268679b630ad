//! Registers the models of jobs whose spec asks for it, when they have succeeded: woken by changes, and by the clock only while one could not be read. Run once by the daemon's lifecycle.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mlctl_protocol::JobId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{IsSound, Registry, RegistryError};
use crate::{
    domain::{Uid, causes},
    store::{StoreError, news},
};

/// Jobs looked for at a time.
const PAGE: u32 = 100;

/// The least time between two looks, however much changes.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a job is left alone whose model could not be read.
const AGAIN: Duration = Duration::from_secs(300);

/// Registers until `stop`, and nothing while the database is not to be relied on.
pub async fn run(registry: Registry, is_sound: IsSound, stop: CancellationToken) {
    let mut changes = registry.store.changes();
    let mut failed = BTreeMap::new();
    while !stop.is_cancelled() {
        // Before reading: what changes from here on wakes the wait below.
        changes.mark_unchanged();
        let next = if is_sound() {
            if let Some(Err(error)) = stop.run_until_cancelled(round(&registry, &mut failed)).await {
                warn!(error = causes(&error), "models cannot be registered for the moment");
            }
            failed.values().min().copied()
        } else {
            Some(Instant::now() + AGAIN)
        };
        stop.run_until_cancelled(news(&mut changes, PAUSE, next)).await;
    }
}

/// Registers what there is. `failed`: until when jobs are left alone.
async fn round(registry: &Registry, failed: &mut BTreeMap<JobId, Instant>) -> Result<(), StoreError> {
    let mut after = JobId(0);
    let mut listed = BTreeSet::new();
    loop {
        let page = registry.store.unregistered(after, PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        listed.extend(page.iter().map(|(job, _)| *job));
        for (job, model) in page {
            if failed.get(&job).is_some_and(|until| *until > Instant::now()) {
                continue;
            }
            match registry.register(&model, job, None, Uid::SYSTEM).await {
                Ok((version, _)) => {
                    failed.remove(&job);
                    info!(job_id = %job, model, version = version.version, "a version was registered");
                }
                // It was removed meanwhile.
                Err(RegistryError::Store(StoreError::NotFound(_))) => drop(failed.remove(&job)),
                Err(RegistryError::Store(error)) => return Err(error),
                Err(error) => {
                    let error = causes(&error);
                    match failed.insert(job, Instant::now() + AGAIN) {
                        None => warn!(job_id = %job, model, error, "a model cannot be registered yet"),
                        Some(_) => debug!(job_id = %job, model, error, "a model cannot be registered yet"),
                    }
                }
            }
        }
    }
    // Of one that was removed, or registered by a person, nothing is left to wait for.
    failed.retain(|job, _| listed.contains(job));
    Ok(())
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::{ExitClass, JobSpec, spec::Work};

    use super::*;
    use crate::registry::gc::tests::World;

    #[tokio::test]
    async fn a_job_that_could_not_be_registered_is_forgotten_once_it_is_removed() {
        let mut world = World::new().await;
        let registers = |spec: &mut JobSpec| {
            if let Work::Train(train) = &mut spec.work {
                train.register = Some("m".into());
            }
        };
        world.submit_with(None, registers).await;
        let id = JobId(1);
        world.claim(id).await;
        world.end(id, ExitClass::Ok).await;
        let config = format!("{}/model/1/config.json", world.home(id));
        world.stores.open(&config).unwrap().delete().await.unwrap();
        let mut failed = BTreeMap::new();
        round(&world.registry, &mut failed).await.unwrap();
        assert_eq!(failed.keys().collect::<Vec<_>>(), [&id]);
        round(&world.registry, &mut failed).await.unwrap();
        assert_eq!(failed.len(), 1, "it is tried again later");
        world.remove(id).await;
        round(&world.registry, &mut failed).await.unwrap();
        assert_eq!(failed, BTreeMap::new());
    }
}
