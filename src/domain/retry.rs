//! Whether and when a dead attempt is followed by another. Asked by `domain::state` when an attempt ends; pure: chance comes in as a number.

use std::time::Duration;

use mlctl_protocol::spec::RetryPolicy;

/// How much of a wait chance adds or takes away, so that jobs that died together do not come back together.
const SPREAD: f64 = 0.25;

/// How long the next retry waits after `retries_used` earlier ones: the first is at once, the second waits `backoff_seconds`, each later one twice as long as
/// the one before, never longer than `max_backoff_seconds`. `None` when the limit is reached. `jitter` in 0..1 moves the wait by up to a quarter either way; what
/// is not in that range is pulled into it.
#[must_use]
pub fn backoff(policy: &RetryPolicy, retries_used: u32, jitter: f64) -> Option<Duration> {
    if retries_used >= policy.limit {
        return None;
    }
    let Some(doublings) = retries_used.checked_sub(1) else { return Some(Duration::ZERO) };
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
        RetryPolicy { limit, backoff_seconds, max_backoff_seconds }
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
