//! What a schedule does besides its line: what becomes of ticks that were missed, between which moments it has any, and by how much it spreads them. Kept with the schedule and sent
//! by clients. Data with its rules; what follows from it for a moment is `due`'s and `turn`'s.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Overlap;
use crate::domain::rules::Problem;

/// Ticks that are later than this were missed, where missed ones are skipped. Long enough for a daemon that is restarted for an update.
pub const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// The widest window in which ticks are made up for, in seconds: a year.
pub const MAX_CATCH_UP_SECONDS: u32 = 366 * 86_400;

/// The most failures in a row that a schedule can be told to wait for.
pub const MAX_FAILURES: u32 = 100;

/// The widest spread of ticks, in seconds: a day.
pub const MAX_JITTER_SECONDS: u32 = 86_400;

/// What a schedule does besides its line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// What becomes of ticks that came while nobody looked.
    pub misfire: Misfire,
    /// Only ticks that are no later than so many seconds are made up for; without end when absent, which `all` must not be.
    pub catch_up_seconds: Option<u32>,
    /// No ticks before this moment; one at it is a tick.
    pub from: Option<Timestamp>,
    /// No ticks after this moment; one at it is a tick.
    pub until: Option<Timestamp>,
    /// Each tick is due up to so many seconds after its moment, by chance that is the same for ever. 0: at its moment.
    pub jitter_seconds: u32,
    /// What becomes of a tick while jobs of earlier ones have not ended. Absent in what was written before there was a choice, as it means the same.
    #[serde(skip_serializing_if = "is_default_overlap")]
    pub overlap: Overlap,
    /// After so many failed jobs in a row the schedule is paused; never when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_on_failure: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde calls")]
fn is_default_overlap(overlap: &Overlap) -> bool {
    *overlap == Overlap::default()
}

/// What becomes of ticks that came while nobody looked: the daemon was down, the clock was set forward, the queue was full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// They are left out.
    Skip,
    /// The latest of them runs, and stands for all.
    #[default]
    Once,
    /// Each of them runs, oldest first.
    All,
}

impl Policy {
    /// Whether it is what a schedule does that says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How late a tick may be and still run; `None`: however late.
    #[must_use]
    pub fn window(&self) -> Option<SignedDuration> {
        let catch_up = self.catch_up_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
        if self.misfire == Misfire::Skip { Some(GRACE) } else { catch_up }
    }

    /// Why a tick that was so late did not run.
    #[must_use]
    pub fn reason(&self, late: SignedDuration) -> String {
        let late = SignedDuration::from_secs(late.as_secs());
        match (self.misfire, self.window()) {
            (Misfire::Once | Misfire::All, Some(window)) => {
                format!("it was {late:#} late, and no more than {window:#} is made up for")
            }
            _ => format!("it was {late:#} late, and missed runs are skipped"),
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut require = |is_right: bool, key: &str, message: &str, hint: &str| {
            if !is_right {
                let (path, message) = (format!("policy.{key}"), message.to_owned());
                found.push(Problem { path, message, hint: Some(hint.to_owned()) });
            }
        };
        let hint = "name a window, such as --catch-up 6h: runs that are later than that are left out";
        let is_bounded = self.misfire != Misfire::All || self.catch_up_seconds.is_some();
        require(is_bounded, "catch_up_seconds", "all missed runs are made up for without end", hint);
        let is_used = self.misfire != Misfire::Skip || self.catch_up_seconds.is_none();
        let hint = "take it away, or let them run with --misfire once or all";
        require(is_used, "catch_up_seconds", "missed runs are skipped, so that no window is left to catch up in", hint);
        let is_right = self.catch_up_seconds.is_none_or(|seconds| (1..=MAX_CATCH_UP_SECONDS).contains(&seconds));
        require(is_right, "catch_up_seconds", "expected a window of 1 second to 366 days", "6h or 7d is usual");
        let message = "expected a spread of no more than a day";
        require(self.jitter_seconds <= MAX_JITTER_SECONDS, "jitter_seconds", message, "10m or 1h is usual");
        let is_right = self.pause_on_failure.is_none_or(|failures| (1..=MAX_FAILURES).contains(&failures));
        require(is_right, "pause_on_failure", "expected 1 to 100 failures in a row", "1 pauses after the first");
        let is_right = self.from.zip(self.until).is_none_or(|(from, until)| from <= until);
        require(is_right, "until", "it ends before it begins", "name a moment after `from`");
        found
    }
}

impl Misfire {
    /// As written on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}
