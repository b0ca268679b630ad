//! A job's events in words and as JSON. Data in, words out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Scene,
    reason::{held, span, what},
};
use crate::{
    api::types::EventView,
    domain::{Change, Dependencies, Event, Exit, Intent, Terms, Uid},
    store::StoredEvent,
};

/// An event as a client sees it.
pub(in crate::api) fn view(stored: &StoredEvent, scene: &Scene) -> EventView {
    let StoredEvent { id, at, job, event } = stored;
    // An event is a JSON object by its type.
    let mut fields = match serde_json::to_value(event) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let name = fields.remove("event").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    EventView { id: *id, at: *at, job: *job, event: name, text: text(stored, event, scene), fields }
}

fn text(stored: &StoredEvent, event: &Event, scene: &Scene) -> String {
    match event {
        Event::Submitted { user, priority, after, .. } => submitted(&scene.name(*user), *priority, after.as_ref()),
        Event::Unblocked | Event::Unmet(_) | Event::Waived { .. } => waited(event),
        Event::Claimed { attempt, .. } => format!("attempt {attempt} is started"),
        Event::Launched { attempt, process } => {
            format!("attempt {attempt} is process {} on {}", process.pid, process.host)
        }
        Event::Resumed { attempt, step, skipped } if skipped.is_empty() => {
            format!("attempt {attempt} goes on from the checkpoint of step {step}")
        }
        Event::Resumed { attempt, step, skipped } => {
            let refused = skipped.join("; ");
            format!(
                "attempt {attempt} goes on from the checkpoint of step {step}; newer ones cannot be used: {refused}"
            )
        }
        Event::Checkpointed { checkpoint, .. } => {
            format!("checkpoint of step {} is durable, {} bytes", checkpoint.step, checkpoint.size_bytes)
        }
        Event::Warned { message, .. } => format!("warning: {message}"),
        Event::Intended { reason: Some(reason), .. } => format!("asked to save its work and stop: {reason}"),
        Event::Intended { intent: Intent::Cancel, by, .. } => format!("{} asked it to stop", scene.name(*by)),
        Event::Intended { intent: Intent::Stop, by, .. } => {
            format!("{} asked it to save its work and stop", scene.name(*by))
        }
        Event::Intended { intent: Intent::Pause(_) | Intent::Yield { .. }, by, .. } => {
            format!("{} asked it to save its work", scene.name(*by))
        }
        Event::Pausing { hold } => format!("{} asked it to save its work and pause{}", scene.name(hold.by), what(hold)),
        Event::Yielding { to } => format!("asked to save its work and make way for job {to}"),
        Event::Replaced { by } => format!("cancelled: job {by} with the same concurrency key replaces it"),
        Event::Paused { attempt, exit } => format!("attempt {attempt} ended: {}; the job is held", words(exit)),
        Event::Succeeded { attempt, model, output } => {
            let model = model.as_ref().map(|model| format!(", model at {}", model.uri));
            let output = output.as_ref().map(|output| format!(", {} records at {}", output.records, output.uri));
            format!("succeeded in attempt {attempt}{}", model.or(output).unwrap_or_default())
        }
        Event::Concluded { conclusion: Some(conclusion), .. } => format!("succeeded: {}", conclusion.told),
        Event::Concluded { exit, conclusion: None } => format!("failed: {}", words(exit)),
        Event::Failed { attempt, exit } => format!("failed in attempt {attempt}: {}", words(exit)),
        Event::Requeued { attempt, exit, not_before, .. } => {
            let wait = not_before.map(|time| time.duration_since(stored.at).as_secs());
            let when = match wait.and_then(|seconds| u64::try_from(seconds).ok()) {
                Some(seconds) if seconds > 0 => format!("in {}", span(seconds)),
                _ => "at once".to_owned(),
            };
            format!("attempt {attempt} ended: {}; tried again {when}", words(exit))
        }
        Event::Quarantined { attempt, exit, reason } => {
            format!("attempt {attempt} ended: {}; quarantined: {reason}", words(exit))
        }
        Event::Cancelled { by: Some(by), exit: None } => format!("cancelled by {} while it waited", scene.name(*by)),
        Event::Cancelled { exit: Some(exit), .. } => format!("cancelled: {}", words(exit)),
        Event::Cancelled { by: None, exit: None } => "cancelled".into(),
        Event::Held { hold } => held(hold, scene),
        Event::Released { by } => format!("released by {}", scene.name(*by)),
        Event::Expired { exit } => format!("failed: {}", words(exit)),
        Event::Edited { by, priority, queue, labels, terms } => {
            let changes = [edited(*priority, queue.as_deref(), labels.as_ref()), changed(terms)].concat();
            format!("changed by {}: {}", scene.name(*by), changes.join(", "))
        }
        Event::Removed { by: Uid::SYSTEM } => "removed, as the settings say".into(),
        Event::Removed { by } => format!("removed by {}", scene.name(*by)),
        Event::Retried { by } => format!("{} wants it tried again", scene.name(*by)),
    }
}

/// `submitted by ada with priority 50, after ok:12, any:13`.
fn submitted(by: &str, priority: u8, after: Option<&Dependencies>) -> String {
    let on = after.iter().flat_map(|after| &after.on);
    let on: Vec<_> = on.map(|dependency| format!("{}:{}", dependency.need.name(), dependency.on)).collect();
    let after = if on.is_empty() { String::new() } else { format!(", after {}", on.join(", ")) };
    format!("submitted by {by} with priority {priority}{after}")
}

/// What came of what a job waits for.
fn waited(event: &Event) -> String {
    match event {
        Event::Unmet(never) => format!("waits for {} in vain: {}", never.on, never.message),
        Event::Waived { on } => {
            let ids: Vec<_> = on.iter().map(ToString::to_string).collect();
            format!("is started anew, and no longer waits for {}", ids.join(", "))
        }
        _ => "all that it waited for has come about: it waits for its turn".into(),
    }
}

/// Where it stands and how it is found, after an edit.
fn edited(priority: Option<u8>, queue: Option<&str>, labels: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let priority = priority.map(|priority| format!("priority is {priority}"));
    let queue = queue.map(|queue| format!("queue is {queue}"));
    let labels = labels.map(|labels| {
        let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if pairs.is_empty() { "no labels".to_owned() } else { format!("labels are {}", pairs.join(" ")) }
    });
    priority.into_iter().chain(queue).chain(labels).collect()
}

/// What of its terms an edit has changed.
fn changed(terms: &Terms) -> Vec<String> {
    let Terms { begin, deadline, time_limit_seconds, retries } = terms;
    let moment = |name, change: &Change<Timestamp>| match change {
        Change::Set(at) => format!("{name} is {}", at.strftime("%Y-%m-%d %H:%M:%S UTC")),
        Change::Clear => format!("no {name}"),
    };
    let limit = |change: &Change<u32>| match change {
        Change::Set(seconds) => format!("time limit is {}", span(u64::from(*seconds))),
        Change::Clear => "no time limit".to_owned(),
    };
    let begin = begin.as_ref().map(|change| moment("start time", change));
    let deadline = deadline.as_ref().map(|change| moment("deadline", change));
    let retries = retries.map(|retries| format!("{retries} retries allowed"));
    begin.into_iter().chain(deadline).chain(time_limit_seconds.as_ref().map(limit)).chain(retries).collect()
}

fn words(exit: &Exit) -> String {
    match &exit.message {
        Some(message) => format!("{}: {message}", exit.class),
        None => exit.class.to_string(),
    }
}
