//! The words the daemon and its workers share: job specs, messages on the worker socket, the launch hand-over and
//! the result file. Types and their wire form only: no I/O, no clock, no rules beyond what a type can say.
//!
//! Everything here is stored or sent, so it is versioned. Change a field only after walking old reader/new data and new
//! reader/old data; `tests/fixtures` of this crate keeps what earlier releases wrote.

pub mod dataset;
pub mod evaluation;
pub mod exit;
pub mod ids;
pub mod launch;
pub mod message;
pub mod progress;
pub mod result;
pub mod s3;
pub mod spec;

pub use exit::ExitClass;
pub use ids::{AttemptNumber, FencingToken, JobId};
pub use spec::JobSpec;
