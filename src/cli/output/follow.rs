//! A job that is watched: a bar on a terminal, lines in a pipe. What is said is decided by pure functions of two views; all of it goes to standard error, so that data
//! stays alone on standard output.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mlctl_protocol::progress::Metrics;

use super::{Output, text};
use crate::api::types::{JobView, PointView};

/// The least time between two lines of progress in a pipe.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How often the bar is drawn anew: its clock goes on while no news come.
const TICK: Duration = Duration::from_millis(250);

/// Shows how a job goes.
pub struct Watch {
    bar: Option<ProgressBar>,
    is_silent: bool,
    before: Option<JobView>,
    /// The newest values of the learning curve.
    metrics: Metrics,
    last_line: Option<(Instant, String)>,
}

impl Watch {
    /// A bar where standard error is a terminal; nothing where programs read.
    pub fn new(out: &Output) -> Self {
        let bar = (out.is_live && !out.is_json()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, is_silent: out.is_json(), before: None, metrics: Metrics::new(), last_line: None }
    }

    /// Shows the job as it is now.
    pub fn job(&mut self, job: &JobView, now: Instant) {
        for line in changes(self.before.as_ref(), job) {
            self.say(&line);
        }
        if job.state == "running" {
            let status = status(job, &self.metrics);
            self.draw(job, status, now);
        }
        self.before = Some(job.clone());
    }

    /// Takes new points of the learning curve.
    pub fn points(&mut self, points: &[PointView]) {
        for point in points {
            self.metrics.extend(point.values.clone());
        }
    }

    /// Says something that is no progress.
    pub fn say(&self, line: &str) {
        match &self.bar {
            _ if self.is_silent => {}
            Some(bar) => bar.println(line),
            None => _ = writeln!(io::stderr(), "{line}"),
        }
    }

    /// Takes the bar away.
    pub fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn draw(&mut self, job: &JobView, status: String, now: Instant) {
        let Some(bar) = &self.bar else {
            let is_due = self.last_line.as_ref().is_none_or(|(at, line)| now - *at >= LINE_EVERY && *line != status);
            if is_due && !status.is_empty() {
                self.say(&status);
                self.last_line = Some((now, status));
            }
            return;
        };
        let progress = job.progress.clone().unwrap_or_default();
        let (done, all) = match (progress.step, progress.steps) {
            (Some(step), steps) => (step, steps),
            (None, _) => (progress.records.unwrap_or(0), progress.total),
        };
        let template = if all.is_some() { "{bar:24.cyan/dim} {msg}" } else { "{spinner} {msg}" };
        // The templates are constants, and right.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        if let Some(all) = all {
            bar.set_length(all);
        }
        bar.set_position(done);
        bar.set_message(status);
    }
}

/// What has happened to a job between two views of it, a line each. How it ended is for its last words.
fn changes(before: Option<&JobView>, after: &JobView) -> Vec<String> {
    let mut lines = Vec::new();
    let is_new = before.is_none();
    let reason = after.reason.as_deref().unwrap_or("it waits for its turn");
    match after.state.as_str() {
        "queued"
            if is_new || before.is_some_and(|before| before.state != "queued" || before.reason != after.reason) =>
        {
            lines.push(format!("job {} ({}) is queued: {}", after.id, after.name, text::visible_line(reason)));
        }
        "blocked"
            if is_new || before.is_some_and(|before| before.state != "blocked" || before.reason != after.reason) =>
        {
            lines.push(format!("job {} ({}) is blocked: it {}", after.id, after.name, text::visible_line(reason)));
        }
        "held" if before.is_none_or(|before| before.state != "held") => {
            lines.push(format!("job {} ({}) is {}", after.id, after.name, text::visible_line(reason)));
        }
        "running"
            if is_new || before.is_some_and(|before| before.state != "running" || before.attempt != after.attempt) =>
        {
            let attempt = after.attempt.unwrap_or(1);
            let from = after.checkpoint.as_ref().filter(|_| attempt > 1);
            let from = from.map_or_else(String::new, |place| format!(", from step {}", text::count(place.step)));
            lines.push(format!("job {} ({}) runs: attempt {attempt}{from}", after.id, after.name));
        }
        _ => {}
    }
    if after.intent.is_some() && before.is_none_or(|before| before.intent != after.intent) {
        let how = match after.intent.as_deref() {
            Some("stop") => "save its work and stop",
            Some("pause") => "save its work and pause",
            Some("yield") => "save its work and make way for a more urgent one",
            _ => "stop",
        };
        lines.push(format!("the job was asked to {how}"));
    }
    if let (Some(before), Some(place)) = (before, &after.checkpoint)
        && before.checkpoint.as_ref().map(|place| place.step) != Some(place.step)
    {
        lines.push(format!("checkpoint at step {}", text::count(place.step)));
    }
    lines
}

