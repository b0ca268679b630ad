//! What a message says: facts for programs, and a text that a person reads in bed. Nothing in it is a line's end or a control character that a job has brought along.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use mlctl_protocol::result::{ModelRef, OutputRef};
use serde::Serialize;

use super::Topic;
use crate::domain::{
    Job, JobState,
    retrain::Conclusion,
    schedule::{SCHEDULE_LABEL, TICK_LABEL},
};

/// Lines of a message about several things; the rest is counted.
pub const MAX_LINES: usize = 50;

/// The longest of what somebody else has written, in characters: a message of a worker, a label.
const MAX_TEXT: usize = 2000;

/// The longest subject, in characters.
const MAX_SUBJECT: usize = 150;

/// A message, as it is sent as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// The same at each try, and after a restart: by it a receiver knows what it has had already.
    pub id: String,
    /// `job.failed`, `array.succeeded`, `schedule.paused`, `digest`, `test` …
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    pub timestamp: Timestamp,
    /// It in a line: the subject of a mail, and what chats show.
    pub text: String,
    /// The facts.
    pub data: Data,
}

/// The facts of a message. What it is not about is not there.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Data {
    /// The job; of a schedule the last one that failed, of an array the member that ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobFacts>,
    /// The array.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub array: Option<Array>,
    /// The schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleFacts>,
    /// Several things at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobFacts {
    /// Its number, as a text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `train`, `infer`, `command`, `retrain` …
    pub kind: String,
    /// Its state, as the event has left it.
    pub state: String,
    /// Why the daemon holds it; null where it does not.
    pub reason: Option<String>,
    /// The login name of who submitted it, or the user id.
    pub user: String,
    /// Its queue.
    pub queue: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How often it was started.
    pub attempt: u32,
    /// Retries of its own used up.
    pub retries_used: u32,
    /// How its last attempt ended.
    pub exit_class: Option<String>,
    /// What failed and why.
    pub message: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The model that it has published.
    pub model: Option<ModelRef>,
    /// What it has predicted.
    pub output: Option<OutputRef>,
    /// What a retraining has come to, and why.
    pub conclusion: Option<Conclusion>,
    /// Its newest checkpoint: what a retry goes on from.
    pub checkpoint_uri: Option<String>,
    /// The schedule that has submitted it, and the tick.
    pub schedule: Option<String>,
    /// The moment of the tick.
    pub scheduled_at: Option<String>,
    /// The array that it is a member of, and which: `17.3`.
    pub member: Option<String>,
}

/// An array.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Array {
    /// Its number, as a text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its members.
    pub size: u32,
    /// How many of them stand where.
    pub counts: BTreeMap<String, u64>,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleFacts {
    /// Its name.
    pub name: String,
    /// In whose name it submits.
    pub user: String,
    /// Why it is paused.
    pub why: String,
}

/// Several things at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Digest {
    /// How many of each topic.
    pub counts: BTreeMap<&'static str, u64>,
    /// Each in a line, the first of them.
    pub lines: Vec<Line>,
    /// How many more there are.
    pub more: u64,
}

/// One of several things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The id of the message that would tell of it alone, and perhaps has: by it, too, a receiver knows what it has had.
    pub message_id: String,
    /// The job or the array, as a text; none of a schedule.
    pub id: Option<String>,
    /// What became of it.
    pub topic: Topic,
    /// It in a line.
    pub text: String,
}

/// A text of others as one bounded line: what ends a line or is a control character is a space.
#[must_use]
pub fn line(text: &str, most: usize) -> String {
    let mut line: String = text
        .chars()
        .take(most)
        .map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c })
        .collect();
    if text.chars().nth(most).is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

/// What there is to say of a job, whose user is called so.
#[must_use]
pub fn facts(job: &Job, user: &str) -> JobFacts {
    let text = |text: &Option<String>| text.as_deref().map(|text| text.chars().take(MAX_TEXT).collect::<String>());
    let exit = job.exit.as_ref();
    JobFacts {
        id: job.id.to_string(),
        name: job.name.clone(),
        kind: job.kind.clone(),
        state: job.state.name().to_owned(),
        reason: match &job.state {
            JobState::Held(hold) => text(&hold.reason),
            _ => None,
        },
        user: user.to_owned(),
        queue: job.queue.clone(),
        labels: job.labels.clone(),
        attempt: job.attempt,
        retries_used: job.retries_used,
        exit_class: exit.map(|exit| exit.class.as_str().to_owned()),
        message: exit.and_then(|exit| text(&exit.message)),
        hint: exit.and_then(|exit| text(&exit.hint)),
        submitted_at: job.submitted_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
        model: job.model.clone(),
        output: job.output.clone(),
        conclusion: job.conclusion.as_deref().cloned(),
        checkpoint_uri: job.checkpoint.as_ref().map(|checkpoint| checkpoint.uri.clone()),
        schedule: job.labels.get(SCHEDULE_LABEL).cloned(),
        scheduled_at: job.labels.get(TICK_LABEL).cloned(),
        member: job.array.as_ref().map(|member| format!("{}.{}", member.id, member.index)),
    }
}

