//! What the played daemon says of jobs.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use mlctl::{daemon::clock::SystemClock, domain::Clock as _};
use serde_json::{Value as Json, json};

/// When every job was submitted: so long ago that a test's own time does not show.
pub static SUBMITTED: LazyLock<Timestamp> = LazyLock::new(|| {
    let ago = SignedDuration::from_mins(3 * 24 * 60 + 2 * 60 + 30);
    SystemClock::default().now().checked_sub(ago).unwrap()
});

/// A queued job, changed.
pub fn job(id: u64, changes: Json) -> Json {
    let mut view = json!({
        "schema": 1, "id": id.to_string(), "name": "digits", "kind": "train", "state": "queued", "reason": null,
        "queue": "default", "priority": 50, "user": "ada", "uid": 1000, "labels": {}, "resources": {"cpus": 1, "gpus": 0}, "gpus": [],
        "attempt": null, "retries_used": 0, "retry_limit": 3,
        "infrastructure_retries_used": 0, "infrastructure_retry_limit": 5, "quarantined": false, "exit_class": null, "exit_message": null, "exit_hint": null,
        "array": null, "submitted_at": SUBMITTED.to_string(), "started_at": null, "finished_at": null, "not_before": null,
        "deadline": null, "time_limit_seconds": null, "preemptible": false, "intent": null,
        "progress": null, "eta_seconds": null, "metrics": {}, "worker": null, "peak_rss_bytes": null, "cpu_seconds": null, "checkpoint": null,
        "model": null, "output": null, "spec_digest": "00ff"
    });
    let Json::Object(changes) = changes else { panic!("an object") };
    // The macro has its limits.
    view["peak_vram_bytes"] = Json::Null;
    view.as_object_mut().unwrap().extend(changes);
    view
}

/// The job as it ended.
pub fn ended(id: u64, state: &str, class: &str) -> Json {
    let (start, end) = (*SUBMITTED, SUBMITTED.checked_add(SignedDuration::from_secs(75)).unwrap());
    job(
        id,
        json!({
            "state": state, "exit_class": class, "attempt": 1, "started_at": start.to_string(), "finished_at": end.to_string(),
            "exit_message": (state == "failed").then_some("it went wrong"),
        }),
    )
}

/// An error of the daemon's.
pub fn error(code: &str, message: &str) -> Json {
    json!({"error": {"code": code, "message": message, "hint": "look again", "problems": []}})
}

/// A message of a stream.
pub fn event(name: &str, data: &Json) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// A text without the times of this run.
pub fn timeless(text: &str) -> String {
    let mut text = text.to_owned();
    for (seconds, name) in [(0, "SUBMITTED"), (75, "FINISHED")] {
        let at = SUBMITTED.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        text = text.replace(&at.strftime("%Y-%m-%d %H:%M:%S").to_string(), name);
    }
    text
}
