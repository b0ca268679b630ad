//! Attempts whose jobs are to end since newer ones with the same concurrency key replace them: the writer decides that, whoever has asked it for something, and here they are told. Run
//! once by the supervisor.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Shared;
use crate::{domain::causes, store::StoreError};

/// How long the store is left alone after it failed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Tells attempts whenever jobs that run are replaced, until the stop.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut changes = shared.store.replacements();
    let told = async {
        // The sender lives in the store, which this task holds.
        while changes.changed().await.is_ok() {
            if let Err(error) = tell(&shared).await {
                warn!(error = causes(&error), "replaced jobs cannot be read and run on for the moment");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                changes.mark_changed();
            }
        }
    };
    stop.run_until_cancelled(told).await;
}

async fn tell(shared: &Shared) -> Result<(), StoreError> {
    let running = shared.store.running().await?;
    // What is told cannot be taken back.
    shared.store.settled().await?;
    for (job, _) in running {
        shared.tell(job.id, |live| live.obey(&job));
    }
    Ok(())
}
