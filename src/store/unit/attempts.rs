//! What attempts do: they begin, report, are heard of and end. Called by the unit.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::{
    AttemptNumber, ExitClass, JobId, message::ReportBody, progress::MetricPoint, result::CheckpointRef,
};

use super::{
    super::{
        StoreError,
        ask::Claim,
        error::Fault,
        held::HeldAttempt,
        types::{Beat, NewAttempt},
    },
    Unit,
};
use crate::domain::{Command, Event, Exit, Fence, Refusal, state};

/// A job runs, and the attempt that its row names is not there: the group must not go on.
const MISSING: Fault = Fault::Guard { statement: "read the attempt under way", expected: 1, changed: 0 };

impl Unit {
    pub(super) fn claim(&mut self, id: JobId, attempt: &NewAttempt) -> Result<Result<Box<Claim>, StoreError>, Fault> {
        // It was let through its gate when it was read, and has been held or has ended since.
        if let Some(held) = self.jobs.get(&id).filter(|held| held.is_gated()) {
            let state = held.job.state.name();
            return Ok(Err(Refusal::WrongState { job: id, state, verb: "started: others have its place" }.into()));
        }
        let token = self.ledger.next_token();
        let NewAttempt { gpus, secret_hash, lease_until, process } = attempt;
        let mut job = match self.decide(id, None, &Command::Claim { token, gpus: gpus.clone() })? {
            Ok(job) => job,
            Err(error) => {
                self.ledger.put_back_token();
                return Ok(Err(error));
            }
        };
        let fence = Fence { job: id, attempt: AttemptNumber(job.attempt), token };
        // As the commands before this one left them, or as they were read.
        let held = self.attempts.values().find_map(|held| held.metrics_of(id, job.attempt.saturating_sub(1)));
        let metrics = held.or_else(|| self.earlier.get(&id)).cloned().unwrap_or_default();
        self.attempts.insert(token, HeldAttempt::new(fence, self.now, secret_hash, *lease_until, metrics));
        if let Some(process) = process.clone() {
            job = match self.decide(id, Some(fence), &Command::Launched { process })? {
                Ok(job) => job,
                Err(error) => return Ok(Err(error)),
            };
        }
        let spec = self.specs.get(&id).cloned().unwrap_or_default();
        let checkpoints = self.checkpoints.get(&id).cloned().unwrap_or_default();
        Ok(Ok(Box::new(Claim { job, token, spec, checkpoints })))
    }

    pub(super) fn report(
        &mut self,
        fence: Fence,
        seq: u64,
        body: &ReportBody,
    ) -> Result<Result<u64, StoreError>, Fault> {
        if let Err(error) = self.hold(fence) {
            return Ok(Err(error));
        }
        let taken = self.attempt(fence)?.last_seq;
        if seq <= taken {
            return Ok(Ok(taken));
        }
        let command = match body {
            ReportBody::Metrics { .. } | ReportBody::Finished { .. } | ReportBody::Unknown => None,
            ReportBody::Resumed { from, skipped } => {
                Some(Command::Resumed { step: from.step, skipped: skipped.clone() })
            }
            ReportBody::Checkpoint { checkpoint } => Some(Command::Checkpointed { checkpoint: checkpoint.clone() }),
            ReportBody::Warning { message } => Some(Command::Warned { message: message.clone() }),
        };
        if let Some(command) = command
            && let Err(error) = self.decide(fence.job, Some(fence), &command)?
        {
            return Ok(Err(error));
        }
        if let ReportBody::Checkpoint { checkpoint } = body {
            self.halve(fence.job, checkpoint)?;
        }
        let (result, points, metrics) = match body {
            ReportBody::Finished { result } => {
                (Some(serde_json::to_string(result)?), [].as_slice(), result.metrics.clone())
            }
            ReportBody::Metrics { points } => (None, points.as_slice(), last_values(points)),
            _ => (None, [].as_slice(), BTreeMap::new()),
        };
        self.attempt(fence)?.report(seq, result, &metrics)?;
        self.writes.points(fence, points)?;
        Ok(Ok(seq))
    }

