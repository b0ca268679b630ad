//! Checkpoints in object storage, or on their way there: a run's content as the parts that `artifacts` writes and verifies. They are written on the runtime's threads, while training goes
//! on. The only place of this room that reaches storage; when to write and what to read is decided in `saver` and `resume`.

use mlctl_artifacts::{
    ArtifactError, Body, Location, Stores,
    checkpoint::{self, Header, Part},
    keys,
    manifest::Role,
    restore::Reader,
    spool::{Away, Kept, News, Spool, SpoolError},
};
use mlctl_protocol::{ExitClass, message::SpoolPlace, result::CheckpointRef};

use super::{
    flight::{Flight, Landing},
    resume::Unreadable,
    saver::Vault,
    state::{Content, Found, RunState},
};
use crate::{
    bundle::{incoming::fetch as fetch_tensors, read::MAX_STATE_BYTES},
    fault::Fault,
    job::Job,
};

/// Room in a checkpoint for all but tensors' data: headers, `state.json`, the manifest.
const OVERHEAD_BYTES: u64 = 64 * 1024 * 1024;

/// Seconds for which the store is tried again before a checkpoint waits on this machine.
const PATIENCE_SECONDS: u32 = 10;

/// The same for a checkpoint that waits already.
const RETRY_SECONDS: u32 = 2;

/// Where an attempt's checkpoints go, and earlier attempts' come from.
#[derive(Debug)]
pub struct ObjectVault<'a> {
    job: Job<'a>,
    attempt: Location,
    /// Where they wait while the store does not answer, if they may.
    spool: Option<Spool>,
    dataset_digest: &'a str,
    /// The checkpoint this attempt started from.
    parent: Option<String>,
}

impl<'a> ObjectVault<'a> {
    /// The vault of an attempt.
    ///
    /// # Errors
    /// When the daemon named a folder that no store has.
    pub fn new(job: Job<'a>, dataset_digest: &'a str, parent: Option<String>) -> Result<Self, Fault> {
        let attempt = job.stores.open(&job.start.storage.attempt_uri).map_err(|e| Fault::storage(&e))?;
        let place = job.start.storage.spool.as_ref().filter(|place| attempt.is_remote() && place.max_bytes > 0);
        let spool = place.map(|place| spool(job, place)).transpose().map_err(|e| Fault::storage(&e))?;
        Ok(Self { job, attempt, spool, dataset_digest, parent })
    }
}

fn spool(job: Job<'_>, place: &SpoolPlace) -> Result<Spool, ArtifactError> {
    let to = |seconds| job.stores.patient_for(seconds).open(&job.start.storage.attempt_uri);
    let at = job.stores.open(&place.attempts_uri)?.join(&keys::spool(job.attempt))?;
    Ok(Spool::new(to(PATIENCE_SECONDS)?, to(RETRY_SECONDS)?, at, place.max_bytes))
}

impl Vault for ObjectVault<'_> {
    fn write(&mut self, run: &RunState, content: Content) -> Flight {
        let Job { id, attempt, start, host, runtime, .. } = self.job;
        let header = Header {
            job: id,
            attempt,
            token: start.token,
            step: run.step,
            epoch: run.epoch,
            created_at: host.now_rfc3339(),
            spec_digest: start.spec_digest.clone(),
            dataset_digest: self.dataset_digest.to_owned(),
            parent: self.parent.clone(),
            metrics: run.metrics.clone(),
        };
        let part = |name: &str, role, bytes| Part { name: name.to_owned(), role, bytes };
        let mut parts = Vec::new();
        for (what, role, files) in
            [("model", Role::Model, content.model), ("optimizer", Role::Optimizer, content.optimizer)]
        {
            let count = files.len();
            parts.extend((1..).zip(files).map(|(number, file)| part(&keys::shard(what, number, count), role, file)));
        }
        parts.push(part(keys::CHECKPOINT_STATE, Role::State, content.state.into()));
        let (told, flight) = Flight::begun();
        let (attempt, spool) = (self.attempt.clone(), self.spool.clone());
        runtime.spawn(async move {
            // Nobody hears it when the run has ended meanwhile.
            told.send(write(&attempt, spool.as_ref(), header, parts).await).ok();
        });
        flight
    }

    fn news(&mut self) -> Vec<News> {
        self.spool.as_ref().map(Spool::news).unwrap_or_default()
    }

    fn away(&self) -> Option<Away> {
        self.spool.as_ref()?.away()
    }

    fn refused(&self, error: &ArtifactError) -> Fault {
        refused(error)
    }
}

async fn write(attempt: &Location, spool: Option<&Spool>, header: Header, parts: Vec<Part<Body>>) -> Landing {
    let Some(spool) = spool else {
        let written = checkpoint::write(attempt, header, parts).await;
        return written.map(Kept::Stored).map_err(|error| refused(&error));
    };
    spool.write(header, parts).await.map_err(|error| match error {
        SpoolError::Failed(error) => refused(&error),
        error @ SpoolError::NoRoom { .. } => Fault::new(ExitClass::Storage, error.to_string())
            .with_hint("allow more with storage.spool_max_bytes in mld.toml"),
    })
}

fn refused(error: &ArtifactError) -> Fault {
    match error {
        ArtifactError::AlreadyExists { .. } => {
            Fault::new(ExitClass::Lost, format!("another process writes the checkpoints of this attempt: {error}"))
        }
        error => Fault::storage(error),
    }
}

/// Reads and verifies a checkpoint of a model of `values` numbers.
///
/// # Errors
/// See [`Unreadable`].
pub fn read(job: Job<'_>, candidate: &CheckpointRef, values: u64) -> Result<Found, Unreadable> {
    // Weights, two running averages each, the average of the weights, and the best of them.
    let limit = values.saturating_mul(5 * 4).saturating_add(OVERHEAD_BYTES);
    job.runtime.block_on(fetch(job.stores, candidate, limit)).map_err(|error| match error {
        error @ ArtifactError::Unavailable { .. } => Unreadable::Store(Fault::storage(&error)),
        error => Unreadable::This(error.to_string()),
    })
}

async fn fetch(stores: &Stores, candidate: &CheckpointRef, limit: u64) -> Result<Found, ArtifactError> {
    let reader = Reader::open(stores, candidate).await?;
    let size = reader.manifest().size_bytes();
    if size > limit {
        return Err(ArtifactError::TooLarge { uri: reader.uri().to_owned(), size, limit });
    }
    let state = reader.get(keys::CHECKPOINT_STATE, MAX_STATE_BYTES).await?;
    let state = state.ok_or_else(|| reader.corrupt(format!("it has no {}", keys::CHECKPOINT_STATE)))?;
    let model = fetch_tensors(&reader, Role::Model).await?;
    let optimizer = fetch_tensors(&reader, Role::Optimizer).await?;
    Ok(Found { state, model, optimizer })
}
