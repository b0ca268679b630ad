//! What becomes of a try to deliver a message: whether it arrived, whether and when it is tried again, and when it is given up.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, fmt::rfc2822};

/// The pause before the first retry, at most, and the longest.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The longest pause that a receiver can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// For how long a message is tried that nobody takes, and one that is refused: a key may be put right within the hour, and what is wrong with a message does not go away.
const PATIENCE: SignedDuration = SignedDuration::from_hours(24);
const PATIENCE_WHEN_REFUSED: SignedDuration = SignedDuration::from_hours(1);

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has arrived.
    Delivered,
    /// Nobody took it: later, and not before so long, where the receiver says that.
    Later {
        /// What happened, a fragment for people.
        why: String,
        /// What the receiver asks for, already bounded.
        after: Option<Duration>,
    },
    /// It was refused, as it would be again, unless somebody sees to it.
    Refused {
        /// The same.
        why: String,
    },
    /// The receiver wants no more of it.
    Gone {
        /// The same.
        why: String,
    },
}

impl Outcome {
    /// What went wrong.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Delivered => None,
            Self::Later { why, .. } | Self::Refused { why } | Self::Gone { why } => Some(why),
        }
    }
}

/// What is done next about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It has arrived: on to the next.
    Done,
    /// It is tried again after so long.
    Again(Duration),
    /// It is given up.
    GiveUp,
}

impl Course {
    /// What follows from a try. `since`: when the thing happened, or the daemon was started, whichever is later: a message of last week is given its time, too. `tries`: those that have failed, this
    /// one included. `chance`: a number in 0..1.
    #[must_use]
    pub fn after(outcome: &Outcome, (since, now): (Timestamp, Timestamp), tries: u32, chance: f64) -> Self {
        let (patience, asked) = match outcome {
            Outcome::Delivered => return Self::Done,
            Outcome::Gone { .. } => return Self::GiveUp,
            Outcome::Later { after, .. } => (PATIENCE, *after),
            Outcome::Refused { .. } => (PATIENCE_WHEN_REFUSED, None),
        };
        if now.duration_since(since) >= patience {
            return Self::GiveUp;
        }
        let pause = retry_in(tries, chance);
        Self::Again(asked.map_or(pause, |asked| asked.max(pause)))
    }
}

/// The pause before the next try, once so many have failed: it doubles up to a quarter of an hour, and is spread over its second half.
#[must_use]
pub fn retry_in(tries: u32, chance: f64) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    let whole = (FIRST * 2_u32.pow(doublings)).min(LONGEST);
    whole.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

/// What an HTTP status means. 408, 425 and 429 ask for patience, as does a server that fails; any other 4xx is a refusal, and 410 says that nobody lives there any more. A redirect is not followed: it
/// would carry the message to where no administrator has sent it.
#[must_use]
pub fn of_status(status: u16, said: &str, after: Option<Duration>) -> Outcome {
    let why = if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") };
    match status {
        200..300 => Outcome::Delivered,
        300..400 => Outcome::Refused { why: format!("{why}; redirects are not followed: name the final address") },
        410 => Outcome::Gone { why },
        408 | 425 | 429 => Outcome::Later { why, after },
        400..500 => Outcome::Refused { why },
        _ => Outcome::Later { why, after },
    }
}

/// What the end of a program means: 75 is `EX_TEMPFAIL` of sysexits.h, by which sendmail asks for another try.
#[must_use]
pub fn of_exit(code: Option<i32>, said: &str) -> Outcome {
    let colon = if said.is_empty() { "" } else { ": " };
    match code {
        Some(0) => Outcome::Delivered,
        Some(75) => Outcome::Later { why: format!("it ended with 75 (try again later){colon}{said}"), after: None },
        Some(code) => Outcome::Refused { why: format!("it ended with {code}{colon}{said}") },
        None => Outcome::Later { why: format!("a signal ended it{colon}{said}"), after: None },
    }
}

/// What a header `Retry-After` asks for, in seconds or as a date, bounded; none where it cannot be understood.
#[must_use]
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let asked = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let moment = rfc2822::parse(value).ok()?.timestamp();
            Duration::try_from(moment.duration_since(now)).unwrap_or_default()
        }
    };
    Some(asked.min(MAX_RETRY_AFTER))
}
