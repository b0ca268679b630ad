//! Which checkpoint a run goes on from: the first of the daemon's candidates, best first, that is whole and belongs to this job. One
//! that is damaged is passed over out loud; one of another run ends the job, since going on from it would be wrong and
//! beginning again would throw work away silently.

use candle_core::Device;
use mlctl_protocol::{message::ReportBody, result::CheckpointRef, spec::TrainSpec};

use super::{
    learner::Learner,
    state::{self, Found, Identity, Refusal},
};
use crate::{fault::Fault, host::Host, nn};

/// Why a candidate could not be read.
#[derive(Debug)]
pub enum Unreadable {
    /// It is damaged or gone: the next may do.
    This(String),
    /// The store does not answer: the next would not be read either.
    Store(Fault),
}

/// What a run is resumed with.
#[derive(Debug, Clone, Copy)]
pub struct Resume<'a> {
    /// The job.
    pub spec: &'a TrainSpec,
    /// What its checkpoints must be of.
    pub identity: &'a Identity,
    /// Threads of arithmetic.
    pub threads: u32,
    /// Where tensors live.
    pub device: &'a Device,
}

impl Resume<'_> {
    /// The learner as of the first usable candidate, with that candidate; the one of `beginning` when there is none. Tells the host which it
    /// is.
    ///
    /// # Errors
    /// When a candidate is of another run, the store does not answer, or the device fails.
    pub fn first_of(
        &self,
        candidates: &[CheckpointRef],
        host: &dyn Host,
        mut read: impl FnMut(&CheckpointRef) -> Result<Found, Unreadable>,
        beginning: impl FnOnce() -> Result<Learner, Fault>,
    ) -> Result<(Learner, Option<CheckpointRef>), Fault> {
        let mut skipped = Vec::new();
        for candidate in candidates {
            let why = match read(candidate) {
                Ok(found) => match self.learner(found, host) {
                    Ok(learner) => {
                        host.report(ReportBody::Resumed { from: candidate.clone(), skipped })?;
                        return Ok((learner, Some(candidate.clone())));
                    }
                    Err(Refusal::Foreign(fault)) => return Err(fault),
                    Err(Refusal::Corrupt(why)) => why,
                },
                Err(Unreadable::Store(fault)) => return Err(fault),
                Err(Unreadable::This(why)) => why,
            };
            skipped.push(format!("the checkpoint at step {} cannot be used: {why}", candidate.step));
        }
        if !skipped.is_empty() {
            let message = format!("training begins anew, from step 0: {}", skipped.join("; "));
            host.report(ReportBody::Warning { message })?;
        }
        Ok((beginning()?, None))
    }

    fn learner(&self, found: Found, host: &dyn Host) -> Result<Learner, Refusal> {
        let restored = state::decode(found, self.identity, &nn::layout(&self.spec.model))?;
        if restored.threads != self.threads {
            let (then, now) = (restored.threads, self.threads);
            let message =
                format!("the checkpoint was taken with {then} threads, and {now} go on: last digits may differ");
            host.report(ReportBody::Warning { message }).map_err(Refusal::Foreign)?;
        }
        Learner::resumed(self.spec, restored, self.device)
    }
}
