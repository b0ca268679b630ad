//! The state machine: [`decide`] turns a command into events or refuses it, [`apply`] folds an event into the job. Every legal transition is in these two
//! matches; the store runs them on the current row inside its transaction.

mod blocked;
mod edit;

use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::{AttemptNumber, ExitClass, JobId};

use super::{
    Command, Event, Exit, Fence, Hold, Intent, Job, JobState, Refusal, Uid,
    dependency::{self, Waits},
    retry::{self, Fate},
};

/// What a command does to a job at this moment. A fenced command needs `fence` to name the attempt that holds the job; a fence given with any other command
/// must hold too. No events mean that there is nothing left to do: the command was obeyed before.
///
/// # Errors
/// [`Refusal::Stale`] when the fence does not match, [`Refusal::WrongState`] when the state does not allow it.
pub fn decide(job: &Job, fence: Option<Fence>, command: &Command, now: Timestamp) -> Result<Vec<Event>, Refusal> {
    if (command.is_fenced() || fence.is_some()) && !fence.is_some_and(|fence| holds(job, fence)) {
        let attempt = fence.map_or(AttemptNumber(job.attempt), |fence| fence.attempt);
        return Err(Refusal::Stale { job: job.id, attempt });
    }
    let attempt = AttemptNumber(job.attempt);
    let event = match (&job.state, command) {
        (JobState::Queued { not_before }, Command::Claim { token, gpus })
            if not_before.is_none_or(|time| time <= now) && !is_late(job, now) =>
        {
            let Some(attempt) = job.attempt.checked_add(1) else { return Err(wrong_state(job, command)) };
            Event::Claimed { attempt: AttemptNumber(attempt), token: *token, gpus: gpus.clone() }
        }
        (JobState::Running { .. }, Command::Launched { process }) => {
            Event::Launched { attempt, process: process.clone() }
        }
        (JobState::Running { .. }, Command::Resumed { step, skipped }) => {
            Event::Resumed { attempt, step: *step, skipped: skipped.clone() }
        }
        // Reported by the worker, and found once more in storage when it died.
        (JobState::Running { .. }, Command::Checkpointed { checkpoint })
            if job.checkpoint.as_ref() == Some(checkpoint) =>
        {
            return Ok(Vec::new());
        }
        (JobState::Running { .. }, Command::Checkpointed { checkpoint }) => {
            Event::Checkpointed { attempt, checkpoint: checkpoint.clone() }
        }
        (JobState::Running { .. }, Command::Warned { message }) => Event::Warned { attempt, message: message.clone() },
        // Work that is done counts, whatever was asked meanwhile.
        (JobState::Running { .. }, Command::End { exit, model, output, .. }) if exit.class == ExitClass::Ok => {
            Event::Succeeded { attempt, model: model.clone(), output: output.clone() }
        }
        (JobState::Running { intent, .. }, Command::End { exit, jitter, .. }) => {
            ended(job, intent.as_ref(), exit, *jitter, now)
        }
        _ => return wish(job, command, now),
    };
    Ok(vec![event])
}

/// What a person's command does.
fn wish(job: &Job, command: &Command, now: Timestamp) -> Result<Vec<Event>, Refusal> {
    let event = match (&job.state, command) {
        (state, Command::Cancel { by } | Command::Stop { by }) if waits(state) => {
            Event::Cancelled { by: Some(*by), exit: None }
        }
        (
            JobState::Running { intent, .. },
            Command::Cancel { .. }
            | Command::Stop { .. }
            | Command::StopEarly { .. }
            | Command::Replace { .. }
            | Command::Pause { .. }
            | Command::Yield { .. },
        ) => return intended(job, intent.as_ref(), command),
        (JobState::Queued { .. }, Command::Replace { by }) => Event::Replaced { by: *by },
        // A start time outlasts the hold; a retry's wait does not.
        (
            JobState::Queued { not_before } | JobState::Blocked { not_before },
            Command::Hold { hold } | Command::Pause { hold },
        ) => {
            let not_before = not_before.filter(|_| job.attempt == 0);
            Event::Held { hold: Hold { not_before, ..hold.clone() } }
        }
        (JobState::Held(_), Command::Hold { .. } | Command::Pause { .. }) => return Ok(Vec::new()),
        (JobState::Held(_), Command::Release { by }) => Event::Released { by: *by },
        (state, Command::Edit { by, edit }) if *state != JobState::Succeeded => {
            return edit::decide(job, *by, edit, now);
        }
        // It goes on waiting, for its stages.
        (JobState::Blocked { .. }, Command::Unblock) if job.is_retraining() => return Ok(Vec::new()),
        (JobState::Blocked { .. }, Command::Unblock) => Event::Unblocked,
        (JobState::Blocked { .. }, Command::Conclude { exit, conclusion }) if job.is_retraining() => {
            Event::Concluded { exit: exit.clone(), conclusion: conclusion.clone() }
        }
        (JobState::Blocked { .. }, Command::Unmet(never)) => Event::Unmet(never.clone()),
        (JobState::Blocked { .. }, Command::Waive { on }) => Event::Waived { on: on.clone() },
        // Of a quarantined job: who wants it tried again has looked at it.
        (_, Command::Retry { by }) if may_retry(job) && !is_late(job, now) => Event::Retried { by: *by },
        (state, Command::Expire) if waits(state) && is_late(job, now) => Event::Expired { exit: expired(job) },
        (state, Command::Remove { by, with_array }) if state.is_terminal() && (*with_array || job.array.is_none()) => {
            Event::Removed { by: *by }
        }
        _ => return Err(wrong_state(job, command)),
    };
    Ok(vec![event])
}