/// How a running job stands, in a line.
fn status(job: &JobView, metrics: &Metrics) -> String {
    let progress = job.progress.clone().unwrap_or_default();
    let mut parts = vec![text::progress_in_full(&progress)];
    parts.extend(progress.loss.map(|loss| format!("loss {}", text::number(loss))));
    for name in ["val_loss", "val_accuracy"] {
        parts.extend(metrics.get(name).map(|value| format!("{name} {}", text::number(*value))));
    }
    parts.extend(job.eta_seconds.map(|seconds| format!("ETA {}", text::duration(seconds))));
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::cli::output::samples;

    fn view(changes: &[(&str, Json)]) -> JobView {
        samples::job(changes)
    }

    #[test]
    fn what_happened_is_said_once() {
        let queued = view(&[("state", json!("queued")), ("reason", json!("waits for 2 CPUs"))]);
        let running = view(&[("state", json!("running")), ("attempt", json!(1))]);
        let saved = view(&[
            ("state", json!("running")),
            ("attempt", json!(1)),
            ("checkpoint", json!({"step": 1500, "uri": "u"})),
        ]);
        let again = view(&[
            ("state", json!("running")),
            ("attempt", json!(2)),
            ("checkpoint", json!({"step": 1500, "uri": "u"})),
        ]);
        let stopping = view(&[("state", json!("running")), ("attempt", json!(1)), ("intent", json!("cancel"))]);
        let ended = view(&[("state", json!("succeeded")), ("attempt", json!(1))]);
        let cases: [(Option<&JobView>, &JobView, &[&str]); 8] = [
            (None, &queued, &["job 7 (digits) is queued: waits for 2 CPUs"]),
            (Some(&queued), &queued, &[]),
            (Some(&queued), &running, &["job 7 (digits) runs: attempt 1"]),
            (Some(&running), &running, &[]),
            (Some(&running), &saved, &["checkpoint at step 1,500"]),
            (Some(&saved), &again, &["job 7 (digits) runs: attempt 2, from step 1,500"]),
            (Some(&running), &stopping, &["the job was asked to stop"]),
            (Some(&running), &ended, &[]),
        ];
        for (before, after, lines) in cases {
            assert_eq!(changes(before, after), lines);
        }
    }

    #[test]
    fn a_status_says_what_is_known() {
        let progress =
            json!({"step": 500, "steps": 1000, "epoch": 2, "epochs": 4, "rows_per_second": 12345.6, "loss": 0.25});
        let job = view(&[("progress", progress), ("eta_seconds", json!(75))]);
        let metrics = Metrics::from([("val_loss".to_owned(), 0.5), ("other".to_owned(), 1.0)]);
        assert_eq!(
            status(&job, &metrics),
            "step 500 of 1,000, epoch 2 of 4, 12,346 rows/s, loss 0.2500, val_loss 0.5000, ETA 1m 15s"
        );
        assert_eq!(status(&view(&[]), &Metrics::new()), "");
    }
}
