//! The drain: when nobody is to be started any more, those that run finish, or save their work when they have had their time, and then the daemon stops, if it is to. Sleeps until something changes. Called
//! once by the daemon's lifecycle.

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::dispatch::{Dispatch, Standing};
use crate::supervisor::Handle;

/// Sees to drains until `stop`; `stop_daemon` is cancelled when one is done that is to stop the daemon.
pub async fn run(dispatch: Dispatch, supervisor: Handle, stop_daemon: CancellationToken, stop: CancellationToken) {
    let mut changes = dispatch.changes();
    let mut freed = supervisor.freed();
    while !stop.is_cancelled() {
        // Before looking: what changes from here on wakes the wait below.
        changes.mark_unchanged();
        freed.mark_unchanged();
        let Standing { drain, .. } = dispatch.standing();
        if drain.is_some() {
            // A round that had begun may have started one more.
            dispatch.settled().await;
        }
        if let Some(drain) = &drain {
            let left = supervisor.attempts().len();
            if left == 0 && drain.stop {
                info!("drained: no job runs any more; stopping");
                stop_daemon.cancel();
                return stop.cancelled().await;
            }
            if left > 0 && drain.is_saving() {
                supervisor.save_all();
            }
        }
        let save_at = drain.and_then(|drain| drain.save_at().filter(|_| !drain.is_saving()));
        let waited = async {
            tokio::select! {
                // The senders live in what this loop holds.
                _ = changes.changed() => {}
                _ = freed.changed() => {}
                () = sleep_until(save_at), if save_at.is_some() => {}
            }
        };
        stop.run_until_cancelled(waited).await;
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