/// What is asked of a running job: an event, or nothing where it was asked for something as grave before. Who cancelled it does not want it longer than to save its work takes.
fn intended(job: &Job, before: Option<&Intent>, command: &Command) -> Result<Vec<Event>, Refusal> {
    let (intent, event) = match command {
        Command::Cancel { by } => (Intent::Cancel, Event::Intended { intent: Intent::Cancel, by: *by, reason: None }),
        Command::Stop { by } => (Intent::Stop, Event::Intended { intent: Intent::Stop, by: *by, reason: None }),
        Command::StopEarly { by, reason } => {
            (Intent::Stop, Event::Intended { intent: Intent::Stop, by: *by, reason: Some(reason.clone()) })
        }
        Command::Replace { by } => (Intent::Cancel, Event::Replaced { by: *by }),
        Command::Pause { hold } => (Intent::Pause(hold.clone()), Event::Pausing { hold: hold.clone() }),
        Command::Yield { to } if job.preemptible => (Intent::Yield { to: *to }, Event::Yielding { to: *to }),
        _ => return Err(wrong_state(job, command)),
    };
    Ok(if is_graver(before, &intent) { vec![event] } else { Vec::new() })
}

fn is_graver(before: Option<&Intent>, intent: &Intent) -> bool {
    before.is_none_or(|before| before.weight() < intent.weight())
}

/// The job after an event. `job` is `None` before the first one.
///
/// # Errors
/// [`IllegalEvent`] for an event that no `decide` gives in this state: a damaged log or a bug.
pub fn apply(id: JobId, job: Option<Job>, event: &Event, at: Timestamp) -> Result<Job, IllegalEvent> {
    let illegal = |state| IllegalEvent { job: id, event: name(event), state };
    let Some(mut job) = job else { return submitted(id, event, at).ok_or_else(|| illegal("absent")) };
    let attempt = job.attempt;
    let fits = |named: &AttemptNumber| named.0 == attempt;
    match (&job.state, event) {
        (JobState::Queued { not_before }, Event::Claimed { attempt: new, token, gpus })
            if not_before.is_none_or(|time| time <= at) && attempt.checked_add(1) == Some(new.0) =>
        {
            job.attempt = new.0;
            job.started_at = Some(at);
            job.gpus.clone_from(gpus);
            job.exit = None;
            job.state = JobState::Running { token: *token, intent: None };
        }
        (
            JobState::Running { .. },
            Event::Launched { attempt, .. } | Event::Resumed { attempt, .. } | Event::Warned { attempt, .. },
        ) if fits(attempt) => {}
        (JobState::Running { .. }, Event::Checkpointed { attempt, checkpoint }) if fits(attempt) => {
            job.checkpoint = Some(checkpoint.clone());
            job.fruitless = 0;
        }
        (
            JobState::Running { token, intent: before },
            Event::Intended { .. } | Event::Replaced { .. } | Event::Pausing { .. } | Event::Yielding { .. },
        ) => {
            let intent = asks(event).filter(|intent| is_graver(before.as_ref(), intent));
            let intent = Some(intent.ok_or_else(|| illegal(job.state.name()))?);
            job.state = JobState::Running { token: *token, intent };
            // What was asked last counts.
            job.stopped_early = match event {
                Event::Intended { reason, .. } => reason.clone(),
                _ => None,
            };
            job.replaced_by = match event {
                Event::Replaced { by } => Some(*by),
                _ => None,
            };
        }
        (state, Event::Cancelled { exit: None, .. }) if waits(state) => {
            finish(&mut job, JobState::Cancelled, at);
        }
        (JobState::Queued { .. }, Event::Replaced { by }) => {
            job.replaced_by = Some(*by);
            finish(&mut job, JobState::Cancelled, at);
        }
        (state, Event::Expired { exit }) if waits(state) && is_late(&job, at) => {
            job.exit = Some(exit.clone());
            finish(&mut job, JobState::Failed, at);
        }
        (_, Event::Retried { .. }) if may_retry(&job) => {
            job.retries_used = 0;
            (job.infrastructure_retries_used, job.fruitless) = (0, 0);
            job.finished_at = None;
            (job.stopped_early, job.replaced_by) = (None, None);
            // Of a job whose deadline passed before it was started, nothing has ended.
            job.exit = job.exit.filter(|_| job.attempt > 0);
            dependency::queued(&mut job, None);
        }
        (JobState::Running { .. }, _) if event.ends_an_attempt() => return over(job, event, at).map_err(illegal),
        (JobState::Blocked { .. }, _) if event.is_of_waiting() => {
            return blocked::apply(job, event, at).map_err(illegal);
        }
        _ => return granted(job, event).map_err(illegal),
    }
    Ok(job)
}

