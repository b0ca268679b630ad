//! Which stored objects nothing needs. Pure: called by the collection for each object that a walk over the store comes by, with what is on record of its job. Whatever is not understood
//! stays, and so does whatever might be about to be needed: a mistake here is a model that is gone.

use jiff::{SignedDuration, Timestamp};
use mlctl_artifacts::keys::{Key, Part};

use crate::domain::registry::is_within;

/// What is to be collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How old an object must be.
    pub grace: SignedDuration,
    /// Whether models and predictions of jobs that were removed are collected too, which `mlctl rm` leaves for who wants them.
    pub with_results: bool,
}

/// What is on record of the job whose folder an object is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// Where the job stands.
    pub standing: Standing,
    /// URIs that must stay, with all that is in them if they are folders: checkpoints on record, the model, the predictions, what versions hold, what jobs and schedules begin with.
    pub uris: Vec<String>,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// There never was one of this number.
    #[default]
    Unknown,
    /// It was removed.
    Removed,
    /// It is there.
    There {
        /// Starts of it.
        attempt: u32,
        /// Whether the last of them is under way.
        is_running: bool,
    },
}

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Needed,
    /// Nothing needs it, and it is too young to go.
    Young,
    /// It belongs to another database, or is not understood.
    Foreign,
    /// Nothing needs it.
    Garbage,
}

/// An object in question.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// Its URI.
    pub uri: &'a str,
    /// What its name says.
    pub key: &'a Key,
    /// When it was written.
    pub modified: Timestamp,
}

impl Roots {
    /// What becomes of an object of this job.
    #[must_use]
    pub fn judge(&self, object: &Object<'_>, terms: Terms, now: Timestamp) -> Fate {
        if self.uris.iter().any(|root| is_within(object.uri, root)) {
            return Fate::Needed;
        }
        let (attempt, is_result) = match object.key.part {
            Part::Attempt { attempt, .. } => (attempt, false),
            Part::Model { attempt } | Part::Output { attempt } => (attempt, true),
            Part::Other => return Fate::Foreign,
        };
        let is_needed = match self.standing {
            Standing::Unknown => return Fate::Foreign,
            Standing::Removed => is_result && !terms.with_results,
            // One that has begun since the row was read writes there already.
            Standing::There { attempt: last, is_running } => attempt.0 > last || (attempt.0 == last && is_running),
        };
        match is_needed {
            true => Fate::Needed,
            false if object.modified > now.checked_sub(terms.grace).unwrap_or(Timestamp::MIN) => Fate::Young,
            false => Fate::Garbage,
        }
    }
}

/// What must stay for who begins with these weights: a file of them may have a `config.json` beside it.
#[must_use]
pub fn begun_with(weights: &str) -> &str {
    match weights.trim_end_matches('/').rsplit_once('/') {
        Some((folder, name)) if name.contains('.') => folder,
        _ => weights,
    }
}
