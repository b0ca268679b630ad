//! Reports that the daemon does not have yet. Pure: numbers them, bounds them, merges metrics, and knows what to send again after a
//! redial. Owned by the handle's shared state; it sends nothing itself.

use std::collections::VecDeque;

use mlctl_protocol::{
    message::{MAX_FRAME_BYTES, Report, ReportBody},
    progress::Metrics,
};

use crate::LinkError;

/// Reports kept before the worker waits.
pub(crate) const MAX_REPORTS: usize = 1024;
/// Bytes kept before the worker waits.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// A report of metrics that is larger takes no more points.
const MAX_MERGED_BYTES: usize = 128 * 1024;
/// Room in a frame for what surrounds a report's body.
const ENVELOPE_BYTES: usize = 256;

/// How far a push may go beyond the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// While the job runs.
    Usual,
    /// Once the worker has been told to end: what is left to say must not wait for a daemon that may not be there.
    Ending,
}

#[derive(Debug)]
struct Kept {
    report: Report,
    size: usize,
}

/// The reports not acknowledged, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The number of the newest report.
    last: u64,
    /// The newest report sent on this connection.
    sent: u64,
    /// The newest report ever sent: the daemon may have it in the form it had then.
    ever_sent: u64,
}

impl Outbox {
    /// Whether a report can be taken in now.
    pub(crate) fn has_room(&self, room: Room) -> bool {
        let factor = if room == Room::Ending { 2 } else { 1 };
        self.kept.len() < MAX_REPORTS * factor && self.bytes < MAX_BYTES * factor
    }

    /// Takes a report in, whether there is room or not, and returns its number. Points of metrics join the newest report of metrics
    /// that was never sent.
    ///
    /// # Errors
    /// [`LinkError::ReportTooLarge`] for one that no frame can carry.
    pub(crate) fn push(&mut self, mut body: ReportBody) -> Result<u64, LinkError> {
        drop_unwritable(&mut body);
        let size = encoded_len(&body);
        if size > MAX_FRAME_BYTES - ENVELOPE_BYTES {
            return Err(LinkError::ReportTooLarge { size });
        }
        self.bytes += size;
        if let Some(seq) = self.merge(&mut body, size) {
            return Ok(seq);
        }
        self.last += 1;
        self.kept.push_back(Kept { report: Report { seq: self.last, body }, size });
        Ok(self.last)
    }

    fn merge(&mut self, body: &mut ReportBody, size: usize) -> Option<u64> {
        let ReportBody::Metrics { points } = body else { return None };
        let unsent = self.kept.iter_mut().rev().take_while(|kept| kept.report.seq > self.ever_sent);
        for kept in unsent {
            if let ReportBody::Metrics { points: earlier } = &mut kept.report.body {
                if kept.size + size > MAX_MERGED_BYTES {
                    return None;
                }
                earlier.append(points);
                kept.size += size;
                return Some(kept.report.seq);
            }
        }
        None
    }

    /// The next report to send on this connection; it counts as sent.
    pub(crate) fn next(&mut self) -> Option<Report> {
        let next = self.kept.iter().find(|kept| kept.report.seq > self.sent)?;
        self.sent = next.report.seq;
        self.ever_sent = self.ever_sent.max(self.sent);
        Some(next.report.clone())
    }

    /// The daemon has everything up to `seq`. A number beyond what was sent is taken for what was sent.
    pub(crate) fn acked(&mut self, seq: u64) {
        let seq = seq.min(self.ever_sent);
        while let Some(kept) = self.kept.pop_front_if(|kept| kept.report.seq <= seq) {
            self.bytes = self.bytes.saturating_sub(kept.size);
        }
    }

    /// A new connection on which the daemon said that it has everything up to `acked`: the rest is sent again.
    pub(crate) fn reconnected(&mut self, acked: u64) {
        self.acked(acked);
        self.sent = 0;
    }

    /// Whether the daemon has the report of this number.
    pub(crate) fn is_acked(&self, seq: u64) -> bool {
        self.kept.front().is_none_or(|kept| kept.report.seq > seq)
    }
}

