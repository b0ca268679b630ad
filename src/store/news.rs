//! The wait of loops that look at what is on record whenever something may have changed.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// Waits until something has changed since `changes` was last marked, or until a moment; at least so long, however much changes. The sender lives in the store, which who waits holds.
pub async fn news(changes: &mut watch::Receiver<i64>, least: Duration, until: Option<Instant>) {
    sleep(least).await;
    tokio::select! {
        _ = changes.changed() => {}
        () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
    }
}
