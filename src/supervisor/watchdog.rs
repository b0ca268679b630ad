//! When a worker has been silent or idle for too long. Decisions only: the present moment comes in. Called by the attempt's task, which sleeps until the moment
//! given here. All times are monotonic: a jump of the wall clock ends nobody's lease.

use std::time::Duration;

use tokio::time::Instant;

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
pub fn look(seen: Seen, limits: Limits, now: Instant) -> Result<Instant, Reason> {
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
            assert_eq!(look(seen, limits, at(now)), expected, "{heard} {moved} {linked} {now}");
        }
        let patient = Limits { hang: None, ..limits };
        let seen = Seen { heard_at: at(99), moved_at: at(0), step: None, linked: true };
        assert_eq!(look(seen, patient, at(150)), Ok(at(199)));
    }
}
