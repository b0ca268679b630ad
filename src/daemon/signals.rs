//! SIGTERM and SIGINT as two tokens: the first asks to stop, the second no longer asks. SIGHUP asks for the settings to be read again. Called by `mld`'s main function.

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// When to stop, and when to read the settings again. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Finish what you hold, take nothing new.
    pub soft: CancellationToken,
    /// Drop it now.
    pub hard: CancellationToken,
    /// Read the settings again.
    pub reload: Arc<Notify>,
}

/// Turns signals into `stop` from now on. SIGHUP has the settings read again: a terminal that is closed does not end the daemon.
///
/// # Errors
/// When the runtime has no signal driver.
pub fn install(stop: Stop) -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
                _ = hup.recv() => {
                    info!(signal = "SIGHUP", "reading the settings again");
                    stop.reload.notify_one();
                    continue;
                }
            };
            if stop.soft.is_cancelled() {
                warn!(signal = name, "stopping at once");
                stop.hard.cancel();
            } else {
                info!(signal = name, "stopping; workers go on");
                stop.soft.cancel();
            }
        }
    });
    Ok(())
}