    /// A member of an array whose checkpoint shows that others do better is asked to end, in the transaction that keeps the checkpoint.
    fn halve(&mut self, id: JobId, checkpoint: &CheckpointRef) -> Result<(), Fault> {
        let Some(held) = self.jobs.get(&id) else { return Ok(()) };
        if let Some(command) = self.rungs.judge(&held.job, checkpoint)? {
            // It runs and nothing else was asked of it: it takes that.
            drop(self.decide(id, None, &command)?);
        }
        Ok(())
    }

    pub(super) fn beat(&mut self, beat: &Beat) -> Result<Result<(), StoreError>, Fault> {
        if let Err(error) = self.hold(beat.fence) {
            return Ok(Err(error));
        }
        let now = self.now;
        self.attempt(beat.fence)?.beat(beat, now)?;
        Ok(Ok(()))
    }

    pub(super) fn forget(&mut self, id: JobId, uris: &[String]) -> Result<Result<Vec<String>, StoreError>, Fault> {
        let Some(held) = self.jobs.get(&id) else { return Ok(Err(StoreError::NotFound(id.to_string()))) };
        // The newest is what the next attempt starts from: the row would point at nothing.
        let newest = held.job.checkpoint.as_ref().map(|checkpoint| &checkpoint.uri);
        let mut forgotten = Vec::with_capacity(uris.len());
        for uri in uris.iter().filter(|uri| Some(*uri) != newest) {
            if self.kept.forget(uri) {
                self.writes.forgotten.push(&[id.into(), uri.into()]);
                forgotten.push(uri.clone());
            }
        }
        Ok(Ok(forgotten))
    }

    /// The attempt that holds its job.
    fn attempt(&mut self, fence: Fence) -> Result<&mut HeldAttempt, Fault> {
        self.attempts.get_mut(&fence.token).ok_or(MISSING)
    }

    /// Whether an attempt still holds its job.
    fn hold(&self, fence: Fence) -> Result<(), StoreError> {
        let held = self.jobs.get(&fence.job).is_some_and(|held| state::holds(&held.job, fence));
        if held { Ok(()) } else { Err(Refusal::Stale { job: fence.job, attempt: fence.attempt }.into()) }
    }
}

/// The last value of each metric.
fn last_values(points: &[MetricPoint]) -> BTreeMap<String, f64> {
    points.iter().flat_map(|point| point.values.clone()).collect()
}

/// What an event changes of the attempt under way. It was read, or the command had no fence: then nothing of it changes.
pub(super) fn attempt_effect(held: Option<&mut HeldAttempt>, event: &Event, now: Timestamp) -> Result<(), Fault> {
    let exit = match event {
        Event::Launched { process, .. } => return Ok(held.ok_or(MISSING)?.launch(process)?),
        Event::Succeeded { .. } => &Exit { class: ExitClass::Ok, message: None, hint: None },
        Event::Expired { .. } => return Ok(()),
        Event::Failed { exit, .. }
        | Event::Requeued { exit, .. }
        | Event::Quarantined { exit, .. }
        | Event::Paused { exit, .. }
        | Event::Cancelled { exit: Some(exit), .. } => exit,
        Event::Submitted { .. }
        | Event::Claimed { .. }
        | Event::Resumed { .. }
        | Event::Checkpointed { .. }
        | Event::Warned { .. }
        | Event::Intended { .. }
        | Event::Replaced { .. }
        | Event::Pausing { .. }
        | Event::Yielding { .. }
        | Event::Cancelled { exit: None, .. }
        | Event::Concluded { .. }
        | Event::Retried { .. }
        | Event::Held { .. }
        | Event::Released { .. }
        | Event::Removed { .. }
        | Event::Unblocked
        | Event::Unmet(_)
        | Event::Waived { .. }
        | Event::Edited { .. } => return Ok(()),
    };
    Ok(held.ok_or(MISSING)?.end(exit, now)?)
}
