//! When a checkpoint is due, that none is taken twice, and what a failing store means: a periodic checkpoint that fails is a
//! warning and is tried again, up to a limit; the last one of a run must succeed.

use std::time::Duration;

use mlctl_protocol::{ExitClass, message::ReportBody, result::CheckpointRef};

use super::{
    plan::Plan,
    state::{Content, RunState},
};
use crate::{fault::Fault, host::Host};

/// Periodic checkpoints that may fail one after the other.
const MAX_FAILURES: u32 = 3;

/// Seconds until a failed periodic checkpoint is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Where checkpoints are made durable: object storage, or a test's memory.
pub trait Vault {
    /// Makes a checkpoint durable: whole, or not there.
    ///
    /// # Errors
    /// When it is not durable.
    fn write(&mut self, run: &RunState, content: Content) -> Result<CheckpointRef, Fault>;
}

/// Takes checkpoints when they are due.
pub struct Saver<'a> {
    vault: &'a mut dyn Vault,
    /// The step of the last durable checkpoint, an earlier attempt's included.
    saved: Option<u64>,
    last: Duration,
    failures: u32,
    retry_at: Option<Duration>,
}

impl std::fmt::Debug for Saver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saver").field("saved", &self.saved).finish_non_exhaustive()
    }
}

impl<'a> Saver<'a> {
    /// A saver for a run that goes on from a checkpoint at step `saved`, or from the beginning.
    pub fn new(vault: &'a mut dyn Vault, saved: Option<u64>, now: Duration) -> Self {
        Self { vault, saved, last: now, failures: 0, retry_at: None }
    }

    /// Whether the policy asks for a checkpoint of this state now.
    #[must_use]
    pub fn is_due(&self, plan: &Plan, state: &RunState, now: Duration) -> bool {
        if self.has(state) {
            return false;
        }
        match self.retry_at {
            Some(at) => now >= at,
            None => plan.wants_checkpoint(state, now.saturating_sub(self.last)),
        }
    }

    /// Whether this state needs no checkpoint: it has one, or is where the run began.
    #[must_use]
    pub fn has(&self, state: &RunState) -> bool {
        self.saved.unwrap_or(0) == state.step
    }

    /// Takes a checkpoint that the run cannot do without.
    ///
    /// # Errors
    /// When it is not durable.
    pub fn save(
        &mut self,
        host: &dyn Host,
        state: &RunState,
        content: impl FnOnce() -> Result<Content, Fault>,
    ) -> Result<(), Fault> {
        if self.has(state) {
            return Ok(());
        }
        let checkpoint = self.vault.write(state, content()?)?;
        (self.saved, self.last) = (Some(state.step), host.elapsed());
        (self.failures, self.retry_at) = (0, None);
        host.report(ReportBody::Checkpoint { checkpoint })
    }

    /// Takes a checkpoint that the run can do without for a while.
    ///
    /// # Errors
    /// When it failed too often, or for a reason that will not pass.
    pub fn try_save(
        &mut self,
        host: &dyn Host,
        state: &RunState,
        content: impl FnOnce() -> Result<Content, Fault>,
    ) -> Result<(), Fault> {
        match self.save(host, state, content) {
            Err(fault)
                if self.failures < MAX_FAILURES && matches!(fault.class, ExitClass::Storage | ExitClass::Disk) =>
            {
                self.failures += 1;
                self.retry_at = Some(host.elapsed() + RETRY_AFTER);
                let (step, message) = (state.step, fault.message);
                host.report(ReportBody::Warning {
                    message: format!("the checkpoint at step {step} failed and is tried again: {message}"),
                })
            }
            result => result,
        }
    }
}
