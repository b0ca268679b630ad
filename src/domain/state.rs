//! The state machine: [`decide`] turns a command into events or refuses it, [`apply`] folds an event into the job. Every legal transition is in these two
//! matches; the store runs them on the current row inside its transaction.

use jiff::Timestamp;
use mlctl_protocol::JobId;

use super::{Command, Event, Fence, Job, Refusal};

/// What a command does to a job at this moment. A fenced command needs `fence` to name the attempt that holds the job.
///
/// # Errors
/// [`Refusal::Stale`] when the fence does not match, [`Refusal::WrongState`] when the state does not allow it.
pub fn decide(job: &Job, fence: Option<Fence>, command: &Command, now: Timestamp) -> Result<Vec<Event>, Refusal> {
    let _ = (job, fence, command, now);
    todo!()
}

/// The job after an event. `job` is `None` before the first one.
///
/// # Errors
/// [`IllegalEvent`] for an event that no `decide` gives in this state: a damaged log or a bug.
pub fn apply(id: JobId, job: Option<Job>, event: &Event, at: Timestamp) -> Result<Job, IllegalEvent> {
    let _ = (id, job, event, at);
    todo!()
}

/// An event that cannot follow the events before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job {job} cannot take the event {event} while it is {state}")]
pub struct IllegalEvent {
    /// The job.
    pub job: JobId,
    /// The event's name.
    pub event: &'static str,
    /// The state's name, or `absent`.
    pub state: &'static str,
}
