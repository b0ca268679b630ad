//! The scan loop: looks through the whole database when the daemon has started, and every so often, beside the work that goes on. Jobs are started meanwhile; a find freezes that. Called once by the
//! daemon's lifecycle.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::dispatch::Dispatch;
use crate::store::Store;

/// Waits for the next look.
async fn pause(every: &mut watch::Receiver<Duration>) {
    let since = Instant::now();
    loop {
        let due = *every.borrow_and_update();
        tokio::select! {
            Ok(()) = every.changed() => {}
            () = tokio::time::sleep_until(since + due), if !due.is_zero() => return,
            else => std::future::pending().await,
        }
    }
}

/// Looks until `stop`: once, and then again so long after the last look, where that is not zero.
pub async fn run(store: Store, dispatch: Dispatch, mut every: watch::Receiver<Duration>, stop: CancellationToken) {
    loop {
        let begun = Instant::now();
        let Some(found) = stop.run_until_cancelled(store.scan()).await else { return };
        dispatch.examined(&found).await;
        if found.is_ok_and(|problems| problems.is_empty()) {
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(ms, "the whole database was looked through: nothing is wrong");
        }
        if stop.run_until_cancelled(pause(&mut every)).await.is_none() {
            return;
        }
    }
}
