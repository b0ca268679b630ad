//! When a checkpoint is due, that none is taken twice, and what a failing store means: while it does not answer checkpoints wait on this machine, and are told of when they are in it; a
//! periodic checkpoint that is kept nowhere is a warning and is tried again, up to a limit; the last one of a run must succeed.

use std::time::Duration;

use mlctl_artifacts::spool::{Away, Kept, News};
use mlctl_protocol::{ExitClass, message::ReportBody, progress::StorageAway};

use super::{
    plan::Plan,
    state::{Content, RunState},
};
use crate::{fault::Fault, host::Host};

/// Periodic checkpoints that may fail one after the other.
const MAX_FAILURES: u32 = 3;

/// Seconds until a failed periodic checkpoint is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Between two looks at what waits, by a run that has nothing else to do.
const LOOK: Duration = Duration::from_millis(100);

/// Where checkpoints are made durable: object storage, or a test's memory.
pub trait Vault {
    /// Makes a checkpoint durable: whole, or not there.
    ///
    /// # Errors
    /// When it is not durable.
    fn write(&mut self, run: &RunState, content: Content) -> Result<Kept, Fault>;

    /// What has become of checkpoints that waited for the store.
    fn news(&mut self) -> Vec<News> {
        Vec::new()
    }

    /// What waits for the store, while it does not answer.
    fn away(&self) -> Option<Away> {
        None
    }

    /// What a store that refuses means.
    fn refused(&self, error: &mlctl_artifacts::ArtifactError) -> Fault {
        Fault::storage(error)
    }
}

/// Takes checkpoints when they are due.
pub struct Saver<'a> {
    vault: &'a mut dyn Vault,
    /// The step of the last durable checkpoint, an earlier attempt's included.
    saved: Option<u64>,
    last: Duration,
    failures: u32,
    retry_at: Option<Duration>,
    /// Since when the store does not answer, and checkpoints given up since then.
    absence: Option<(String, u64)>,
}

impl std::fmt::Debug for Saver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saver").field("saved", &self.saved).finish_non_exhaustive()
    }
}

impl<'a> Saver<'a> {
    /// A saver for a run that goes on from a checkpoint at step `saved`, or from the beginning.
    pub fn new(vault: &'a mut dyn Vault, saved: Option<u64>, now: Duration) -> Self {
        Self { vault, saved, last: now, failures: 0, retry_at: None, absence: None }
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
        let kept = self.vault.write(state, content()?)?;
        (self.saved, self.last) = (Some(state.step), host.elapsed());
        (self.failures, self.retry_at) = (0, None);
        match kept {
            Kept::Stored(checkpoint) => host.report(ReportBody::Checkpoint { checkpoint }),
            Kept::Waiting => {
                host.storage_away(self.vault.away().map(|away| told(&away, false)));
                self.catch_up(host)
            }
        }
    }

    /// Tells what has become of checkpoints that waited for the store: one that has arrived there is durable from now on.
    ///
    /// # Errors
    /// When the store refuses what waits, or nobody takes reports any more.
    pub fn catch_up(&mut self, host: &dyn Host) -> Result<(), Fault> {
        let news = self.vault.news();
        if news.is_empty() {
            return Ok(());
        }
        host.storage_away(self.vault.away().map(|away| told(&away, false)));
        for news in news {
            let message = match news {
                News::Sent(checkpoint) => {
                    host.report(ReportBody::Checkpoint { checkpoint })?;
                    continue;
                }
                News::Refused(error) => return Err(self.vault.refused(&error)),
                News::Away { since, why } => {
                    self.absence = Some((since.clone(), 0));
                    format!(
                        "the object storage does not answer since {since}: training goes on, checkpoints wait on this machine and are sent when it is back ({why})"
                    )
                }
                News::Lost { step, why } => {
                    let lost = self.absence.get_or_insert_default();
                    lost.1 += 1;
                    if lost.1 > 1 {
                        continue;
                    }
                    format!(
                        "the checkpoint at step {step} is given up, and so are others before the store is back: {why}"
                    )
                }
                News::Back { sent } => {
                    let (since, lost) = self.absence.take().unwrap_or_default();
                    let gone = if lost > 0 { format!(", {lost} older ones were given up") } else { String::new() };
                    format!(
                        "the object storage, which did not answer since {since}, is back: {} sent{gone}",
                        count(sent)
                    )
                }
            };
            host.report(ReportBody::Warning { message })?;
        }
        Ok(())
    }

    /// Waits until nothing waits for the store any more, for so long at most, or until `ended`. Answers with what waits still.
    ///
    /// # Errors
    /// As [`Self::catch_up`].
    pub fn flush(
        &mut self,
        host: &dyn Host,
        limit: Duration,
        mut ended: impl FnMut() -> bool,
    ) -> Result<Option<Away>, Fault> {
        let began = host.elapsed();
        loop {
            self.catch_up(host)?;
            let Some(away) = self.vault.away() else { return Ok(None) };
            if host.elapsed().saturating_sub(began) >= limit || ended() {
                return Ok(Some(away));
            }
            host.storage_away(Some(told(&away, true)));
            std::thread::sleep(LOOK);
        }
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

/// What heartbeats say of a store that is away.
fn told(away: &Away, waiting: bool) -> StorageAway {
    StorageAway { since: away.since.clone(), checkpoints: away.checkpoints, bytes: away.bytes, waiting }
}

/// `1 checkpoint`, `2 checkpoints`.
pub(super) fn count(checkpoints: u64) -> String {
    format!("{checkpoints} checkpoint{}", if checkpoints == 1 { "" } else { "s" })
}
