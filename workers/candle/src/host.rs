//! What a job needs from outside while it runs: somewhere to report to, orders, and the time. `main.rs` implements it over the
//! daemon's socket, tests with a recorder. A job reads no clock and no socket but through it.

use std::time::Duration;

pub use mlctl_link::Order;
use mlctl_protocol::{
    message::ReportBody,
    progress::{Metrics, Progress, StorageAway},
    result::{ModelRef, OutputRef},
};

use crate::fault::Fault;

/// What a job that went well leaves behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    /// Last values of the metrics.
    pub metrics: Metrics,
    /// The final model of a training job.
    pub model: Option<ModelRef>,
    /// The results of an inference job.
    pub output: Option<OutputRef>,
}

/// The outside of a job.
pub trait Host: Sync {
    /// Replaces what the next heartbeat says. Cheap: called after every step.
    fn progress(&self, progress: Progress);

    /// Has the next heartbeat tell that the object storage does not answer, or that it does again.
    fn storage_away(&self, away: Option<StorageAway>);

    /// Hands over a report that must not be missed; waits while the outbox is full.
    ///
    /// # Errors
    /// When no report can ever be delivered any more.
    fn report(&self, body: ReportBody) -> Result<(), Fault>;

    /// The order in force, if any; never waits.
    fn order(&self) -> Option<Order>;

    /// Time since some fixed moment before the job began; never goes back.
    fn elapsed(&self) -> Duration;

    /// Wall time in UTC, for people only.
    fn now_rfc3339(&self) -> String;
}
