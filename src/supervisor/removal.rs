//! Removal of finished jobs with what they leave on disks: the record first, in one transaction a group, then the objects and the attempts' folders. A kill between the two leaves objects
//! that no row names, never a row that names what is gone. Called through the handle, by the API and by the retention loop.

use std::{io, sync::Arc};

use mlctl_artifacts::{ArtifactError, keys};
use mlctl_protocol::{AttemptNumber, JobId};
use tokio::{fs, time::timeout};
use tracing::{info, warn};

use super::{Shared, remains::STORAGE_LIMIT};
use crate::{
    domain::{Job, Uid, causes},
    store::StoreError,
};

/// What is to be removed.
#[derive(Debug, Clone)]
pub struct Removal {
    /// The jobs; those that have not ended stay.
    pub jobs: Vec<JobId>,
    /// Who wants it.
    pub by: Uid,
    /// Whether members of arrays may go, as they do with all of the array.
    pub with_array: bool,
    /// Whether models and predictions are deleted too.
    pub with_objects: bool,
}

/// A job that was removed.
#[derive(Debug, Clone)]
pub struct Removed {
    /// As it was.
    pub job: Job,
    /// URIs of its model and predictions, which were kept.
    pub kept: Vec<String>,
    /// Folders that should have been deleted and could not be.
    pub left: Vec<String>,
}

/// Removes jobs, each wholly or not at all. Answers for each.
pub(super) async fn remove(
    shared: Arc<Shared>,
    removal: Removal,
) -> Result<Vec<Result<Removed, StoreError>>, StoreError> {
    let Removal { jobs, by, with_array, with_objects } = removal;
    let answers = shared.store.remove_with(&jobs, by, with_array, with_objects).await?;
    let mut removed = Vec::with_capacity(answers.len());
    // A store that does not answer is asked no more.
    let mut is_gone = false;
    for answer in answers {
        removed.push(match answer {
            Ok(job) => Ok(clear(&shared, job, with_objects, &mut is_gone).await),
            Err(error) => Err(error),
        });
    }
    Ok(removed)
}

/// Deletes what a job left: its attempts' folders here and in storage, with its checkpoints, and with all else where that is asked for.
async fn clear(shared: &Shared, job: Job, with_objects: bool, is_gone: &mut bool) -> Removed {
    let (prefix, instance) = (&shared.config.storage_url, shared.store.instance());
    let published =
        job.model.iter().map(|model| model.uri.clone()).chain(job.output.iter().map(|output| output.uri.clone()));
    let kept: Vec<_> = published.filter(|_| !with_objects).collect();
    let attempts = |name: &str| {
        (1..=job.attempt).map(|attempt| keys::attempt_uri(prefix, name, job.id, AttemptNumber(attempt))).collect()
    };
    // An attempt of an epoch before has its folder there.
    let of_epoch = |name: String| -> Vec<String> {
        if with_objects { vec![keys::job_uri(prefix, &name, job.id)] } else { attempts(&name) }
    };
    let folders: Vec<String> = instance.names().flat_map(of_epoch).collect();
    let mut left = Vec::new();
    for folder in folders {
        if *is_gone {
            left.push(folder);
            continue;
        }
        let deleted = async { shared.artifacts.open(&folder)?.delete_prefix().await };
        let problem = match timeout(STORAGE_LIMIT, deleted).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => {
                *is_gone = matches!(error, ArtifactError::Unavailable { .. });
                causes(&error)
            }
            Err(_) => {
                *is_gone = true;
                "no answer in time".to_owned()
            }
        };
        warn!(job_id = %job.id, folder, problem, "objects of a removed job stay in storage");
        left.push(folder);
    }
    let folder = shared.config.attempts_dir.join(job.id.to_string());
    match fs::remove_dir_all(&folder).await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let folder = folder.display().to_string();
            warn!(job_id = %job.id, folder, error = causes(&error), "the work folder of a removed job stays");
            left.push(folder);
        }
    }
    info!(job_id = %job.id, kept = kept.len(), left = left.len(), "job {} was removed", job.id);
    Removed { job, kept, left }
}
