//! What an edit comes to, and the job after it. Called by the state machine alone.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::{Change, Edit, Event, Hold, Job, JobState, Refusal, Terms, Uid};

/// What an edit comes to: nothing where all is as it should be already. Of a job that has ended badly, only the terms can be changed on which it is tried again.
pub(super) fn decide(job: &Job, by: Uid, edit: &Edit, now: Timestamp) -> Result<Vec<Event>, Refusal> {
    let refused = |verb| Err(Refusal::WrongState { job: job.id, state: job.state.name(), verb });
    let terms = &edit.terms;
    let moves = edit.priority.is_some() || edit.queue.is_some();
    if job.state.is_terminal() && (moves || !edit.labels.is_empty() || terms.begin.is_some()) {
        return refused("edited, but for its deadline, time limit and retries");
    }
    let priority = edit.priority.filter(|priority| *priority != job.priority);
    if priority.is_some() && matches!(job.state, JobState::Running { .. }) {
        return refused("given another priority: it has what it waited for");
    }
    let queue = edit.queue.clone().filter(|queue| *queue != job.queue);
    if queue.is_some() && matches!(job.state, JobState::Running { .. }) {
        return refused("moved to another queue: it has what it waited for");
    }
    if terms.begin.is_some() && matches!(job.state, JobState::Running { .. }) {
        return refused("given another start time: it has been started");
    }
    if matches!(terms.deadline, Some(Change::Set(deadline)) if deadline <= now) {
        return refused("given a deadline that has passed");
    }
    if terms.retries.is_some_and(|retries| retries < job.retries_used) {
        return refused("given so few retries: it has used up more");
    }
    let labels = Some(edit.labels_of(&job.labels)).filter(|labels| *labels != job.labels);
    let terms = Terms {
        begin: terms.begin.filter(|begin| begin.value() != begin_of(job)),
        deadline: terms.deadline.filter(|deadline| deadline.value() != job.deadline),
        time_limit_seconds: terms.time_limit_seconds.filter(|limit| Some(*limit) != job.time_limit_seconds),
        retries: terms.retries.filter(|retries| *retries != job.retry.limit),
    };
    let is_changed = priority.is_some() || queue.is_some() || labels.is_some() || terms != Terms::default();
    Ok(if is_changed { vec![Event::Edited { by, priority, queue, labels, terms }] } else { Vec::new() })
}

/// The job after an edit; the state's name when that cannot be.
pub(super) fn apply(
    mut job: Job,
    (priority, queue): (Option<u8>, Option<&String>),
    labels: Option<&BTreeMap<String, String>>,
    terms: &Terms,
) -> Result<Job, &'static str> {
    let Terms { begin, deadline, time_limit_seconds, retries } = terms;
    let moves = priority.is_some() || queue.is_some() || begin.is_some();
    let fits = match job.state {
        JobState::Succeeded => false,
        JobState::Failed | JobState::Cancelled => !moves && labels.is_none(),
        JobState::Running { .. } => !moves,
        JobState::Queued { .. } | JobState::Blocked { .. } | JobState::Held(_) => true,
    };
    if !fits || retries.is_some_and(|retries| retries < job.retries_used) {
        return Err(job.state.name());
    }
    if let Some(begin) = begin {
        match &mut job.state {
            JobState::Queued { not_before }
            | JobState::Blocked { not_before }
            | JobState::Held(Hold { not_before, .. }) => *not_before = begin.value(),
            state => return Err(state.name()),
        }
    }
    job.priority = priority.unwrap_or(job.priority);
    if let Some(queue) = queue {
        job.queue.clone_from(queue);
    }
    if let Some(labels) = labels {
        job.labels.clone_from(labels);
    }
    if let Some(deadline) = deadline {
        job.deadline = deadline.value();
    }
    job.time_limit_seconds = time_limit_seconds.or(job.time_limit_seconds);
    job.retry.limit = retries.unwrap_or(job.retry.limit);
    Ok(job)
}

/// The moment before which it is not started.
const fn begin_of(job: &Job) -> Option<Timestamp> {
    match &job.state {
        JobState::Queued { not_before }
        | JobState::Blocked { not_before }
        | JobState::Held(Hold { not_before, .. }) => *not_before,
        _ => None,
    }
}