/// Takes out values that JSON cannot express: a `null` in their place would make the whole report unreadable, for ever.
fn drop_unwritable(body: &mut ReportBody) {
    let finite = |metrics: &mut Metrics| metrics.retain(|_, value| value.is_finite());
    match body {
        ReportBody::Metrics { points } => points.iter_mut().for_each(|point| finite(&mut point.values)),
        ReportBody::Checkpoint { checkpoint } | ReportBody::Resumed { from: checkpoint, .. } => {
            finite(&mut checkpoint.metrics);
        }
        ReportBody::Finished { result } => finite(&mut result.metrics),
        ReportBody::Warning { .. } | ReportBody::Unknown => {}
    }
}

fn encoded_len(body: &ReportBody) -> usize {
    /// Counts and keeps nothing.
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // A body that cannot be written counts as one that does not fit.
    serde_json::to_writer(&mut count, body).map_or(usize::MAX, |()| count.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_protocol::progress::MetricPoint;

    fn metrics(step: u64) -> ReportBody {
        let values = [("loss".to_owned(), 0.5), ("nan".to_owned(), f64::NAN)].into();
        ReportBody::Metrics { points: vec![MetricPoint { step, epoch: 0, values }] }
    }

    fn warning(text: &str) -> ReportBody {
        ReportBody::Warning { message: text.into() }
    }

    fn sent(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next()).map(|report| report.seq).collect()
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_in_order() {
        let mut outbox = Outbox::default();
        for text in ["a", "b", "c", "d"] {
            outbox.push(warning(text)).unwrap();
        }
        assert_eq!(sent(&mut outbox), [1, 2, 3, 4]);
        assert_eq!(outbox.next(), None);
        outbox.acked(1);
        outbox.reconnected(2);
        assert_eq!(sent(&mut outbox), [3, 4]);
        assert!(outbox.is_acked(2) && !outbox.is_acked(3));
        outbox.acked(99);
        assert!(outbox.is_acked(4));
        assert_eq!(outbox.bytes, 0);
        assert_eq!(outbox.push(warning("e")).unwrap(), 5, "numbers go on");
    }

    #[test]
    fn metrics_join_a_report_that_was_never_sent() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(metrics(1)).unwrap(), 1);
        assert_eq!(outbox.push(warning("w")).unwrap(), 2);
        assert_eq!(outbox.push(metrics(2)).unwrap(), 1);
        let ReportBody::Metrics { points } = outbox.next().unwrap().body else { panic!("metrics come first") };
        assert_eq!(points.iter().map(|point| point.step).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(outbox.push(metrics(3)).unwrap(), 3, "the first was sent");
        outbox.reconnected(0);
        assert_eq!(outbox.push(metrics(4)).unwrap(), 3);
        assert_eq!(sent(&mut outbox), [1, 2, 3], "the first is sent again as it was");
    }

    #[test]
    fn merged_reports_stay_small() {
        let mut outbox = Outbox::default();
        for step in 0..20_000 {
            outbox.push(metrics(step)).unwrap();
        }
        assert!(outbox.kept.len() > 1);
        let mut points = 0;
        while let Some(report) = outbox.next() {
            assert!(encoded_len(&report.body) <= MAX_MERGED_BYTES);
            let ReportBody::Metrics { points: part } = report.body else { panic!("metrics only") };
            points += part.len();
        }
        assert_eq!(points, 20_000);
    }

    #[test]
    fn values_without_a_form_in_json_are_left_out() {
        let mut outbox = Outbox::default();
        outbox.push(metrics(1)).unwrap();
        let text = serde_json::to_string(&outbox.next().unwrap()).unwrap();
        assert!(text.contains("loss") && !text.contains("nan") && !text.contains("null"), "{text}");
    }

    #[test]
    fn room_is_bounded_by_number_and_by_size() {
        let mut outbox = Outbox::default();
        while outbox.has_room(Room::Usual) {
            outbox.push(warning("w")).unwrap();
        }
        assert_eq!(outbox.last, MAX_REPORTS as u64);
        while outbox.has_room(Room::Ending) {
            outbox.push(warning("w")).unwrap();
        }
        assert_eq!(outbox.last, 2 * MAX_REPORTS as u64);
        let mut outbox = Outbox::default();
        while outbox.has_room(Room::Usual) {
            outbox.push(warning(&"w".repeat(1_000_000))).unwrap();
        }
        assert!(outbox.last < 40, "{}", outbox.last);
        let error = outbox.push(warning(&"w".repeat(MAX_FRAME_BYTES))).unwrap_err();
        assert!(matches!(error, LinkError::ReportTooLarge { .. }));
    }
}