impl JobFacts {
    /// It in a line: what became of it, and why in short.
    #[must_use]
    pub fn headline(&self) -> String {
        let name = line(&self.name, 60);
        let why = match (self.state.as_str(), &self.exit_class, &self.message, &self.reason) {
            ("succeeded", ..) => {
                self.conclusion.as_ref().map(|it| format!(": {}", line(&it.told, 100))).unwrap_or_default()
            }
            (_, Some(class), Some(message), _) => format!(": {class}, {}", line(message, 80)),
            (_, _, _, Some(reason)) => format!(": {}", line(reason, 80)),
            (_, Some(class), None, None) => format!(": {class}"),
            (_, None, _, None) => String::new(),
        };
        line(&format!("{name} {}{why}", self.state), MAX_SUBJECT)
    }

    fn write(&self, out: &mut String) {
        let mut row = |name: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(out, "  {name:<11}{}", line(value, MAX_TEXT));
            }
        };
        row("job", &format!("{} {} ({})", self.id, line(&self.name, 100), self.kind));
        row("state", &self.state);
        let text = |text: &Option<String>| text.as_deref().map(|text| line(text, MAX_TEXT)).unwrap_or_default();
        row("held", &text(&self.reason));
        row("outcome", self.conclusion.as_ref().map(|it| it.told.as_str()).unwrap_or_default());
        row("exit class", self.exit_class.as_deref().filter(|class| *class != "ok").unwrap_or_default());
        row("why", &text(&self.message));
        row("what to do", &text(&self.hint));
        let attempts = match (self.attempt, self.retries_used) {
            (0, _) => "never started".to_owned(),
            (attempt, 0) => attempt.to_string(),
            (attempt, retries) => format!("{attempt}, with {retries} of its retries used"),
        };
        row("attempts", &attempts);
        row("model", self.model.as_ref().map(|model| model.uri.as_str()).unwrap_or_default());
        let output = self.output.as_ref();
        row(
            "output",
            &output.map(|it| format!("{} ({} records, {} errors)", it.uri, it.records, it.errors)).unwrap_or_default(),
        );
        let checkpoint = if self.model.is_none() { self.checkpoint_uri.as_deref() } else { None };
        row("checkpoint", checkpoint.unwrap_or_default());
        let schedule = self.schedule.as_deref().map(|name| line(name, 100));
        let tick = self.scheduled_at.as_deref().map(|at| format!(", tick of {at}")).unwrap_or_default();
        row("schedule", &schedule.map(|name| format!("{name}{tick}")).unwrap_or_default());
        row("member", self.member.as_deref().unwrap_or_default());
        row("user", &self.user);
        row("queue", &self.queue);
        let labels = self.labels.iter().filter(|(key, _)| !key.starts_with("mlctl/"));
        let labels: Vec<String> =
            labels.map(|(key, value)| format!("{}={}", line(key, 100), line(value, 100))).collect();
        row("labels", &labels.join(" "));
        row("submitted", &self.submitted_at.to_string());
        row("started", &self.started_at.map(|at| at.to_string()).unwrap_or_default());
        row("ended", &self.finished_at.map(|at| at.to_string()).unwrap_or_default());
        let _ = writeln!(out, "\nOn that machine:\n  mlctl show {0}\n  mlctl logs {0}", self.id);
        match self.state.as_str() {
            "failed" | "cancelled" => drop(writeln!(out, "  mlctl retry {}", self.id)),
            "held" => drop(writeln!(out, "  mlctl release {}", self.id)),
            _ => {}
        }
    }
}

impl Message {
    /// The subject of a mail.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("[mlctl] {}", line(&self.text, MAX_SUBJECT))
    }

    /// The text for a person, in lines.
    #[must_use]
    pub fn body(&self) -> String {
        let Data { job, array, schedule, digest } = &self.data;
        let mut out = format!("{}\n\n", line(&self.text, 400));
        if let Some(ScheduleFacts { name, user, why }) = schedule {
            let name = line(name, 100);
            let _ = writeln!(
                out,
                "Schedule {name} of {user} submits nothing until somebody resumes it: {}",
                line(why, MAX_TEXT)
            );
            let _ = writeln!(out, "\n  mlctl schedule show {name}\n  mlctl schedule resume {name}\n");
        }
        if let Some(Array { id, size, counts, .. }) = array {
            let counts: Vec<String> = counts.iter().map(|(tally, members)| format!("{members} {tally}")).collect();
            let _ = writeln!(out, "Array {id} of {size}: {}\n\n  mlctl show {id}\n", counts.join(", "));
        }
        if let Some(Digest { lines, more, .. }) = digest {
            for Line { id, text, .. } in lines {
                let _ = writeln!(out, "  {:<9}{}", id.as_deref().unwrap_or("-"), line(text, 300));
            }
            if *more > 0 {
                let _ = writeln!(out, "  … and {more} more");
            }
            let _ = writeln!(out, "\nmlctl ls and mlctl show JOB say more.");
        }
        if let Some(job) = job {
            if schedule.is_some() {
                out.push_str("The last job of it that failed:\n");
            } else if array.is_some() {
                out.push_str("The member of it that this came with:\n");
            }
            job.write(&mut out);
        }
        let _ = writeln!(out, "\n-- \n{} at {}, message {}", self.kind, self.timestamp, self.id);
        out
    }
}
