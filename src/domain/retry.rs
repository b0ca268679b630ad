//! Whether and when a dead attempt is followed by another. Asked by `domain::state` when an attempt ends; pure: chance comes in as a number.

use std::time::Duration;

use mlctl_protocol::{ExitClass, spec::RetryPolicy};

/// How much of a wait chance adds or takes away, so that jobs that died together do not come back together.
const SPREAD: f64 = 0.25;

/// Deaths in a row that may harm the machine, without a checkpoint between them, after which a job is not started again unless a person says so.
pub const MOST_FRUITLESS: u32 = 3;

/// What a job has used up.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Retries of its own.
    pub retries: u32,
    /// Retries after faults of the infrastructure.
    pub infrastructure: u32,
    /// Deaths in a row that may harm the machine, without a checkpoint between them.
    pub fruitless: u32,
}

/// What becomes of a job whose attempt died.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It has failed.
    Fails,
    /// It is tried again after a wait, with this used up.
    Again {
        /// How long.
        wait: Duration,
        /// Retries of its own.
        retries: u32,
        /// Retries after faults of the infrastructure, where this is one of them.
        infrastructure: Option<u32>,
        /// Deaths in a row, this one included.
        fruitless: u32,
    },
    /// It is held until a person has looked at it, for this reason.
    Quarantined(String),
}

/// Whether a death of this class may harm the machine or its other jobs: a program that merely crashes harms nobody.
const fn is_harmful(class: ExitClass) -> bool {
    matches!(class, ExitClass::OomHost | ExitClass::Device | ExitClass::Hang | ExitClass::Lost)
}

/// What follows a death. A fault of the infrastructure is retried out of a budget of its own; when that is used up, the job is held, as it is to blame for nothing. Any other
/// death uses up a retry of the job's own, if the policy names its class, or the job has failed. A job that would be tried again and that died [`MOST_FRUITLESS`] times in a row
/// in a way that may harm the machine, without a checkpoint between, is held too.
#[must_use]
pub fn fate(policy: &RetryPolicy, used: Used, class: ExitClass, jitter: f64) -> Fate {
    let fruitless = if is_harmful(class) { used.fruitless.saturating_add(1) } else { 0 };
    let is_infrastructure = class.is_infrastructure() && policy.infrastructure_limit > 0;
    let wait = if is_infrastructure {
        backoff(policy, policy.infrastructure_limit, used.infrastructure, jitter)
    } else if retries_on(policy, class) {
        backoff(policy, policy.limit, used.retries, jitter)
    } else {
        None
    };
    match wait {
        Some(_) if fruitless >= MOST_FRUITLESS => {
            let reason =
                format!("it died {fruitless} times in a row, the last time as {class}, without a checkpoint between");
            Fate::Quarantined(reason)
        }
        Some(wait) => Fate::Again {
            wait,
            retries: used.retries.saturating_add(u32::from(!is_infrastructure)),
            infrastructure: is_infrastructure.then(|| used.infrastructure.saturating_add(1)),
            fruitless,
        },
        None if is_infrastructure => {
            let times = match policy.infrastructure_limit {
                1 => "1 retry".to_owned(),
                limit => format!("{limit} retries"),
            };
            Fate::Quarantined(format!(
                "{times} after faults of the infrastructure are used up, the last one was {class}"
            ))
        }
        None => Fate::Fails,
    }
}

fn retries_on(policy: &RetryPolicy, class: ExitClass) -> bool {
    // The same limit would end it again: somebody has to say that it gets as long once more.
    let by_default = class.is_retriable() && class != ExitClass::Timeout;
    policy.on.as_ref().map_or(by_default, |on| on.contains(&class))
}

