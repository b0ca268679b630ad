//! How many requests are worth having on their way at a time: more, as long as more of them move more; half, where the store says that it is too much. Pure: time is handed in. A store far
//! away so gets many at a time and a near one few, without anybody measuring the distance.

use std::time::Duration;

/// Where it begins.
const FIRST: usize = 8;

/// The fewest and the most.
const LEAST: usize = 2;
const MOST: usize = 256;

/// The shortest time that is measured over.
const WINDOW: Duration = Duration::from_millis(50);

/// More by a tenth is worth it.
const GAIN: f64 = 1.1;

/// Windows without a try for more.
const REST: u32 = 12;

/// A controller of the number of requests on their way.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    limit: usize,
    /// Requests that were on their way when the limit was set: they say nothing of it.
    settling: usize,
    began: Duration,
    requests: usize,
    weight: u64,
    trial: Trial,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trial {
    /// The rate with as many as there are is measured.
    Base,
    /// More are tried: what there were before, and the rate of then.
    More { before: usize, rate: f64 },
    /// As many as there are do well; so many windows until the next try.
    Rest { windows: u32 },
}

impl Default for Pace {
    fn default() -> Self {
        Self::beginning_with(FIRST)
    }
}

impl Pace {
    /// One that begins with so many.
    pub(super) const fn beginning_with(limit: usize) -> Self {
        Self { limit, settling: limit, began: Duration::ZERO, requests: 0, weight: 0, trial: Trial::Base }
    }

    /// How many may be on their way.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// A request of some weight in bytes ended at a moment, counted from any fixed one.
    pub(super) fn ended(&mut self, now: Duration, weight: u64) {
        if self.settling > 0 {
            self.settling -= 1;
            self.began = now;
            return;
        }
        self.requests += 1;
        // A request costs the way there and back, however small it is.
        self.weight += weight + 4096;
        let took = now.saturating_sub(self.began);
        if self.requests < 2 * self.limit || took < WINDOW {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate is no exact thing")]
        let rate = self.weight as f64 / took.as_secs_f64();
        let before = self.limit;
        self.decide(rate);
        self.measure_from(now, before);
    }

    /// Begins to measure anew, once those are through that began under another limit.
    const fn measure_from(&mut self, now: Duration, before: usize) {
        self.settling = if self.limit == before { 0 } else { self.limit };
        (self.began, self.requests, self.weight) = (now, 0, 0);
    }

    fn decide(&mut self, rate: f64) {
        match self.trial {
            Trial::Base => self.try_more(rate),
            Trial::More { rate: earlier, .. } if rate > earlier * GAIN => self.try_more(rate),
            Trial::More { before, .. } => {
                self.limit = before;
                self.trial = Trial::Rest { windows: REST };
            }
            Trial::Rest { windows: 0 } => self.try_more(rate),
            Trial::Rest { windows } => self.trial = Trial::Rest { windows: windows - 1 },
        }
    }

    fn try_more(&mut self, rate: f64) {
        let more = (self.limit + self.limit.div_ceil(2)).min(MOST);
        self.trial = match more > self.limit {
            true => Trial::More { before: self.limit, rate },
            false => Trial::Rest { windows: REST },
        };
        self.limit = more;
    }

    /// The store said at a moment that it is too much, or did not answer in time.
    pub(super) fn overloaded(&mut self, now: Duration) {
        let before = self.limit;
        self.limit = (self.limit / 2).max(LEAST);
        self.trial = Trial::Rest { windows: REST };
        self.measure_from(now, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that answers after `latency` seconds and does no more than `rate` requests a second: the limit that comes out after so many windows.
    fn settled(latency: f64, rate: f64, windows: usize) -> usize {
        let mut pace = Pace::default();
        let mut now = 0.001;
        for _ in 0..windows {
            let limit = pace.limit();
            let each = (latency / limit as f64).max(1.0 / rate);
            let until = now + (2.0 * limit as f64 * each).max(0.05);
            while now < until {
                now += each;
                pace.ended(Duration::from_secs_f64(now), 65_536);
            }
        }
        pace.limit()
    }

    #[test]
    fn more_are_on_their_way_to_a_store_that_is_far() {
        let (near, far, farther) = (settled(0.001, 2000.0, 40), settled(0.03, 2000.0, 40), settled(0.1, 2000.0, 40));
        assert!(near <= 12, "{near}");
        assert!((48..=128).contains(&far), "2,000 a second at 30 ms need 60: {far}");
        assert!(farther > 128, "{farther}");
        assert!(settled(60.0, 1e9, 60) <= MOST);
    }

    #[test]
    fn requests_that_end_together_are_not_taken_for_a_rate() {
        // All that are sent at once are answered at once, as at the beginning, and as many more take as long.
        let mut pace = Pace::default();
        let mut now = 0.0;
        for _ in 0..20 {
            now += 0.06;
            for _ in 0..pace.limit() {
                pace.ended(Duration::from_secs_f64(now), 65_536);
            }
        }
        assert!(pace.limit() >= 60, "more lanes move more here: {}", pace.limit());
    }

    #[test]
    fn too_much_is_halved_and_tried_again_later() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.overloaded(Duration::from_secs(1));
        }
        assert_eq!(pace.limit(), LEAST);
        let mut now = 1.0;
        for _ in 0..20 {
            for _ in 0..2 * pace.limit() {
                now += 0.1 / pace.limit() as f64;
                pace.ended(Duration::from_secs_f64(now), 1);
            }
        }
        assert!(pace.limit() > LEAST, "it grows again where that helps");
    }

    #[test]
    fn what_does_not_help_is_taken_back() {
        let mut pace = Pace::default();
        let mut now = 1.0;
        let mut most = 0;
        for _ in 0..2000 {
            now += 0.01;
            pace.ended(Duration::from_secs_f64(now), 1000);
            most = most.max(pace.limit());
        }
        assert_eq!((pace.limit(), most), (FIRST, 12));
    }
}
