//! What a checkpoint knows of streamed data, looked at before the data is read: with it, a resumed run makes no pass over all rows. It is a hint: whether the data is still
//! that of then is seen by its files' versions, and whether the checkpoint can be used is decided in `resume`.

use mlctl_artifacts::{keys, restore::Reader};
use mlctl_protocol::result::CheckpointRef;
use serde::Deserialize;

use crate::{bundle::read::MAX_STATE_BYTES, data::blocks::Index, job::Job, storage};

/// The part of `state.json` that is read.
#[derive(Deserialize)]
struct State {
    index: Option<Index>,
}

/// The index of the best checkpoint that has one.
#[must_use]
pub fn index(job: Job<'_>) -> Option<Index> {
    let left = storage::left_by_earlier(job);
    job.start.resume.iter().chain(&left).find_map(|candidate| of(job, candidate))
}

fn of(job: Job<'_>, candidate: &CheckpointRef) -> Option<Index> {
    job.runtime.block_on(async {
        let reader = Reader::open(job.stores, candidate).await.ok()?;
        let bytes = reader.get(keys::CHECKPOINT_STATE, MAX_STATE_BYTES).await.ok()??;
        serde_json::from_slice::<State>(&bytes).ok()?.index
    })
}
