//! When a worker has been silent or idle for too long. Decisions only: the present moment comes in. Called by `core`, whose attempt's task sleeps until the moment
//! given here. All times are monotonic: a jump of the wall clock ends nobody's lease.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use mlctl_protocol::spec::Resources;

use super::kill::Reason;

/// How often an attempt that may hang, but was not heard of, is looked at again.
const RECHECK: Duration = Duration::from_secs(2);

/// How long a worker may be silent or idle.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Without a heartbeat.
    pub lease: Duration,
    /// Without progress; `None` for as long as it likes.
    pub hang: Option<Duration>,
}

/// The longest sleep towards a moment of the wall clock, which may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// When an attempt's time limit, or its job's deadline, is acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit {
    limit: Limit,
    /// When its worker is asked to stop.
    ask_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// So many seconds after the start of the worker.
    Seconds(u64),
    /// At this moment of the wall clock.
    Deadline(Timestamp),
}

impl TimeLimit {
    /// The limit of an attempt whose worker has run for `age`. It is asked a tenth of the limit before it, so that a long checkpoint is done in time, but no earlier than the
    /// grace time: an attempt with a limit of ten grace times or more is gone by its limit, any other one a grace time later at most.
    #[must_use]
    pub fn of(seconds: u32, age: Duration, grace: Duration, now: Instant) -> Self {
        let limit = Duration::from_secs(seconds.into());
        let lead = grace.min(limit / 10);
        Self { limit: Limit::Seconds(seconds.into()), ask_at: now + (limit - lead).saturating_sub(age) }
    }

    /// The deadline `at` of the job, which is `left` away, of an attempt of this age under this grace time: a tenth of the attempt's whole time before it, or the grace time.
    #[must_use]
    pub fn until(at: Timestamp, left: Duration, (age, grace): (Duration, Duration), now: Instant) -> Self {
        let lead = grace.min((age + left) / 10);
        Self { limit: Limit::Deadline(at), ask_at: now + left.saturating_sub(lead) }
    }

    /// When its worker is asked to stop.
    #[must_use]
    pub const fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// Why it is ended then.
    const fn reason(self) -> Reason {
        match self.limit {
            Limit::Seconds(seconds) => Reason::TimeLimit { seconds },
            Limit::Deadline(at) => Reason::Deadline { at },
        }
    }
}

/// Why a worker is ended that occupies so much memory, if it is: where it said how much it needs, others have the rest.
#[must_use]
pub fn memory(rss_bytes: u64, asked: &Resources) -> Option<Reason> {
    let used_mib = rss_bytes / (1024 * 1024);
    let is_over = asked.memory_mib > 0 && used_mib > asked.memory_mib.into();
    is_over.then_some(Reason::Memory { used_mib, asked_mib: asked.memory_mib })
}

/// What was seen of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When it was last heard of.
    pub heard_at: Instant,
    /// When it last made progress.
    pub moved_at: Instant,
    /// The last step it reported.
    pub step: Option<u64>,
    /// Whether its connection is open.
    pub linked: bool,
}

/// Whether its time is over, and if not, when to look again.
///
/// # Errors
/// The reason to end it.
pub fn look(seen: Seen, limits: Limits, time: Option<TimeLimit>, now: Instant) -> Result<Instant, Reason> {
    let next = alive(seen, limits, now)?;
    Ok(limit(time, now)?.map_or(next, |ask_at| next.min(ask_at)))
}

/// Whether an attempt that is left the time to save its work has come to its own limit, and if not, when that is.
///
/// # Errors
/// The reason to leave it no longer.
pub fn limit(time: Option<TimeLimit>, now: Instant) -> Result<Option<Instant>, Reason> {
    match time {
        Some(time) if now >= time.ask_at => Err(time.reason()),
        Some(TimeLimit { limit: Limit::Deadline(_), ask_at }) => Ok(Some(ask_at.min(now + LONGEST_SLEEP))),
        time => Ok(time.map(|time| time.ask_at)),
    }
}

