//! The rules of when a job may run.

use jiff::Timestamp;
use mlctl_protocol::spec::TimePolicy;

use super::Problem;

pub(super) fn problems(time: &TimePolicy) -> Option<Problem> {
    let written = time.begin.as_deref()?;
    let error = moment(written).err()?;
    let message = format!("{written:?} is no moment: {error}");
    Some(Problem::new(
        "time.begin",
        message,
        "write it with an offset, for example \"2026-11-26T02:00:00+01:00\" or \"2026-11-26T01:00:00Z\"",
    ))
}

/// The moment before which the job is not started, in whole microseconds, as moments are kept. None where none is written that can be read.
#[must_use]
pub fn begin(time: &TimePolicy) -> Option<Timestamp> {
    moment(time.begin.as_deref()?).ok()
}

fn moment(text: &str) -> Result<Timestamp, jiff::Error> {
    Timestamp::from_microsecond(text.parse::<Timestamp>()?.as_microsecond())
}