/// The job after the end of its attempt; the state's name when that cannot be.
fn over(mut job: Job, event: &Event, at: Timestamp) -> Result<Job, &'static str> {
    let attempt = job.attempt;
    let fits = |named: &AttemptNumber| named.0 == attempt;
    match (&job.state, event) {
        (JobState::Running { .. }, Event::Succeeded { attempt, model, output }) if fits(attempt) => {
            job.model.clone_from(model);
            job.output.clone_from(output);
            job.exit = Some(Exit { class: ExitClass::Ok, message: None, hint: None });
            (job.stopped_early, job.replaced_by) = (None, None);
            finish(&mut job, JobState::Succeeded, at);
        }
        (JobState::Running { .. }, Event::Failed { attempt, exit }) if fits(attempt) => {
            job.exit = Some(exit.clone());
            finish(&mut job, JobState::Failed, at);
        }
        (
            JobState::Running { .. },
            Event::Requeued { attempt, exit, not_before, retries_used, infrastructure_retries_used, fruitless },
        ) if fits(attempt) && retries_fit(&job, exit.class, *retries_used, *infrastructure_retries_used) => {
            job.exit = Some(exit.clone());
            job.retries_used = *retries_used;
            job.infrastructure_retries_used = infrastructure_retries_used.unwrap_or(job.infrastructure_retries_used);
            job.fruitless = *fruitless;
            job.state = JobState::Queued { not_before: *not_before };
        }
        (JobState::Running { intent: Some(Intent::Pause(hold)), .. }, Event::Paused { attempt, exit })
            if fits(attempt) =>
        {
            job.exit = Some(exit.clone());
            job.state = JobState::Held(hold.clone());
        }
        (JobState::Running { .. }, Event::Cancelled { exit: Some(exit), .. }) => {
            job.exit = Some(exit.clone());
            finish(&mut job, JobState::Cancelled, at);
        }
        (JobState::Running { .. }, Event::Quarantined { attempt, exit, reason }) if fits(attempt) => {
            job.exit = Some(exit.clone());
            let reason = Some(reason.clone());
            job.state = JobState::Held(Hold { by: Uid::SYSTEM, reason, not_before: None });
        }
        (state, _) => return Err(state.name()),
    }
    Ok(job)
}

/// What an event asks of a running job.
fn asks(event: &Event) -> Option<Intent> {
    match event {
        Event::Intended { intent: intent @ (Intent::Cancel | Intent::Stop), .. } => Some(intent.clone()),
        Event::Replaced { .. } => Some(Intent::Cancel),
        Event::Pausing { hold } => Some(Intent::Pause(hold.clone())),
        Event::Yielding { to } => Some(Intent::Yield { to: *to }),
        _ => None,
    }
}

/// The job after what a person asked of it while it waits, or of its row alone; the state's name when that cannot be.
fn granted(mut job: Job, event: &Event) -> Result<Job, &'static str> {
    match (&job.state, event) {
        (JobState::Queued { .. } | JobState::Blocked { .. }, Event::Held { hold }) => {
            job.state = JobState::Held(hold.clone());
        }
        (state, Event::Removed { .. }) if state.is_terminal() => {}
        (JobState::Held(hold), Event::Released { .. }) => {
            let not_before = hold.not_before;
            if hold.is_quarantine() {
                (job.infrastructure_retries_used, job.fruitless) = (0, 0);
            }
            dependency::queued(&mut job, not_before);
        }
        (_, Event::Edited { priority, queue, labels, terms, .. }) => {
            return edit::apply(job, (*priority, queue.as_ref()), labels.as_ref(), terms);
        }
        (state, _) => return Err(state.name()),
    }
    Ok(job)
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

