//! How an attempt is ended: asked over its link, then SIGTERM, then SIGKILL to the whole group, all within the grace time. Decisions only: the present
//! moment comes in, the next signal and its time go out. Called by `core`.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use mlctl_protocol::{JobId, message::StopClass};

use super::executor::Signal;

/// How long an attempt may take to save its work when it is stopped, paused or preempted and not cancelled: long enough for a large model over a slow line.
const SAVE_LIMIT: Duration = Duration::from_secs(600);

/// Why the daemon ends an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It reported its end and its process lives on.
    Finished,
    /// The scheduler wants its place for another job: it is to save its work, however long that takes within reason.
    Preempted {
        /// That job.
        to: JobId,
    },
    /// The daemon is being drained: the same, so that it can stop.
    Drained,
    /// A person paused the job: the same.
    Paused,
    /// A person stopped the job: the same.
    Stopped,
    /// Its time limit is near.
    TimeLimit {
        /// The limit, in seconds.
        seconds: u64,
    },
    /// Its job's deadline is near.
    Deadline {
        /// The deadline.
        at: Timestamp,
    },
    /// A person cancelled the job.
    Cancelled,
    /// It made no progress.
    Hang {
        /// For how long, in seconds.
        seconds: u64,
        /// The last step it reported.
        step: Option<u64>,
    },
    /// It occupies more memory than it asked for: what others have is in danger.
    Memory {
        /// How much, in MiB.
        used_mib: u64,
        /// How much it asked for, in MiB.
        asked_mib: u32,
    },
    /// No heartbeat came for as long as its lease.
    LeaseLost {
        /// How long that is, in seconds.
        seconds: u64,
    },
    /// The database was put back to a time at which the attempt ran: what it said since is not known any more.
    Restored,
    /// It no longer holds the job: whatever it does is in vain.
    Stale,
    /// It said what cannot be true.
    Lied(String),
}

impl Reason {
    /// What the worker is asked first, when it can be asked.
    #[must_use]
    pub const fn order(&self) -> Option<StopClass> {
        match self {
            Self::Stopped | Self::Cancelled => Some(StopClass::Cancelled),
            Self::TimeLimit { .. } | Self::Deadline { .. } => Some(StopClass::Timeout),
            Self::Hang { .. } | Self::Paused | Self::Preempted { .. } | Self::Drained => Some(StopClass::Preempted),
            _ => None,
        }
    }

    /// Whether it is given the time to save its work.
    #[must_use]
    const fn is_polite(&self) -> bool {
        !matches!(self, Self::Memory { .. } | Self::LeaseLost { .. } | Self::Restored | Self::Stale | Self::Lied(_))
    }

    /// Whether that is as long as saving takes, beyond the grace time.
    #[must_use]
    pub const fn is_patient(&self) -> bool {
        matches!(self, Self::Preempted { .. } | Self::Drained | Self::Paused | Self::Stopped)
    }

    /// A graver reason replaces a lighter one, never the other way round.
    #[must_use]
    pub const fn weight(&self) -> u8 {
        match self {
            Self::Finished => 0,
            Self::Preempted { .. } | Self::Drained => 1,
            Self::Paused => 2,
            Self::Stopped => 3,
            Self::TimeLimit { .. } | Self::Deadline { .. } => 4,
            Self::Cancelled => 5,
            Self::Hang { .. } => 6,
            Self::Memory { .. } => 7,
            Self::LeaseLost { .. } => 8,
            Self::Lied(_) => 9,
            Self::Restored => 10,
            Self::Stale => 11,
        }
    }
}

/// An attempt that is being ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// When it began.
    since: Instant,
    /// Whether the worker was asked over its link, and so may be left alone for half the grace time.
    asked: bool,
    /// Whether time is given at all.
    polite: bool,
    /// Whether that is the time which saving its work takes.
    patient: bool,
    /// The last signal sent.
    sent: Option<Signal>,
}

impl Ending {
    /// Begins.
    #[must_use]
    pub const fn begin(reason: &Reason, asked: bool, now: Instant) -> Self {
        Self {
            since: now,
            asked: asked || matches!(reason, Reason::Finished),
            polite: reason.is_polite(),
            patient: reason.is_patient(),
            sent: None,
        }
    }

    /// A graver reason came. Where patience ends, the grace time begins.
    #[must_use]
    pub fn escalate(self, reason: &Reason, now: Instant) -> Self {
        let patient = self.patient && reason.is_patient();
        let since = if self.patient == patient { self.since } else { now };
        Self { since, patient, polite: self.polite && reason.is_polite(), ..self }
    }

