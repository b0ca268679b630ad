//! The loop that pauses schedules whose jobs fail. It looks when something has changed, at most once in a while, and at nothing but schedules that are to be paused so. When failures are
//! enough is `domain::schedule`'s to say. Called once by the daemon's lifecycle.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::run::PAUSE_AFTER_ERROR;
use crate::{
    domain::{causes, schedule::failing},
    store::{Store, StoreError},
};

/// The shortest time between two looks: many jobs may end at once.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// Pauses failing schedules until `stop`.
pub async fn run(store: Store, stop: CancellationToken) {
    let (mut events, mut schedules) = (store.changes(), store.schedule_changes());
    while !stop.is_cancelled() {
        // Before reading: what changes from here on wakes the wait below.
        events.mark_unchanged();
        schedules.mark_unchanged();
        let looked = round(&store).await;
        if let Err(error) = &looked
            && !matches!(error, StoreError::Full)
        {
            warn!(error = causes(error), "schedules whose jobs fail cannot be paused for the moment");
        }
        let waited = async {
            match looked {
                Ok(true) => tokio::select! {
                    // The senders live in the store, which this loop holds.
                    _ = events.changed() => tokio::time::sleep(SHORTEST_PAUSE).await,
                    _ = schedules.changed() => {}
                },
                Ok(false) => drop(schedules.changed().await),
                Err(_) => tokio::time::sleep(PAUSE_AFTER_ERROR).await,
            }
        };
        stop.run_until_cancelled(waited).await;
    }
}

/// Pauses what is to be paused. Returns whether there is a schedule to look at again.
pub(super) async fn round(store: &Store) -> Result<bool, StoreError> {
    let watched = store.watched_schedules().await?;
    for schedule in &watched {
        let Some(failures) = schedule.policy.pause_on_failure else { continue };
        let outcomes = store.outcomes(schedule, failures).await?;
        if let Some(why) = failing(failures, &outcomes)
            && store.pause_failing(schedule, why.clone()).await?
        {
            let name = &schedule.name;
            warn!(schedule = %name, "schedule {name} is paused: {why}");
        }
    }
    Ok(!watched.is_empty())
}
