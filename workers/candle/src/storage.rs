//! Whether this attempt can keep anything, asked before it begins: a store that will not let us, or lets one attempt overwrite another's checkpoint, is found in the
//! first second and not at the first checkpoint. Called by `main` once; a local disk needs no asking.

use mlctl_artifacts::{ArtifactError, probe};

use crate::{fault::Fault, job::Job};

/// Where in the attempt's folder something is written, read and deleted to see.
const PROBES: &str = "probe";

/// Tries the store.
///
/// # Errors
/// `spec` when it denies access or cannot create an object without overwriting another: what is wrong is not the job's, and a retry does not heal it. `storage`
/// when it does not answer.
pub fn check(job: Job<'_>) -> Result<(), Fault> {
    let failed = |error: &ArtifactError| Fault::before(error);
    let folder = job.stores.open(&job.start.storage.attempt_uri).map_err(|error| failed(&error))?;
    if !folder.is_remote() {
        return Ok(());
    }
    let probes = folder.join(PROBES).map_err(|error| failed(&error))?;
    match job.runtime.block_on(probe::run(&probes)).map_err(|error| failed(&error))? {
        Ok(()) => Ok(()),
        Err(unfit) => Err(Fault::spec(
            format!("the object storage at {} cannot keep checkpoints safely: {unfit}", folder.uri()),
            "name another store in storage.url of mld, or update this one's server; `mlctl doctor` asks it again",
        )),
    }
}
