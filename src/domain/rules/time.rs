//! The rules of when a job may run.

use jiff::Timestamp;
use mlctl_protocol::spec::TimePolicy;

use super::Problem;

pub(super) fn problems(time: &TimePolicy) -> Vec<Problem> {
    let written = [("time.begin", &time.begin), ("time.deadline", &time.deadline)];
    let mut found: Vec<_> = written.into_iter().filter_map(|(path, text)| no_moment(path, text.as_deref()?)).collect();
    if let (Some(begin), Some(deadline)) = (begin(time), deadline(time))
        && deadline <= begin
    {
        let message = format!("it is not after the start time, {begin}");
        found.push(Problem::new("time.deadline", message, "the job could never start"));
    }
    found
}

fn no_moment(path: &str, written: &str) -> Option<Problem> {
    let error = moment(written).err()?;
    let message = format!("{written:?} is no moment: {error}");
    Some(Problem::new(
        path,
        message,
        "write it with an offset, for example \"2026-11-26T02:00:00+01:00\" or \"2026-11-26T01:00:00Z\"",
    ))
}

/// The moment by which the job must have ended. None where none is written that can be read.
#[must_use]
pub fn deadline(time: &TimePolicy) -> Option<Timestamp> {
    moment(time.deadline.as_deref()?).ok()
}

/// The moment before which the job is not started, in whole microseconds, as moments are kept. None where none is written that can be read.
#[must_use]
pub fn begin(time: &TimePolicy) -> Option<Timestamp> {
    moment(time.begin.as_deref()?).ok()
}

fn moment(text: &str) -> Result<Timestamp, jiff::Error> {
    Timestamp::from_microsecond(text.parse::<Timestamp>()?.as_microsecond())
}