/// Whether this attempt holds the job: it is running, and under this token.
#[must_use]
pub fn holds(job: &Job, fence: Fence) -> bool {
    let running = matches!(job.state, JobState::Running { token, .. } if token == fence.token);
    running && fence.job == job.id && fence.attempt.0 == job.attempt
}

/// What follows an end that was not a success.
fn ended(job: &Job, intent: Option<&Intent>, exit: &Exit, jitter: f64, now: Timestamp) -> Event {
    let (attempt, exit) = (AttemptNumber(job.attempt), exit.clone());
    match (exit.class, intent) {
        (ExitClass::Cancelled, _) | (_, Some(Intent::Cancel | Intent::Stop)) => {
            Event::Cancelled { by: None, exit: Some(exit) }
        }
        // Whatever it died of: who paused it decides when it goes on, from its last checkpoint. Only what would fail again the same way has failed.
        (class, Some(Intent::Pause(_))) if class != ExitClass::Spec => Event::Paused { attempt, exit },
        _ => died(job, exit, jitter, now),
    }
}

/// What follows a death that nobody asked for.
fn died(job: &Job, exit: Exit, jitter: f64, now: Timestamp) -> Event {
    let attempt = AttemptNumber(job.attempt);
    let Job { retries_used, infrastructure_retries_used, fruitless, .. } = *job;
    if exit.class == ExitClass::Preempted {
        let (not_before, infrastructure_retries_used) = (None, None);
        return Event::Requeued { attempt, exit, not_before, retries_used, infrastructure_retries_used, fruitless };
    }
    let used = retry::Used { retries: retries_used, infrastructure: infrastructure_retries_used, fruitless };
    match retry::fate(&job.retry, used, exit.class, jitter) {
        Fate::Fails => Event::Failed { attempt, exit },
        Fate::Quarantined(reason) => Event::Quarantined { attempt, exit, reason },
        Fate::Again { wait, retries, infrastructure, fruitless } => {
            let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
            let not_before = (!wait.is_zero()).then(|| now.saturating_add(wait).unwrap_or(Timestamp::MAX));
            let (retries_used, infrastructure_retries_used) = (retries, infrastructure);
            Event::Requeued { attempt, exit, not_before, retries_used, infrastructure_retries_used, fruitless }
        }
    }
}

/// Whether it has not ended and does not run, whatever it waits for.
const fn waits(state: &JobState) -> bool {
    !state.is_terminal() && !matches!(state, JobState::Running { .. })
}

/// Whether its deadline has passed. At the deadline itself it has.
fn is_late(job: &Job, now: Timestamp) -> bool {
    job.deadline.is_some_and(|deadline| deadline <= now)
}

fn expired(job: &Job) -> Exit {
    let deadline = job.deadline.map(|at| at.strftime(", %Y-%m-%d %H:%M:%S UTC,").to_string()).unwrap_or_default();
    let what = if job.attempt == 0 { "start" } else { "go on" };
    let message = Some(format!("its deadline{deadline} passed before it could {what}"));
    let hint = Some("give it another with `mlctl edit --deadline`, or none with `--no-deadline`".to_owned());
    Exit { class: ExitClass::Timeout, message, hint }
}

fn may_retry(job: &Job) -> bool {
    match &job.state {
        JobState::Failed | JobState::Cancelled => true,
        JobState::Held(hold) => hold.is_quarantine() || job.unmet().is_some(),
        _ => false,
    }
}

/// A preemption uses up no retry, a fault of the infrastructure one of those; anything else uses up one of the job's own, within the limit.
fn retries_fit(job: &Job, class: ExitClass, retries_used: u32, infrastructure: Option<u32>) -> bool {
    if let Some(used) = infrastructure {
        let is_next = job.infrastructure_retries_used.checked_add(1) == Some(used);
        return is_next && used <= job.retry.infrastructure_limit && retries_used == job.retries_used;
    }
    if class == ExitClass::Preempted {
        return retries_used == job.retries_used;
    }
    job.retries_used.checked_add(1) == Some(retries_used) && retries_used <= job.retry.limit
}

