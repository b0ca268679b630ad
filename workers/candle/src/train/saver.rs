//! When a checkpoint is due, that none is taken twice, that one at a time is on its way while training goes on, and what a failing store means: while it does not answer checkpoints wait on this machine, and are told of when they are in it; a
//! periodic checkpoint that is kept nowhere is a warning and is tried again, up to a limit; the last one of a run must succeed.

use std::time::Duration;

use mlctl_artifacts::spool::{Away, Kept, News};
use mlctl_protocol::{ExitClass, message::ReportBody, progress::StorageAway};

use super::{
    flight::{Flight, Landing},
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
    /// Begins to make a checkpoint durable: whole, or not there. Called when the one before it is over.
    fn write(&mut self, run: &RunState, content: Content) -> Flight;

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
    /// When the last one was begun.
    last: Duration,
    failures: u32,
    retry_at: Option<Duration>,
    /// The one on its way, and its step.
    flight: Option<(u64, Flight)>,
    /// Whether one is to be taken as soon as none is on its way.
    owed: bool,
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
        Self { vault, saved, last: now, failures: 0, retry_at: None, flight: None, owed: false, absence: None }
    }

    /// Has a checkpoint be taken as soon as none is on its way.
    pub const fn wish(&mut self) {
        self.owed = true;
    }

    /// Whether a checkpoint of this state is to be taken now: the policy asks for one, or one is wished for, or was due while another was on its way.
    pub fn is_due(&mut self, plan: &Plan, state: &RunState, now: Duration) -> bool {
        if self.has(state) {
            self.owed = false;
            return false;
        }
        self.owed |= match self.retry_at {
            Some(at) => now >= at,
            None => plan.wants_checkpoint(state, now.saturating_sub(self.last)),
        };
        self.owed && self.flight.is_none()
    }

    /// Whether this state needs no checkpoint: it has one, or is where the run began.
    #[must_use]
    pub fn has(&self, state: &RunState) -> bool {
        self.saved.unwrap_or(0) == state.step
    }

    /// Begins a checkpoint, while none is on its way. What becomes of it is heard by [`Self::catch_up`].
    pub fn begin(&mut self, host: &dyn Host, state: &RunState, content: Content) {
        (self.last, self.retry_at, self.owed) = (host.elapsed(), None, false);
        self.flight = Some((state.step, self.vault.write(state, content)));
    }

    /// Takes a checkpoint that the run cannot do without, and waits for it.
    ///
    /// # Errors
    /// When it is not durable.
    pub fn save(
        &mut self,
        host: &dyn Host,
        state: &RunState,
        content: impl FnOnce() -> Result<Content, Fault>,
    ) -> Result<(), Fault> {
        self.land(host)?;
        if self.has(state) {
            return Ok(());
        }
        self.begin(host, state, content()?);
        let Some((step, flight)) = self.flight.take() else { return Ok(()) };
        self.landed(host, step, flight.wait()?)?;
        self.catch_up(host)
    }

    /// Takes a checkpoint that the run can do without for a while, and waits for it.
    ///
    /// # Errors
    /// As [`Self::land`].
    pub fn try_save(
        &mut self,
        host: &dyn Host,
        state: &RunState,
        content: impl FnOnce() -> Result<Content, Fault>,
    ) -> Result<(), Fault> {
        self.land(host)?;
        if self.has(state) {
            return Ok(());
        }
        self.begin(host, state, content()?);
        self.land(host)
    }

    /// Waits for the checkpoint on its way, if there is one.
    ///
    /// # Errors
    /// When one that the run can do without failed too often, or for a reason that will not pass; and as [`Self::catch_up`].
    pub fn land(&mut self, host: &dyn Host) -> Result<(), Fault> {
        if let Some((step, flight)) = self.flight.take() {
            self.try_landed(host, step, flight.wait())?;
        }
        self.catch_up(host)
    }

    /// Takes in that a checkpoint is kept.
    fn landed(&mut self, host: &dyn Host, step: u64, kept: Kept) -> Result<(), Fault> {
        (self.saved, self.failures, self.retry_at) = (Some(step), 0, None);
        match kept {
            Kept::Stored(checkpoint) => host.report(ReportBody::Checkpoint { checkpoint }),
            Kept::Waiting => {
                host.storage_away(self.vault.away().map(|away| told(&away, false)));
                Ok(())
            }
        }
    }

    /// Takes in what has become of a checkpoint that the run can do without for a while.
    fn try_landed(&mut self, host: &dyn Host, step: u64, landing: Landing) -> Result<(), Fault> {
        match landing {
            Ok(kept) => self.landed(host, step, kept),
            Err(fault)
                if self.failures < MAX_FAILURES && matches!(fault.class, ExitClass::Storage | ExitClass::Disk) =>
            {
                self.failures += 1;
                (self.retry_at, self.owed) = (Some(host.elapsed() + RETRY_AFTER), false);
                let message = fault.message;
                host.report(ReportBody::Warning {
                    message: format!("the checkpoint at step {step} failed and is tried again: {message}"),
                })
            }
            Err(fault) => Err(fault),
        }
    }

    /// Tells what has become of the checkpoint on its way, if that is known, and of those that waited for the store: one that has arrived there is durable from now on. Never waits.
    ///
    /// # Errors
    /// When one that the run can do without failed too often, or for a reason that will not pass; when the store refuses what waits; when nobody takes reports any more.
    pub fn catch_up(&mut self, host: &dyn Host) -> Result<(), Fault> {
        if let Some((step, landing)) = self.flight.as_ref().and_then(|(step, flight)| Some((*step, flight.landing()?)))
        {
            self.flight = None;
            self.try_landed(host, step, landing)?;
        }
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
}

/// What heartbeats say of a store that is away.
fn told(away: &Away, waiting: bool) -> StorageAway {
    StorageAway { since: away.since.clone(), checkpoints: away.checkpoints, bytes: away.bytes, waiting }
}

/// `1 checkpoint`, `2 checkpoints`.
pub(super) fn count(checkpoints: u64) -> String {
    format!("{checkpoints} checkpoint{}", if checkpoints == 1 { "" } else { "s" })
}
