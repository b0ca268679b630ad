//! The deadline loop: fails the jobs that wait beyond their deadline. It wakes at the nearest deadline, when another may be the nearest, and once a minute while it waits for one, since
//! the wall clock may have been set meanwhile; it never polls. Jobs that run are the supervisor's business. Called once by the daemon's lifecycle.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::run::{LONGEST_SLEEP, PAUSE_AFTER_ERROR};
use crate::{
    domain::{Clock, causes},
    store::{Store, StoreError},
};

/// What the loop works with.
#[derive(Clone)]
pub struct Deadlines {
    /// The database.
    pub store: Store,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
}

/// Fails late jobs until `stop`.
pub async fn run(deadlines: Deadlines, stop: CancellationToken) {
    let mut changes = deadlines.store.deadline_changes();
    while !stop.is_cancelled() {
        // Before reading: what changes from here on wakes the wait below.
        changes.mark_unchanged();
        let wait = match deadlines.round().await {
            // One that has passed and failed nothing is not to be asked for again and again.
            Ok(next) => next.map(|next| deadlines.clock.until(next).clamp(SHORTEST_SLEEP, LONGEST_SLEEP)),
            Err(error) => {
                warn!(error = causes(&error), "jobs beyond their deadline cannot be failed for the moment");
                Some(PAUSE_AFTER_ERROR)
            }
        };
        let waited = async {
            tokio::select! {
                // The sender lives in the store, which this loop holds.
                _ = changes.changed() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        };
        stop.run_until_cancelled(waited).await;
    }
}

/// The shortest sleep towards a deadline: so late, at most, a job fails.
const SHORTEST_SLEEP: Duration = Duration::from_millis(100);

impl Deadlines {
    /// Fails what is late. Returns the nearest deadline that is to come.
    async fn round(&self) -> Result<Option<Timestamp>, StoreError> {
        loop {
            let expired = self.store.expire(self.clock.now()).await?;
            if expired == 0 {
                return self.store.next_deadline().await;
            }
            info!(jobs = expired, "jobs failed since their deadline passed");
        }
    }
}