    /// Whether it is given the time that saving its work takes.
    #[must_use]
    pub const fn is_patient(&self) -> bool {
        self.patient
    }

    /// The worker could not be asked after all.
    pub const fn unheard(&mut self) {
        self.asked = false;
    }

    /// The next signal and when it is due; `None` once SIGKILL was sent, which nothing follows but death.
    #[must_use]
    pub fn next(&self, grace: Duration) -> Option<(Instant, Signal)> {
        let grace = if self.patient { SAVE_LIMIT.max(grace) } else { grace };
        match self.sent {
            Some(Signal::Kill) => None,
            _ if !self.polite => Some((self.since, Signal::Kill)),
            Some(Signal::Term) => Some((self.since + grace, Signal::Kill)),
            None if self.asked => Some((self.since + grace / 2, Signal::Term)),
            None => Some((self.since, Signal::Term)),
        }
    }

    /// A signal was sent.
    pub const fn sent(&mut self, signal: Signal) {
        self.sent = Some(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    fn timeline(reason: &Reason, asked: bool) -> Vec<(u64, Signal)> {
        let now = Instant::now();
        let mut ending = Ending::begin(reason, asked, now);
        let mut signals = Vec::new();
        while let Some((at, signal)) = ending.next(GRACE) {
            signals.push((at.duration_since(now).as_secs(), signal));
            ending.sent(signal);
        }
        signals
    }

    #[test]
    fn every_reason_ends_in_a_kill_within_the_grace_time() {
        let hang = Reason::Hang { seconds: 600, step: Some(3) };
        let lease = Reason::LeaseLost { seconds: 600 };
        let limit = Reason::TimeLimit { seconds: 3600 };
        let deadline = Reason::Deadline { at: Timestamp::UNIX_EPOCH };
        let cases = [
            (&limit, true, vec![(10, Signal::Term), (20, Signal::Kill)]),
            (&limit, false, vec![(0, Signal::Term), (20, Signal::Kill)]),
            (&deadline, true, vec![(10, Signal::Term), (20, Signal::Kill)]),
            (&Reason::Cancelled, true, vec![(10, Signal::Term), (20, Signal::Kill)]),
            (&Reason::Cancelled, false, vec![(0, Signal::Term), (20, Signal::Kill)]),
            (&Reason::Stopped, true, vec![(300, Signal::Term), (600, Signal::Kill)]),
            (&Reason::Stopped, false, vec![(0, Signal::Term), (600, Signal::Kill)]),
            (&Reason::Paused, true, vec![(300, Signal::Term), (600, Signal::Kill)]),
            (&Reason::Preempted { to: JobId(9) }, true, vec![(300, Signal::Term), (600, Signal::Kill)]),
            (&Reason::Drained, true, vec![(300, Signal::Term), (600, Signal::Kill)]),
            (&hang, true, vec![(10, Signal::Term), (20, Signal::Kill)]),
            (&Reason::Finished, false, vec![(10, Signal::Term), (20, Signal::Kill)]),
            (&lease, true, vec![(0, Signal::Kill)]),
            (&Reason::Stale, false, vec![(0, Signal::Kill)]),
            (&Reason::Lied(String::new()), true, vec![(0, Signal::Kill)]),
        ];
        for (reason, asked, expected) in cases {
            assert_eq!(timeline(reason, asked), expected, "{reason:?}");
        }
    }

    #[test]
    fn a_graver_reason_takes_the_time_away() {
        let now = Instant::now();
        let mut ending = Ending::begin(&Reason::Cancelled, true, now);
        ending.sent(Signal::Term);
        let ending = ending.escalate(&Reason::Stale, now);
        assert_eq!(ending.next(GRACE), Some((now, Signal::Kill)));
    }

    #[test]
    fn a_cancel_ends_the_patience_of_a_stop_and_leaves_the_grace_time() {
        let begin = Instant::now();
        let later = begin + Duration::from_secs(100);
        let mut ending = Ending::begin(&Reason::Stopped, true, begin).escalate(&Reason::Cancelled, later);
        assert_eq!(ending.next(GRACE), Some((later + GRACE / 2, Signal::Term)));
        ending.sent(Signal::Term);
        assert_eq!(ending.next(GRACE), Some((later + GRACE, Signal::Kill)));
    }
}
