//! What the checkpoints of tests are.

use mlctl_artifacts::checkpoint::Header;
use mlctl_protocol::{AttemptNumber, FencingToken, JobId};

/// Of one attempt, at a step.
pub fn header(step: u64) -> Header {
    Header {
        job: JobId(7),
        attempt: AttemptNumber(1),
        token: FencingToken(3),
        step,
        epoch: 1,
        created_at: "2026-01-01T00:00:00Z".into(),
        spec_digest: "0".repeat(64),
        dataset_digest: "1".repeat(64),
        parent: None,
        metrics: [("train_loss".into(), 0.5)].into(),
    }
}
