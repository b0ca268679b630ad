//! Whether this attempt can keep anything, asked before it begins: a store that will not let us, or lets one attempt overwrite another's checkpoint, is found in the
//! first second and not at the first checkpoint. A local disk needs no asking. And what an attempt does about a store that does not answer: it waits with its last results, and goes on from
//! checkpoints that earlier attempts could not send.

use std::time::Duration;

use mlctl_artifacts::{ArtifactError, Location, probe, spool};
use mlctl_protocol::{message::ReportBody, progress::StorageAway, result::CheckpointRef};

use crate::{fault::Fault, job::Job, orders::Orders};

/// Where in the attempt's folder something is written, read and deleted to see.
const PROBES: &str = "probe";

/// Tries the store.
///
/// # Errors
/// `spec` when it denies access or cannot create an object without overwriting another: what is wrong is not the job's, and a retry does not heal it. `storage`
/// when it does not answer.
pub fn check(job: Job<'_>) -> Result<(), Fault> {
    let failed = |error: &ArtifactError| Fault::before(error);
    let folder = job.stores.open(&job.start.storage.attempt_uri).map_err(|error| failed(&error))?;
    if !folder.is_remote() {
        return Ok(());
    }
    let probes = folder.join(PROBES).map_err(|error| failed(&error))?;
    let probed = match job.runtime.block_on(probe::run(&probes)) {
        // An attempt before this one found it fit, and has left work to go on from.
        Err(error @ ArtifactError::Unavailable { .. }) if !left_by_earlier(job).is_empty() => {
            tracing::warn!("the object storage does not answer: {error}");
            return Ok(());
        }
        probed => probed.map_err(|error| failed(&error))?,
    };
    match probed {
        Ok(()) => Ok(()),
        Err(unfit) => Err(Fault::spec(
            format!("the object storage at {} cannot keep checkpoints safely: {unfit}", folder.uri()),
            "name another store in storage.url of mld, or update this one's server; `mlctl doctor` asks it again",
        )),
    }
}

/// The folder of the job's attempts on this machine, where checkpoints may wait for the store.
fn attempts(job: Job<'_>) -> Option<Location> {
    let place = job.start.storage.spool.as_ref()?;
    let is_remote = job.stores.open(&job.start.storage.attempt_uri).is_ok_and(|folder| folder.is_remote());
    if is_remote { job.stores.open(&place.attempts_uri).ok() } else { None }
}

/// Checkpoints that earlier attempts of the job took while the store did not answer, and could not send: the latest first. What cannot be looked at is nobody's loss: they are
/// better than those in the store, and never the only ones.
#[must_use]
pub fn left_by_earlier(job: Job<'_>) -> Vec<CheckpointRef> {
    let Some(attempts) = attempts(job) else { return Vec::new() };
    let own = (job.id, job.attempt, job.start.spec_digest.as_str());
    job.runtime.block_on(spool::left_by_earlier(job.stores, &attempts, own)).unwrap_or_else(|error| {
        tracing::warn!("what earlier attempts left cannot be looked at: {error}");
        Vec::new()
    })
}

/// Forgets them: there is a better one.
pub fn clear_earlier(job: Job<'_>) {
    if let Some(attempts) = attempts(job)
        && let Err(error) = job.runtime.block_on(spool::clear_earlier(&attempts, job.attempt))
    {
        tracing::warn!("what earlier attempts left cannot be deleted: {error}");
    }
}

/// Between two tries of [`patiently`], and two looks at orders.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(100));

/// Does something that a job must not fail to do for want of a store: tries again while that does not answer, for as long as the settings say. The daemon is told why nothing moves, a person
/// `what` is the matter meanwhile.
///
/// # Errors
/// What it fails with in the end, or the order to end that came meanwhile.
pub fn patiently<T>(job: Job<'_>, what: &str, mut work: impl FnMut() -> Result<T, ArtifactError>) -> Result<T, Fault> {
    let Job { host, start, .. } = job;
    let seconds = start.storage.spool.as_ref().map_or(0, |place| place.wait_seconds);
    let (began, limit) = (host.elapsed(), Duration::from_secs(seconds.into()));
    let mut since = None;
    loop {
        let error = match work() {
            Err(error @ ArtifactError::Unavailable { .. }) if host.elapsed().saturating_sub(began) < limit => error,
            done => {
                if let Some(since) = since {
                    host.storage_away(None);
                    if done.is_ok() {
                        let message = format!("the object storage, which did not answer since {since}, is back");
                        host.report(ReportBody::Warning { message })?;
                    }
                }
                return done.map_err(|error| Fault::storage(&error));
            }
        };
        if since.is_none() {
            let now = host.now_rfc3339();
            let message = format!(
                "the object storage does not answer since {now}: {what}, {seconds} seconds at most ({})",
                Fault::storage(&error).message
            );
            host.report(ReportBody::Warning { message })?;
            host.storage_away(Some(StorageAway { since: now.clone(), waiting: true, ..StorageAway::default() }));
            since = Some(now);
        }
        pause(job)?;
    }
}

fn pause(job: Job<'_>) -> Result<(), Fault> {
    let (mut orders, until) = (Orders::default(), job.host.elapsed() + PAUSES.0);
    while job.host.elapsed() < until {
        orders.poll(job.host);
        if let Some(ending) = orders.ending() {
            return Err(ending.fault.clone());
        }
        std::thread::sleep(PAUSES.1);
    }
    Ok(())
}