/// Whether it is alive and at work, without regard to its own limit.
fn alive(seen: Seen, limits: Limits, now: Instant) -> Result<Instant, Reason> {
    let lease_until = seen.heard_at + limits.lease;
    if now >= lease_until {
        return Err(Reason::LeaseLost { seconds: limits.lease.as_secs() });
    }
    let Some(hang) = limits.hang else { return Ok(lease_until) };
    let idle_until = seen.moved_at + hang;
    if now < idle_until {
        return Ok(lease_until.min(idle_until));
    }
    // A worker out of reach may be hard at work: its silence says nothing but what it had said before. One whose connection stands would have
    // spoken of its progress.
    if seen.linked || seen.heard_at >= idle_until {
        return Err(Reason::Hang { seconds: hang.as_secs(), step: seen.step });
    }
    Ok(lease_until.min(now + RECHECK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_idleness_are_told_apart() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let limits = Limits { lease: Duration::from_secs(100), hang: Some(Duration::from_secs(30)) };
        let hang = Reason::Hang { seconds: 30, step: Some(5) };
        let lost = Reason::LeaseLost { seconds: 100 };
        // heard, moved, linked, now -> verdict
        let cases = [
            (0, 0, true, 0, Ok(30)),
            (10, 0, true, 12, Ok(30)),
            (29, 20, true, 40, Ok(50)),
            (29, 0, true, 30, Err(&hang)),
            (10, 0, true, 30, Err(&hang)),
            (10, 0, false, 30, Ok(32)),
            (31, 0, false, 31, Err(&hang)),
            (10, 0, false, 109, Ok(110)),
            (10, 0, false, 110, Err(&lost)),
            (10, 0, true, 110, Err(&lost)),
        ];
        for (heard, moved, linked, now, expected) in cases {
            let seen = Seen { heard_at: at(heard), moved_at: at(moved), step: Some(5), linked };
            let expected = expected.map(at).map_err(Clone::clone);
            assert_eq!(look(seen, limits, None, at(now)), expected, "{heard} {moved} {linked} {now}");
        }
        let patient = Limits { hang: None, ..limits };
        let seen = Seen { heard_at: at(99), moved_at: at(0), step: None, linked: true };
        assert_eq!(look(seen, patient, None, at(150)), Ok(at(199)));
    }

    #[test]
    fn a_limit_is_acted_on_a_tenth_before_it_or_the_grace_time() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        // limit, age, grace -> asked after
        for (limit, age, grace, after) in [
            (100, 0, 20, 90),
            (100, 30, 20, 60),
            (1000, 0, 20, 980),
            (200, 0, 20, 180),
            (100, 90, 20, 0),
            (100, 5000, 20, 0),
        ] {
            let found = TimeLimit::of(limit, Duration::from_secs(age), Duration::from_secs(grace), begin);
            assert_eq!(found.ask_at, at(after), "{limit} {age} {grace}");
        }
        // left, age, grace -> asked after
        for (left, age, grace, after) in
            [(100, 0, 20, 90), (90, 10, 20, 80), (1000, 0, 20, 980), (5, 95, 20, 0), (0, 5, 20, 0)]
        {
            let [left, age, grace] = [left, age, grace].map(Duration::from_secs);
            let found = TimeLimit::until(Timestamp::UNIX_EPOCH, left, (age, grace), begin);
            assert_eq!(found.ask_at, at(after), "{left:?} {age:?} {grace:?}");
        }
        let limits = Limits { lease: Duration::from_secs(100), hang: Some(Duration::from_secs(30)) };
        let lost = Reason::LeaseLost { seconds: 100 };
        // heard and moved, asked, now -> verdict
        let cases = [
            (0, 90, 0, Ok(30)),
            (70, 90, 80, Ok(90)),
            (70, 90, 89, Ok(90)),
            (70, 90, 90, Err(Reason::TimeLimit { seconds: 95 })),
            (70, 90, 99, Err(Reason::TimeLimit { seconds: 95 })),
            (0, 90, 95, Err(Reason::Hang { seconds: 30, step: None })),
            (0, 90, 100, Err(lost)),
        ];
        for (seen, asked, now, expected) in cases {
            let seen = Seen { heard_at: at(seen), moved_at: at(seen), step: None, linked: true };
            let time = TimeLimit { limit: Limit::Seconds(95), ask_at: at(asked) };
            assert_eq!(look(seen, limits, Some(time), at(now)), expected.map(at), "{now}");
        }
    }
}
