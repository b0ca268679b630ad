//! Medians, percentiles, and the table they go into.

use std::{fmt::Write as _, time::Duration};

/// Values of one kind, sorted.
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// In milliseconds.
    pub fn of(times: &[Duration]) -> Self {
        Self::new(times.iter().map(|time| time.as_secs_f64() * 1e3).collect())
    }

    /// The value below which `share` (0 to 1) of them lie.
    pub fn at(&self, share: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "samples are small")]
        let place = share * self.0.len().saturating_sub(1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the sample")]
        let place = place.round() as usize;
        self.0.get(place).copied().unwrap_or(f64::NAN)
    }
}

/// Rows of a name and what was measured.
#[derive(Default)]
pub struct Table(Vec<(String, String)>);

impl Table {
    /// Rates of rounds: median, slowest and fastest.
    pub fn rates(&mut self, name: &str, rates: Vec<f64>) {
        let sample = Sample::new(rates);
        self.row(name, format!("{:.0}/s   ({:.0} to {:.0})", sample.at(0.5), sample.at(0.0), sample.at(1.0)));
    }

    /// Times of single events: median and tail.
    pub fn times(&mut self, name: &str, times: &[Duration]) {
        let sample = Sample::of(times);
        let (p50, p99, max) = (sample.at(0.5), sample.at(0.99), sample.at(1.0));
        self.row(name, format!("p50 {p50:.2} ms   p99 {p99:.2} ms   max {max:.2} ms"));
    }

    /// Processor time of one of so many.
    pub fn cpu(&mut self, name: &str, seconds: f64, count: usize) {
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let each = seconds * 1e6 / count as f64;
        self.row(name, format!("{each:.1} us"));
    }

    pub fn row(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    pub fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        let mut text = String::new();
        for (name, value) in &self.0 {
            let _ = writeln!(text, "{name:<width$}   {value}");
        }
        text
    }
}
