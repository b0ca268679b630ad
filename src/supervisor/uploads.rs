//! What ended attempts left half uploaded: cleared away by the records in their folders, so that no store keeps parts that nobody will ever complete. Called by the attempts
//! when an end is on record; a store that does not answer is asked again after the job's next attempt.

use mlctl_artifacts::{
    keys,
    uploads::{self, UPLOADS_FILE},
};
use tokio::{fs, time::timeout};
use tracing::{info, warn};

use super::{Shared, remains::STORAGE_LIMIT};
use crate::{
    domain::{Fence, causes},
    store::Instance,
};

/// The most attempts of a job that are looked at.
const MAX_ATTEMPTS: usize = 1000;

/// Clears away what an attempt left that lives no more, and what those before it did. A later one of the job may be under way already, and is not touched.
pub(super) async fn clear(shared: &Shared, fence: Fence) {
    let job = fence.job;
    let instance = shared.store.instance().name_in(Instance::epoch_of(fence.token));
    let home = keys::job_uri(&shared.config.storage_url, &instance, job);
    if home.starts_with("file://") {
        return;
    }
    // A folder that cannot be read has no record that can.
    let Ok(mut attempts) = fs::read_dir(shared.config.attempts_dir.join(job.to_string())).await else { return };
    for _ in 0..MAX_ATTEMPTS {
        let Ok(Some(attempt)) = attempts.next_entry().await else { return };
        let number = attempt.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if number.is_none_or(|number| number > fence.attempt.0) {
            continue;
        }
        let file = attempt.path().join(UPLOADS_FILE);
        match timeout(STORAGE_LIMIT, uploads::clear(&shared.artifacts, &file, &home)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(cleared)) => info!(job_id = %job, cleared, "half uploaded objects were cleared away"),
            Ok(Err(error)) => {
                return warn!(job_id = %job, error = causes(&error), "half uploaded objects cannot be cleared away yet");
            }
            Err(_) => {
                return warn!(job_id = %job, "half uploaded objects cannot be cleared away yet: no answer in time");
            }
        }
    }
}
