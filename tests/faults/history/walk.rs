//! Where a job stands after each of its events, by what the documentation says of states. The judge's own: it shares nothing with the state machine of the daemon.

use super::Happened;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// There is none yet.
    Absent,
    Queued,
    Held,
    /// In this attempt, and whether it was told to end for good.
    Runs {
        attempt: u64,
        leaves: bool,
    },
    Ended(&'static str),
}

impl Stands {
    /// As the daemon calls it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Queued => "queued",
            Self::Held => "held",
            Self::Runs { .. } => "running",
            Self::Ended(name) => name,
        }
    }
}

/// Where it stands before the first event, and after each.
///
/// # Errors
/// Says which event cannot follow those before it.
pub fn walk(events: &[Happened]) -> Result<Vec<Stands>, String> {
    let mut stands = vec![Stands::Absent];
    let mut attempts = 0;
    for (index, event) in events.iter().enumerate() {
        let before = stands[index];
        let after = next(before, event, attempts);
        let after = after.ok_or_else(|| {
            format!("event {index}, {event:?}, cannot be: it was {before:?} after {attempts} attempts")
        })?;
        if let Stands::Runs { attempt, .. } = after {
            attempts = attempt;
        }
        stands.push(after);
    }
    Ok(stands)
}

fn next(before: Stands, event: &Happened, attempts: u64) -> Option<Stands> {
    let is_of = |attempt: u64| event.attempt.is_none_or(|named| named == attempt);
    Some(match (before, event.event.as_str()) {
        (Stands::Absent, "submitted") => Stands::Queued,
        (Stands::Queued, "claimed") if event.attempt == Some(attempts + 1) => {
            Stands::Runs { attempt: attempts + 1, leaves: false }
        }
        (Stands::Runs { attempt, .. }, "launched" | "resumed" | "checkpointed" | "warned") if is_of(attempt) => before,
        (Stands::Runs { attempt, .. }, "intended") => Stands::Runs { attempt, leaves: true },
        (Stands::Runs { attempt, .. }, "succeeded") if event.attempt == Some(attempt) => Stands::Ended("succeeded"),
        // Who was told to end may have been done, and is not tried again.
        (Stands::Runs { leaves: false, attempt }, "failed") if event.attempt == Some(attempt) => {
            Stands::Ended("failed")
        }
        (Stands::Runs { leaves: false, attempt }, "requeued") if event.attempt == Some(attempt) => Stands::Queued,
        (Stands::Runs { leaves: false, attempt }, "quarantined") if event.attempt == Some(attempt) => Stands::Held,
        (Stands::Runs { leaves: true, .. } | Stands::Queued | Stands::Held, "cancelled") => Stands::Ended("cancelled"),
        (Stands::Queued, "held") => Stands::Held,
        (Stands::Held, "released") => Stands::Queued,
        (Stands::Held | Stands::Ended("failed" | "cancelled"), "retried") => Stands::Queued,
        _ => return None,
    })
}
