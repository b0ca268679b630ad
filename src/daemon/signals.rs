//! SIGTERM and SIGINT as two tokens: the first asks to stop, the second no longer asks. Called by `mld`'s main function.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// When to stop. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Finish what you hold, take nothing new.
    pub soft: CancellationToken,
    /// Drop it now.
    pub hard: CancellationToken,
}

/// Turns signals into `stop` from now on. SIGHUP is ignored: a terminal that is closed does not end the daemon.
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
                _ = hup.recv() => continue,
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
