//! What is said to the service manager that started the daemon, if one did (systemd's `sd_notify` protocol): ready, alive, stopping. Called by the lifecycle. Without a
//! manager, every function does nothing and sets no timer. Workers never see the manager's socket.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::scheduler::Standing;

/// Clients and workers are served from now on.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Settings are being read again; [`ready`] says when that is over.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager cannot be told"),
    }
}

/// The stop has begun; workers go on.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping; workers go on")]);
}

/// Says whether jobs are started, when that changes, until the stop.
pub(super) async fn tell_status(mut standing: watch::Receiver<Standing>, stop: CancellationToken) {
    loop {
        let status = match &*standing.borrow_and_update() {
            Standing { frozen: Some(_), .. } => {
                "the database is damaged: no job is started; mlctl doctor says what to do"
            }
            Standing { drain: Some(_), .. } => "draining: no job is started",
            _ => "serving",
        };
        tell(&[NotifyState::Status(status)]);
        // The sender lives as long as the scheduler.
        if !matches!(stop.run_until_cancelled(standing.changed()).await, Some(Ok(()))) {
            return stop.cancelled().await;
        }
    }
}

/// Says twice in every watchdog period that the runtime still turns, until the stop.
pub(super) async fn watchdog(stop: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else {
        return stop.cancelled().await;
    };
    let mut beat = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
    while stop.run_until_cancelled(beat.tick()).await.is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager cannot be told");
    }
}
