//! Views for tests.

use serde_json::{Value as Json, json};

use crate::api::types::JobView;

/// A queued job, changed.
pub fn job(changes: &[(&str, Json)]) -> JobView {
    let mut view = json!({
        "schema": 1, "id": "7", "name": "digits", "kind": "train", "state": "queued", "reason": null, "queue": "default", "priority": 50,
        "user": "ada", "uid": 1000, "labels": {}, "resources": {"cpus": 1, "gpus": 0}, "attempt": null, "retries_used": 0,
        "retry_limit": 3, "exit_class": null, "exit_message": null, "exit_hint": null, "submitted_at": "2026-11-25T08:00:00Z",
        "started_at": null, "finished_at": null, "not_before": null, "intent": null, "progress": null, "eta_seconds": null,
        "metrics": {}, "worker": null, "peak_rss_bytes": null, "checkpoint": null, "model": null, "output": null,
        "spec_digest": "00"
    });
    for (key, value) in changes {
        view[*key] = value.clone();
    }
    serde_json::from_value(view).expect("the sample has every field")
}
