//! The learning curve and the rate on their way to the daemon: points are gathered and reported a few times a second, so that a fast run
//! does not drown in messages.

use std::{collections::VecDeque, time::Duration};

use mlctl_protocol::{
    message::ReportBody,
    progress::{MetricPoint, Metrics},
};

use super::evaluate::put;
use crate::{fault::Fault, host::Host};

/// Points after which, and time after which, what is gathered is reported.
const FLUSH_POINTS: usize = 256;
const FLUSH_AFTER: Duration = Duration::from_millis(500);

/// How far back the rate looks, and how often it takes a mark.
const RATE_MARKS: usize = 10;
const RATE_MARK_EVERY: Duration = Duration::from_millis(300);

/// Points not yet reported.
#[derive(Debug, Default)]
pub struct Curve {
    points: Vec<MetricPoint>,
    flushed: Duration,
}

impl Curve {
    /// Adds a point. Values that JSON cannot hold are left out.
    ///
    /// # Errors
    /// When nothing can be reported any more.
    pub fn add(&mut self, host: &dyn Host, (step, epoch): (u64, u64), values: &[(&str, f64)]) -> Result<(), Fault> {
        let mut metrics = Metrics::new();
        for (name, value) in values {
            put(&mut metrics, name, *value);
        }
        self.points.push(MetricPoint { step, epoch, values: metrics });
        let now = host.elapsed();
        if self.points.len() >= FLUSH_POINTS || now.saturating_sub(self.flushed) >= FLUSH_AFTER {
            self.flush(host)?;
        }
        Ok(())
    }

    /// Reports what is gathered.
    ///
    /// # Errors
    /// When nothing can be reported any more.
    pub fn flush(&mut self, host: &dyn Host) -> Result<(), Fault> {
        self.flushed = host.elapsed();
        if self.points.is_empty() {
            return Ok(());
        }
        host.report(ReportBody::Metrics { points: std::mem::take(&mut self.points) })
    }
}

/// Rows per second over the last few seconds.
#[derive(Debug, Default)]
pub struct Rate {
    rows: u64,
    marks: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Counts rows done by `now`.
    pub fn count(&mut self, now: Duration, rows: u64) {
        if self.marks.is_empty() {
            // The first rows also warm up caches and threads: the clock starts after them.
            self.marks.push_back((now, 0));
            return;
        }
        self.rows += rows;
        if self.marks.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= RATE_MARK_EVERY) {
            self.marks.push_back((now, self.rows));
            if self.marks.len() > RATE_MARKS {
                self.marks.pop_front();
            }
        }
    }

    /// The rate; `None` until it has settled.
    #[must_use]
    pub fn per_second(&self) -> Option<f64> {
        let ((start, before), (end, after)) = (self.marks.front()?, self.marks.back()?);
        let seconds = end.saturating_sub(*start).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate is read by people")]
        let rate = (after - before) as f64 / seconds;
        (seconds > 0.0).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), None);
        let at = |tenth: u32| Duration::from_millis(100) * tenth;
        for tenth in 0..100 {
            rate.count(at(tenth), 10);
        }
        assert!((rate.per_second().unwrap() - 100.0).abs() < 1e-9);
        for tenth in 100..200 {
            rate.count(at(tenth), 1);
        }
        assert!((rate.per_second().unwrap() - 10.0).abs() < 1e-9);
    }
}
