//! What becomes of a job that waits for others. Called by the state machine alone.

use jiff::Timestamp;
use mlctl_protocol::ExitClass;

use super::{
    super::{
        Event, Exit, Hold, Job, JobState, NeverMet,
        dependency::{AfterFailed, Unmet},
    },
    finish,
};

/// The job after what it waits for has come about, or never can; the state's name when that cannot be.
pub(super) fn apply(mut job: Job, event: &Event, at: Timestamp) -> Result<Job, &'static str> {
    let (JobState::Blocked { not_before }, Some(waits)) = (&job.state, &job.waits) else {
        return Err(job.state.name());
    };
    let (not_before, if_failed) = (*not_before, waits.if_failed);
    match event {
        // It counts once: what is tried again later makes the job wait no more.
        Event::Unblocked => {
            job.waits = None;
            job.state = JobState::Queued { not_before };
        }
        Event::Waived { .. } => {}
        Event::Concluded { exit, conclusion } if job.is_retraining() => {
            let state = if exit.class == ExitClass::Ok { JobState::Succeeded } else { JobState::Failed };
            (job.exit, job.conclusion) = (Some(exit.clone()), conclusion.clone());
            finish(&mut job, state, at);
        }
        Event::Unmet(NeverMet { on, message, cause }) => {
            match if_failed {
                AfterFailed::Cancel => {
                    let hint = Some(format!("`mlctl retry {}` starts it all the same", job.id));
                    job.exit = Some(Exit { class: ExitClass::Cancelled, message: Some(message.clone()), hint });
                    finish(&mut job, JobState::Cancelled, at);
                }
                AfterFailed::Keep => {
                    job.state = JobState::Held(Hold { by: job.user, reason: Some(message.clone()), not_before });
                }
            }
            let unmet = Some(Unmet { on: *on, cause: cause.clone() });
            job.waits.iter_mut().for_each(|waits| waits.unmet.clone_from(&unmet));
        }
        _ => return Err(job.state.name()),
    }
    Ok(job)
}
