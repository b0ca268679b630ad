//! The scan loop: looks through the whole database when the daemon has started, and every so often, beside the work that goes on. Jobs are started meanwhile; a find freezes that. Called once by the
//! daemon's lifecycle.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::dispatch::Dispatch;
use crate::store::Store;

/// Looks until `stop`: once, and then again so long after the last look, where that is not zero.
pub async fn run(store: Store, dispatch: Dispatch, every: Duration, stop: CancellationToken) {
    loop {
        let begun = Instant::now();
        let Some(found) = stop.run_until_cancelled(store.scan()).await else { return };
        dispatch.examined(&found).await;
        if found.is_ok_and(|problems| problems.is_empty()) {
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(ms, "the whole database was looked through: nothing is wrong");
        }
        if every.is_zero() {
            debug!("the database is not looked through again");
            return stop.cancelled().await;
        }
        if stop.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
            return;
        }
    }
}
