//! Which events are news, and of what.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::{ExitClass, JobId};

use super::Topic;
use crate::domain::{Event, Hold, Job, JobState, Uid, array::is_final, dependency::AfterFailed};

/// How long nothing is said of members of an array that the daemon holds, once it was: there may be thousands.
const SILENCE: SignedDuration = SignedDuration::from_hours(1);

/// What an event is to be told as, by the job as it is on record. The end of a member of an array is none by itself: see [`of_array`].
#[must_use]
pub fn topic(event: &Event, at: Timestamp, job: &Job) -> Option<Topic> {
    match event {
        Event::Failed { .. } | Event::Expired { .. } => Some(Topic::Failed),
        Event::Quarantined { .. } => Some(Topic::Held),
        Event::Succeeded { .. } => Some(Topic::Succeeded),
        Event::Cancelled { .. } => Some(Topic::Cancelled),
        Event::Concluded { exit, .. } if exit.class == ExitClass::Ok => Some(Topic::Succeeded),
        Event::Concluded { .. } => Some(Topic::Failed),
        // Of one that runs, the event that it was cancelled follows.
        Event::Replaced { .. } if job.finished_at == Some(at) => Some(Topic::Cancelled),
        Event::Unmet(_) => match job.waits.as_ref().map(|waits| waits.if_failed) {
            Some(AfterFailed::Keep) => Some(Topic::Held),
            _ => Some(Topic::Cancelled),
        },
        _ => None,
    }
}

/// The job as an event has left it, whatever has become of it since: a person may have tried it again in the meantime.
#[must_use]
pub fn as_of(job: &Job, event: &Event, at: Timestamp) -> Job {
    let mut job = job.clone();
    let ended = |job: &mut Job, state: JobState| {
        job.state = state;
        job.finished_at = Some(at);
    };
    match event {
        Event::Failed { attempt, exit } => {
            (job.attempt, job.exit) = (attempt.0, Some(exit.clone()));
            ended(&mut job, JobState::Failed);
        }
        Event::Expired { exit } => {
            job.exit = Some(exit.clone());
            ended(&mut job, JobState::Failed);
        }
        Event::Quarantined { attempt, exit, reason } => {
            (job.attempt, job.exit) = (attempt.0, Some(exit.clone()));
            job.state = JobState::Held(Hold { by: Uid::SYSTEM, reason: Some(reason.clone()), not_before: None });
        }
        Event::Succeeded { attempt, model, output } => {
            (job.attempt, job.model, job.output) = (attempt.0, model.clone(), output.clone());
            ended(&mut job, JobState::Succeeded);
        }
        Event::Cancelled { exit, .. } => {
            job.exit.clone_from(exit);
            ended(&mut job, JobState::Cancelled);
        }
        Event::Concluded { exit, conclusion } => {
            (job.exit, job.conclusion) = (Some(exit.clone()), conclusion.clone());
            let state = if exit.class == ExitClass::Ok { JobState::Succeeded } else { JobState::Failed };
            ended(&mut job, state);
        }
        Event::Replaced { .. } => ended(&mut job, JobState::Cancelled),
        Event::Unmet(unmet) if topic(event, at, &job) == Some(Topic::Held) => {
            job.state = JobState::Held(Hold { by: Uid::SYSTEM, reason: Some(unmet.message.clone()), not_before: None });
        }
        Event::Unmet(_) => ended(&mut job, JobState::Cancelled),
        _ => {}
    }
    job
}

/// What the end of an array is told as, by how many of its members stand where: nothing while one has not ended.
#[must_use]
pub fn of_array(counts: &BTreeMap<String, u64>) -> Option<Topic> {
    let has = |tally: &str| counts.get(tally).is_some_and(|members| *members > 0);
    if counts.iter().any(|(tally, members)| *members > 0 && !is_final(tally)) {
        return None;
    }
    Some(match (has("failed"), has("cancelled")) {
        (true, _) => Topic::Failed,
        (false, true) => Topic::Cancelled,
        (false, false) => Topic::Succeeded,
    })
}

/// What was said of arrays, so that it is said once. It is not kept over a restart: what is told again then bears the same id.
#[derive(Debug, Clone, Default)]
pub struct Told {
    ends: BTreeMap<JobId, Timestamp>,
    held: BTreeMap<JobId, Timestamp>,
}

impl Told {
    /// Arrays that are remembered.
    const MOST: usize = 1000;

    /// Whether the end of an array is news.
    pub fn is_new_end(&mut self, array: JobId, ended: Timestamp) -> bool {
        if self.ends.len() >= Self::MOST {
            self.ends.pop_first();
        }
        self.ends.insert(array, ended) != Some(ended)
    }

    /// Whether it is news that the daemon holds a member of an array: once an hour.
    pub fn is_new_hold(&mut self, array: JobId, at: Timestamp) -> bool {
        if self.held.get(&array).is_some_and(|before| at.duration_since(*before).abs() < SILENCE) {
            return false;
        }
        if self.held.len() >= Self::MOST {
            self.held.pop_first();
        }
        self.held.insert(array, at);
        true
    }
}
