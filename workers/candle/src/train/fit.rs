//! Training from prepared rows to final weights: opens the device, takes the best checkpoint, runs the session. What comes before
//! (reading data) and after (publishing) is in `mod.rs`.

use std::time::Duration;

use mlctl_protocol::{
    result::CheckpointRef,
    spec::{SplitPart, TrainSpec},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    learner::Learner,
    plan::Plan,
    resume::Resume,
    saver::Saver,
    session::{ConfigOf, Session, Trained, Work},
    state::Identity,
    vault::{self, ObjectVault},
};
use crate::{bundle::read::read_initial, data::rows::Source, device, fault::Fault, job::Job, nn, storage};

/// A job's data, ready to train on.
pub struct Prepared<'a, C> {
    /// The rows.
    pub source: &'a dyn Source,
    /// Where streamed rows lie, for checkpoints.
    pub index: Option<&'a RawValue>,
    /// BLAKE3 of the dataset, 64 hexadecimal digits.
    pub dataset_digest: &'a str,
    /// What the store called the version of the data that was read.
    pub dataset_version: Option<&'a str>,
    /// The model's config as of a step and its metrics.
    pub config: ConfigOf<'a, C>,
}

impl<C> std::fmt::Debug for Prepared<'_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("dataset_digest", &self.dataset_digest).finish_non_exhaustive()
    }
}

/// Trains to the end, from the best checkpoint the daemon knows of.
///
/// # Errors
/// As [`Session::train`], and when the spec asks for what cannot be: no rows, no end, a device that is not there, a checkpoint
/// of another run.
pub fn fit<C: Serialize>(job: Job<'_>, spec: &TrainSpec, prepared: &Prepared<'_, C>) -> Result<Trained, Fault> {
    let Prepared { source, dataset_digest, config, .. } = *prepared;
    let Job { start, host, .. } = job;
    let device = &device::open(&start.spec.resources)?;
    let plan = &Plan::new(spec, &start.spec.checkpoint, source.count(SplitPart::Train))?;
    if !spec.select.is_default() && source.count(SplitPart::Validation) == 0 {
        return Err(Fault::spec(
            "no row is left to validate on, and train.select chooses by that",
            "raise split.validation, bring more data, or leave train.select out",
        ));
    }
    let identity =
        &Identity::new(spec, dataset_digest)?.of_version(prepared.dataset_version).with_index(prepared.index);
    let values = nn::values(&nn::layout(&spec.model));
    let threads = start.threads;
    let beginning = || match &spec.init {
        Some(init) => Learner::from_weights(spec, read_initial(job, init, &spec.model)?, device),
        None => Learner::fresh(spec, device),
    };
    let read = |candidate: &_| vault::read(job, candidate, values);
    let left = storage::left_by_earlier(job);
    let candidates = best_first(&start.resume, &left);
    let (learner, from) = Resume { spec, identity, threads, device }.first_of(&candidates, host, read, beginning)?;
    // What an earlier attempt left on this machine is this attempt's to send.
    let stored = from.filter(|from| !left.iter().any(|left| left.uri == from.uri));
    let run = learner.run();
    let mut vault = ObjectVault::new(job, dataset_digest, stored.as_ref().map(|from| from.uri.clone()))?;
    let mut saver = Saver::new(&mut vault, stored.map(|from| from.step), host.elapsed());
    if !saver.has(run) {
        saver.try_save(host, run, || learner.content(identity, threads, &config(run.step, &run.metrics)))?;
    }
    if saver.has(run) && left.iter().all(|left| left.step <= run.step) {
        storage::clear_earlier(job);
    }
    let seconds = start.storage.spool.as_ref().map_or(0, |place| place.wait_seconds);
    let patience = Duration::from_secs(seconds.into());
    let work = Work { spec, plan, source, identity, threads, device, host, patience };
    Session::new(work, config, saver, learner).train()
}

/// The daemon's candidates and those on this machine, which are worth more only where they are further.
fn best_first(stored: &[CheckpointRef], left: &[CheckpointRef]) -> Vec<CheckpointRef> {
    let best = stored.first().map_or(0, |stored| stored.step);
    let (further, others): (Vec<_>, Vec<_>) = left.iter().cloned().partition(|left| left.step > best);
    further.into_iter().chain(stored.iter().cloned()).chain(others).collect()
}
