//! Fair share: who has used much of the machine lately stands a little further back in the queue, whoever has used little further in front. Data in, data out. What was used is forgotten by half in each half-life.
//! Called when the scheduler looks at the queue.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{MICROSECONDS_A_POINT, Uid};

/// How much use counts, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FairShare {
    /// Points of priority that all use is worth: who alone has used everything stands so many hours further back. 0: use counts for nothing.
    pub points: u32,
    /// Hours in which use counts half as much.
    pub half_life_hours: u32,
    /// Cores that a GPU counts for.
    pub gpu_cores: u32,
}

/// What a user's attempts had in a day: those that ended on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayOfUse {
    /// Whose they were.
    pub user: Uid,
    /// Whole days since 1970, UTC.
    pub day: i64,
    /// Milliseconds of one core.
    pub core_ms: u64,
    /// Milliseconds of one GPU.
    pub gpu_ms: u64,
}

/// What an attempt has that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseNow {
    /// Whose it is.
    pub user: Uid,
    /// Cores.
    pub cpus: u32,
    /// GPUs.
    pub gpus: u32,
    /// Since when.
    pub since: Timestamp,
}

const SECONDS_A_DAY: i64 = 86_400;

/// The day of a moment, since 1970.
#[must_use]
pub fn day_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(SECONDS_A_DAY)
}

impl FairShare {
    /// The oldest day that still counts for anything: twelve half-lives ago a four-thousandth is left.
    #[must_use]
    pub fn oldest_day(&self, now: Timestamp) -> i64 {
        day_of(now).saturating_sub(i64::from(self.half_life_hours).saturating_mul(12) / 24).saturating_sub(1)
    }

    /// How much further back each user stands, in microseconds of waiting: the part of all use that is theirs, times what all of it is worth.
    #[must_use]
    pub fn setbacks(&self, past: &[DayOfUse], present: &[UseNow], now: Timestamp) -> BTreeMap<Uid, i64> {
        let mut used: BTreeMap<Uid, f64> = BTreeMap::new();
        if self.points == 0 {
            return BTreeMap::new();
        }
        for DayOfUse { user, day, core_ms, gpu_ms } in past {
            // As if all of it had been at noon; today's as if just now.
            let noon = Timestamp::from_second(day.saturating_mul(SECONDS_A_DAY).saturating_add(SECONDS_A_DAY / 2));
            let age = noon.map_or(SignedDuration::ZERO, |noon| now.duration_since(noon));
            let cores = self.cores(*core_ms, *gpu_ms);
            *used.entry(*user).or_default() += cores * self.left(age);
        }
        for UseNow { user, cpus, gpus, since } in present {
            let ms = u64::try_from(now.duration_since(*since).as_millis()).unwrap_or(0);
            let (core_ms, gpu_ms) = (ms.saturating_mul((*cpus).into()), ms.saturating_mul((*gpus).into()));
            *used.entry(*user).or_default() += self.cores(core_ms, gpu_ms);
        }
        let all: f64 = used.values().sum();
        if all <= 0.0 {
            return BTreeMap::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 100 points of an hour each")]
        let worth = (i64::from(self.points) * MICROSECONDS_A_POINT) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "a part of it")]
        used.into_iter().map(|(user, own)| (user, (worth * (own / all)) as i64)).collect()
    }

    /// Milliseconds of a core that use counts for.
    fn cores(&self, core_ms: u64, gpu_ms: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a weight, not a bill")]
        let cores = core_ms.saturating_add(gpu_ms.saturating_mul(self.gpu_cores.into())) as f64;
        cores
    }

    /// The part that still counts of what was used so long ago.
    fn left(&self, age: SignedDuration) -> f64 {
        let half_life = f64::from(self.half_life_hours.max(1)) * 3600.0;
        (-age.as_secs_f64().max(0.0) / half_life).exp2()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARE: FairShare = FairShare { points: 10, half_life_hours: 24, gpu_cores: 8 };

    fn at(seconds: i64) -> Timestamp {
        // A noon.
        Timestamp::from_second(20_000 * SECONDS_A_DAY + SECONDS_A_DAY / 2 + seconds).unwrap()
    }

    fn day(user: u32, day: i64, core_ms: u64, gpu_ms: u64) -> DayOfUse {
        DayOfUse { user: Uid(user), day, core_ms, gpu_ms }
    }

    /// In minutes of waiting.
    fn minutes(past: &[DayOfUse], present: &[UseNow]) -> Vec<(u32, i64)> {
        let setbacks = SHARE.setbacks(past, present, at(0));
        setbacks.into_iter().map(|(user, setback)| (user.0, setback / 60_000_000)).collect()
    }

    #[test]
    fn each_is_set_back_by_the_part_that_is_its_own() {
        assert_eq!(minutes(&[], &[]), []);
        assert_eq!(minutes(&[day(1, 20_000, 100, 0)], &[]), [(1, 600)]);
        assert_eq!(minutes(&[day(1, 20_000, 100, 0), day(2, 20_000, 300, 0)], &[]), [(1, 150), (2, 450)]);
        // A GPU counts as eight cores; a day later half is left.
        assert_eq!(minutes(&[day(1, 20_000, 0, 10), day(2, 20_000, 240, 0)], &[]), [(1, 150), (2, 450)]);
        assert_eq!(minutes(&[day(1, 19_999, 200, 0), day(2, 20_000, 300, 0)], &[]), [(1, 150), (2, 450)]);
        // What runs counts as it runs.
        let now = UseNow { user: Uid(2), cpus: 3, gpus: 0, since: at(-100) };
        assert_eq!(minutes(&[day(1, 20_000, 100_000, 0)], &[now]), [(1, 150), (2, 450)]);
        assert_eq!(FairShare { points: 0, ..SHARE }.setbacks(&[day(1, 20_000, 1, 0)], &[], at(0)), BTreeMap::new());
        assert_eq!((day_of(at(0)), SHARE.oldest_day(at(0))), (20_000, 19_987));
    }

    proptest! {
        #[test]
        fn nobody_is_set_back_by_more_than_all_of_it(
            past in prop::collection::vec((0_u32..4, 19_000_i64..20_002, 0_u64..1 << 40, 0_u64..1 << 40), 0..20),
            present in prop::collection::vec((0_u32..4, 0_u32..2000, 0_u32..64, -2_000_000_i64..100), 0..8),
        ) {
            let past: Vec<_> = past.into_iter().map(|(user, of, cores, gpus)| day(user, of, cores, gpus)).collect();
            let present: Vec<_> = present.into_iter()
                .map(|(user, cpus, gpus, since)| UseNow { user: Uid(user), cpus, gpus, since: at(since) }).collect();
            let setbacks = SHARE.setbacks(&past, &present, at(0));
            let most = i64::from(SHARE.points) * MICROSECONDS_A_POINT;
            prop_assert!(setbacks.values().all(|setback| (0..=most).contains(setback)));
            prop_assert!(setbacks.values().sum::<i64>() <= most + 8);
        }
    }
}
