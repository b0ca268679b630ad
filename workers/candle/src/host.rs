//! What a job needs from outside while it runs: somewhere to report to, orders, and the time. `main.rs` implements it over the
//! daemon's socket, tests with a recorder. A job reads no clock and no socket but through it.

use std::time::Duration;

use mlctl_protocol::{
    message::{ReportBody, StopClass},
    progress::{Metrics, Progress},
    result::{ModelRef, OutputRef},
};

use crate::fault::Fault;

/// What the daemon wants of a running job. All but [`Order::Checkpoint`] are sticky: returned again by every later call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Take a checkpoint at the end of the current step and go on.
    Checkpoint,
    /// Take a checkpoint at the end of the current step and end with this class.
    Stop(StopClass),
    /// No daemon for the length of a lease: take a checkpoint and end.
    LeaseLost,
    /// The attempt is not valid: end at once and commit nothing.
    Refused(String),
}

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
