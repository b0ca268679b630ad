//! A job's events in words and as JSON. Data in, words out.

use serde_json::Value;

use super::{
    Scene,
    reason::{held, span, what},
};
use crate::{
    api::types::EventView,
    domain::{Event, Exit, Intent},
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
        Event::Submitted { user, priority, .. } => {
            format!("submitted by {} with priority {priority}", scene.name(*user))
        }
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
        Event::Paused { attempt, exit } => format!("attempt {attempt} ended: {}; the job is held", words(exit)),
        Event::Succeeded { attempt, model, output } => {
            let model = model.as_ref().map(|model| format!(", model at {}", model.uri));
            let output = output.as_ref().map(|output| format!(", {} records at {}", output.records, output.uri));
            format!("succeeded in attempt {attempt}{}", model.or(output).unwrap_or_default())
        }
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
        Event::Edited { by, priority, labels } => {
            let priority = priority.map(|priority| format!("priority is {priority}"));
            let labels = labels.as_ref().map(|labels| {
                let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                if pairs.is_empty() { "no labels".to_owned() } else { format!("labels are {}", pairs.join(" ")) }
            });
            let changes: Vec<_> = priority.into_iter().chain(labels).collect();
            format!("changed by {}: {}", scene.name(*by), changes.join(", "))
        }
        Event::Retried { by } => format!("{} wants it tried again", scene.name(*by)),
    }
}

fn words(exit: &Exit) -> String {
    match &exit.message {
        Some(message) => format!("{}: {message}", exit.class),
        None => exit.class.to_string(),
    }
}