fn finish(job: &mut Job, state: JobState, at: Timestamp) {
    // Whatever it was held for: it is over for another reason.
    job.waits.iter_mut().for_each(|waits| waits.unmet = None);
    job.state = state;
    job.finished_at = Some(at);
}

fn submitted(id: JobId, event: &Event, at: Timestamp) -> Option<Job> {
    let Event::Submitted {
        name,
        kind,
        user,
        queue,
        priority,
        labels,
        resources,
        retry,
        spec_digest,
        not_before,
        preemptible,
        array,
        deadline,
        gate,
        after,
    } = event
    else {
        return None;
    };
    Some(Job {
        id,
        name: name.clone(),
        kind: kind.clone(),
        user: *user,
        queue: queue.clone(),
        priority: *priority,
        labels: labels.clone(),
        resources: resources.clone(),
        retry: retry.clone(),
        preemptible: *preemptible,
        deadline: *deadline,
        time_limit_seconds: None,
        spec_digest: spec_digest.clone(),
        array: array.clone(),
        gate: gate.clone(),
        waits: after.as_ref().map(|after| Waits { if_failed: after.if_failed, unmet: None }),
        stopped_early: None,
        replaced_by: None,
        submitted_at: at,
        state: match after {
            None => JobState::Queued { not_before: *not_before },
            Some(_) => JobState::Blocked { not_before: *not_before },
        },
        attempt: 0,
        retries_used: 0,
        infrastructure_retries_used: 0,
        fruitless: 0,
        gpus: Vec::new(),
        started_at: None,
        finished_at: None,
        exit: None,
        checkpoint: None,
        model: None,
        output: None,
        conclusion: None,
    })
}

fn wrong_state(job: &Job, command: &Command) -> Refusal {
    let verb = match command {
        Command::Claim { .. } | Command::Launched { .. } => "started",
        Command::Resumed { .. } => "resumed",
        Command::Checkpointed { .. } => "checkpointed",
        Command::Warned { .. } => "warned about",
        Command::End { .. } => "ended",
        Command::Cancel { .. } => "cancelled",
        Command::Stop { .. } | Command::StopEarly { .. } => "stopped",
        Command::Replace { .. } => "replaced",
        Command::Pause { .. } => "paused",
        Command::Yield { .. } if !job.preemptible => "made to yield: it is not preemptible",
        Command::Yield { .. } => "made to yield",
        Command::Hold { .. } => "held",
        Command::Release { .. } if matches!(&job.state, JobState::Running { intent: Some(Intent::Pause(_)), .. }) => {
            "released: it is still saving its work"
        }
        Command::Release { .. } => "released",
        Command::Edit { .. } => "edited",
        Command::Expire => "expired",
        Command::Unblock | Command::Unmet(_) | Command::Waive { .. } => "freed of what it waits for",
        Command::Remove { .. } if job.state.is_terminal() => "removed without its array",
        Command::Remove { .. } => "removed",
        Command::Conclude { .. } => "concluded",
        Command::Retry { .. } if may_retry(job) => {
            "retried: its deadline has passed; `mlctl edit` gives it another with --deadline, or none with --no-deadline"
        }
        Command::Retry { .. } => "retried",
    };
    Refusal::WrongState { job: job.id, state: job.state.name(), verb }
}

const fn name(event: &Event) -> &'static str {
    match event {
        Event::Submitted { .. } => "submitted",
        Event::Unblocked => "unblocked",
        Event::Unmet(_) => "unmet",
        Event::Waived { .. } => "waived",
        Event::Claimed { .. } => "claimed",
        Event::Launched { .. } => "launched",
        Event::Resumed { .. } => "resumed",
        Event::Checkpointed { .. } => "checkpointed",
        Event::Warned { .. } => "warned",
        Event::Intended { .. } => "intended",
        Event::Replaced { .. } => "replaced",
        Event::Pausing { .. } => "pausing",
        Event::Yielding { .. } => "yielding",
        Event::Paused { .. } => "paused",
        Event::Succeeded { .. } => "succeeded",
        Event::Failed { .. } => "failed",
        Event::Requeued { .. } => "requeued",
        Event::Quarantined { .. } => "quarantined",
        Event::Cancelled { .. } => "cancelled",
        Event::Concluded { .. } => "concluded",
        Event::Retried { .. } => "retried",
        Event::Held { .. } => "held",
        Event::Released { .. } => "released",
        Event::Edited { .. } => "edited",
        Event::Expired { .. } => "expired",
        Event::Removed { .. } => "removed",
    }
}

#[cfg(test)]
mod tests;
