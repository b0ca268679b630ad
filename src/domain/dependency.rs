//! Dependencies: a job that starts only after others have ended, and how they must have. What is asked for, what follows from where the others stand, and in which words. Called by the
//! state machine, by the store, which settles what waits in the transaction in which another job ends, and by the API. Pure.
//!
//! Whether something has come about is kept nowhere: it follows from where the other job stands. A job is waited for by younger ones alone, as ids only grow, so that there are no circles.

use std::collections::BTreeMap;

use mlctl_protocol::JobId;
pub use mlctl_protocol::spec::{AfterFailed, Need};
use serde::{Deserialize, Serialize};

use super::{
    array::is_final,
    job::{Exit, Job, JobState},
};

/// The longest part of another job's message that is repeated, in characters.
const MAX_MESSAGE: usize = 200;

/// A job or an array that another job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Which.
    pub on: JobId,
    /// How it must have ended. Of an array: `ok` is met when all members have ended and none failed or was cancelled, `any` when all have ended.
    pub need: Need,
}

/// What a job was submitted to wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependencies {
    /// At least one; each job once.
    pub on: Vec<Dependency>,
    /// What becomes of the job when one of them can never be met.
    #[serde(default, skip_serializing_if = "AfterFailed::is_default")]
    pub if_failed: AfterFailed,
}

/// That a job waits for others, or would wait for them again when it is released or tried again: until all was met once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// What becomes of the job when one of its dependencies can never be met.
    #[serde(default, skip_serializing_if = "AfterFailed::is_default")]
    pub if_failed: AfterFailed,
    /// The one that could not, where the job was cancelled or is held for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmet: Option<Unmet>,
}

/// A dependency that can never be met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmet {
    /// On which job or array.
    pub on: JobId,
    /// What lies at the bottom of it: the end of the first job of a chain.
    pub cause: String,
}

/// Where a job or an array stands, as far as those are concerned that wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has not ended.
    Open,
    /// An array that has not ended, and of which a member has ended badly.
    Doomed(End),
    /// It succeeded.
    Well(End),
    /// It failed or was cancelled.
    Badly(End),
    /// It was removed.
    Gone(JobId),
}

/// How something ended, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// `job 12 failed (spec): there is no column y`.
    pub told: String,
    /// What lies at the bottom of it.
    pub cause: String,
}

impl End {
    fn plain(told: String) -> Self {
        Self { cause: told.clone(), told }
    }
}

impl Standing {
    /// Of a job, by what is known of it.
    #[must_use]
    pub fn of_job(id: JobId, state: &str, exit: Option<&Exit>, waits: Option<&Waits>) -> Self {
        match state {
            "succeeded" => Self::Well(End::plain(format!("job {id} succeeded"))),
            "failed" => Self::Badly(End::plain(format!("job {id} failed{}", exit.map(in_line).unwrap_or_default()))),
            "cancelled" => Self::Badly(match waits.and_then(|waits| waits.unmet.as_ref()) {
                Some(Unmet { cause, .. }) => {
                    End { told: format!("job {id} was cancelled: {cause}"), cause: cause.clone() }
                }
                None => End::plain(format!("job {id} was cancelled")),
            }),
            _ => Self::Open,
        }
    }

    /// Of a job.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        Self::of_job(job.id, job.state.name(), job.exit.as_ref(), job.waits.as_ref())
    }

    /// Of an array, by how many of its members stand where (`domain::array::tally`).
    #[must_use]
    pub fn of_array(id: JobId, counts: &BTreeMap<String, u64>) -> Self {
        let of = |tally: &str| counts.get(tally).copied().filter(|jobs| *jobs > 0);
        let bad: Vec<String> = ["failed", "cancelled"]
            .into_iter()
            .filter_map(|tally| of(tally).map(|jobs| format!("{jobs} {tally}")))
            .collect();
        let all: u64 = counts.values().sum();
        let is_over = counts.iter().all(|(tally, jobs)| *jobs == 0 || is_final(tally));
        let end = || End::plain(format!("of the {all} jobs of array {id}, {}", bad.join(" and ")));
        match (is_over, bad.is_empty()) {
            (true, true) => Self::Well(End::plain(format!("array {id} succeeded"))),
            (true, false) => Self::Badly(end()),
            (false, true) => Self::Open,
            (false, false) => Self::Doomed(end()),
        }
    }
}

/// ` (spec): there is no column y`.
fn in_line(exit: &Exit) -> String {
    let line = exit.message.as_deref().and_then(|message| message.lines().next()).unwrap_or_default();
    let mut short: String = line.chars().take(MAX_MESSAGE).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    if short.is_empty() { format!(" ({})", exit.class) } else { format!(" ({}): {short}", exit.class) }
}

/// What a dependency comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Waits,
    /// It is met.
    Met,
    /// It can never be met, unless what has ended is tried again.
    Never(End),
}

/// What a dependency comes to where the other stands so.
#[must_use]
pub fn outcome(need: Need, standing: &Standing) -> Outcome {
    match (need, standing) {
        (_, Standing::Open) | (Need::Any | Need::NotOk, Standing::Doomed(_)) => Outcome::Waits,
        (Need::Any, _) | (Need::Ok, Standing::Well(_)) | (Need::NotOk, Standing::Badly(_)) => Outcome::Met,
        (Need::Ok, Standing::Doomed(end) | Standing::Badly(end)) => Outcome::Never(end.clone()),
        (Need::NotOk, Standing::Well(end)) => Outcome::Never(End::plain(format!("{}, and was to fail", end.told))),
        (_, Standing::Gone(id)) => Outcome::Never(End::plain(format!("job {id} was removed"))),
    }
}

/// What becomes of a job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on waiting.
    Waits,
    /// All that it waits for has come about.
    Starts,
    /// This can never come about.
    Never(JobId, End),
}

/// What becomes of a job by what it waits for. What can never be met comes before what may still be.
#[must_use]
pub fn verdict<'a>(dependencies: impl IntoIterator<Item = (Dependency, &'a Standing)>) -> Verdict {
    let mut verdict = Verdict::Starts;
    for (Dependency { on, need }, standing) in dependencies {
        match outcome(need, standing) {
            Outcome::Met => {}
            Outcome::Waits => verdict = Verdict::Waits,
            Outcome::Never(end) => return Verdict::Never(on, end),
        }
    }
    verdict
}

/// Of a job that a person wants started anew: the dependencies that it does not wait for again, since what they are on has ended and not come to what was needed.
#[must_use]
pub fn waived<'a>(dependencies: impl IntoIterator<Item = (Dependency, &'a Standing)>) -> Vec<JobId> {
    let never = |(dependency, standing): (Dependency, &Standing)| {
        matches!(outcome(dependency.need, standing), Outcome::Never(_)).then_some(dependency.on)
    };
    dependencies.into_iter().filter_map(never).collect()
}

/// The state of a job whose turn comes next but for what it waits for.
pub(super) fn queued(job: &mut Job, not_before: Option<jiff::Timestamp>) {
    job.state = match &mut job.waits {
        None => JobState::Queued { not_before },
        Some(waits) => {
            waits.unmet = None;
            JobState::Blocked { not_before }
        }
    };
}

#[cfg(test)]
mod tests;