/// How long the next retry waits after `used` earlier ones of `limit`: the first is at once, the second waits `backoff_seconds`, each later one twice as long as
/// the one before, never longer than `max_backoff_seconds`. `None` when the limit is reached. `jitter` in 0..1 moves the wait by up to a quarter either way; what
/// is not in that range is pulled into it.
fn backoff(policy: &RetryPolicy, limit: u32, used: u32, jitter: f64) -> Option<Duration> {
    if used >= limit {
        return None;
    }
    let Some(doublings) = used.checked_sub(1) else { return Some(Duration::ZERO) };
    let longest = Duration::from_secs(policy.max_backoff_seconds.into());
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let plain = Duration::from_secs(policy.backoff_seconds.into()).saturating_mul(factor).min(longest);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
    let spread = plain.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * jitter).min(longest);
    // Whole milliseconds: the moment it gives is stored in microseconds and must come back the same.
    Some(Duration::from_millis(u64::try_from(spread.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn policy(limit: u32, backoff_seconds: u32, max_backoff_seconds: u32) -> RetryPolicy {
        RetryPolicy { limit, backoff_seconds, max_backoff_seconds, on: None, infrastructure_limit: 2 }
    }

    fn backoff(policy: &RetryPolicy, used: u32, jitter: f64) -> Option<Duration> {
        super::backoff(policy, policy.limit, used, jitter)
    }

    const fn used(retries: u32, infrastructure: u32, fruitless: u32) -> Used {
        Used { retries, infrastructure, fruitless }
    }

    #[test]
    fn every_class_has_its_budget() {
        use ExitClass as C;
        let plain = policy(1, 10, 600);
        let on = |classes: &[C]| RetryPolicy { on: Some(classes.to_vec()), ..policy(1, 10, 600) };
        let strict = RetryPolicy { infrastructure_limit: 0, ..policy(1, 10, 600) };
        let again = |retries, infrastructure, fruitless| {
            let wait = if infrastructure == Some(2) { Duration::from_secs(10) } else { Duration::ZERO };
            Some(Fate::Again { wait, retries, infrastructure, fruitless })
        };
        // None: quarantined.
        let cases = [
            ("a crash uses up a retry", &plain, used(0, 0, 0), C::Crash, again(1, None, 0)),
            ("and then there is none", &plain, used(1, 0, 0), C::Crash, Some(Fate::Fails)),
            ("a fault of the storage does not", &plain, used(1, 0, 0), C::Storage, again(1, Some(1), 0)),
            ("later ones wait", &plain, used(1, 1, 0), C::Disk, again(1, Some(2), 0)),
            ("up to their own limit", &plain, used(0, 2, 0), C::Storage, None),
            ("without such a budget it is like any other", &strict, used(0, 0, 0), C::Storage, again(1, None, 0)),
            ("and fails like any other", &strict, used(1, 0, 0), C::Lost, Some(Fate::Fails)),
            ("a limit would end it again", &plain, used(0, 0, 0), C::Timeout, Some(Fate::Fails)),
            ("unless one says so", &on(&[C::Timeout]), used(0, 0, 0), C::Timeout, again(1, None, 0)),
            ("what is not named is not retried", &on(&[C::OomHost]), used(0, 0, 0), C::Crash, Some(Fate::Fails)),
            ("but for the infrastructure", &on(&[C::OomHost]), used(0, 0, 0), C::Lost, again(0, Some(1), 1)),
            ("harmful deaths are counted", &plain, used(0, 0, 1), C::OomHost, again(1, None, 2)),
            ("three are one too many", &plain, used(0, 0, 2), C::Hang, None),
            ("of whatever class", &plain, used(0, 0, 2), C::Lost, None),
            (
                "a crash between them shows that it does other things too",
                &plain,
                used(0, 0, 2),
                C::Crash,
                again(1, None, 0),
            ),
            ("who has no retry left has failed", &plain, used(1, 0, 2), C::Hang, Some(Fate::Fails)),
        ];
        for (case, policy, used, class, expected) in cases {
            let found = fate(policy, used, class, 0.5);
            let fits = expected.map_or(matches!(found, Fate::Quarantined(_)), |expected| found == expected);
            assert!(fits, "{case}: {found:?}");
        }
        let Fate::Quarantined(reason) = fate(&plain, used(0, 2, 0), C::Storage, 0.5) else { unreachable!() };
        assert_eq!(reason, "2 retries after faults of the infrastructure are used up, the last one was storage");
    }

    #[test]
    fn the_first_is_at_once_then_waits_double_up_to_the_cap() {
        let waits: Vec<Option<u64>> =
            (0..7).map(|used| backoff(&policy(6, 10, 100), used, 0.5).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(0), Some(10), Some(20), Some(40), Some(80), Some(100), None]);
    }

    #[test]
    fn the_edges_of_the_policy() {
        let cases = [
            ("no retries at all", policy(0, 10, 600), 0, 0.5, None),
            ("one retry is at once", policy(1, 10, 600), 0, 0.0, Some(0)),
            ("and there is no second", policy(1, 10, 600), 1, 0.0, None),
            ("chance takes a quarter", policy(9, 100, 600), 1, 0.0, Some(75_000)),
            ("chance adds a quarter", policy(9, 100, 600), 1, 1.0, Some(125_000)),
            ("but never beyond the cap", policy(9, 100, 100), 1, 1.0, Some(100_000)),
            ("a cap below the backoff holds", policy(9, 100, 5), 1, 0.5, Some(5_000)),
            ("chance out of range is pulled in", policy(9, 100, 600), 1, 7.0, Some(125_000)),
            ("no number is the middle", policy(9, 100, 600), 1, f64::NAN, Some(100_000)),
            ("doubling does not overflow", policy(u32::MAX, u32::MAX, u32::MAX), 1_000, 0.5, Some(4_294_967_295_000)),
        ];
        for (case, policy, used, jitter, wait_ms) in cases {
            assert_eq!(backoff(&policy, used, jitter).map(|wait| wait.as_millis()), wait_ms, "{case}");
        }
    }

    proptest! {
        #[test]
        fn waits_are_bounded(limit in 0_u32..=100, base in 1_u32..=86_400, cap in 1_u32..=604_800, used in 0_u32..=120, jitter in 0.0..1.0) {
            let policy = policy(limit, base, cap);
            let wait = backoff(&policy, used, jitter);
            prop_assert_eq!(wait.is_some(), used < limit);
            if let Some(wait) = wait {
                prop_assert!(wait <= Duration::from_secs(cap.into()));
                prop_assert_eq!(wait.is_zero(), used == 0);
            }
        }
    }
}
