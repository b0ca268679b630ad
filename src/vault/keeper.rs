//! The backup loop: makes one when the newest is as old as the settings allow, and deletes the oldest once a newer one is whole. It sleeps until that is due; what fails is said in the log and tried
//! again. Called once by the daemon's lifecycle.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Source, Vault, VaultError};
use crate::{domain::causes, store::Store};

/// How long after a failure the next try is.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(300);

/// The longest sleep towards a moment of the wall clock, which may jump meanwhile.
const LONGEST: Duration = Duration::from_secs(3600);

/// How often backups are made by themselves, and how many of them stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Hours between two; 0 for none at all.
    pub every_hours: u32,
    /// Backups that stay; at least 1.
    pub keep: u32,
    /// How long after the daemon's start none is made: whoever starts one wants jobs to run first.
    pub settle: Duration,
}

impl Plan {
    /// When the next is due, by when the newest was made; none where none are made.
    #[must_use]
    pub fn due(self, newest: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        if self.every_hours == 0 {
            return None;
        }
        // Of one that was made in what is the future by now, the clock was wrong.
        let newest = newest.filter(|made| *made <= now);
        Some(newest.map_or(now, |made| made.checked_add(self.span()).unwrap_or(Timestamp::MAX)))
    }

    /// Whether the newest is so old that backups cannot have worked for a while.
    #[must_use]
    pub fn is_overdue(self, newest: Option<Timestamp>, now: Timestamp) -> bool {
        let late = |due: Timestamp| due.checked_add(self.span()).is_ok_and(|late| late < now);
        self.every_hours > 0 && newest.is_some_and(|made| self.due(Some(made), now).is_some_and(late))
    }

    fn span(self) -> SignedDuration {
        SignedDuration::from_hours(self.every_hours.into())
    }
}

/// Makes backups until `stop`, if any are wanted.
pub async fn run(vault: Vault, store: Store, stop: CancellationToken) {
    let mut plan = vault.config.plan.clone();
    stop.run_until_cancelled(tokio::time::sleep(vault.plan().settle)).await;
    while !stop.is_cancelled() {
        let wanted = plan.borrow_and_update().every_hours > 0;
        let sleep = match stop.run_until_cancelled(round(&vault, &store)).await {
            None => return,
            Some(Ok(due)) => vault.clock.until(due).min(LONGEST),
            Some(Err(error)) => {
                warn!(error = causes(&error), hint = error.hint(), "no backup could be made: it is tried again");
                PAUSE_AFTER_ERROR
            }
        };
        let waited = async {
            tokio::select! {
                Ok(()) = plan.changed() => {}
                () = tokio::time::sleep(sleep), if wanted => {}
                else => std::future::pending().await,
            }
        };
        stop.run_until_cancelled(waited).await;
    }
}

/// Makes a backup if one is due. Returns when the next one is.
async fn round(vault: &Vault, store: &Store) -> Result<Timestamp, VaultError> {
    let (plan, instance) = (vault.plan(), store.instance().id.clone());
    if plan.every_hours == 0 {
        return Ok(Timestamp::MAX);
    }
    let newest = vault.newest_of(&instance).await?.map(|backup| backup.manifest.made_at);
    let now = vault.clock.now();
    let due = plan.due(newest, now).unwrap_or(Timestamp::MAX);
    if due > now {
        return Ok(due);
    }
    let made = vault.backup(Source::Live(store), None).await?;
    let (uri, bytes) = (made.uri, made.manifest.size_bytes);
    let gone = vault.prune(&instance, plan.keep).await?;
    info!(uri, bytes, deleted = gone, "a backup was made");
    Ok(plan.due(Some(made.manifest.made_at), vault.clock.now()).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_due_by_the_age_of_the_newest() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-26T12:00:00Z");
        let plan = Plan { every_hours: 24, keep: 3, settle: Duration::ZERO };
        let cases = [
            (None, Some(now), false),
            (Some("2026-11-26T11:00:00Z"), Some(at("2026-11-27T11:00:00Z")), false),
            (Some("2026-11-25T11:00:00Z"), Some(at("2026-11-26T11:00:00Z")), false),
            (Some("2026-11-24T11:00:00Z"), Some(at("2026-11-25T11:00:00Z")), true),
            (Some("2026-11-28T11:00:00Z"), Some(now), false),
        ];
        for (newest, due, is_overdue) in cases {
            let newest = newest.map(at);
            assert_eq!((plan.due(newest, now), plan.is_overdue(newest, now)), (due, is_overdue), "{newest:?}");
        }
        assert_eq!(Plan { every_hours: 0, ..plan }.due(None, now), None);
    }
}
