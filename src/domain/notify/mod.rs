//! What people are told of while they are away: which events are news to which hook, what a message says, and what becomes of one that does not arrive. Called by the pipeline, which reads and
//! sends, and by the settings, which say what hooks there are. Pure: no clock, no network, no file.

mod course;
mod mail;
mod message;
mod news;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, path::PathBuf};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

pub use self::{
    course::{Course, MAX_RETRY_AFTER, Outcome, of_exit, of_status, retry_after, retry_in},
    mail::compose,
    message::{Array, Data, Digest, JobFacts, Line, MAX_LINES, Message, ScheduleFacts, facts, line},
    news::{Told, as_of, of_array, topic},
};
use super::{Filter, Uid};

/// Hooks that there may be.
pub const MAX_HOOKS: usize = 32;

/// The longest name of a hook, in characters.
pub const MAX_NAME: usize = 50;

/// News of one look that are told one by one. More than these, and one message tells of all of them: who submits ten thousand jobs that fail wants no ten thousand mails.
pub const MOST_APART: usize = 10;

/// What people may want to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// A job has failed for good, or an array has ended and one of its members has.
    Failed,
    /// The daemon holds a job, which is not tried again before a person has looked at it.
    Held,
    /// A job has succeeded, or an array has ended and all of its members have.
    Succeeded,
    /// A job was cancelled, or an array has ended and one of its members was.
    Cancelled,
    /// The daemon has paused a schedule, since its jobs fail.
    SchedulePaused,
}

impl Topic {
    /// What a hook that does not say is told of: what somebody has to see to.
    pub const DEFAULT: [Self; 3] = [Self::Failed, Self::Held, Self::SchedulePaused];

    /// The name in settings, messages and lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Held => "held",
            Self::Succeeded => "succeeded",
            Self::Cancelled => "cancelled",
            Self::SchedulePaused => "schedule_paused",
        }
    }
}

/// Whom to tell of what, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// Its name: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// What it is told of.
    pub on: BTreeSet<Topic>,
    /// Of which jobs; all where it does not say. An array is meant where its member is that ended last, a schedule where the last of its jobs that failed is.
    #[serde(serialize_with = "text_of")]
    pub filter: Option<Filter>,
    /// How.
    pub channel: Channel,
    /// Seconds that a delivery may take.
    pub timeout_seconds: u32,
}

fn text_of<S: Serializer>(filter: &Option<Filter>, serializer: S) -> Result<S::Ok, S::Error> {
    filter.as_ref().map(ToString::to_string).serialize(serializer)
}

/// How somebody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// By a signed POST of JSON, as <https://www.standardwebhooks.com> has it.
    Webhook {
        /// Where to.
        url: String,
        /// The file with the key.
        secret_file: PathBuf,
        /// The proxy that it goes through.
        proxy: Option<String>,
    },
    /// By a program, which finds the JSON on its standard input: its absolute path, and its arguments.
    Command(Vec<String>),
    /// By a mail, which a program such as sendmail takes from its standard input.
    Mail {
        /// Whom to.
        to: Vec<String>,
        /// From whom.
        from: String,
        /// The program.
        sendmail: PathBuf,
    },
}

impl Channel {
    /// The name in lists.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::Command(_) => "command",
            Self::Mail { .. } => "mail",
        }
    }

    /// Whom it leads to, for a list: of a URL the server alone, since some bear a secret in their path.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Webhook { url, .. } => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
                format!("{scheme}://{}", rest.split(['/', '?', '#']).next().unwrap_or_default())
            }
            Self::Command(argv) => argv.first().cloned().unwrap_or_default(),
            Self::Mail { to, .. } => to.join(", "),
        }
    }
}

/// Whether a text may be a hook's name: it stands in ids of deliveries and in names of credentials.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= MAX_NAME && name.starts_with(is_plain) && name.chars().all(|c| is_plain(c) || matches!(c, '-' | '_'))
}

/// Whether a text is a mail address that can stand in a header as it is: `name@host` in ASCII, nothing that ends a line or begins another address.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((local, host)) = text.split_once('@') else { return false };
    let is_plain = |c: char| {
        c.is_ascii_graphic() && !matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | ',' | ';' | ':' | '"' | '\\' | '@')
    };
    text.len() <= 254
        && !local.is_empty()
        && !host.is_empty()
        && !text.starts_with('-')
        && local.chars().chain(host.chars()).all(is_plain)
}

/// Something that has happened to what is no job, and of which no event tells: kept in a row of its own, in the transaction in which it happens. What else ends some day becomes a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case")]
pub enum Notice {
    /// The daemon has paused a schedule.
    SchedulePaused {
        /// Its name.
        schedule: String,
        /// In whose name it submits.
        user: Uid,
        /// Why, in a line.
        why: String,
    },
}

/// How far a hook has come, and how it fares: what must outlive the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The last event that was dealt with.
    pub event: i64,
    /// The last notice that was.
    pub notice: i64,
    /// A message about all news up to this event was begun to be sent: it tells of these after a restart, too, and of no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Tries of the message that is being sent which have failed.
    #[serde(default)]
    pub tries: u32,
    /// Since when none has arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// What came of the last try that failed; none once one has arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the next try is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// Messages that have arrived.
    #[serde(default)]
    pub delivered: u64,
    /// When the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
    /// Messages that were given up.
    #[serde(default)]
    pub given_up: u64,
    /// Events of jobs that were removed before anybody could be told of them.
    #[serde(default)]
    pub missed: u64,
    /// When something was given up or missed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<Timestamp>,
}
